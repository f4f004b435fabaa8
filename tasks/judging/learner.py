"""A member's conversation in consensus learning: its own answers are its own turns, and the consensus comes back to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from consensus_flows.blocks.consensus_learning import PromptType
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.judging.fence import fenced
from consensus_flows.tasks.prompts import fill, prompt


@dataclass(frozen=True)
class Feedback:
    """How the consensus goes back to the members.

    Attributes:
        role: Whose turn it is put as. `system` joins the leading system message, because none may follow a user's turn.
        improvement: What the member is asked to do with it.
        seed: Decides the tag that fences the consensus.
    """

    role: PromptType
    improvement: str
    seed: str


def feedback(role: PromptType, improvement: str, seed: str) -> Feedback:
    """Return how the consensus goes back, with the built-in improvement prompt where none is given."""
    return Feedback(role, improvement.strip() or prompt("improve"), seed)


class Learner:
    """The conversation of one member."""

    def __init__(
        self, question: str, back: Feedback, system: str | None = None, conversation: Sequence[Message] = ()
    ) -> None:
        self._system = system
        self._settled = tuple(conversation)
        self._question = question
        self._back = back
        self._consensus: str | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the member is asked next."""
        system = "\n\n".join(text for text in (self._system, self._told("system")) if text)
        first = (Message(role="system", content=system),) if system else ()
        return (*first, *self._settled, *self._asked())

    def go_on(self, answer: str | None, consensus: str) -> None:
        """Continue after `answer` with the `consensus`; a member that gave none is asked the same, with the consensus."""
        if answer is not None:
            self._settled = (*self._settled, *self._asked(), Message(role="assistant", content=answer))
            self._question = ""
        self._consensus = consensus

    def _asked(self) -> tuple[Message, ...]:
        """The turns that have not been answered; they begin and end with the user's."""
        if self._consensus is None:
            return (Message(role="user", content=self._question),)
        if self._back.role == "assistant":
            return (
                Message(role="user", content=self._question or prompt("consensus_asked")),
                Message(role="assistant", content=self._told("assistant")),
                Message(role="user", content=self._back.improvement),
            )
        parts = (self._question, self._told("user"), self._back.improvement)
        return (Message(role="user", content="\n\n".join(part for part in parts if part)),)

    def _told(self, role: PromptType) -> str:
        """Return the consensus as it is told in the turn of `role`, or nothing where it is told in another."""
        if self._consensus is None or self._back.role != role:
            return ""
        # It is an answer of another member's, word for word, or made of such: in none of the turns are these our words.
        return fill(
            "consensus", consensus=fenced({"of all participants": self._consensus}, self._back.seed, "consensus")
        )
