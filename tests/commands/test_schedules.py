"""`consensus schedule` and `consensus schedules`: a batch at fixed times, without a file to edit."""

import asyncio
import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.clients import AssertingEventsClient

from consensus_flows.deployments.commands import schedules
from consensus_flows.deployments.commands.algorithms.batch import BatchOptions
from consensus_flows.deployments.commands.operations.up import Worker, make_pool
from consensus_flows.deployments.commands.schedules import ScheduleOptions, _in_words
from consensus_flows.deployments.server import ServerInfo
from consensus_flows.deployments.terminal import Stop
from tests.kits import command_kit


@pytest.fixture
def commands(monkeypatch, capsys):
    return command_kit.commands(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("given", "cron", "words"),
    [
        ({"at": "02:00"}, "0 2 * * *", "every day at 02:00 (Europe/Berlin)"),
        ({"at": "22:30", "every": "weekday"}, "30 22 * * 1-5", "every weekday at 22:30 (Europe/Berlin)"),
        ({"at": "06:05", "every": "Monday"}, "5 6 * * 1", "every monday at 06:05 (Europe/Berlin)"),
        ({"every": "0 */6 * * *"}, "0 */6 * * *", "0 */6 * * * (Europe/Berlin)"),
    ],
)
def test_when_it_runs(given, cron, words):
    when = ScheduleOptions(timezone="Europe/Berlin", **given).when()
    assert (when.cron, when.timezone) == (cron, "Europe/Berlin")
    assert _in_words(when) == words


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({}, "--at"),
        ({"at": "25:00"}, "--at"),
        ({"at": "02:00", "every": "fortnight"}, "--every"),
        ({"every": "fortnight"}, "--every"),
        ({"at": "02:00", "timezone": "Europe/Atlantis"}, "--timezone"),
    ],
)
def test_what_cannot_be_read_names_its_option(given, option):
    with pytest.raises(Stop) as stopped:
        ScheduleOptions(**given).when()
    assert stopped.value.message.startswith(option)


def test_files_and_keys_that_the_worker_has_not_are_named_now(monkeypatch, tmp_path):
    async def saved():
        return [("anthropic", "anthropic-credentials", {})]

    worker = Worker(1, tmp_path / "mine", ["GOOGLE_API_KEY"])
    monkeypatch.setattr(schedules, "running_worker", lambda: worker)
    monkeypatch.setattr(schedules, "saved_keys", saved)
    ours = ServerInfo("http://127.0.0.1:1/api", "http://127.0.0.1:1", pid=1)
    inside = str(tmp_path / "mine" / "prompts.csv")
    files = {"input": inside, "output": "s3://bucket/answers.jsonl", "records": None}
    schedules._check_worker(ours, files, {"anthropic", "google", "local"})
    with pytest.raises(Stop, match="OPENAI_API_KEY"):
        schedules._check_worker(ours, files, {"openai"})
    with pytest.raises(Stop, match="output"):
        schedules._check_worker(ours, {"input": inside, "output": str(tmp_path / "answers.jsonl")}, set())


def test_a_schedule_is_made_listed_paused_and_removed(commands, vendors, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.csv").write_text("prompt\nWhy?\nHow?\n")
    assert commands("save", "night", "--flow", "vote", "-m", "openai/a:3").code == 0
    made = ("schedule", "night", "prompts.csv", "--output", "answers-{date}.jsonl", "--at", "02:00")

    missing = commands("schedule", "night", "no.csv", "--output", "answers.jsonl", "--at", "02:00")
    assert missing.code == 2 and "no.csv" in missing.err
    unknown = commands("schedule", "day", "prompts.csv", "--output", "answers.jsonl", "--at", "02:00")
    assert unknown.code == 2 and "'day'" in unknown.err
    assert json.loads(commands("schedules", "--json").out) == []

    async def pool():
        async with get_client() as client:
            await make_pool(client)

    asyncio.run(pool())
    AssertingEventsClient.reset()
    with monkeypatch.context() as patched:
        patched.setattr(schedules, "get_events_client", AssertingEventsClient)
        first = commands(*made, "--max-calls", "100", "--timezone", "Europe/Berlin")
    assert first.code == 0 and "scheduled night: 2 rows" in first.err, first.err

    async def states():
        async with get_client() as client:
            return {run.state.id for run in await client.read_flow_runs() if run.state_name == "Scheduled"}

    announced = {event.id for client in AssertingEventsClient.all for event in client.events}
    assert announced == asyncio.run(states()), "else Prefect's automations wait a quarter of an hour for these events"
    nowhere = commands(*made, "--review", "gone/review.csv")
    assert nowhere.code == 2 and "review" in nowhere.err
    again = commands(
        *made, "--concurrency", "3", "--limit", "1", "--timezone", "Europe/Berlin", "--review", "review-{date}.csv"
    )
    assert again.code == 0 and "replaced night: 1 row," in again.err
    (one,) = json.loads(commands("schedules", "--json").out)
    assert one["input"] == str(tmp_path / "prompts.csv")
    assert one["output"] == str(tmp_path / "answers-{date}.jsonl")
    assert (one["flow"], one["config"], one["paused"]) == ("vote", "night", False)
    assert one["next"] and one["last"] is None

    async def deployment():
        async with get_client() as client:
            return await client.read_deployment_by_name("batch/night")

    found = asyncio.run(deployment())
    assert found.parameters["review"] == str(tmp_path / "review-{date}.csv"), "the worker runs elsewhere"
    assert found.parameters["timezone"] == "Europe/Berlin", "the day in the name of the file"
    assert found.parameters["concurrency"] == 3 and found.parameters["budget"] == {}
    assert found.entrypoint == "consensus_flows.flows.batch.batch"
    (each,) = found.schedules
    assert each.active and each.schedule == CronSchedule(cron="0 2 * * *", timezone="Europe/Berlin")

    assert commands("schedules", "pause", "night").code == 0
    (one,) = json.loads(commands("schedules", "--json").out)
    assert one["paused"] and one["next"] is None
    assert commands("schedules", "resume", "night").code == 0
    assert not asyncio.run(deployment()).paused
    assert commands("schedules", "remove", "night").code == 0
    nothing = commands("schedules", "remove", "night")
    assert nothing.code == 2 and "'night'" in nothing.err
    assert vendors.count() == 0
    commands("remove", "night")


def test_files_and_folders_are_those_of_the_folder_one_is_in(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = schedules._parameters(BatchOptions(output="a.jsonl", records="all", review="b.csv"), "in.csv")
    here = {"input": "in.csv", "output": "a.jsonl", "records": "all", "review": "b.csv"}
    assert {name: given[name] for name in here} == {name: str(tmp_path / path) for name, path in here.items()}
    assert (
        schedules._parameters(BatchOptions(output="memory://b/a.jsonl"), "memory://b/in.csv")["input"]
        == "memory://b/in.csv"
    )
