"""Who is told the headers of a response: what a server says of its limits is in those of each, and no SDK passes them on."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar

told: ContextVar[Callable[[Mapping[str, str]], None] | None] = ContextVar("told", default=None)
"""Takes the headers of the response to the call that is made."""
