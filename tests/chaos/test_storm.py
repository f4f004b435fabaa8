"""A thousand questions, five members, three vendors' SDKs over sockets, and faults all the time.

No crash, exactly one status a question, and no more attempts a call than are promised. The figures are printed.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH, temporary_settings

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.flows.consortium import run_consortium
from consensus_flows.tasks.record import Record
from tests.chaos.figures import tell
from tests.chaos.storm import (
    ATTEMPTS,
    LOST_AT_MOST,
    MEMBERS,
    ROWS,
    RUBBISH,
    TIMEOUT_S,
    Weather,
    check,
    mostly_right,
    patience,
    question_of,
    ride_out,
)
from tests.kits.consortium_kit import judged
from tests.kits.kinds import kinds
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Step, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
QUESTIONS = 1000
OTHERS = 200
"""Questions of the storms in which one vendor is away all the time: each costs its timeouts or its backoff."""
FEW = 40
"""Questions of the storms that are not only for -m chaos."""
STRICKEN = MEMBERS[1].partition("/")[2]
ARBITERS = ["openai/judge", "anthropic/appeal"]


async def test_a_short_storm(vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    weather = Weather(seed=1, rate=0.3)
    with patience(monkeypatch):
        records, found = await ride_out(vendors, weather, FEW)
    check(records, found, FEW)
    assert found["faults_sent"] > 50
    assert found["statuses"].get("finished", 0) > FEW * 0.7


async def test_one_vendor_down_and_one_that_answers_rubbish(
    vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, rubbish = MEMBERS[0].partition("/")[2], MEMBERS[1].partition("/")[2]
    always = {down: faults.server_error(503), rubbish: Reply(text=RUBBISH[5])}
    weather = Weather(seed=2, rate=0.0, always=always)
    with patience(monkeypatch):
        records, found = await ride_out(vendors, weather, FEW)
    check(records, found, FEW)
    assert found["statuses"] == {"finished": FEW}
    assert found["failed_calls"] == {"overloaded": FEW} or found["failed_calls"] == {"server": FEW}
    assert found["right"] > FEW * 0.8


@pytest.mark.chaos
async def test_every_row_of_the_failure_table(vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    with patience(monkeypatch):
        records, found = await ride_out(vendors, Weather(seed=1), QUESTIONS)
    check(records, found, QUESTIONS)
    tell("storm: every row, 10 %", **found)
    assert found["rows_sent"] >= 30
    assert found["right"] > QUESTIONS * 0.9


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("name", "always", "most"),
    [
        ("down", faults.server_error(503), ATTEMPTS),
        ("hung", faults.hang(), LOST_AT_MOST),
        ("gone", faults.close_before(), LOST_AT_MOST),
        ("cut", faults.cut_mid_body(), LOST_AT_MOST),
        ("rubbish", None, LOST_AT_MOST),
    ],
)
async def test_one_vendor_all_the_time(
    name: str, always: Step | None, most: int, vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = 2.0 if name == "hung" else TIMEOUT_S
    weather = Weather(
        seed=3, rate=0.05, always={STRICKEN: always} if always else {}, rubbish=None if always else STRICKEN
    )
    with patience(monkeypatch):
        records, found = await ride_out(vendors, weather, OTHERS, timeout)
    check(records, found, OTHERS)
    tell(f"storm: one vendor {name} all the time, 5 % elsewhere", bound=most, **found)
    assert found["statuses"].get("finished", 0) > OTHERS * 0.9
    assert found["most_attempts_of"][MEMBERS[1]] == most, "no more, and no fewer"
    if always:
        assert vendors.count(STRICKEN) == most * OTHERS


@pytest.mark.chaos
async def test_the_same_seed_is_the_same_storm(
    vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever comes first: the vendors' latency changes the order in which requests arrive."""
    seen: list[dict[str, Any]] = []
    orders: list[list[tuple[str, str]]] = []
    for number, latency in enumerate((0.0, 0.03)):
        vendors.reset()
        vendors.delay = latency
        stored = temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: tmp_path / str(number)})
        weather = Weather(seed=5, rate=0.3, rows=tuple(name for name in ROWS if name != "hang"))
        with patience(monkeypatch), stored:
            # Nothing hangs, and a machine that is busy is no timeout.
            records, found = await ride_out(vendors, weather, 20, timeout=60)
        check(records, found, 20)
        orders.append([(one.model, one.prompt) for one in vendors.seen])
        same = {name: value for name, value in found.items() if name != "seconds"}
        seen.append(same | {"sent": weather.sent, "asked": Counter(orders[-1])})
        seen[-1]["answers"] = [record.answer for record in records]
    assert seen[0] == seen[1]
    assert orders[0] != orders[1], "the requests came in another order"
    told = ("questions", "seed", "rate", "right", "requests", "failed_calls", "faults_sent", "rows_sent")
    tell("storm: the same seed twice", **{name: seen[0][name] for name in told})


def answered(seen: SeenRequest, chance: random.Random) -> Reply:
    """Answer as a member, or as an arbiter who is not always confident and not always to be read."""
    if seen.schema is None:
        return mostly_right(seen, chance)
    if chance.random() < 0.1:
        return Reply(text="I have thought about it, and the first one is right.")
    return judged(chance.choice([50, 90]), f"The synthesis is {question_of(seen)}.")


@pytest.mark.chaos
async def test_an_arbiter_in_the_weather(vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge fails like everybody: asked again, then the other one, then the nearest answer stands in."""
    config = ConsortiumConfig.model_validate(
        {
            "members": MEMBERS,
            "arbiter": ARBITERS[0],
            "fallback_arbiters": ARBITERS[1:],
            "max_iterations": 2,
            "timeout": TIMEOUT_S,
        }
    )

    async def ask(prompt: str) -> Record:
        return await run_consortium(prompt, config)

    with patience(monkeypatch):
        records, found = await ride_out(vendors, Weather(seed=7, rate=0.2, answer=answered), OTHERS, ask=ask)
    stood_in = 0
    for record in records:
        assert record.status in {"confident", "max_iterations", "finished", "failed"}, record.status
        assert (record.answer is None) == (record.status == "failed")
        # Of a second iteration below the quorum the cause is kept, and the first one's answer stands.
        assert (record.error is not None) == (record.iterations[-1].synthesis is None)
        for iteration in record.iterations:
            judgements = iteration.judgements
            for call in (*iteration.responses, *judgements):
                assert 1 <= call.attempts <= ATTEMPTS and call.possibly_billed <= LOST_AT_MOST, call
            if (synthesis := iteration.synthesis) is None:
                continue
            texts = {one.text for one in iteration.responses if one.answered}
            if synthesis.arbiter is None:
                stood_in += 1
                assert synthesis.text in texts and synthesis.confidence is None
                assert record.degraded or record.best_iteration != iteration.number
                assert ("stand_in", None, iteration.number) in kinds(record)
                assert judgements and all(
                    one.error is not None or "first one is right" in (one.text or "") for one in judgements
                )
            else:
                assert synthesis.text not in texts and synthesis.text.startswith("The synthesis is ")
                assert synthesis.confidence in {0.5, 0.9}
    booked = sum(record.requests for record in records)
    assert found["requests"] <= booked
    judged_by = Counter(str(one.synthesis.arbiter) for record in records for one in record.iterations if one.synthesis)
    assert len(judged_by) == 3, "all three ends have come"
    tell(
        "storm: an arbiter in the weather, 20 %",
        questions=OTHERS,
        statuses=found["statuses"],
        iterations=sum(len(record.iterations) for record in records),
        judged_by=dict(sorted(judged_by.items())),
        stood_in=stood_in,
        requests=found["requests"],
        requests_booked=booked,
    )
