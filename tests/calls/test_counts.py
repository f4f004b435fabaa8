"""What a vendor says of tokens and dollars: a wrong count is unknown, and never costs the answer or moves a budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from consensus_flows.blocks import Budget, Sampling
from consensus_flows.tasks.calls.budget import most_tokens, spending, worst_case
from consensus_flows.tasks.calls.providers import Endpoint
from consensus_flows.tasks.calls.request import Answer, Message, Request
from consensus_flows.tasks.calls.request import Usage as Tokens
from consensus_flows.tasks.calls.vendors.vendor import all_vendors, charged, total, usage_of
from tests.kits.asking import asking, outcome, question
from tests.vendors import LoopbackVendors, Reply

GOOD: dict[str, dict[str, Any]] = {
    "openai": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
    "openrouter": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10, "cost": 0.001},
    "anthropic": {"input_tokens": 5, "output_tokens": 5},
    "google": {"promptTokenCount": 5, "candidatesTokenCount": 5},
}
BAD: list[tuple[str, dict[str, Any]]] = [
    ("openai", {"prompt_tokens": -9000}),
    ("openai", {"completion_tokens": -1}),
    ("openai", {"completion_tokens": 5.5}),
    ("openai", {"completion_tokens": "many"}),
    ("openai", {"completion_tokens": None}),
    ("openai", {"completion_tokens": 10**15}),
    ("openai", {"prompt_tokens_details": {"cached_tokens": -4000}}),
    ("openai", {"prompt_tokens_details": {"cached_tokens": 4000}}),
    ("openai", {"completion_tokens_details": {"reasoning_tokens": -1}}),
    ("openrouter", {"prompt_tokens": -9000, "cost": -0.5}),
    ("anthropic", {"input_tokens": -9000}),
    ("anthropic", {"output_tokens": -1}),
    ("anthropic", {"cache_read_input_tokens": -9000}),
    ("anthropic", {"cache_creation_input_tokens": -9000}),
    ("google", {"promptTokenCount": -9000}),
    ("google", {"candidatesTokenCount": -1}),
    ("google", {"thoughtsTokenCount": -9000}),
    ("google", {"toolUsePromptTokenCount": -9000}),
    ("google", {"cachedContentTokenCount": -1}),
]


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("counts")) as vendors:
        yield vendors


@pytest.mark.parametrize(("provider", "wrong"), BAD)
async def test_a_wrong_count_is_unknown_and_the_answer_is_kept(
    server: LoopbackVendors, provider: str, wrong: dict[str, Any]
) -> None:
    request = question(provider, sampling=Sampling(max_output_tokens=100))
    server.script(request.model, then=Reply(text="x", usage=GOOD[provider] | wrong))
    with spending(Budget(max_tokens=1000)) as budget:
        result, _ = await outcome(request)
        assert isinstance(result, Answer) and result.text == "x"
        assert (result.usage, result.cost_usd) == (Tokens(), None)
        assert budget.tokens == 120, "it stays booked at its worst case"
    assert f"{request.name} reported no token usage" in result.doubts


@pytest.mark.parametrize("provider", GOOD)
async def test_a_right_count_is_taken(server: LoopbackVendors, provider: str) -> None:
    request = question(provider, sampling=Sampling(max_output_tokens=100))
    server.script(request.model, then=Reply(text="x", usage=GOOD[provider]))
    with spending(Budget(max_tokens=1000)) as budget:
        result, _ = await outcome(request)
        assert isinstance(result, Answer) and not result.doubts
        assert (result.usage.input_tokens, result.usage.output_tokens, budget.tokens) == (5, 5, 10)


@pytest.mark.parametrize(
    ("fee", "cost"),
    [
        ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, 0.3),
        ({"cost": 0.1, "is_byok": True, "cost_details": None}, 0.1),
        ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": -0.2}}, None),
        ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": "much"}}, None),
        ({"cost": -0.1}, None),
        ({"cost": True}, None),
        ({"cost": "0.1"}, None),
    ],
)
async def test_what_openrouter_charges(server: LoopbackVendors, fee: dict[str, Any], cost: float | None) -> None:
    request = question("openrouter")
    server.script(request.model, then=Reply(text="x", usage=GOOD["openai"] | fee))
    result, _ = await outcome(request)
    assert isinstance(result, Answer)
    assert result.cost_usd == (None if cost is None else pytest.approx(cost))


def test_counts() -> None:
    assert usage_of(3.0, 4) == Tokens(input_tokens=3, output_tokens=4), "a whole number may be written as 3.0"
    assert usage_of(10, 0, cached=6, written=4) and not usage_of(10, 0, cached=6, written=5)
    assert usage_of(None, 1) is None and usage_of(1, float("nan")) is None
    assert total(1, None, 2) == 3 and total(1, -1) is None
    assert charged(0) == 0.0 and charged(float("inf")) is None


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("Why?", 4), ("0123456789", 10), ("ü", 2), ("龘" * 10, 30), ("👩‍🚀", 11), ("\ud800", 3)],
)
def test_a_text_has_no_more_tokens_than_bytes(text: str, tokens: int) -> None:
    assert most_tokens(text) == tokens


def test_the_worst_case_of_a_call() -> None:
    there = {name: Endpoint("p", vendor, "https://x", 9) for name, vendor in all_vendors().items()}
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="為什麼?"))
    request = Request(provider="p", model="m", messages=messages)
    assert worst_case(request, there["openai"]) == Tokens(input_tokens=9 + 10 + 2 * 16, output_tokens=4096)
    assert worst_case(request, there["anthropic"]).output_tokens == 8192, "what is sent"
    asks = request.model_copy(update={"response_schema": {"type": "object"}, "sampling": Sampling(max_output_tokens=7)})
    assert worst_case(asks, there["google"]) == Tokens(input_tokens=51 + 18 + 16, output_tokens=7)
