"""Every subset of failing members: an answer exactly where the survivors reach the quorum, and every cause is named.

The calls are handed in, so that all 642 cases of up to six members and every quorum take seconds; the same with the
vendors' SDKs over sockets is in tests/chaos.
"""

from itertools import combinations

import pytest

from blocks.consortium import ConsortiumConfig
from blocks.vote import VoteConfig
from flows.consortium import run_consortium
from flows.vote import run_vote
from tasks.calls.providers import models_checked
from tasks.calls.request import Request
from tasks.record import CallError, Response
from tests.kits.consortium_kit import judged

pytestmark = pytest.mark.usefixtures("results", "vendors")
MOST = 6


def subsets(count: int) -> list[frozenset[int]]:
    """All subsets of `count` members."""
    return [frozenset(chosen) for size in range(count + 1) for chosen in combinations(range(count), size)]


def calls(failing: frozenset[int]):
    """Let some members fail, each with a cause of its own; the arbiter always answers."""

    async def call(request: Request, *, instance: int = 1, member: str | None = None) -> Response:
        name = member or f"{request.name}#{instance}"
        made = Response(member=name, provider=request.provider, model=request.model, instance=instance, attempts=1)
        if request.model == "arbiter":
            return made.model_copy(update={"text": judged(90).text})
        number = int(request.model.removeprefix("m"))
        if number in failing:
            error = CallError(kind="server", message=f"{request.name}: server: cause {number}")
            return made.model_copy(update={"error": error})
        return made.model_copy(update={"text": "The answer is 18."})

    return call


def check(record, failing, count, quorum):
    answers = count - len(failing) >= quorum
    case = (sorted(failing), count, quorum)
    assert (record.answer is not None) == answers, case
    assert (record.status == "failed") == (not answers), case
    assert (record.error is None) == answers, case
    assert record.degraded == bool(failing) or not answers, case
    for number in range(count):
        said = (record.error or "") + "\n".join(record.warnings)
        assert (f"openai/m{number}#1: " in said) == (number in failing), case
        if not answers:
            assert (f"cause {number}" in (record.error or "")) == (number in failing), case
    if not answers:
        assert f"{count - len(failing)} of {count} members answered, and the quorum is {quorum}" in record.error, case


@pytest.fixture(autouse=True)
def checked():
    """Go by what is known of the provider, as a batch does: it is not what is tested here."""
    with models_checked():
        yield


@pytest.mark.parametrize("count", range(1, MOST + 1))
async def test_the_consortium(count):
    members = [f"openai/m{number}" for number in range(count)]
    for quorum in range(1, count + 1):
        config = ConsortiumConfig(members=members, arbiter="openai/arbiter", quorum=quorum)
        for failing in subsets(count):
            record = await run_consortium("What?", config, calls(failing))
            check(record, failing, count, quorum)
            if record.answer is not None:
                assert (record.status, record.answer) == ("confident", "the synthesis")
                assert len(record.iterations[0].synthesis.labels) == count - len(failing)


@pytest.mark.parametrize("count", range(1, MOST + 1))
async def test_the_vote(count):
    members = [f"openai/m{number}" for number in range(count)]
    for quorum in range(1, count + 1):
        config = VoteConfig(members=members, extract="number", quorum=quorum)
        for failing in subsets(count):
            record = await run_vote("What?", config, calls(failing))
            check(record, failing, count, quorum)
            if record.answer is not None:
                assert (record.answer, sum(option.votes for option in record.tally)) == ("18", count - len(failing))


async def test_the_usual_quorum_is_more_than_half():
    for count in range(1, MOST + 1):
        config = ConsortiumConfig(members=[f"openai/m{n}" for n in range(count)], arbiter="openai/arbiter")
        answered = [(await run_consortium("What?", config, calls(one))).answer is not None for one in subsets(count)]
        assert answered == [2 * (count - len(failing)) > count for failing in subsets(count)]
