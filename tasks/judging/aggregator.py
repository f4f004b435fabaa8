"""Let a model make one answer of many, as plain text: the aggregator of consensus learning, and every layer of a mixture.

The prompts of a mixture are after Table 1 of Wang et al., arXiv:2406.04692. Unlike there the answers are fenced, and each
model sees them in an order of its own, so that no place in the list is favored in all calls.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.tasks.asking import apart
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.judging.judge import TEXT, Asked, JudgeRequest, ask_for_text, first_of
from consensus_flows.tasks.prompting.fence import fenced, shuffled
from consensus_flows.tasks.prompts import fill, prompt
from consensus_flows.tasks.record import Response, Synthesis

SO_FAR = "synthesis so far"


async def aggregate(
    asked: JudgeRequest, responses: Sequence[Response], config: ConsensusLearningConfig, call: Call
) -> Asked[Synthesis]:
    """Ask the aggregator of consensus learning, and where it fails each fallback in order.

    Args:
        asked: What the aggregator knows of the question.
        responses: The answers of those members that did not fail.
        config: Who aggregates, with which context and task.
        call: Makes the calls.
    """

    async def ask(model: ModelName) -> Asked[Synthesis]:
        labelled = shuffled(responses, f"{asked.seed}:{model}")
        request = Request(
            provider=model.provider,
            model=model.model,
            messages=_aggregator_messages(asked, config, labelled),
            sampling=config.aggregator_settings,
            reader=TEXT,
            label=f"aggregator {model} · {asked.label}",
            timeout=asked.timeout,
            answer_in="" if asked.final else None,
        )
        text, calls = await ask_for_text(request, call)
        names = {label: response.member for label, response in labelled.items()}
        return _made(text, model, names, "centralized_llm"), calls

    return await first_of(config.aggregators(), ask)


def _made(text: str | None, model: ModelName, names: dict[str, str], method: str) -> Synthesis | None:
    return None if text is None else Synthesis(text=text, arbiter=str(model), labels=names, method=method)


def _aggregator_messages(
    asked: JudgeRequest, config: ConsensusLearningConfig, labelled: dict[str, Response]
) -> tuple[Message, ...]:
    """Return what an aggregator is asked: its context, the conversation, the question with the answers, and its task."""
    context = [Message(role=turn.role, content=turn.content) for turn in config.aggregator_context]
    task = [Message(role=turn.role, content=turn.content) for turn in config.aggregator_prompt]
    answers = fenced({label: response.text or "" for label, response in labelled.items()}, asked.seed)
    said = [turn for turn in task if turn.role != "system"]
    system, turns = apart(
        prompt("aggregator_system"),
        [
            *context,
            *asked.conversation,
            Message(role="user", content=asked.fill("aggregate", count=len(labelled), answers=answers)),
            *(said or [Message(role="user", content=prompt("aggregate_task"))]),
            *(turn for turn in task if turn.role == "system"),
        ],
    )
    return (Message(role="system", content=system or ""), *joined(turns))


def joined(turns: Sequence[Message]) -> list[Message]:
    """Join neighboring turns of one side into one, because some servers refuse two in a row."""
    result: list[Message] = []
    for turn in turns:
        if result and result[-1].role == turn.role:
            last = result[-1]
            text = "\n\n".join(part for part in (last.content, turn.content) if part)
            files = (*last.attachments, *turn.attachments)
            result[-1] = Message(role=turn.role, content=text, attachments=files)
        else:
            result.append(turn)
    return result


@dataclass(frozen=True)
class LayerPrompt:
    """What the models of one layer of a mixture are asked: the first layer the question, every further one the answers too.

    Attributes:
        question: The question, which reaches every model of every layer.
        role: Which instruction its models have.
        instruction: An instruction in place of the built-in one of that role.
        system: System prompt of the user's own.
        conversation: Earlier turns.
    """

    question: str
    role: Literal["initial", "aggregate", "final"] = "initial"
    instruction: str | None = None
    system: str | None = None
    conversation: Sequence[Message] = ()

    def messages(self, answers: Sequence[str] = (), seed: str = "0") -> tuple[Message, ...]:
        """Return what a model is sent.

        Args:
            answers: What the layer before has answered, in the order in which this model is to see it.
            seed: Goes into the tag of the fences.
        """
        instruction = prompt(f"moa_{self.role}") if self.instruction is None else self.instruction
        system, turns = apart(
            "\n\n".join(text for text in (instruction, self.system) if text and text.strip()), self.conversation
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


async def synthesize(
    layer: LayerPrompt,
    responses: Sequence[Response],
    config: MixtureOfAgentsConfig,
    call: Call,
    *,
    so_far: str | None = None,
    seed: str = "0",
    label: str = "aggregate",
    final: bool = False,
) -> Asked[Synthesis]:
    """Ask the aggregator of a mixture, and where it fails each fallback in order.

    Args:
        layer: What the last layer is asked.
        responses: The answers that are new to the aggregator.
        config: Who aggregates.
        call: Makes the calls.
        so_far: Its synthesis of earlier answers, if there were too many for one call.
        seed: Decides the order of the answers and the tag of their fences.
        label: What the call is called in the UI.
        final: Whether there are no more answers to come.
    """

    async def ask(model: ModelName) -> Asked[Synthesis]:
        shown = [(SO_FAR, so_far)] * config.reserved if so_far is not None else []
        shown += [(one.member, one.text or "") for one in in_order(responses, f"{seed}:{model}")]
        request = Request(
            provider=model.provider,
            model=model.model,
            messages=layer.messages([text for _, text in shown], seed),
            sampling=config.aggregator_sampling(),
            reader=TEXT,
            label=f"aggregator {model} · {label}",
            timeout=config.timeout_s(),
            answer_in="" if final else None,
        )
        text, calls = await ask_for_text(request, call)
        names = {str(number): member for number, (member, _) in enumerate(shown, 1)}
        return _made(text, model, names, "aggregator"), calls

    return await first_of(config.aggregators(), ask)
