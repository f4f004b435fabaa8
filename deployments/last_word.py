"""Prints what came of a command as soon as it is known, and lets nothing that is paid for wait for the Prefect server.

Prefect tries for minutes to tell a server that is away, locked or out of disk space of the end of a flow run, fails the run
if it cannot, and tries for hours to deliver what is left of its events.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from consensus_flows.deployments.killed_runs import RunKeeper
from consensus_flows.deployments.server import server_is_up
from consensus_flows.deployments.server_away import CLIENT
from consensus_flows.deployments.terminal import Exit, Stop, flush, let_shell_go, say, server_failure

PATIENCE_S = 90.0
"""Seconds that a command waits for the Prefect server when its own work is done."""
NOTICE_S = 15.0
"""Seconds after which it says what it is waiting for."""
_LOOK_S = 2.0


class LastWord:
    """A watcher that reports what came of a run once, before Prefect ends the run, and then bounds how long that takes.

    Args:
        api_url: Of the Prefect server.
        event: The event with which the work ends.
        report: Prints what came of it, given the event's value, and returns the exit code.
        patience: Seconds that Prefect has to end the run.
        ends_command: Whether nothing is printed after the report, so that the shell can go on.
    """

    def __init__(
        self,
        api_url: str,
        event: str,
        report: Callable[[Any], Exit],
        patience: float = PATIENCE_S,
        *,
        ends_command: bool = False,
    ) -> None:
        self._api_url = api_url
        self._event = event
        self._report = report
        self._patience = patience
        self._ends_command = ends_command
        self._code: Exit | None = None
        self._error: Exception | None = None
        """Why the report failed."""
        self._keeper = RunKeeper()
        self._over = threading.Event()
        """The command goes on; the process may not."""

    async def on_event(self, event: str, value: Any) -> None:
        """Report when the work is done, and begin to watch the time."""
        await self._keeper.on_event(event, value)
        if event == self._event and self._code is None:
            self._once(value)
            # From now on this says what is waited for, and for how long.
            logging.getLogger(CLIENT).setLevel(logging.WARNING)
            threading.Thread(target=self._watch, name="last-word", daemon=True).start()
            if self._ends_command and self._code is not None and self._error is None:
                let_shell_go(self._code)

    def run(self, work: Coroutine[Any, Any, Any]) -> Exit:
        """Run what this watches, report on it, and return the exit code.

        Raises:
            Exception: What ended the work before there was anything to report, or why the report failed.
        """
        try:
            value = asyncio.run(work)
        except KeyboardInterrupt:  # of what is left, nothing is the person's
            if self._code is None:
                raise
        except Exception as error:
            if self._code is None:
                if self._keeper.refusal is not None:
                    raise self._keeper.refusal from None
                raise
            say(self._lost(error))
        else:
            if self._code is None:
                self._once(value)
        finally:
            self._over.set()
            self._keeper.close()
        if self._error is not None:
            raise self._error
        assert self._code is not None
        return self._code

    def _once(self, value: Any) -> None:
        try:
            self._code = self._report(value)
        except Stop as stop:
            say(f"consensus: {stop.message}")
            self._code = stop.code
        except BrokenPipeError:  # whoever read the answer has seen enough
            self._code = Exit.ANSWER
        except Exception as error:  # `tell` would hide it
            self._code, self._error = Exit.NO_ANSWER, error

    def _lost(self, error: Exception | None = None) -> str:
        if not server_is_up(self._api_url):
            return _AWAY
        failure = None if error is None else server_failure(error)
        if error is not None and failure is None:
            return f"consensus: the work is done, but at its end: {error!r}"
        cause = f"in {self._patience:.0f} seconds" if failure is None else f"({failure})"
        return f"{_SICK} {cause}. {_STORED}"

    def _watch(self) -> None:
        began = time.monotonic()
        if not self._over.wait(min(NOTICE_S, self._patience)):
            say(
                f"consensus: done; waiting up to {self._patience:.0f} s for the Prefect server to record the end of the run"
            )
        if not self._over.wait(max(0.0, began + self._patience - time.monotonic())):
            say(self._lost())
            self._leave()
        # From now on only the end of the process is looked after, which waits for Prefect's threads: a program that has called
        # the command goes on as long as it likes.
        threading.main_thread().join()
        away: float | None = None
        while away is None or time.monotonic() - away < self._patience:
            time.sleep(_LOOK_S)
            away = None if server_is_up(self._api_url) else away or time.monotonic()
        self._leave()

    def _leave(self) -> None:
        if self._error is not None:
            say(f"consensus: {self._error!r}")
        flush()
        os._exit(self._code or 0)  # what is left to be done is to tell a server that does not listen


_STORED = "The run may stay unfinished in the UI. Every answer is cached: the same command reuses them"
_AWAY = (
    "consensus: the work is done, but the Prefect server is away: the run stays unfinished in the UI. Every answer is cached; "
    "start the server again (any consensus command does), and the same command reuses them"
)
_SICK = "consensus: the work is done, but the Prefect server did not record the end of the run"
