"""All 64 subsets of six failing members, over sockets and the vendors' SDKs, through the Prefect task."""

from __future__ import annotations

import pytest

from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import vote
from consensus_flows.tasks.record import Record
from tests.chaos.figures import tell
from tests.kits.kinds import kinds
from tests.vendors import ANY, LoopbackVendors, Reply, SeenRequest, faults

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
MEMBERS = ["openai/m0", "anthropic/m1", "google/m2", "openrouter/m3", "openai/m4", "anthropic/m5"]
QUORUM = 4


def answers(seen: SeenRequest) -> Reply:
    """Fail for the members whose bit is set in the question's number."""
    if int(seen.prompt.split()[1]) >> int(seen.model.removeprefix("m")) & 1:
        made = faults.failure(400, f"cause of {seen.model}")
        return made if isinstance(made, Reply) else made(seen)
    return Reply(text="18")


async def test_an_answer_exactly_if_the_survivors_reach_the_quorum(vendors: LoopbackVendors) -> None:
    vendors.script(ANY, then=answers)
    answered = 0
    for subset in range(2 ** len(MEMBERS)):
        state = await vote(f"Subset {subset} fails", VoteConfig(members=MEMBERS, extract="number"), return_state=True)
        result = await state.aresult(raise_on_failure=False)
        failing = [name for number, name in enumerate(MEMBERS) if subset >> number & 1]
        enough = len(MEMBERS) - len(failing) >= QUORUM
        assert state.is_completed() == enough, (subset, state.message)
        answered += enough
        record: Record = result if enough else result.record
        assert (record.answer is not None) == enough
        for name in MEMBERS:
            cause = f"{name}#1: {name}: bad_request: HTTP 400: cause of {name.partition('/')[2]}"
            assert (cause in (record.error or "")) == (name in failing and not enough)
            assert (("bad_request", f"{name}#1", 1) in kinds(record)) == (name in failing)
    assert vendors.count() == 64 * len(MEMBERS)
    tell("quorum", members=len(MEMBERS), quorum=QUORUM, subsets=64, answered=answered, requests=vendors.count())
