"""A thousand questions, five members, three vendors' SDKs over sockets, and faults all the time.

No crash, exactly one status a question, and no more attempts a call than are promised. The figures are printed.
"""

from __future__ import annotations

import pytest

from tests.chaos.figures import tell
from tests.chaos.storm import MEMBERS, RUBBISH, TIMEOUT_S, Weather, check, patience, ride_out
from tests.vendors import LoopbackVendors, Reply, SeenRequest, faults

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
QUESTIONS = 1000
OTHERS = 200
"""Questions of the storms in which one vendor is away all the time: each costs its timeouts or its backoff."""


def rubbish(seen: SeenRequest) -> Reply:
    return Reply(text=RUBBISH[seen.index % len(RUBBISH)])


async def test_every_row_of_the_failure_table(vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    with patience(monkeypatch):
        records, found = await ride_out(vendors, Weather(seed=1), QUESTIONS)
    check(records, found, QUESTIONS)
    tell("storm: every row, 10 %", **found)
    assert found["rows_sent"] >= 30
    assert found["right"] > QUESTIONS * 0.9


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("down", faults.server_error(503)),
        ("hung", faults.hang()),
        ("rubbish", rubbish),
        ("gone", faults.close_before()),
    ],
)
async def test_one_vendor_all_the_time(
    name: str, step: object, vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = 2.0 if name == "hung" else TIMEOUT_S
    always = {MEMBERS[1].partition("/")[2]: step}
    with patience(monkeypatch):
        records, found = await ride_out(vendors, Weather(seed=3, rate=0.05, always=always), OTHERS, timeout)  # type: ignore[arg-type]
    check(records, found, OTHERS)
    tell(f"storm: one vendor {name} all the time, 5 % elsewhere", **found)
    assert found["statuses"].get("finished", 0) > OTHERS * 0.9
