"""The options with which every command continues a conversation."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.deployments.options import OUTPUT
from consensus_flows.deployments.terminal import Stop
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import HistoryError
from consensus_flows.tasks.history.writing import Conversation


@Parameter(name="*")
@dataclass(kw_only=True)
class ConversationOptions:
    """Which conversation is continued; by default a new one begins."""

    go_on: Annotated[bool, Parameter(name=["--continue", "-c"], group=OUTPUT, negative="")] = False
    """Continue the latest conversation."""
    cid: Annotated[str | None, Parameter(group=OUTPUT, metavar="ID")] = None
    """Conversation or run to continue: its ID, or the start of it."""

    @cached_property
    def conversation(self) -> Conversation:
        """The conversation; looked up once, so that all of a command sees the same turns.

        Raises:
            Stop: If there is none.
        """
        if not self.go_on and self.cid is None:
            return Conversation()
        if self.go_on and self.cid is not None:
            raise Stop("--continue and --cid both name a conversation: give one of them")
        # Imported only now, because it costs half a second.
        from consensus_flows.deployments.commands.history import find_history
        from consensus_flows.tasks.history.database import opened
        from consensus_flows.tasks.history.reading import latest, named

        option = "--continue" if self.cid is None else f"--cid {self.cid}"
        try:
            find_history()
            with opened() as history:
                return history.read(
                    latest if self.cid is None else lambda connection: named(connection, self.cid or "")
                )
        except HistoryError as error:
            raise Stop(f"{option}: {error}") from None

    def refuse(self, what: str) -> None:
        """Say that `what` is no turn of a conversation.

        Raises:
            Stop: If one was named.
        """
        if self.go_on or self.cid is not None:
            raise Stop(f"--continue and --cid: {what} is not a turn of a conversation")

    def turns(self) -> list[Message]:
        """Return what was said so far, for a flow's `conversation`."""
        return list(self.conversation.messages)
