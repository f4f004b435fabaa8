"""A vote that is run answers as its plan did when it was replayed on the labeled rows, and asks the same members."""

import pytest

from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.calls.providers import models_checked
from consensus_flows.tasks.evaluation.plans import fit_plans
from consensus_flows.tasks.evaluation.split import halves
from consensus_flows.tasks.record import Response
from tests.kits.rosters import TARGETS, roster_rows, targets

pytestmark = [
    pytest.mark.skipif(not TARGETS.exists(), reason=f"the recorded answers are not in {TARGETS.parent}"),
    pytest.mark.usefixtures("results", "vendors"),
]
CALIBRATION = {
    "rows": 659,
    "ids_digest": "0",
    "date": "2026-11-27",
    "extract": "exact",
    "accuracy": 0.9,
    "interval": [0.8, 0.95],
    "calls": 1,
    "unanimous": 0.5,
    "sure": 0.5,
}
SAMPLE = 20


def answers_of(row):
    """Let each member answer with the number of its answer in the row, so that nothing depends on how it is read."""

    async def call(request, *, instance=1, member=None):
        number = row.pattern[int(request.model.removeprefix("m"))]
        text = "" if number is None else f"answer {number}"
        return Response(
            member=f"{request.name}#1",
            provider="openai",
            model=request.model,
            text=f'{{"answer": "{text}"}}',
            attempts=1,
        )

    return call


def settings_of(plan):
    """The settings of a vote that does what a plan does."""
    way = plan.way

    def name(position):
        return f"openai/m{position}"

    settings = {"members": [name(one) for one in way.order], "extract": "text:answer"}
    settings["tie_order"] = [name(one) for one in way.tie_order or way.order if one in way.order]
    if way.weights is not None:
        settings["weights"] = {name(one): way.weights[one] for one in way.order}
    if way.learned is not None:
        numbers = {member: name(position) for position, member in enumerate(plan.members)}
        learned = way.learned.model_dump()
        learned["members"] = {numbers[one]: value for one, value in learned["members"].items()}
        pairs = {tuple(numbers[one] for one in pair.split(" & ")): value for pair, value in learned["pairs"].items()}
        learned["pairs"] = {" & ".join(pair): value for pair, value in pairs.items()}
        settings |= {"learned": learned, "calibration": CALIBRATION, "stop_at_confidence": way.stop_at}
    if way.ask is not None:
        then = "vote" if way.then is None else name(way.then)
        settings["cascade"] = {"ask": [name(one) for one in way.order[: way.ask]], "agree": way.ask, "then": then}
    return VoteConfig.model_validate(settings | {"stop_when": way.stop_when})


@pytest.mark.parametrize("position", [1, 8])
@pytest.mark.parametrize(
    "name", ["log-odds", "learned", "stop-2", "sequential-learned-0.9", "cascade-2", "cascade-2-vote"]
)
async def test_a_run_ends_as_its_plan(position, name):
    calibration, test = halves(roster_rows(position))
    plan = fit_plans(calibration, targets()[position]["members"], names=[name])[name]
    config = settings_of(plan)
    with models_checked():
        for row in test[:SAMPLE]:
            record, expected = await run_vote("What?", config, answers_of(row)), plan.replay(row)
            asked = tuple(int(vote.member.removeprefix("openai/m").removesuffix("#1")) for vote in record.votes)
            assert sorted(asked) == sorted(expected.asked), row.id
            given = [one.answer for one in row.answers]
            number = None if expected.answer is None else row.pattern[given.index(expected.answer)]
            chosen = None if number is None else f"answer {number}"
            assert record.answer == chosen, row.id
            assert record.confidence == (None if expected.confidence is None else pytest.approx(expected.confidence))
