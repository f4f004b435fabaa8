"""Beginnings of prompts that come again: marked for Anthropic's prompt cache, in place for the others', and of no weight in keys."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import genai_prices
import pytest

from consensus_flows.tasks.attachments import attach
from consensus_flows.tasks.calls import prompt_cache
from consensus_flows.tasks.calls.budget import worst_case
from consensus_flows.tasks.calls.providers import endpoint_of
from consensus_flows.tasks.calls.request import Message, Request, request_key
from tests.kits.asking import answer, asking, outcome, question
from tests.vendors import LoopbackVendors, Reply

LONG = "Answer as a harbor master would. " * 600
"""Some 4,950 tokens: enough for every model."""
MARK = {"cache_control": {"type": "ephemeral"}}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("prompts")) as vendors:
        yield vendors


@pytest.fixture(autouse=True)
def _nothing_was_sent() -> None:
    prompt_cache._sent.clear()


def asked(provider: str, text: str, *, model: str, system: str = LONG) -> Request:
    one = question(provider, text, model=model)
    return one.model_copy(update={"messages": (Message(role="system", content=system), *one.messages)})


def bodies(server: LoopbackVendors, model: str) -> list[dict[str, Any]]:
    return [one.params for one in server.seen if one.model == model and one.kind == "chat"]


async def test_a_system_prompt_is_marked_from_the_second_time_on(server: LoopbackVendors) -> None:
    found = [await answer(asked("anthropic", f"Question {n}?", model="claude-haiku-4-5")) for n in range(3)]
    first, *others = bodies(server, "claude-haiku-4-5")
    assert first["system"] == LONG
    assert [one["system"] for one in others] == [[{"type": "text", "text": LONG, **MARK}]] * 2
    assert [one["messages"] for one in others] == [[{"role": "user", "content": f"Question {n}?"}] for n in (1, 2)]
    kept = len(LONG) // 4
    assert [(one.usage.cached_input_tokens, one.usage.cache_write_tokens) for one in found] == [
        (0, 0),
        (0, kept),
        (kept, 0),
    ]
    usage = found[2].usage
    wanted = genai_prices.Usage(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cache_read_tokens=kept
    )
    price = genai_prices.calc_price(wanted, model_ref="claude-haiku-4-5", provider_id="anthropic").total_price
    assert found[2].cost_usd == pytest.approx(float(price))
    assert found[2].cost_usd < 0.3 * (found[0].cost_usd or 0)


@pytest.mark.parametrize("provider", ["openai", "google"])
async def test_the_others_find_by_themselves_what_is_in_front(provider: str, server: LoopbackVendors) -> None:
    model = f"any-{provider}"
    found = [await answer(asked(provider, f"Question {n}?", model=model)) for n in range(2)]
    assert [one.usage.cached_input_tokens for one in found] == [0, 4864]
    assert "cache_control" not in str(bodies(server, model))


async def test_what_is_short_or_long_ago_is_not_marked(
    server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        await answer(asked("anthropic", f"Question {n}?", model="short", system="Be brief."))
    monkeypatch.setattr(prompt_cache, "KEPT_S", 0.0)
    for n in range(3):
        await answer(asked("anthropic", f"Question {n}?", model="rare"))
    assert "cache_control" not in str([*bodies(server, "short"), *bodies(server, "rare")])


async def test_the_key_knows_nothing_of_marks(server: LoopbackVendors) -> None:
    one = asked("anthropic", "Why?", model="keyed")
    marked = one.model_copy(update={"repeated": "system"})
    assert request_key(one, "x") == request_key(marked, "x")
    before = await answer(one)
    again, log = await outcome(asked("anthropic", "Why?", model="keyed"))
    assert (again, log.attempts, server.count("keyed")) == (before, [], 1)


async def test_files_that_all_questions_share_are_marked_too(server: LoopbackVendors, tmp_path: Path) -> None:
    (tmp_path / "chart.png").write_bytes(PNG)
    files = attach([str(tmp_path / "chart.png")])
    for n in range(2):
        one = asked("anthropic", f"Question {n}?", model="claude-with-files")
        system, user = one.messages
        turn = Message(role="user", content="", attachments=files)
        await answer(one.model_copy(update={"messages": (system, turn.model_copy(update={"content": user.content}))}))
    first, second = bodies(server, "claude-with-files")
    assert "cache_control" not in str(first)
    image, text = second["messages"][0]["content"]
    assert (image["type"], image["cache_control"], "cache_control" in text) == ("image", {"type": "ephemeral"}, False)
    assert second["system"][0]["cache_control"] == {"type": "ephemeral"}


async def test_a_server_that_refuses_marks_is_asked_without(server: LoopbackVendors) -> None:
    def refuses(seen: Any) -> Reply:
        if "cache_control" in str(seen.params):
            said = "system.0.cache_control: Extra inputs are not permitted"
            return Reply(
                status=400, body={"type": "error", "error": {"type": "invalid_request_error", "message": said}}
            )
        return Reply(text="yes")

    server.script("an-old-gateway", then=refuses)
    for n in range(3):
        assert (await answer(asked("anthropic", f"Question {n}?", model="an-old-gateway"))).text == "yes"
    assert ["cache_control" in str(body) for body in bodies(server, "an-old-gateway")] == [False, True, False, False]


async def test_the_worst_case_of_what_is_marked_is_that_it_is_written(server: LoopbackVendors) -> None:
    endpoint = await endpoint_of("anthropic", "claude-haiku-4-5")
    one = asked("anthropic", "Why?", model="claude-haiku-4-5")
    assert worst_case(one, endpoint).cache_write_tokens == 0
    marked = worst_case(one.model_copy(update={"repeated": "system"}), endpoint)
    assert marked.cache_write_tokens == marked.input_tokens > len(LONG)
