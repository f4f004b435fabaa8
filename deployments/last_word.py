"""Ends a command whose work is done when the Prefect server stays away: nothing that is paid for waits for the UI.

Prefect tries for minutes to tell a server of the end of a flow run, and for hours to deliver what is left of its events.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from deployments.server import server_is_up
from deployments.terminal import Exit, say

PATIENCE_S = 90.0
"""Seconds that a server may be away after the end of the work."""
_LOOK_S = 2.0


class LastWord:
    """A watcher that knows what came of a run, and reports it once.

    Args:
        api_url: Of the Prefect server.
        event: The event with which the work ends.
        report: Prints what came of it, given the event's value, and returns the exit code.
        patience: Seconds that the server may be away.
    """

    def __init__(self, api_url: str, event: str, report: Callable[[Any], Exit], patience: float = PATIENCE_S) -> None:
        self._api_url = api_url
        self._event = event
        self._report = report
        self._patience = patience
        self._value: Any = None
        self._code: Exit | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        """The command goes on; the process may not."""

    async def told(self, event: str, value: Any) -> None:
        """Begin to look after the server when the work is done."""
        if event == self._event and self._value is None:
            self._value = value
            threading.Thread(target=self._watch, name="last-word", daemon=True).start()

    def value_despite(self, error: Exception) -> Any:
        """Return what came of the work although Prefect failed at its end because the server is away.

        Raises:
            Exception: `error`, if it has another cause or the work was not done.
        """
        if self._value is None or server_is_up(self._api_url):
            self._over.set()
            raise error
        say(_AWAY)
        return self._value

    def report(self, value: Any) -> Exit:
        """Report what came of the work, once, and return the exit code."""
        try:
            with self._lock:
                if self._code is None:
                    self._code = self._report(value)
                return self._code
        finally:
            self._over.set()

    def _watch(self) -> None:
        away: float | None = None
        while away is None or time.monotonic() - away < self._patience:
            time.sleep(_LOOK_S)
            if self._over.is_set():
                # From now on only the end of the process is looked after, which waits for Prefect's threads: a program that
                # has called the command goes on as long as it likes.
                threading.main_thread().join()
            away = None if server_is_up(self._api_url) else away or time.monotonic()
        if self._over.is_set() and threading.main_thread().is_alive():
            return
        if self._code is None:
            say(_AWAY)
        code = self.report(self._value)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what is left to be done is to tell a server that is not there


_AWAY = (
    "consensus: the work is done, but the Prefect server is away: the run stays unfinished in the UI. Every answer is stored; "
    "start the server again (any consensus command does), and the same command takes them from the store"
)
