"""The tools of the MCP server, called by a client of the protocol in this process."""

import base64
import json

import pytest
from mcp import Client

from consensus_flows.blocks.pump import Pump, PumpConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.deployments.mcp.session import Session
from consensus_flows.deployments.mcp.tools import make_server
from consensus_flows.tasks.history.writing import close_writers
from tests.kits.consortium_kit import asked, judged, say
from tests.vendors import faults

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
MODELS = ["openai/one", "openai/two", "openai/three"]


@pytest.fixture(autouse=True)
def _surroundings(results, tmp_path, monkeypatch):
    """A history of the test's own, and the tests' server."""
    monkeypatch.setattr("consensus_flows.deployments.server.use_server", lambda info: None)
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path / 'history.db'}")
    yield
    close_writers()


class Caller:
    """Calls tools, and keeps the progress that it is told of."""

    def __init__(self, client):
        self.client, self.progress = client, []

    async def __call__(self, name, **arguments):
        async def note(progress, total, message):
            self.progress.append((progress, total, message))

        return await self.client.call_tool(name, arguments, progress_callback=note)

    async def data(self, name, **arguments):
        result = await self(name, **arguments)
        assert not result.is_error, result.content
        return result.structured_content

    async def refusal(self, name, **arguments):
        result = await self(name, **arguments)
        assert result.is_error
        return result.content[0].text


@pytest.fixture
def serve():
    """Return what serves with a budget."""

    class Served:
        def __init__(self, **limits):
            self.session = Session(Budget(**limits))

        async def __aenter__(self):
            self.opened = self.session.open()
            await self.opened.__aenter__()
            self.client = await Client(make_server(self.session)).__aenter__()
            return Caller(self.client)

        async def __aexit__(self, *error):
            await self.client.__aexit__(*error)
            await self.opened.__aexit__(None, None, None)

    return Served


async def test_a_saved_panel_answers_with_progress_and_cost(serve, vendors):
    say(vendors, one="yes", two="yes", three="no")
    await Vote(config=VoteConfig(members=MODELS)).save("mcp-voters", overwrite=True)
    try:
        async with serve() as call:
            panels = (await call.data("list_panels"))["panels"]
            (mine,) = [one for one in panels if one["name"] == "mcp-voters"]
            assert (mine["flow"], mine["models"], mine["calls_least"], mine["calls_most"]) == (
                "vote",
                MODELS,
                3,
                3,
            )
            result = await call("ask", panel="mcp-voters", prompt="Is it?")
            found = result.structured_content
            assert (found["answer"], found["status"], found["agreement"]) == ("yes", "finished", 0.6667)
            assert [one["member"] for one in found["calls"]] == [f"{model}#1" for model in MODELS]
            assert all(one["text"] is None for one in found["calls"]), "texts were not asked for"
            assert found["budget"]["calls"] == 3 and found["budget"]["calls_left"] is None
            assert result.content[0].text.startswith("yes\n") and found["run_id"] in result.content[0].text
            assert [(progress, total) for progress, total, _ in call.progress] == [(0, None), (1, 3), (2, 3), (3, 3)]
            # Again from the cache, as a turn that goes on with the first one.
            again = await call.data("ask", panel="mcp-voters", prompt="Sure?", continue_from=found["run_id"][:13])
            assert again["conversation_id"] == found["conversation_id"]
            assert [message["role"] for message in asked(vendors, "one")[-1].messages] == ["user", "assistant", "user"]
            assert "mcp-voters" in await call.refusal("ask", panel="nobody", prompt="?")
    finally:
        await Vote.adelete("mcp-voters")


async def test_an_algorithm_runs_with_models_that_are_given_and_is_read_again(serve, vendors):
    say(vendors, one="first", two="second")
    vendors.script("arbiter", then=judged(90, "the answer"))
    async with serve() as call:
        found = await call.data(
            "run_algorithm",
            algorithm="consortium",
            prompt="Why?",
            models=MODELS[:2],
            settings={"arbiter": "openai/arbiter"},
        )
        assert (found["answer"], found["confidence"]) == ("the answer", 0.9)
        assert [one["role"] for one in found["calls"]] == ["member", "member", "judge"]
        (listed,) = (await call.data("list_runs"))["runs"]
        assert (listed["id"], listed["flow"]) == (found["run_id"], "consortium")
        read = await call.data("read_run", id=found["run_id"][:13])
        assert [one["text"] for one in read["calls"]][:2] == ["first", "second"]
        assert read["answer"] == "the answer" and read["cost_usd"] == found["cost_usd"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"algorithm": "consortium", "models": MODELS}, "settings.arbiter"),
        ({"algorithm": "vote", "models": ["one"]}, "models: 'one'"),
        ({"algorithm": "vot", "models": MODELS}, "algorithm: unknown"),
        ({"algorithm": "vote", "models": MODELS, "settings": {"quorm": 2}}, "settings.quorm"),
        ({"algorithm": "vote", "models": ["nobody/one"]}, "nobody"),
        ({"algorithm": "vote", "models": MODELS, "continue_from": "no-run"}, "no-run"),
    ],
)
async def test_what_cannot_be_used_is_named_before_any_call(arguments, field, serve, vendors):
    async with serve() as call:
        assert field in await call.refusal("run_algorithm", prompt="Why?", **arguments)
    assert not vendors.seen


async def test_a_run_without_an_answer_is_an_error_that_names_the_causes(serve, vendors):
    for model in ("one", "two", "three"):
        vendors.script(model, faults.unauthorized())
    async with serve() as call:
        result = await call("run_algorithm", algorithm="vote", prompt="Why?", models=MODELS)
        assert result.is_error
        assert {one["error_kind"] for one in result.structured_content["calls"]} == {"auth"}
        assert "openai/one" in result.content[0].text


async def test_all_tools_share_one_budget_and_none_exceeds_it(serve, vendors, tmp_path):
    say(vendors, one="yes", two="yes", three="yes")
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt\nIs 2?\nIs 3?\n")
    async with serve(max_calls=5) as call:
        found = await call.data("run_algorithm", algorithm="vote", prompt="Is 1?", models=MODELS)
        assert (found["budget"]["calls"], found["budget"]["calls_left"]) == (3, 2)
        seen = len(vendors.seen)
        assert "2 of 5" in await call.refusal("run_algorithm", algorithm="vote", prompt="Is 4?", models=MODELS)
        batch = {"input": str(rows), "output": str(tmp_path / "out.jsonl"), "algorithm": "vote", "models": MODELS}
        assert "2 of 5" in await call.refusal("start_batch", **batch)
        assert [one for one in vendors.seen[seen:] if one.kind == "chat"] == []
        left = (await call.data("run_algorithm", algorithm="vote", prompt="Is 5?", models=MODELS[:2]))["budget"]
        assert left["calls_left"] == 0


async def test_a_budget_in_dollars_refuses_what_is_expected_to_cost_more(serve, vendors):
    async with serve(max_cost_usd=0.000001) as call:
        text = await call.refusal("run_algorithm", algorithm="vote", prompt="Is 1?", models=["openai/gpt-6-luna"])
        assert text.partition(": ")[2].startswith("budget: ") and "$1e-06" in text
    assert not [one for one in vendors.seen if one.kind == "chat"]


async def test_a_batch_is_estimated_started_and_watched_to_its_end(serve, vendors, tmp_path):
    say(vendors, one="yes", two="yes", three="yes")
    rows, out = tmp_path / "rows.csv", tmp_path / "out.jsonl"
    rows.write_text("id,prompt\na,Is 2?\nb,Is 3?\n")
    batch = {"input": str(rows), "output": str(out), "algorithm": "vote", "models": MODELS}
    async with serve() as call:
        planned = await call.data("start_batch", **batch, dry_run=True)
        assert (planned["state"], planned["rows"], planned["estimate"]["calls_least"]) == ("dry_run", 2, 6)
        assert not out.exists() and not [one for one in vendors.seen if one.kind == "chat"]
        started = await call.data("start_batch", **batch)
        assert (started["state"], started["rows"]) == ("running", 2)
        ended = await call.data("watch_batch", id=started["batch_id"][:13], wait_s=60)
        assert (ended["state"], ended["finished"], ended["failed"]) == ("finished", 2, 0)
        assert [json.loads(line)["answer"] for line in out.read_text().splitlines()] == ["yes", "yes"]
        assert ended["budget"]["calls"] == 6
        wrong = await call.refusal("start_batch", **batch | {"input": str(tmp_path / "none.csv")})
        assert "input" in wrong and "none.csv" in wrong
    # Another server reads it from the history.
    async with serve() as call:
        known = await call.data("watch_batch", id=started["batch_id"])
        assert (known["state"], known["finished"], known["output"]) == ("finished", 2, str(out))
        assert "watch_batch" in await call.refusal("read_run", id=started["batch_id"])


async def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    import sys

    from consensus_flows.deployments.commands.mcp import mcp
    from consensus_flows.deployments.terminal import Stop

    for name in [
        name for name in sys.modules if name == "mcp" or name.startswith(("mcp.", "consensus_flows.deployments.mcp"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(Stop, match=r"consensus-flows\[mcp\]"):
        mcp()


async def test_files_reach_the_members(serve, vendors, tmp_path):
    say(vendors, one="a cat", two="a cat")
    (tmp_path / "cat.png").write_bytes(PNG)
    given = {"algorithm": "pump", "models": MODELS[:2], "prompt": "What is it?"}
    async with serve(max_calls=20) as call:
        await call.data("run_algorithm", **given, attachments=[str(tmp_path / "cat.png")])
        sent = [json.dumps(seen.params) for model in ("one", "two") for seen in asked(vendors, model)]
        assert len(sent) == 2 and all(base64.b64encode(PNG).decode() in one for one in sent)
        await Pump(config=PumpConfig(members=MODELS[:1])).save("mcp-seers", overwrite=True)
        try:
            url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
            await call.data("ask", panel="mcp-seers", prompt="And this?", attachments=[url])
        finally:
            await Pump.adelete("mcp-seers")
        assert "image_url" in json.dumps(asked(vendors, "one")[-1].params)
        assert "no such file" in await call.refusal("run_algorithm", **given, attachments=["none.png"])
        why = await call.refusal("run_algorithm", **given, attachments=["http://127.0.0.1:1/cat.png"])
        assert "nothing is fetched from 127.0.0.1" in why
        (tmp_path / "rows.csv").write_text("prompt,scan\nWhat?,cat.png\n")
        made = await call.data(
            "start_batch",
            input=str(tmp_path / "rows.csv"),
            output=str(tmp_path / "out.jsonl"),
            algorithm="pump",
            models=MODELS[:1],
            attach_column="scan",
        )
        await call.data("watch_batch", id=made["batch_id"])
        assert "image_url" in json.dumps(asked(vendors, "one")[-1].params)
