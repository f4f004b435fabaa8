"""The errors of this package. Each is built from one message, carries plain values, and can be pickled and stored."""

from typing import Literal

ErrorKind = Literal[
    "rate_limit",
    "quota",
    "auth",
    "not_found",
    "bad_request",
    "context_length",
    "content_filter",
    "truncated",
    "empty",
    "malformed",
    "overloaded",
    "server",
    "timeout",
    "connection",
    "straggler",
    "budget",
    "no_answer",
    "unknown",
]


class ConsensusError(Exception):
    """Base of all errors that this package raises on purpose."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class ConfigurationError(ConsensusError, ValueError):
    """Something the user wrote cannot be used; found before any call is paid for.

    Attributes:
        field: The setting or parameter that is wrong, where it is one; the message begins with it.
        reason: What is wrong with it.
    """

    def __init__(self, reason: str = "", *, field: str = "") -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field, self.reason = field, reason


class ModelError(ConsensusError):
    """A model call that gave no complete answer.

    Attributes:
        kind: What went wrong, an `ErrorKind`.
        retryable: Whether the same call may succeed later.
        wait_s: Seconds that the provider asked to wait, if it said so.
        max_attempts: After so many attempts a retry is pointless; None for no such bound, 0 if it is now.
        status: HTTP status, if there was a response.
        text: Text that the model did write, if any.
        taken_out: Whether it was not asked, because it was disabled for the rest of the run.
    """

    def __init__(
        self,
        message: str = "",
        *,
        kind: ErrorKind = "unknown",
        retryable: bool = False,
        wait_s: float | None = None,
        max_attempts: int | None = None,
        status: int | None = None,
        text: str | None = None,
        taken_out: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.retryable = retryable
        self.wait_s = wait_s
        self.max_attempts = max_attempts
        self.status = status
        self.text = text
        self.taken_out = taken_out


class BudgetError(ModelError):
    """The budget of the run does not cover the call: it was not sent, or cut at the deadline."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message, kind="budget")


class QuorumError(ConsensusError):
    """Fewer members answered than the quorum needs; the message lists every member's cause."""


class OutputError(ConsensusError):
    """What was worked out cannot be written; the message says what is kept and what to do."""


class HistoryError(ConsensusError):
    """The history cannot be read or written. A run never fails because of it."""


class RowError(HistoryError):
    """The database refuses this row, and may accept another."""
