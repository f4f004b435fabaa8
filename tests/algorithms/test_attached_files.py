"""Files that a question is about reach members and judges of every algorithm, stay in the conversation, and are in the record."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.swarm import SwarmConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.deployments.cli import main
from consensus_flows.flows.consensus_learning import consensus_learning
from consensus_flows.flows.consortium import consortium
from consensus_flows.flows.mixture_of_agents import mixture_of_agents
from consensus_flows.flows.prefer import prefer
from consensus_flows.flows.pump import pump
from consensus_flows.flows.swarm import swarm
from consensus_flows.flows.vote import vote
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.history.writing import close_writers
from tests.kits.batch_kit import read
from tests.kits.command_kit import Command, commands
from tests.kits.consortium_kit import ARBITER, asked, config, judged, say
from tests.vendors import LoopbackVendors, Reply, SeenRequest, json_reply

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
MEMBERS = ["openai/one", "openai/two", "openai/three"]
EACH = ["openai/a", "anthropic/b", "google/c"]


@pytest.fixture(autouse=True)
def _history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path / 'history.db'}")
    yield
    close_writers()


@pytest.fixture
def chart(tmp_path: Path) -> str:
    path = tmp_path / "chart.png"
    path.write_bytes(PNG)
    return str(path)


@pytest.fixture
def panel(results: str, vendors: LoopbackVendors) -> LoopbackVendors:
    say(vendors, one="It is 42.", two="42", three="I say 41")
    vendors.script("arbiter", then=judged(90, "the synthesis"))
    return vendors


def images(seen: SeenRequest) -> list[int]:
    """The turns of a request, from 0, that have the image."""
    turns = seen.params.get("messages") or seen.params["contents"]
    written = {base64.b64encode(PNG).decode(), base64.urlsafe_b64encode(PNG).decode()}
    return [place for place, turn in enumerate(turns) if any(data in json.dumps(turn) for data in written)]


async def test_members_and_arbiter_of_a_consortium(panel: LoopbackVendors, chart: str) -> None:
    panel.script("arbiter", judged(10, final=False), judged(90))
    record = await consortium("What is it?", config(max_iterations=2), attachments=[chart])
    assert record.answer == "the synthesis"
    for model in ("one", "two", "three"):
        for seen in asked(panel, model):
            assert images(seen) == [0]  # with the question, and not again with the guidance
            assert seen.messages[0]["content"].endswith("What is it?")
    assert [images(seen) for seen in asked(panel, "arbiter")] == [[1], [1]]
    (file,) = record.attachments
    assert (file.name, file.type, file.size) == ("chart.png", "image/png", len(PNG))
    assert base64.b64encode(PNG).decode() not in record.model_dump_json()


async def test_whoever_judges_sees_it(panel: LoopbackVendors, chart: str) -> None:
    verdicts = Reply(text=json.dumps({"reason": "", "better": "first", "analysis": "", "ranking": [["A"], ["B"]]}))
    panel.script("judge", then=verdicts)
    await pump("What is it?", PumpConfig(members=MEMBERS), attachments=[chart])
    await vote("What is it, now?", VoteConfig(members=MEMBERS[:2], pairwise_judge="openai/judge"), attachments=[chart])
    learning = ConsensusLearningConfig(members=MEMBERS[:1], aggregator="openai/two", iterations=1)
    await consensus_learning("What is it, in rounds?", learning, attachments=[chart])
    mixture = MixtureOfAgentsConfig(layers=[MEMBERS], aggregator="openai/two")
    await mixture_of_agents("What is it, in layers?", mixture, attachments=[chart])
    panel.script("lead", then=json_reply({"parts": [{"title": one, "task": "Say it."} for one in ("a", "b")]}))
    parted = SwarmConfig(members=MEMBERS[:2], orchestrator="openai/lead", aggregator="openai/two")
    assert (await swarm("What is it, in parts?", parted, attachments=[chart])).parts
    with pytest.raises(ConfigurationError, match="no such file"):
        await prefer("What is it?", PreferConfig(members=MEMBERS), attachments=["none.png"])
    chats = [seen for seen in panel.seen if seen.kind == "chat"]
    assert len(chats) > 10
    assert [seen.model for seen in chats if len(images(seen)) != 1] == []


async def test_an_extractor_is_sent_an_answer_alone(panel: LoopbackVendors, chart: str) -> None:
    panel.script("reader", then=Reply(text=json.dumps({"found": True, "answer": "42"})))
    settings = VoteConfig(members=MEMBERS, extract="llm", extractor="openai/reader")
    await vote("What is it?", settings, attachments=[chart])
    assert {len(images(seen)) for seen in asked(panel, "reader")} == {0}


async def test_a_model_without_eyes_is_refused_before_any_call(
    panel: LoopbackVendors, chart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from consensus_flows.tasks.calls.vendors.openai import OpenAI

    monkeypatch.setattr(OpenAI, "attachment_kinds", frozenset())
    with pytest.raises(ConfigurationError, match=r"attachments: openai/one takes no images \(chart.png\)"):
        await consortium("What is it?", config(), attachments=[chart])
    assert panel.count() == 0


async def test_a_vendors_refusal_says_why(panel: LoopbackVendors, chart: str) -> None:
    said = {"error": {"message": "This model does not support image input.", "type": "invalid_request_error"}}
    panel.script("two", then=Reply(status=400, body=said))
    record = await vote("What is it?", VoteConfig(members=MEMBERS, extract="number"), attachments=[chart])
    (failed,) = [call.error for call in record.calls_made() if call.error]
    assert failed.kind == "bad_request"
    assert "does not support image input" in failed.message
    assert len(asked(panel, "two")) == 1


@pytest.fixture
def consensus(panel: LoopbackVendors, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(monkeypatch, capsys)


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "openai/one", "--arbiter", ARBITER],
        ["learn", "-m", "openai/one", "--aggregator", "openai/two", "--iterations", "0"],
        ["moa", "--layer", "openai/one", "--final", "openai/two"],
        ["vote", "-m", "openai/one"],
        ["pump", "-m", "openai/one"],
        ["verdict", "--choices", "yes,no", "-m", "openai/one"],
    ],
)
def test_every_command_attaches(command: list[str], consensus: Command, panel: LoopbackVendors, chart: str) -> None:
    consensus(*command, "-p", "What is it?", "--attach", chart, "--raw", "--no-stdin")
    chats = [seen for seen in panel.seen if seen.kind == "chat"]
    assert chats
    assert all(images(seen) for seen in chats)


def test_three_vendors_from_the_command_line(consensus: Command, panel: LoopbackVendors, chart: str) -> None:
    ran = consensus(
        "pump", *(word for name in EACH for word in ("-m", name)), "-p", "What is it?", "-a", chart, "--json"
    )
    assert ran.code == 0
    assert json.loads(ran.out)["attachments"][0]["name"] == "chart.png"
    assert {seen.vendor: images(seen) for seen in panel.seen if seen.kind == "chat"} == {
        "openai": [0],
        "anthropic": [0],
        "google": [0],
    }


def test_standard_input_and_types(
    consensus: Command, panel: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "picture"
    odd.write_bytes(b"an image of a new kind")
    monkeypatch.setattr(sys, "argv", ["consensus", "describe", "-a", "-", "--at", str(odd), "image/avif", "--json", "-m", "openai/one", "--arbiter", ARBITER])  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PNG)))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    (seen,) = asked(panel, "one")
    first, second, text = seen.params["messages"][0]["content"]
    assert first["image_url"]["url"] == URL
    assert second["image_url"]["url"].startswith("data:image/avif;base64,")
    assert text["text"] == "describe"


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (["-a", "none.png"], "--attach: no such file: none.png"),
        (["-a", "-", "-p", "-"], "standard input is the attachment"),
        (["-a", "nowhere://x/y.png"], "--attach: nowhere://x/y.png cannot be used: Protocol not known"),
    ],
)
def test_what_cannot_be_attached(given: list[str], cause: str, consensus: Command, panel: LoopbackVendors) -> None:
    ran = consensus("vote", "-m", "openai/one", *(["-p", "What?"] if "-p" not in given else []), *given)
    assert (ran.code, panel.count()) == (2, 0)
    assert cause in ran.err


def test_a_conversation_keeps_its_files(consensus: Command, panel: LoopbackVendors, chart: str) -> None:
    consensus("vote", "-m", "openai/one", "What is it?", "-a", chart, "--raw", "--no-stdin")
    close_writers()
    consensus("vote", "-m", "openai/two", "And now?", "-c", "--raw", "--no-stdin")
    (seen,) = asked(panel, "two")
    assert images(seen) == [0]
    assert [message["content"].strip() for message in seen.messages] == ["What is it?", "It is 42.", "And now?"]


def test_a_batch_column(consensus: Command, panel: LoopbackVendors, chart: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("the notes")
    rows = [
        {"id": "one", "prompt": "What is it?", "files": "chart.png"},
        {"id": "two", "prompt": "What are they?", "files": ["chart.png", "notes.txt"]},
        {"id": "none", "prompt": "What?", "files": None},
    ]
    source, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["batch", source, "--flow", "pump", *(word for name in EACH for word in ("-m", name))]
    ran = consensus(*arguments, "--attach-column", "files", "-o", output)
    assert ran.code == 0, ran.err
    chats = [seen for seen in panel.seen if seen.kind == "chat"]
    assert {(seen.prompt.split()[-2:][0], bool(images(seen))) for seen in chats} >= {("is", True), ("are", True)}
    assert [len(images(seen)) for seen in chats if "What?" in seen.prompt] == [0, 0, 0]
    assert all("the notes" in seen.prompt for seen in chats if "are they" in seen.prompt)
    assert [row["status"] for row in read(output)] == ["finished"] * 3


def test_a_batch_that_resumes_sends_the_bytes_with_which_it_began(
    consensus: Command, panel: LoopbackVendors, chart: str, tmp_path: Path
) -> None:
    source, output = tmp_path / "rows.csv", tmp_path / "answers.jsonl"
    source.write_text("id,prompt,files\nr1,What?,chart.png\nr2,Why?,chart.png\n")
    batch = ["batch", source, "--flow", "pump", "-m", "openai/one", "--attach-column", "files", "-o", output]
    assert consensus(*batch, "--concurrency", "1", "--max-calls", "1").code == 3
    Path(chart).write_bytes(PNG + b"changed")
    assert consensus(*batch).code == 0
    assert [images(seen) for seen in asked(panel, "one")] == [[0], [0]]


def test_the_journal_of_a_batch_is_not_written_by_the_threads_that_read_its_files(
    consensus: Command, panel: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that are written at the same time are not where the journal takes them to be, and the rows are lost."""
    from consensus_flows.tasks.batches.journal import Journal

    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(PNG + bytes(number))
    source, output = tmp_path / "rows.csv", tmp_path / "answers.jsonl"
    source.write_text("id,prompt,file\n" + "".join(f"r{n},What?,{n}.png\n" for n in range(12)))
    write, threads = Journal._write, set[int]()

    def written(self: Journal, entry: dict[str, Any]) -> None:
        threads.add(threading.get_ident())
        write(self, entry)

    monkeypatch.setattr(Journal, "_write", written)
    arguments = ["batch", source, "--flow", "pump", "-m", "openai/one", "--attach-column", "file", "-o", output]
    assert consensus(*arguments).code == 0
    assert threads == {threading.get_ident()}
    assert len(read(output)) == 12


def test_files_of_a_batch_that_are_not_there(consensus: Command, panel: LoopbackVendors, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("id,prompt,files\nr1,What?,a.png\nr2,Why?,\nr3,How?,b.png\n")
    arguments = ["batch", source, "--flow", "pump", "-m", "openai/one", "-o", tmp_path / "out.jsonl"]
    ran = consensus(*arguments, "--attach-column", "files")
    assert (ran.code, panel.count()) == (2, 0)
    assert "--attach-column: 2 files cannot be attached:\n  row r1: no such file: a.png\n  row r3" in ran.err
    assert "no column 'pictures'" in consensus(*arguments, "--attach-column", "pictures").err


def test_paths_in_an_input_of_a_store_begin_at_its_folder(
    consensus: Command, panel: LoopbackVendors, tmp_path: Path
) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/receipts/scans/r1.png", PNG)
    store.pipe("/receipts/rows.csv", b"id,prompt,scan\nr1,What?,scans/r1.png\nr2,Why?,memory://receipts/scans/r1.png\n")
    output = tmp_path / "out.jsonl"
    arguments = ["batch", "memory://receipts/rows.csv", "--flow", "pump", "-m", "openai/one", "-o", output]
    assert consensus(*arguments, "--attach-column", "scan").code == 0
    assert [images(seen) for seen in asked(panel, "one")] == [[0], [0]]


def test_the_estimate_of_a_batch_counts_images(
    consensus: Command, panel: LoopbackVendors, chart: str, tmp_path: Path
) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("prompt,files\nWhat?,chart.png\n")
    arguments = [
        "batch",
        source,
        "--flow",
        "pump",
        "-m",
        "anthropic/b",
        "-o",
        tmp_path / "out.jsonl",
        "--dry-run",
        "--json",
    ]
    plain = json.loads(consensus(*arguments).out)["models"][0]["input_tokens_most"]
    more = json.loads(consensus(*arguments, "--attach-column", "files").out)["models"][0]["input_tokens_most"]
    every = json.loads(consensus(*arguments, "--attach", chart).out)["models"][0]["input_tokens_most"]
    assert (more - plain, every - plain) == (4_784, 4_784)


def test_a_deployment_has_a_parameter_for_files() -> None:
    from prefect.utilities.callables import parameter_schema

    from consensus_flows.deployments.run_form import form_of

    form = form_of(parameter_schema(consortium).model_dump(), [])
    shown: dict[str, Any] = form["properties"]["attachments"]
    assert (shown["type"], shown["items"]) == ("array", {"type": "string"})
    assert "attachments" not in form.get("required", [])
