"""Which call writes the answer of a run: that text is read while it is written, and no other."""

import json

import pytest

from consensus_flows.flows.consortium import consortium
from consensus_flows.flows.mixture_of_agents import mixture_of_agents
from consensus_flows.tasks.watch import watched_by
from tests.calls.test_streaming import Reader
from tests.kits.consortium_kit import config, judged, say
from tests.kits.mixture_kit import config as mixture
from tests.vendors import Reply

pytestmark = pytest.mark.usefixtures("results")
CODE = "```\nprint(18)\n```"


def verdict(confidence: int) -> Reply:
    fields = {"analysis": "so it is", "dissent": "", "confidence": confidence, "final": True, "refinement_areas": []}
    return Reply(text=json.dumps(fields))


async def test_the_aggregator_of_a_mixture(vendors):
    say(vendors, final="It is 18, all of them say so.")
    with watched_by(reader := Reader(), pieces=True):
        record = await mixture_of_agents("How many?", mixture())
    assert reader.drafts == [record.answer]
    assert [seen.model for seen in vendors.seen if seen.stream] == ["final"]


async def test_an_answer_after_its_verdict_is_read_once_the_verdict_says_that_it_is_the_last(vendors):
    say(vendors, one=CODE, two=CODE, three=CODE)
    vendors.script("arbiter", verdict(30), Reply(text="a first draft"), verdict(95), Reply(text="the answer is this"))
    with watched_by(reader := Reader(), pieces=True):
        record = await consortium("How many?", config(max_iterations=3))
    assert reader.drafts == [record.answer] == ["the answer is this"]
    streams = [seen.stream for seen in vendors.seen if seen.model == "arbiter"]
    assert streams == [False, False, False, True]


@pytest.mark.parametrize(("most", "drafts"), [(1, ["eighteen it is"]), (3, [""])])
async def test_an_answer_before_its_verdict_is_read_where_the_verdict_cannot_change_it(vendors, most, drafts):
    say(vendors, one="18", two="18", three="18")
    vendors.script("arbiter", then=judged(95, "eighteen it is"))
    with watched_by(reader := Reader(), pieces=True):
        record = await consortium("How many?", config(max_iterations=most))
    assert (record.answer, reader.drafts) == ("eighteen it is", drafts)
