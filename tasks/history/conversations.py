"""The conversation that a run continues: its messages so far, and the turn that the run will be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import uuid4

from consensus_flows.tasks.calls.request import Message


@dataclass
class Conversation:
    """A conversation up to one of its turns.

    Attributes:
        id: Id of the conversation.
        parent: The run that is its last turn; None if it has none yet.
        messages: What was said until then.
    """

    id: str = field(default_factory=lambda: str(uuid4()))
    parent: str | None = None
    messages: list[Message] = field(default_factory=list)

    def add(self, prompt: str, answer: str, run_id: str | None, given: Sequence[Message] = ()) -> None:
        """Add a turn; without `run_id` it is not in the history."""
        self.messages += [*given, Message(role="user", content=prompt), Message(role="assistant", content=answer)]
        if run_id is not None:
            self.parent = run_id


@dataclass(frozen=True)
class Turn:
    """A run as a turn of a conversation.

    Attributes:
        conversation_id: Id of the conversation.
        parent_id: The run that is the turn before.
        given: Messages that the run was given beside those of the conversation.
    """

    conversation_id: str
    parent_id: str | None
    given: tuple[Message, ...] = ()

    @classmethod
    def after(cls, conversation: Conversation, given: Sequence[Message]) -> "Turn":
        """Return the next turn of `conversation`.

        Args:
            conversation: The conversation.
            given: All messages that the run was given; those of the conversation come first.
        """
        return cls(conversation.id, conversation.parent, tuple(given[len(conversation.messages) :]))


_current: ContextVar[Conversation | None] = ContextVar("conversation", default=None)


@contextmanager
def continuing(conversation: Conversation | None) -> Iterator[None]:
    """Make the run in the block a turn of `conversation`, if it ends with an answer."""
    token = _current.set(conversation)
    try:
        yield
    finally:
        _current.reset(token)


def current_conversation() -> Conversation | None:
    """Return the conversation that this run continues."""
    return _current.get()
