"""What the models of a mixture of agents are told: the first layer the question, every further one the answers too.

After Table 1 of Wang et al., arXiv:2406.04692. Unlike there the answers are fenced, and each model sees them in an
order of its own, so that no place in the list is favoured in all calls.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.judging.fence import fenced
from consensus_flows.tasks.prompting.turns import apart
from consensus_flows.tasks.prompts import fill, prompt
from consensus_flows.tasks.record import Response

Role = Literal["initial", "aggregate", "final"]


@dataclass(frozen=True)
class Task:
    """What one layer is asked.

    Attributes:
        question: The question, which reaches every model of every layer.
        role: Which instruction its models have.
        instruction: An instruction in place of the built-in one of that role.
        system: System prompt of the user's own.
        conversation: Earlier turns.
    """

    question: str
    role: Role = "initial"
    instruction: str | None = None
    system: str | None = None
    conversation: Sequence[Message] = ()

    def messages(self, answers: Sequence[str] = (), seed: str = "0") -> tuple[Message, ...]:
        """Return what a model is sent.

        Args:
            answers: What the layer before has answered, in the order in which this model is to see it.
            seed: Goes into the tag of the fences.
        """
        told = prompt(f"moa_{self.role}") if self.instruction is None else self.instruction
        system, turns = apart(
            "\n\n".join(text for text in (told, self.system) if text and text.strip()), self.conversation
        )
        question = self.question
        if answers:
            shown = {str(number): text for number, text in enumerate(answers, 1)}
            question = fill("moa_answers", question=question, count=len(answers), answers=fenced(shown, seed))
        first = (Message(role="system", content=system),) if system else ()
        return (*first, *turns, Message(role="user", content=question))


def in_order(responses: Sequence[Response], seed: str) -> list[Response]:
    """Return `responses` in an order that `seed` decides."""
    order = list(responses)
    random.Random(seed).shuffle(order)
    return order


def windows(count: int, size: int | None, reserved: int = 1) -> list[range]:
    """Divide `count` answers into those that the aggregator sees in each of its calls, as Self-MoA-Seq does.

    Every call after the first sees its own synthesis so far in `reserved` of its `size` places, and new answers in the
    others (Li et al., arXiv:2502.00674).

    Returns:
        For each call the indices of the answers that are new to it; one call where `size` is None or is enough.
    """
    if size is None or count <= size:
        return [range(count)]
    step = size - reserved
    return [range(size), *(range(start, min(start + step, count)) for start in range(size, count, step))]
