"""A conversation that a run goes on: which turn it saw last, and what was said until then."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import uuid4

from consensus_flows.tasks.calls.request import Message


@dataclass
class Conversation:
    """A place in a conversation.

    Attributes:
        id: Id of the conversation.
        parent: The run whose turn is the last one in `messages`; None where the conversation begins.
        messages: What was said until then.
    """

    id: str = field(default_factory=lambda: str(uuid4()))
    parent: str | None = None
    messages: list[Message] = field(default_factory=list)

    def add(self, prompt: str, answer: str, run_id: str | None, given: Sequence[Message] = ()) -> None:
        """Go on after a turn; without `run_id` it was not written into the history."""
        self.messages += [*given, Message(role="user", content=prompt), Message(role="assistant", content=answer)]
        if run_id is not None:
            self.parent = run_id


_continued: ContextVar[Conversation | None] = ContextVar("continued", default=None)


@contextmanager
def continuing(conversation: Conversation | None) -> Iterator[None]:
    """Make the run in the block a turn of `conversation`, if it ends with an answer."""
    token = _continued.set(conversation)
    try:
        yield
    finally:
        _continued.reset(token)


def continued() -> Conversation | None:
    """Return the conversation of which this run is to be a turn."""
    return _continued.get()
