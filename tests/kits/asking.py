"""How the tests of the model call ask: through the Prefect task, outside any flow, and look at what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import (
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
    PREFECT_RESULTS_LOCAL_STORAGE_PATH,
    temporary_settings,
)

from consensus_flows.tasks.calls import providers
from consensus_flows.tasks.calls.ask import ask_task
from consensus_flows.tasks.calls.attempt import REPAIRS, CallLog, call_log
from consensus_flows.tasks.calls.budget import OVERRUNS
from consensus_flows.tasks.calls.request import Answer, Message, Request
from tests.vendors import LoopbackVendors

VENDORS = ("openai", "anthropic", "google")
_numbers = count()


@contextmanager
def asking(results: Path, **environment: str) -> Iterator[LoopbackVendors]:
    """Serve the vendors for a whole module, because each address costs a client and its TLS context.

    Models tell the tests apart: see `question`.
    """
    with (
        LoopbackVendors() as vendors,
        pytest.MonkeyPatch.context() as patch,
        temporary_settings(
            {PREFECT_RESULTS_LOCAL_STORAGE_PATH: results, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}
        ),
    ):
        for name, value in {
            "OPENAI_API_KEY": "sk-test-openai",
            "OPENAI_BASE_URL": vendors.openai_url,
            "ANTHROPIC_API_KEY": "sk-ant-test",
            "ANTHROPIC_BASE_URL": vendors.anthropic_url,
            "GEMINI_API_KEY": "test-google",
            "GOOGLE_GEMINI_BASE_URL": vendors.google_url,
            "OPENROUTER_API_KEY": "sk-or-test",
            "OPENROUTER_BASE_URL": vendors.openrouter_url,
            "CONSENSUS_BACKOFF_S": "0.01",
            **environment,
        }.items():
            patch.setenv(name, value)
        forget()
        yield vendors
        forget()


def forget() -> None:
    """Forget what was learned of providers and models."""
    providers._saved.clear()
    REPAIRS.clear()
    OVERRUNS.clear()


def question(provider: str = "openai", text: str = "Why?", **fields: Any) -> Request:
    """Ask a model that no other test asks."""
    fields.setdefault("model", f"model-{next(_numbers)}")
    return Request(provider=provider, messages=(Message(role="user", content=text),), **fields)


async def outcome(request: Request, *, fresh: bool = False) -> tuple[Any, CallLog]:
    """Ask; return the answer or the error, and the requests that were sent for it."""
    book = CallLog()
    token = call_log.set(book)
    try:
        state: Any = await ask_task(fresh=fresh)(request, return_state=True)
    finally:
        call_log.reset(token)
    return await state.aresult(raise_on_failure=False), book


async def answer(request: Request, *, fresh: bool = False) -> Answer:
    """Ask; there must be an answer."""
    result, _ = await outcome(request, fresh=fresh)
    assert isinstance(result, Answer), result
    return result


def stored() -> dict[str, bytes]:
    """The answers in the result folder."""
    return {path.name: path.read_bytes() for path in Path(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value()).rglob("answer-*")}


def file_of(name: str) -> Path:
    """The file of a stored answer."""
    (found,) = Path(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value()).rglob(name)
    return found


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)
