"""One run over three vendors' own SDKs, with an arbiter behind an OpenRouter address."""

import pytest

from consensus_flows.flows.consortium import consortium
from tests.kits.consortium_kit import asked, config, judged
from tests.vendors import Reply

MEMBERS = ["openai/gpt-6-luna", "anthropic/claude-haiku-4-5:2", "google/gemini-3.8-flash"]


@pytest.mark.usefixtures("results")
async def test_three_sdks_in_one_run(vendors):
    vendors.script("gpt-6-luna", Reply(text="Four."), Reply(text="Four!"))
    vendors.script("claude-haiku-4-5", Reply(text="It is 4."), Reply(text="It is four."), then=Reply(text="Still 4."))
    vendors.script("gemini-3.8-flash", Reply(text="2 + 2 = 4"), Reply(text="4"))
    vendors.script("deepseek/judge:free", judged(60, "4", refinement_areas=["is it?"]), judged(95, "4 indeed"))
    settings = config(
        members=MEMBERS, arbiter="openrouter/deepseek/judge:free", max_iterations=3, system="Be brief.", quorum=4
    )
    record = await consortium("What is 2 + 2?", settings)
    assert (record.answer, record.status, record.degraded) == ("4 indeed", "confident", False)
    assert (record.calls, record.requests, vendors.count()) == (10, 10, 10)

    for model, vendor, agent in (
        ("gpt-6-luna", "openai", "AsyncOpenAI/"),
        ("claude-haiku-4-5", "anthropic", "AsyncAnthropic/"),
        ("gemini-3.8-flash", "google", "google-genai-sdk/"),
        ("deepseek/judge:free", "openai", "AsyncOpenAI/"),
    ):
        for seen in asked(vendors, model):
            assert seen.vendor == vendor
            assert agent in seen.headers["user-agent"]
    assert all(seen.openrouter and seen.schema for seen in asked(vendors, "deepseek/judge:free"))
    for model in ("gpt-6-luna", "claude-haiku-4-5", "gemini-3.8-flash"):
        late = asked(vendors, model)[-1]
        assert late.system == "Be brief."
        roles = [turn["role"].replace("model", "assistant") for turn in late.messages if turn["role"] != "system"]
        assert roles == ["user", "assistant", "user"]
        assert "- is it?" in late.prompt
    first = record.iterations[0].responses
    assert [response.member for response in first] == [
        "openai/gpt-6-luna#1",
        "anthropic/claude-haiku-4-5#1",
        "anthropic/claude-haiku-4-5#2",
        "google/gemini-3.8-flash#1",
    ]
    assert {response.text for response in first} == {"Four.", "It is 4.", "It is four.", "2 + 2 = 4"}
    assert all(response.usage.input_tokens and response.usage.output_tokens for response in first)
    assert record.iterations[0].judgements[0].cost_usd, "what OpenRouter says that it cost"

    again = await consortium("What is 2 + 2?", settings)
    assert vendors.count() == 10
    assert (again.cached_calls, again.answer) == (10, "4 indeed")
