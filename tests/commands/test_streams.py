"""What a command prints, and reads, when the terminal's encoding is not UTF-8, or a standard stream is closed or full."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from consensus_flows.deployments.terminal import Exit

ROOT = Path(__file__).parent.parent.parent
PRINTS = """
from consensus_flows.deployments.terminal import Exit, leave, open_streams, put, put_json, say
open_streams()
def command():
    say("asking 你")
    put("é 你 😀")
    put_json({"answer": "é 你 😀"})
leave(command)
"""
READS = """
from consensus_flows.deployments.terminal import leave, open_streams, put, read_prompt
open_streams()
leave(lambda: put(read_prompt(None, None)))
"""


def run(code: str, redirect: str = "", stdin: bytes = b"", **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, code],
        cwd=ROOT,
        # Buffered, as a user's are: what could not be flushed must not fail again when Python ends.
        env=os.environ | {"PYTHONUNBUFFERED": ""} | environment,
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii", "utf-8"])
def test_what_the_encoding_lacks_is_spelled_out(encoding):
    done = run(PRINTS, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    first, _, rest = done.stdout.decode(encoding).partition("\n")
    shown = {"iso-8859-1": "é \\u4f60 \\U0001f600", "ascii": "\\xe9 \\u4f60 \\U0001f600", "utf-8": "é 你 😀"}
    assert first == shown[encoding]
    assert json.loads(rest) == {"answer": "é 你 😀"}


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_the_answer_is_printed_when_nothing_else_can_be(redirect):
    done = run(PRINTS, redirect)
    assert done.returncode == 0 and done.stdout.decode().startswith("é 你 😀\n")
    assert "asking" not in done.stdout.decode()


def test_a_closed_standard_output_is_no_error():
    done = run(PRINTS, ">&-")
    assert (done.returncode, done.stderr.decode()) == (0, "asking 你\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_standard_output_is_one_sentence():
    done = run(PRINTS, ">/dev/full")
    assert done.returncode == Exit.NO_ANSWER
    assert "standard output cannot be written: No space left on device" in done.stderr.decode().splitlines()[1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8:surrogateescape"])
def test_a_prompt_that_is_no_utf8_is_refused_in_one_sentence(encoding):
    done = run(READS, stdin=b"caf\xe9?", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout) == (Exit.BAD_INPUT, b"")
    (said,) = done.stderr.decode().splitlines()
    assert "not valid UTF-8" in said


def test_a_pipe_that_never_ends_is_said():
    with subprocess.Popen(
        [sys.executable, "-c", READS.replace("None, None", "'Hi?', None")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as waits:
        assert waits.stderr is not None and b"--no-stdin" in waits.stderr.readline()
        waits.kill()


def test_a_prompt_is_read_in_the_encoding_of_the_terminal():
    done = run(READS, stdin=b"caf\xe9?", PYTHONIOENCODING="iso-8859-1")
    assert (done.returncode, done.stdout) == (0, b"caf\xe9?\n"), done.stderr
