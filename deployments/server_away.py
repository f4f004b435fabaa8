"""Says in one sentence, and not in a page of log for every event, that the Prefect server does not answer."""

import logging
import time
from collections.abc import Callable

LOGGER = "prefect._internal"
"""Where Prefect's background services log what they could not deliver."""
CLIENT = "prefect.client"
"""Where its client logs that it sends a request again."""
PAUSE_S = 60.0


class ServerAway(logging.Handler):
    """Takes the place of the handler that prints every event that could not be sent, prompts and all."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._say = say
        self._said = -PAUSE_S

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, at most once a minute."""
        now = time.monotonic()
        if now - self._said < PAUSE_S:
            return
        self._said = now
        cause = record.exc_info[1] if record.exc_info else None
        detail = f" ({type(cause).__name__})" if cause is not None else ""
        self._say(
            f"consensus: the Prefect server does not answer{detail}. The work continues and its answers are cached; some task "
            "runs may be missing in the UI"
        )


class ServerBusy(logging.Handler):
    """Says once that a request has to be sent again, which Prefect only tells those who debug it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.DEBUG)
        self._say = say
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, and be silent from then on."""
        if not self._said and "retryable" in record.msg:
            self._said = True
            self._say("consensus: the Prefect server is busy: waiting for it, for some minutes at most")


def speak_plainly(say: Callable[[str], None]) -> None:
    """Let the background services speak through `say`."""
    logger = logging.getLogger(LOGGER)
    logging.raiseExceptions = False  # else Prefect's log handler prints each batch of lines that it cannot send
    if not any(isinstance(handler, ServerAway) for handler in logger.handlers):
        logger.handlers[:] = [ServerAway(say)]
        client = logging.getLogger(CLIENT)
        client.setLevel(logging.DEBUG)
        client.propagate = False
        client.addHandler(ServerBusy(say))
