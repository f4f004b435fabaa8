"""A swarm: how a task is split, who answers which part, what a missing part does, and how the answers are joined."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.swarm import SwarmConfig
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.pump import run_pump
from consensus_flows.flows.saved_algorithm import DEEPEST, with_panels
from consensus_flows.flows.swarm import parts_table, run_swarm, swarm
from consensus_flows.tasks.batches.planning import calls_in_words
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.reports.answer import answer_page
from consensus_flows.tasks.watch import watched_by
from tests.calls.test_streaming import Reader
from tests.kits import processes
from tests.kits.batch_kit import ROOT, environment_of, read
from tests.kits.command_kit import Command, commands
from tests.kits.consortium_kit import asked, say
from tests.kits.kinds import kinds
from tests.vendors import LoopbackVendors, Reply, SeenRequest, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
GIVEN = {"members": ["openai/a", "openai/b"], "orchestrator": "openai/lead", "aggregator": "openai/writer"}
NIGHT = {"flow": "vote", "config": {"members": ["openai/a", "openai/b"]}}
TITLES = ("cost", "range", "charging", "law")
TASK = "Report on electric trucks."


def config(**settings: Any) -> SwarmConfig:
    return SwarmConfig.model_validate(GIVEN | settings)


def split(*titles: str) -> Reply:
    return Reply(text=json.dumps({"parts": [{"title": one, "task": f"Write about {one}."} for one in titles]}))


def but_for(part: int, text: str):
    """A model that does every part but one, which it is refused."""

    fault = faults.not_found()

    def answer(seen: SeenRequest) -> Reply:
        if f"You do part {part}," in seen.prompt:
            return fault if isinstance(fault, Reply) else fault(seen)
        return Reply(text=text)

    return answer


@pytest.fixture
def answering(vendors: LoopbackVendors) -> LoopbackVendors:
    vendors.script("lead", then=split(*TITLES))
    say(vendors, a="by a", b="by b", writer="all of it")
    return vendors


@pytest.fixture
def one_failing(answering: LoopbackVendors) -> LoopbackVendors:
    answering.script("b", then=but_for(2, "by b"))
    return answering


async def test_parts_are_done_by_the_members_in_turn_and_joined_in_order(answering):
    record = await run_swarm(TASK, config(system="Be brief."))
    assert (record.status, record.answer, record.degraded, record.calls) == ("finished", "all of it", False, 6)
    assert [(part.number, part.title, part.member, part.error) for part in record.parts] == [
        (1, "cost", "openai/a#1", None),
        (2, "range", "openai/b#1", None),
        (3, "charging", "openai/a#2", None),
        (4, "law", "openai/b#2", None),
    ]
    (lead,) = asked(answering, "lead")
    assert TASK in lead.prompt and "Be brief." in lead.prompt and "6 at most" in lead.prompt
    assert lead.schema["properties"]["parts"]["maxItems"] == 6
    first, third = sorted(asked(answering, "a"), key=lambda seen: "You do part 3" in seen.prompt)
    assert (first.system, third.system) == ("Be brief.", "Be brief.")
    assert first.prompt.startswith(TASK) and "Write about cost." in first.prompt and "3. charging" in first.prompt
    assert "Write about range." not in first.prompt and "Write about charging." in third.prompt
    (writer,) = asked(answering, "writer")
    places = [
        writer.prompt.index(text) for text in (TASK, "Be brief.", "cost\n\nby a", "range\n\nby b", "charging", "law")
    ]
    assert places == sorted(places) and "No result came" not in writer.prompt
    assert record.best_iteration == 3 and [len(one.responses) for one in record.iterations] == [0, 4, 0]


async def test_a_part_that_fails_is_said_and_the_others_are_joined(one_failing):
    state = await swarm(TASK, config(), return_state=True)
    record = await state.result()
    assert (record.status, record.answer, record.degraded) == ("finished", "all of it", True)
    assert [(part.number, part.error) for part in record.parts] == [
        (1, None),
        (2, "not_found"),
        (3, None),
        (4, None),
    ]
    assert kinds(record) == [("not_found", "openai/b#1", 2)]
    assert "part 2 (range) has no answer" in record.warnings[0].message
    (writer,) = asked(one_failing, "writer")
    assert "No result came of these parts." in writer.prompt and "- range: Write about range." in writer.prompt
    assert (state.name, state.type.value) == ("Degraded", "COMPLETED")
    assert state.message.startswith("3 of 4 parts answered without openai/b#1 (not_found): all of it")
    assert [row["error"] for row in parts_table(record)] == ["", "not_found", "", ""]
    page = answer_page(record)
    assert "| `openai/b#1` | range |" in page and "| `openai/a#2` | charging |" in page


async def test_a_task_that_is_not_split_costs_one_call_beyond_a_plain_answer(answering):
    plain = await run_pump("What is 2 + 2?", PumpConfig(members=["openai/a"], system="Be brief."))
    for parts in ((), ("all",)):
        answering.script("lead", then=split(*parts))
        record = await run_swarm("What is 2 + 2?", config(system="Be brief.", fresh=bool(parts)))
        assert (record.answer, record.calls, record.degraded, record.parts) == (plain.answer, 2, False, [])
        assert record.iterations[1].synthesis.chosen == "openai/a#1" and record.best_iteration == 2
        # What the member is asked is the question alone, so that its answer is shared with a plain one.
        assert record.iterations[1].responses[0].cached is not bool(parts)
    assert answering.count("b") == answering.count("writer") == 0
    answering.script("a", then=faults.not_found())
    record = await run_swarm("And 3 + 3?", config())
    assert (record.status, record.answer) == ("failed", None) and "openai/a: not_found" in record.error


async def test_a_split_that_cannot_be_read_is_asked_for_again_and_then_done_without(answering):
    answering.script("lead", Reply(text="I would rather write prose."), then=split("x", "y"))
    record = await run_swarm(TASK, config())
    assert [part.title for part in record.parts] == ["x", "y"] and not record.degraded
    answering.script("lead", then=Reply(text='{"parts": [{"title": "x"}]}'))
    record = await run_swarm("Report on ships.", config())
    assert (record.answer, record.degraded, record.calls) == ("by a", True, 3)
    assert {("not_split", "openai/lead", 1), ("malformed", "openai/lead", 1)} == set(kinds(record))


async def test_there_are_never_more_parts_than_allowed(answering):
    answering.script("lead", split(*"abcdef"), then=split("x", "y"))
    record = await run_swarm(TASK, config(max_parts=3))
    assert [part.title for part in record.parts] == ["x", "y"]
    assert "at most 3" in asked(answering, "lead")[1].prompt


async def test_below_the_quorum_of_parts_there_is_no_answer(answering):
    answering.script("b", then=faults.not_found())
    record = await run_swarm(TASK, config())
    assert (record.status, record.answer) == ("failed", None)
    assert "2 of 4 parts have an answer, and the quorum is 3. part 2 (range): openai/b: not_found" in record.error
    assert answering.count("writer") == 0
    record = await run_swarm(TASK, config(quorum=2))
    assert record.answer == "all of it" and record.degraded


async def test_a_fallback_joins_and_without_one_the_parts_stand_one_after_the_other(answering):
    answering.script("writer", then=faults.not_found())
    record = await run_swarm(TASK, config(fallback_aggregators=["openai/b"]))
    assert (record.answer, record.iterations[2].synthesis.arbiter) == ("by b", "openai/b")
    assert ("fallback", "openai/writer", 3) in kinds(record)
    record = await run_swarm(TASK, config())
    assert record.answer.startswith("## cost\n\nby a\n\n## range\n\nby b") and record.degraded
    assert ("stand_in", None, 3) in kinds(record)
    answering.script("lead", split(*TITLES), then=Reply(text="joined by the lead"))
    record = await run_swarm("Report on ships.", config(aggregator=None))
    assert record.answer == "joined by the lead"


async def test_panels_answer_parts_and_a_swarm_may_be_one_of_them(answering):
    record = await swarm(TASK, config(members=["panel/night"], panels={"night": NIGHT}))
    assert (record.calls, record.answer) == (1 + 4 * 2 + 1, "all of it")
    assert [one.panel.flow for one in record.iterations[1].responses] == ["vote"] * 4
    assert [part.member for part in record.parts] == [f"panel/night#{number}" for number in (1, 2, 3, 4)]
    inner = {"flow": "swarm", "config": GIVEN | {"orchestrator": "openai/inner"}}
    answering.script("inner", then=split("x", "y"))
    nested = await swarm("Report on ships.", config(members=["panel/inner"], panels={"inner": inner}, max_parts=4))
    # Each of the four parts is a swarm of two parts of its own.
    assert (nested.calls, nested.answer) == (1 + 4 * (1 + 2 + 1) + 1, "all of it")
    assert [len(one.panel.parts) for one in nested.iterations[1].responses] == [2] * 4


async def test_the_depth_is_bounded_before_any_call(answering):
    deep: dict[str, Any] = {"flow": "swarm", "config": GIVEN}
    for number in range(DEEPEST):
        deep = {"flow": "swarm", "config": GIVEN | {"members": [f"panel/d{number}"], "panels": {f"d{number}": deep}}}
    with pytest.raises(ConfigurationError, match=f"panels may be nested at most {DEEPEST} deep"):
        await run_swarm(TASK, config(members=["panel/deep"], panels={"deep": deep}))
    assert answering.count() == 0


async def test_a_budget_that_ends_in_the_middle_leaves_what_it_has_paid_for(answering):
    record = await run_swarm(TASK, config(budget={"max_calls": 3}))
    assert (record.status, record.requests, record.degraded) == ("budget", 3, True)
    assert [part.error for part in record.parts].count("budget") == 2
    # Which parts the budget pays for is up to who comes first.
    assert record.answer == "\n\n".join(
        f"## {part.title}\n\nby {part.member[7]}" for part in record.parts if part.error is None
    )
    record = await run_swarm("Report on ships.", config(budget={"max_calls": 5}))
    assert (record.status, record.requests) == ("budget", 5)
    assert record.answer.endswith("## law\n\nby b") and answering.count("writer") == 0
    record = await run_swarm("Report on planes.", config(budget={"max_tokens": 1}))
    assert (record.status, record.answer, record.requests) == ("failed", None, 0)


async def test_the_budget_is_shared_with_the_panels(answering):
    given = config(members=["panel/night"], panels={"night": NIGHT}, budget={"max_calls": 6})
    record = await run_swarm(TASK, given)
    assert record.requests <= 6 and record.status == "budget" and record.answer


async def test_the_answer_is_read_while_it_is_joined(answering):
    with watched_by(reader := Reader(), pieces=True):
        record = await swarm(TASK, config())
    assert reader.drafts == [record.answer]
    assert [seen.model for seen in answering.seen if seen.stream] == ["writer"]


async def test_as_many_calls_are_planned(answering):
    given = config(members=["panel/night", "openai/b"], panels={"night": NIGHT})
    words = calls_in_words(algorithm("swarm").plan(await with_panels(given)))
    assert words == "3 to 11 calls: orchestrator 1, panel/night member 2 to 6, member 0 to 3, aggregator 0 to 1"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"quorum": 7}, "quorum is 7, but there are at most 6 parts"),
        ({"max_parts": 1}, "max_parts"),
        ({"answer_schema": {"type": "object"}}, "answer_schema: a swarm answers in free text"),
        ({"embedding_model": "openai/e"}, "embedding_model: has no effect"),
        ({"orchestrator": "openai/a:2"}, "orchestrator\n.*must not have a count"),
        ({"aggregator": "openai/a:2"}, "aggregator\n.*must not have a count"),
    ],
)
def test_what_a_swarm_does_not_have_is_refused(settings, why):
    with pytest.raises(ValueError, match=why):
        config(**settings)
    assert config(quorum=5).needed_of(4) == 4


async def test_a_swarm_does_not_judge(answering):
    judged = ConsortiumConfig.model_validate(
        {"members": ["openai/a"], "arbiter": "panel/s", "panels": {"s": {"flow": "swarm", "config": GIVEN}}}
    )
    with pytest.raises(ConfigurationError, match="a swarm answers in free text"):
        await with_panels(judged)


# The doors.


@pytest.fixture
def consensus(
    answering: LoopbackVendors, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    return commands(monkeypatch, capsys)


OPTIONS = ["-m", "openai/a", "-m", "openai/b", "--orchestrator", "openai/lead", "--aggregator", "openai/writer"]


def test_the_command(consensus: Command, one_failing: LoopbackVendors) -> None:
    ran = consensus("swarm", TASK, *OPTIONS, "--max-parts", "4")
    assert (ran.code, ran.out) == (0, "all of it\n")
    assert "Iteration 2: 3 of 4 answered" in ran.err
    assert "part 2 (range), openai/b#1 (openai/b: not_found" in ran.err
    record = json.loads(consensus("swarm", TASK, *OPTIONS, "--max-parts", "4", "--json").out)
    assert [part["error"] for part in record["parts"]] == [None, "not_found", None, None]
    ran = consensus("swarm", TASK, "-m", "openai/a")
    assert ran.code == 2 and "give --orchestrator provider/model" in ran.err
    ran = consensus("swarm", "Report on ships.", *OPTIONS, "--max-calls", "3", "--raw")
    assert ran.code == 3 and ran.out.count("## ") in {1, 2}


def test_a_batch_of_swarms(consensus: Command, one_failing: LoopbackVendors, tmp_path: Any) -> None:
    (tmp_path / "in.csv").write_text("id,prompt\nt,Report on trucks.\ns,Report on ships.\n")
    consensus("save", "reports", "--flow", "swarm", *OPTIONS)
    output = tmp_path / "out.jsonl"
    ran = consensus("batch", str(tmp_path / "in.csv"), "--name", "reports", "--output", str(output))
    assert ran.code == 0, ran.err
    rows = read(output)
    assert [(row["id"], row["answer"], row["degraded"], row["calls"]) for row in rows] == [
        ("t", "all of it", True, 6),
        ("s", "all of it", True, 6),
    ]
    ran = consensus("batch", str(tmp_path / "in.csv"), "--name", "reports", "--output", str(output), "--dry-run")
    assert "4 to 16 calls" in ran.out + ran.err
    consensus("remove", "reports")


async def test_a_run_of_the_deployment(one_failing: LoopbackVendors) -> None:
    async with get_client() as client:
        deployment = await client.create_deployment(
            flow_id=await client.create_flow(swarm), name="swarm", parameters={"config": GIVEN}
        )
        made = await client.create_flow_run_from_deployment(deployment, parameters={"prompt": TASK})
        state = await run_flow_async(swarm, flow_run=made, parameters=made.parameters, return_type="state")
        artifacts = await client.request(
            "POST", "/artifacts/filter", json={"flow_runs": {"id": {"any_": [str(made.id)]}}}
        )
        await client.delete_deployment(deployment)
    assert state.name == "Degraded" and (await state.result()).answer == "all of it"
    keys = [one["key"] for one in artifacts.json()]
    assert {"swarm-iteration", "swarm-parts", "swarm-calls", "answer"} <= set(keys)
    (parts,) = [json.loads(one["data"]) for one in artifacts.json() if one["key"] == "swarm-parts"]
    assert [row["title"] for row in parts] == [*TITLES]


RUN = f"""
from consensus_flows import SwarmConfig, ask
print(ask({TASK!r}, SwarmConfig(**{GIVEN!r})).model_dump_json())
"""


def test_after_a_kill_only_what_is_missing_is_asked(answering: LoopbackVendors, tmp_path: Any) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    answering.script(
        "b", then=lambda seen: Reply(text="by b", fault="hang" if "You do part 4," in seen.prompt else None)
    )

    def start() -> Any:
        return processes.start(
            [sys.executable, "-c", RUN], cwd=ROOT, env=environment_of(tmp_path), stdout=-1, stderr=-1
        )

    victim, deadline = start(), time.monotonic() + 60
    while answering.count("a") < 2 or answering.count("b") < 2:
        assert victim.poll() is None, victim.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1)  # what was answered is stored
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    answering.script("b", then=Reply(text="by b"))
    survivor = start()
    out, err = survivor.communicate(timeout=60)
    assert survivor.returncode == 0, err.decode()
    record = Record.model_validate_json(out)
    assert (record.answer, record.calls, record.cached_calls) == ("all of it", 6, 4)
    assert {model: answering.count(model) for model in ("lead", "a", "b", "writer")} == {
        "lead": 1,
        "a": 2,
        "b": 3,
        "writer": 1,
    }
