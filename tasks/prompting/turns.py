"""A member's own conversation: what it was asked, what it said, and what was made of all answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from consensus_flows.blocks.consensus_learning import PromptType
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.prompting.fence import fence_tag, fenced
from consensus_flows.tasks.prompts import fill, prompt
from consensus_flows.tasks.record import Synthesis


def apart(system: str | None, conversation: Sequence[Message]) -> tuple[str | None, tuple[Message, ...]]:
    """Return all instructions as one text, and the conversation without them.

    Vendors want one system message, and want it first; a conversation that comes from elsewhere may hold several.
    """
    instructions = [system, *(message.content for message in conversation if message.role == "system")]
    turns = tuple(message for message in conversation if message.role != "system")
    return "\n\n".join(text for text in instructions if text and text.strip()) or None, turns


class Turns:
    """The conversation of one member, which goes on from its own earlier answer."""

    def __init__(self, question: str, system: str | None = None, conversation: Sequence[Message] = ()) -> None:
        first = (Message(role="system", content=system),) if system else ()
        self._settled = (*first, *conversation)
        self._question = question
        self._guidance = ""

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the member is asked next."""
        parts = [part for part in (self._question, self._guidance) if part]
        return (*self._settled, Message(role="user", content="\n\n".join(parts)))

    def go_on(self, answer: str | None, guidance: str) -> None:
        """Continue after `answer` with `guidance`; a member that gave none is asked the same again, with the guidance."""
        if answer is not None:
            self._settled = (*self.messages, Message(role="assistant", content=answer))
            self._question = ""
        self._guidance = guidance


def guidance(synthesis: Synthesis, seed: str) -> str:
    """Return what a member is shown of a round before it answers again.

    All of it is quoted as to a judge: it may be another member's answer word for word, or repeat one.
    """
    parts = {
        "so far": synthesis.text,
        "of a minority": synthesis.dissent,
        "to look into": "\n".join(f"- {area}" for area in synthesis.refinement_areas),
    }
    tag = fence_tag(list(parts.values()), seed)
    quoted = [fenced({label: text}, seed, tag=tag) if text else "" for label, text in parts.items()]
    return fill("iterate", **dict(zip(("synthesis", "dissent", "areas"), quoted, strict=True)))


@dataclass(frozen=True)
class Feedback:
    """How the consensus of a round goes back to the members in consensus learning.

    Attributes:
        role: In whose turn it stands. `system` joins the leading system message, because none may follow a user's turn.
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
        system = "\n\n".join(text for text in (self._system, self._consensus_for("system")) if text)
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
                Message(role="assistant", content=self._consensus_for("assistant")),
                Message(role="user", content=self._back.improvement),
            )
        parts = (self._question, self._consensus_for("user"), self._back.improvement)
        return (Message(role="user", content="\n\n".join(part for part in parts if part)),)

    def _consensus_for(self, role: PromptType) -> str:
        """Return the quoted consensus if it goes into the turn of `role`; empty otherwise."""
        if self._consensus is None or self._back.role != role:
            return ""
        # It is another member's answer word for word, or made of several: whatever the turn, these are not our words.
        return fill(
            "consensus", consensus=fenced({"of all participants": self._consensus}, self._back.seed, "consensus")
        )
