"""A member's own conversation: what it was asked, what it said, and what was made of all answers."""

from collections.abc import Sequence

from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.prompting.fence import fence_tag, fenced
from consensus_flows.tasks.prompts import fill
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

    def continue_after(self, answer: str | None, guidance: str) -> None:
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
