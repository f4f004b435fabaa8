"""Forty questions of the storm that `make chaos` runs with a thousand; see tests/chaos/storm.py."""

from __future__ import annotations

import pytest

from tests.chaos.storm import MEMBERS, RUBBISH, Weather, check, patience, ride_out
from tests.vendors import LoopbackVendors, Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
QUESTIONS = 40


async def test_every_row_of_the_failure_table(vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    weather = Weather(seed=1, rate=0.3)
    with patience(monkeypatch):
        records, found = await ride_out(vendors, weather, QUESTIONS)
    check(records, found, QUESTIONS)
    assert found["faults_sent"] > 50
    assert found["statuses"].get("finished", 0) > QUESTIONS * 0.7


async def test_one_vendor_down_and_one_that_answers_rubbish(
    vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, rubbish = MEMBERS[0].partition("/")[2], MEMBERS[1].partition("/")[2]
    always = {down: faults.server_error(503), rubbish: Reply(text=RUBBISH[5])}
    weather = Weather(seed=2, rate=0.0, always=always)
    with patience(monkeypatch):
        records, found = await ride_out(vendors, weather, QUESTIONS)
    check(records, found, QUESTIONS)
    assert found["statuses"] == {"finished": QUESTIONS}
    assert found["failed_calls"] == {"overloaded": QUESTIONS} or found["failed_calls"] == {"server": QUESTIONS}
    assert found["right"] > QUESTIONS * 0.8
