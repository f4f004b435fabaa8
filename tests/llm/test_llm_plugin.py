"""Saved panels as models of `llm`: its Python API, its command line, and how panels are found."""

import json
import logging
import sqlite3

import llm
import pytest
import pytest_asyncio
from click.testing import CliRunner
from llm import plugins
from llm.cli import cli
from prefect.settings import PREFECT_API_URL

from consensus_flows.blocks.consortium import Consortium
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.deployments import llm_plugin, saved_names
from consensus_flows.tasks.history.writing import close_writers
from tests.kits.consortium_kit import asked, config, judged, say
from tests.kits.history_kit import rows
from tests.vendors import faults

MODELS = ["openai/one", "openai/two", "openai/three"]


@pytest.fixture(autouse=True)
def history(results, tmp_path, monkeypatch):
    """A history and a folder of `llm` of the test's own, and the tests' server; only our plugin is loaded."""
    monkeypatch.setattr("consensus_flows.deployments.server.use_server", lambda info: None)
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path / 'history.db'}")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    plugins.load_plugins()
    if not plugins.pm.is_registered(llm_plugin):
        plugins.pm.register(llm_plugin)
    yield tmp_path / "history.db"
    close_writers()


@pytest_asyncio.fixture
async def panels(history):
    """Two panels; one of them has the name of a model that `llm` has already."""
    await Consortium(config=config(members=MODELS[:2])).save("llm-night", overwrite=True)
    await Vote(config=VoteConfig(members=MODELS)).save("gpt-4o", overwrite=True)
    yield
    await Consortium.adelete("llm-night")
    await Vote.adelete("gpt-4o")


@pytest.fixture
def answering(vendors, panels):
    say(vendors, one="first", two="second")
    vendors.script("arbiter", then=judged(90, "the answer of the panel"))
    return vendors


def test_panels_are_listed_by_name_with_a_prefix_where_the_name_is_taken(panels):
    known = llm.get_model_aliases()
    assert known["llm-night"] is not None and known["consensus/llm-night"].model_id == "llm-night"
    assert isinstance(known["consensus/gpt-4o"], llm_plugin.Panel)
    assert not isinstance(known["gpt-4o"], llm_plugin.Panel), "llm's own model keeps its name"
    listed = CliRunner().invoke(cli, ["models"])
    assert "llm-night" in listed.output and "consensus/gpt-4o" in listed.output


def test_a_panel_answers_at_the_command_line_and_a_conversation_goes_on(answering, history):
    ran = CliRunner().invoke(cli, ["-m", "llm-night", "-s", "Be brief.", "Capital of France?"])
    assert ran.exit_code == 0, ran.output
    assert "the answer of the panel" in ran.stdout and "openai/one" in ran.stderr
    ran = CliRunner().invoke(cli, ["-c", "And of Italy?", "-o", "temperature", "0.3", "--no-stream"])
    assert ran.exit_code == 0 and ran.stdout == "the answer of the panel\n"
    first, second = asked(answering, "one")
    assert (first.system, [one["content"] for one in first.messages]) == ("Be brief.", ["Capital of France?"])
    assert [(one["role"], one["content"]) for one in second.messages] == [
        ("user", "Capital of France?"),
        ("assistant", "the answer of the panel"),
        ("user", "And of Italy?"),
    ]
    assert second.system == "Be brief." and second.params["temperature"] == 0.3
    logged = json.loads(CliRunner().invoke(cli, ["logs", "--json", "-n", "0"]).output)
    runs = [one["response_json"]["run_id"] for one in sorted(logged, key=lambda one: one["id"])]
    assert [run for (run,) in rows(history, "SELECT id FROM runs ORDER BY started_at")] == runs
    assert rows(history, "SELECT DISTINCT conversation_id FROM turns") == [(logged[0]["conversation_id"],)]
    usage = logged[-1]
    assert usage["input_tokens"] > 0 and usage["output_tokens"] > 0
    assert json.loads(usage["token_details"])["calls"] == 3


def test_a_panel_answers_in_a_program_in_pieces_that_are_the_answer(answering):
    response = llm.get_model("llm-night").prompt("Why?", max_calls=5)
    assert "".join(response) == "the answer of the panel"
    assert response.response_json["confidence"] == 0.9
    assert response.usage().details["calls"] == 3


async def test_the_async_model_answers_too(answering):
    response = llm.get_async_model("llm-night").prompt("Why not?")
    assert await response.text() == "the answer of the panel"
    assert response.response_json["run_id"]


@pytest.mark.parametrize(("option", "value"), [("max_calls", 0), ("max_tokens", 0), ("top_p", 3)])
def test_an_option_that_cannot_be_used_is_named_before_any_call(option, value, answering):
    with pytest.raises(llm.ModelError, match=f"^{option}: "):
        llm.get_model("llm-night").prompt("Why?", **{option: value}).text()
    assert not asked(answering, "one")


def test_no_answer_is_one_error_that_names_the_causes(vendors, panels):
    for model in ("one", "two", "three"):
        vendors.script(model, faults.unauthorized())
    ran = CliRunner().invoke(cli, ["-m", "consensus/gpt-4o", "Why?"])
    assert ran.exit_code == 1
    assert ran.stderr.splitlines()[-1].startswith("Error: ") or "Error: " in ran.stderr
    assert all(model in ran.stderr.partition("Error: ")[2] for model in MODELS)


def test_a_missing_key_is_said_and_leaves_no_run(panels, vendors, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(llm.ModelError, match="OPENAI_API_KEY"):
        llm.get_model("llm-night").prompt("Why?").text()


def test_names_are_read_from_the_database_where_no_server_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *_: pytest.fail("a server was asked"))
    assert saved_names.saved_names() == []
    database = sqlite3.connect(tmp_path / "prefect.db")
    database.executescript(
        "CREATE TABLE block_type (id TEXT, slug TEXT); CREATE TABLE block_document (name TEXT, block_type_id TEXT, is_anonymous INT);"
        "INSERT INTO block_type VALUES ('1', 'vote'), ('2', 'secret');"
        "INSERT INTO block_document VALUES ('night', '1', 0), ('hidden', '1', 1), ('token', '2', 0)"
    )
    database.close()
    assert saved_names.saved_names() == ["night"]


def test_a_server_that_does_not_answer_is_a_warning_and_no_panel(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PREFECT_API_URL", faults.refused_url("/api"))
    with caplog.at_level(logging.WARNING):
        assert saved_names.saved_names() == []
    assert "cannot be read" in caplog.text


def test_attachments_reach_the_members(answering, tmp_path):
    image = b"\x89PNG\r\n\x1a\nand so on"
    response = llm.get_model("llm-night").prompt("What is it?", attachments=[llm.Attachment(content=image)])
    assert response.text() == "the answer of the panel"
    (seen,) = asked(answering, "one")
    assert seen.params["messages"][-1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
