"""How the command line speaks: the answer on stdout, everything else on stderr, and an exit code that scripts can use."""

import errno
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from http import HTTPStatus
from pathlib import Path
from threading import Timer
from typing import Any, NoReturn, TextIO

from pydantic import ValidationError

from consensus_flows.tasks.files import atomic_write, is_stream
from consensus_flows.tasks.plain_text import visible

STORED = "Answers that were paid for are cached: the same command reuses them"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
NOTICE_S = 3.0
"""Seconds after which a command says that it still waits for standard input."""
TOO_LARGE = "Flow run parameters must be less than"
"""What the Prefect server says, with all the parameters after it, when it refuses a run over their size."""


class Exit(IntEnum):
    """Exit codes of every command."""

    ANSWER = 0
    NO_ANSWER = 1
    BAD_INPUT = 2
    BUDGET = 3
    NEVER_ANSWERED = 4
    """A batch has an answer for every row, and a member has none."""
    LESS_ACCURATE = 5
    """A panel is less accurate than in an earlier evaluation, or wins less often, by more than chance."""
    JUDGE_REFUSED = 6
    """A model is wrong too often on adversarial pairs to be a judge."""
    NOT_ATTESTED = 7
    """There is an answer, but not the attestation that was asked for. From 10 on: see `consensus verify`."""
    WAITING = 8
    """A part of a batch is at the vendors; the same command collects it."""


class Stop(Exception):  # noqa: N818 - it ends a command, and not always because of an error.
    """Ends the command with a message and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.BAD_INPUT) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class NotAnOptionError(ValueError):
    """A text looks like an option that there is not."""


_shell: list[Callable[[int], None]] = []


def started_by_shell(go_on: Callable[[int], None]) -> None:
    """Note that a shell waits for this command in another process (`resident.py`); `go_on` tells it the exit code."""
    _shell.append(go_on)


def let_shell_go(code: int) -> None:
    """Let a shell that waits for this command go on: all is printed, and what is left concerns only the Prefect server."""
    if _shell:
        _shell.pop()(code)


def say(text: str) -> None:
    """Print a line for the person who looks on; what models and servers say in it cannot steer the terminal."""
    try:
        print(visible(text), file=sys.stderr, flush=True)
    except OSError:  # nobody can be told that nobody can be told
        _lead_nowhere(sys.stderr)


def put(text: str) -> None:
    """Print what the command is for: as it is into a file or a pipe, and so that it cannot steer a terminal.

    Raises:
        Stop: If it cannot be printed.
        BrokenPipeError: If nobody reads it any more.
    """
    # A model's text may hold half a character, which no terminal can show.
    data = text.encode("utf-8", "replace").decode("utf-8")
    try:
        print(visible(data) if sys.stdout.isatty() else data, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _lead_nowhere(sys.stdout)
        raise Stop(f"standard output cannot be written: {error.strerror}. {STORED}", Exit.NO_ANSWER) from None


def _lead_nowhere(stream: TextIO) -> None:
    """Keep Python from failing again, with an exit code of its own, when it flushes a full stream at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def put_json(value: Any) -> None:
    """Print a value as JSON."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    put(json.dumps(value, indent=2, ensure_ascii=not unicode))


def open_streams() -> None:
    """Make the standard streams of this process fit to be written to, whatever the shell has done to them.

    One that is closed leads nowhere. A character that the locale cannot show is printed as its number, in place of an error.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Else the next file or connection would get its number, and be written to.
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write out what is still held back, as far as that is possible, before the process ends at once."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def explain(error: ValidationError, names: dict[str, str] | None = None) -> str:
    """Say in one line a field what is wrong with it and what would be right.

    Args:
        error: What pydantic says.
        names: The command line's names of fields, where they differ.
    """
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in item["loc"])
        field = (names or {}).get(field, field)
        message = item["msg"].removeprefix("Value error, ")
        lines.append(f"{field}: {message}" if field else message)
    return "\n".join(dict.fromkeys(lines))


def checked_output(path: Path | None) -> Path | None:
    """Check before any paid call that the output file can be written.

    Raises:
        Stop: If not.
    """
    if path is None:
        return None
    if path.is_dir():
        raise Stop(f"--output {path} is a folder: name a file")
    folder = Path(os.path.realpath(path)).parent
    if not is_stream(path) and not folder.is_dir():
        raise Stop(f"--output {path}: the folder {folder} does not exist")
    try:
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not is_stream(path):
            # Tried and not looked up: permissions alone do not tell of a file system that is read-only or full.
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Stop(f"--output {path} cannot be written: {error.strerror}") from None
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never seen half-written.

    Raises:
        Stop: If it cannot be written.
    """
    try:
        with atomic_write(path) as file:
            file.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise Stop(f"{path} cannot be written: {error.strerror or error}", Exit.NO_ANSWER) from None


def read_text(path: Path, option: str) -> str:
    """Return the text of a file that was named by `option`.

    Raises:
        Stop: If it cannot be read, is not text, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise Stop(f"{option} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Stop(f"{option} {path} is not UTF-8 text") from None
    if not text:
        raise Stop(f"{option} {path} is empty")
    return text


def read_prompt(prompt: str | None, stdin: bool | None) -> str:
    """Return the prompt: what is piped in, then the argument, as `llm` has it.

    Args:
        prompt: The argument; `-` stands for standard input.
        stdin: True to read standard input, False never to read it, None to read it unless it is a terminal.

    Raises:
        Stop: If there is none.
    """
    if prompt == "-":
        prompt, stdin = None, True
    piped = read_stdin() if stdin or (stdin is None and not sys.stdin.isatty()) else ""
    text = "\n\n".join(part for part in (piped, (prompt or "").strip()) if part)
    if not text:
        raise Stop('there is no prompt: write it as an argument ("your question"), or pipe it in')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Stop(
            f"the prompt is not valid UTF-8 (character {error.start + 1}): save or convert it as UTF-8"
        ) from None
    return text


def read_stdin() -> str:
    """Return what is on standard input, to its end; whoever started the command may have left a pipe open that never ends.

    Raises:
        Stop: If it cannot be read.
    """
    text = "consensus: waiting for standard input to end; --no-stdin asks without it"
    notice = Timer(NOTICE_S, say, (text,))
    notice.daemon = True
    if not sys.stdin.isatty():
        notice.start()
    try:
        return sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise Stop(
            f"standard input is not valid {error.encoding.upper()} (byte {error.start + 1}): convert it, for example with iconv"
        ) from None
    except OSError as error:
        raise Stop(f"standard input cannot be read: {error.strerror or error}") from None
    finally:
        notice.cancel()


def leave(action: Callable[[], int | None]) -> NoReturn:
    """Run a command and end the process with its exit code; expected errors are one sentence, not a traceback."""
    try:
        code: int = action() or Exit.ANSWER
    except KeyboardInterrupt:
        say("consensus: interrupted; answers that were paid for are cached, and the next run reuses them")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        stop = explained(error)
        if stop is None:
            raise
        if stop.message:
            say(f"consensus: {stop.message}")
        code = stop.code
    sys.exit(int(code))


def explained(error: Exception) -> Stop | None:
    """Say in a sentence what an expected error means, with the exit code of a command; None for any other error."""
    if isinstance(error, Stop):
        return error
    if isinstance(error, ValidationError):
        return Stop(explain(error))
    # Imported only now, because importing the tasks imports Prefect, which takes seconds.
    from consensus_flows.deployments.server_access import ServerUnavailable
    from consensus_flows.tasks.errors import ConfigurationError, ConsensusError

    if TOO_LARGE in str(error):
        return Stop(
            "question, conversation and settings are larger than the 512 kB that Prefect takes for a run: "
            "ask with less, or raise PREFECT_SERVER_API_MAX_PARAMETER_SIZE (bytes) for the server"
        )
    if refusal := refused_by_server(error):
        return Stop(refusal)
    if failure := server_failure(error):
        return Stop(
            f"the Prefect server failed: {failure}. Its disk may be full or its database locked: its log says why "
            f"({_log()} if consensus has started it). {STORED}",
            Exit.NO_ANSWER,
        )
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        return Stop(f"what was given is not valid {error.encoding.upper()}: {error.reason}")
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return Stop(f"{error.filename or 'a file'} cannot be written: {error.strerror}. {STORED}", Exit.NO_ANSWER)
    if isinstance(error, ConfigurationError | ServerUnavailable):
        return Stop(str(error))
    return Stop(str(error), Exit.NO_ANSWER) if isinstance(error, ConsensusError) else None


def refused_by_server(error: Exception) -> str | None:
    """Say what to do about an error response of the Prefect server; None for any other error."""
    from prefect.exceptions import PrefectHTTPStatusError

    if not isinstance(error, PrefectHTTPStatusError):
        return None
    status, request = error.response.status_code, error.request
    if status in {401, 403}:
        return f"the Prefect server at {request.url.host} lets nobody in without PREFECT_API_AUTH_STRING=user:password, its own"
    reads = request.method == "GET" or request.url.path.endswith("/filter")
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and "block_documents" in request.url.path and reads:
        return (
            f"the Prefect server at {request.url.host} cannot read its saved blocks (HTTP {status}); its log says why. After a "
            "change of PREFECT_SERVER_ENCRYPTION_KEY save them again"
        )
    return None


def server_failure(error: Exception) -> str | None:
    """Say how the Prefect server has failed, if that is what the error is about."""
    import httpx  # Prefect has imported it already.

    if isinstance(error, httpx.HTTPStatusError):
        status, request = error.response.status_code, error.request
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in {
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.TOO_MANY_REQUESTS,
        }:
            return f"HTTP {status} to {request.method} {request.url}"
    elif isinstance(error, httpx.TransportError):
        return f"no answer ({type(error).__name__})"
    elif isinstance(error, RuntimeError) and str(error).startswith("Failed to reach API"):
        return "no answer (it cannot be reached)"
    return None


def _log() -> Path:
    from prefect.settings import get_current_settings

    return get_current_settings().home / "consensus-server.log"
