"""Conversations: what was said reaches members and judges, and two that go on at once do not mix."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from prefect.settings import get_current_settings

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.consensus_learning import run_consensus_learning
from consensus_flows.flows.consortium import consortium, run_consortium
from consensus_flows.flows.mixture_of_agents import run_mixture_of_agents
from consensus_flows.flows.prefer import run_prefer
from consensus_flows.flows.pump import run_pump
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import HistoryError
from consensus_flows.tasks.history.database import Database
from consensus_flows.tasks.history.reading import latest, named
from consensus_flows.tasks.history.writing import Conversation, close_writers, continuing
from tests.kits import processes
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import asked, config, judged, say
from tests.kits.history_kit import ROOT, entry, in_processes, record, rows, written
from tests.vendors import Reply, faults

pytestmark = pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted")

MEMBERS = ["openai/one", "openai/two", "openai/three"]
PANEL = ["-m", "openai/one", "-m", "openai/two", "--arbiter", "openai/arbiter"]
EARLIER = (Message(role="user", content="Capital of France?"), Message(role="assistant", content="It is Paris."))
SAID = [message.model_dump() for message in EARLIER]


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """A history of the test's own."""
    path = tmp_path / "history.db"
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{path}")
    yield path
    close_writers()


@pytest.fixture
def database(file):
    made = Database(file)
    yield made
    made.close()


@pytest.fixture
def panel(results, vendors):
    say(vendors, one="first", two="second", three="third")
    vendors.script("arbiter", then=judged(90, "the answer"))
    return vendors


@pytest.fixture
def consensus(panel, monkeypatch, capsys):
    return commands(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("run", "settings", "judge"),
    [
        (run_consortium, ConsortiumConfig(members=MEMBERS, arbiter="openai/arbiter", max_iterations=2), "arbiter"),
        (run_consensus_learning, ConsensusLearningConfig(members=MEMBERS, aggregator="openai/judge"), "judge"),
        (
            run_mixture_of_agents,
            MixtureOfAgentsConfig(layers=["openai/one,openai/two"], aggregator="openai/judge"),
            "judge",
        ),
        (run_vote, VoteConfig(members=MEMBERS, pairwise_judge="openai/judge"), "judge"),
        (run_prefer, PreferConfig(members=MEMBERS), None),
        (run_pump, PumpConfig(members=MEMBERS), None),
    ],
    ids=["consortium", "learn", "moa", "vote", "prefer", "pump"],
)
async def test_the_conversation_reaches_every_member_and_every_judge(panel, run, settings, judge):
    """In each call the earlier turns stand first, whatever the call is for."""
    panel.script("arbiter", judged(10, "not yet"), judged(90, "the answer"))
    await run("And of Italy?", settings, conversation=EARLIER)
    calls = [seen for seen in panel.seen if seen.kind == "chat"]
    assert {seen.model for seen in calls} >= {"one", "two", *([judge] if judge else [])}
    for seen in calls:
        assert seen.messages[:2] == SAID, seen.model
        assert seen.messages[2]["role"] == "user" and "And of Italy?" in seen.messages[2]["content"]


def test_continue_goes_on_after_the_latest_answer(consensus, panel, file):
    first = json.loads(consensus("Capital of France?", *PANEL, "--json").out)
    ran = consensus("-c", "And of Italy?", *PANEL)
    assert ran.code == 0 and f"The conversation: {first['conversation_id']}" in ran.err
    for model in ("one", "two", "arbiter"):
        before, after = asked(panel, model)
        assert len(before.messages) == 1
        assert after.messages[:2] == [SAID[0], {"role": "assistant", "content": "the answer"}], model
        assert "And of Italy?" in after.prompt
    third = json.loads(consensus("--cid", first["conversation_id"][:8], "And of Spain?", *PANEL, "--json").out)
    assert third["conversation_id"] == first["conversation_id"]
    assert [message["role"] for message in asked(panel, "one")[2].messages] == ["user", "assistant"] * 2 + ["user"]
    # Going on from an earlier answer makes a fork, which knows nothing of what came after that answer.
    consensus("--cid", first["flow_run_id"], "Or of Malta?", *PANEL, "--raw")
    assert "Italy" not in json.dumps(asked(panel, "one")[3].messages)
    assert rows(file, "SELECT count(*), count(parent_id), count(DISTINCT conversation_id) FROM turns") == [(4, 3, 1)]


@pytest.mark.parametrize(
    "command",
    [
        ["consortium", "And of Italy?", *PANEL],
        ["learn", "And of Italy?", "-m", "openai/one", "-m", "openai/two", "--aggregator", "openai/judge"],
        ["moa", "And of Italy?", "--layer", "openai/one,openai/two", "--final", "openai/judge"],
        ["vote", "And of Italy?", "-m", "openai/one", "-m", "openai/two"],
        ["prefer", "-p", "And of Italy?", "-m", "openai/one", "-m", "openai/two", "-m", "openai/three"],
        ["pump", "-p", "And of Italy?", "-m", "openai/one", "-m", "openai/two"],
        ["swarm", "And of Italy?", "-m", "openai/one", "-m", "openai/two", "--orchestrator", "openai/judge"],
        ["demo", "And of Italy?"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_that_asks_goes_on(consensus, panel, database, monkeypatch, command):
    written(database, entry(record("first", prompt="Capital of France?", answer="It is Paris."), in_=Conversation()))
    monkeypatch.setattr("consensus_flows.deployments.commands.algorithms.demo.MODEL", "openai/one")
    ran = consensus(*command, "--cid", "first", "--json")
    assert panel.count() >= 2
    assert all(seen.messages[:2] == SAID for seen in panel.seen if seen.kind == "chat")
    made = json.loads(ran.out)
    after = database.read(lambda connection: named(connection, made["flow_run_id"]))
    assert [message.content for message in after.messages[1:]] == ["It is Paris.", "And of Italy?", made["answer"]]


def test_what_is_no_turn_cannot_go_on(consensus, panel, database, tmp_path):
    written(database, entry(in_=Conversation()))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "one.md").write_text("One?")
    (tmp_path / "queries.txt").write_text("One?\nTwo?\n")
    members = [part for name in MEMBERS for part in ("-m", name)]
    for command in (
        ["prefer", "--prompts", tmp_path / "prompts", "--output", tmp_path / "out", *members],
        ["moa", "--queries", tmp_path / "queries.txt", "--layer", "openai/one,openai/two", "--final", "openai/judge"],
        ["openrouter", "completion", "-m", "a/b", "-p", "Once"],
        ["openrouter", "chat", "-m", "a/b", "-p", "Once"],
    ):
        ran = consensus(*command, "-c")
        assert ran.code == 2, command
        assert "not a turn of a conversation" in ran.err or "unknown option -c" in ran.err, command
    assert panel.count() == 0


def test_a_folder_of_prompts_is_recorded_as_runs_of_one_flow_run(consensus, panel, file, tmp_path):
    (tmp_path / "prompts").mkdir()
    for name in ("one", "two"):
        (tmp_path / "prompts" / f"{name}.md").write_text(f"{name}?")
    members = [part for name in MEMBERS for part in ("-m", name)]
    consensus("prefer", "--prompts", tmp_path / "prompts", "--output", tmp_path / "out", *members, "--json")
    assert rows(file, "SELECT prompt FROM runs WHERE position > 0 ORDER BY prompt") == [("one?",), ("two?",)]
    assert rows(file, "SELECT count(DISTINCT flow_run_id), max(position) FROM runs") == [(1, 2)]


def test_without_an_option_a_new_conversation_begins(consensus, panel, file):
    ids = {json.loads(consensus(f"Question {n}?", *PANEL, "--json").out)["conversation_id"] for n in range(2)}
    assert len(ids) == 2
    assert all(len(seen.messages) == 1 for seen in asked(panel, "one"))


def test_a_run_without_an_answer_adds_no_turn(consensus, panel, file):
    first = json.loads(consensus("Capital of France?", *PANEL, "--json").out)
    for model in ("one", "two"):
        panel.script(model, then=faults.unauthorized())
    ran = consensus("-c", "And of Italy?", *PANEL, "--json")
    assert ran.code == 1 and json.loads(ran.out)["conversation_id"] is None
    assert rows(file, "SELECT run_id FROM turns") == [(first["flow_run_id"],)]
    assert rows(file, "SELECT count(*) FROM runs") == [(2,)]


@pytest.mark.parametrize(
    ("options", "named_in_it"),
    [
        (["-c"], "no conversation"),
        (["--cid", "never-there"], "never-there"),
        (["--cid", ""], "--cid"),
        (["-c", "--cid", "abc"], "--cid"),
    ],
)
def test_a_bad_id_is_exit_2_before_any_call(consensus, panel, options, named_in_it):
    ran = consensus(*options, "And of Italy?", *PANEL)
    assert (ran.code, ran.out) == (2, "") and named_in_it in ran.err
    assert panel.count() == 0


def test_a_history_that_cannot_be_read_is_exit_2_only_if_it_is_needed(consensus, panel, tmp_path, monkeypatch):
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is no database " * 100)
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{broken}")
    assert consensus("-c", "And of Italy?", *PANEL).code == 2
    assert panel.count() == 0
    for options in (["--raw"], ["--json"], []):
        ran = consensus("Capital of France?", *PANEL, *options)
        assert ran.code == 0 and "the answer" in ran.out
        assert "not in the history" in ran.err


def test_two_that_go_on_at_once_do_not_mix(file, database):
    """Each appends to the turn it saw, and so there is a fork."""
    written(database, entry(record("root", prompt="Root?"), in_=Conversation()))
    code = """
database = Database(os.environ["CONSENSUS_HISTORY_URL"])
seen = database.read(latest)
go()
for turn in range(3):
    made = record(f"run-{number}-{turn}", prompt=f"{number}: question {turn}?", answer=f"{number}: answer {turn}")
    written(database, entry(made, after=10 + 10 * turn + number, in_=seen))
    seen.add(made.prompt, made.answer, made.flow_run_id)
database.close()
"""
    in_processes(2, code, f"sqlite:///{file}")
    for number in range(2):
        branch = database.read(lambda connection, number=number: named(connection, f"run-{number}-2"))
        texts = [message.content for message in branch.messages]
        assert texts[:2] == ["Root?", "answer 2"]
        assert len(texts) == 8 and all(text.startswith(f"{number}: ") for text in texts[2:]), texts
    # Both belong to one conversation; its id, and -c, mean the answer that came last.
    newest = database.read(latest)
    assert newest.parent == "run-1-2"
    assert database.read(lambda connection: named(connection, newest.id)) == newest


def test_two_commands_that_go_on_at_once_do_not_mix(consensus, panel, file):
    """As above, with the real command."""
    colours = ("crimson", "azure")
    panel.script(
        "arbiter", then=lambda seen: judged(90, next((f"{one} wins" for one in colours if one in seen.prompt), "?"))
    )
    first = json.loads(consensus("Which colour?", *PANEL, "--json").out)
    api = str(get_current_settings().api.url)
    environment = os.environ | {"PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "consensus_flows.deployments.cli",
        "--cid",
        first["conversation_id"],
        *PANEL,
        "--json",
    ]
    running = [
        processes.start([*command, f"Is it {colour}?"], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        for colour in colours
    ]
    records = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    assert [made["answer"] for made in records] == ["crimson wins", "azure wins"]
    assert {made["conversation_id"] for made in records} == {first["conversation_id"]}
    parents = dict(rows(file, "SELECT run_id, parent_id FROM turns WHERE parent_id IS NOT NULL"))
    assert parents == {made["flow_run_id"]: first["flow_run_id"] for made in records}
    for made, other in zip(records, reversed(colours), strict=True):
        consensus("--cid", made["flow_run_id"], "Sure?", *PANEL, "--raw")
        messages = json.dumps(asked(panel, "one")[-1].messages)
        assert made["answer"] in messages and other not in messages, "the other branch is not seen"


def test_c_follows_the_user_not_others(database, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ann")
    written(database, entry(record("of-ann"), in_=Conversation()))
    monkeypatch.setenv("LOGNAME", "bob")
    with pytest.raises(HistoryError, match="no conversation"):
        database.read(latest)
    written(database, entry(record("of-bob"), after=10, in_=Conversation()))
    monkeypatch.setenv("LOGNAME", "ann")
    assert database.read(latest).parent == "of-ann"
    assert database.read(lambda connection: named(connection, "of-bob")).parent == "of-bob"
    with pytest.raises(HistoryError, match="several"):
        database.read(lambda connection: named(connection, "of-"))


async def test_messages_that_were_given_beside_the_turns_are_kept(panel, file):
    """A file of earlier turns, for example, that the first question of a conversation came with."""
    seen = Conversation()
    with continuing(seen):
        await consortium("And of Italy?", config(), conversation=list(EARLIER))
        await consortium("And of Spain?", config(), conversation=list(seen.messages))
    roles = ["user", "assistant"] * 3
    assert [message.role for message in seen.messages] == roles
    found = await asyncio.to_thread(lambda: Database(file).read(latest))
    assert found == seen and tuple(found.messages[:2]) == EARLIER


async def test_runs_from_elsewhere_are_recorded_and_begin_no_conversation(panel, file):
    """From a deployment, the UI, or a program of one's own."""
    found = await consortium("Capital of France?", config())
    assert found.conversation_id is None
    assert rows(file, "SELECT flow, conversation_id FROM runs") == [("consortium", None)]
    assert rows(file, "SELECT count(*) FROM turns") == [(0,)]


@pytest.mark.parametrize("url", ["off", "sqlite:////proc/nowhere/history.db"])
async def test_without_a_history_the_conversation_of_a_session_goes_on(panel, monkeypatch, url):
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", url)
    seen = Conversation()
    panel.script("arbiter", Reply(text=judged(90, "Paris").text), judged(90, "Rome"))
    with continuing(seen):
        await consortium("Capital of France?", config(), conversation=seen.messages)
        await consortium("And of Italy?", config(), conversation=seen.messages)
    assert [message.content for message in seen.messages] == ["Capital of France?", "Paris", "And of Italy?", "Rome"]
    assert seen.parent is None
