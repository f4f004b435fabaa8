"""Ways to ask a panel that do not ask everybody: what is decided, who was asked, and what the record says of it."""

import pytest

from consensus_flows.blocks.consortium import Consortium
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.saved_algorithm import with_panels
from consensus_flows.flows.vote import run_vote, vote
from consensus_flows.tasks.counting.vote import count_votes
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.consortium_kit import judged, say
from tests.kits.kinds import kinds
from tests.vendors import faults

MEMBERS = ["openai/one", "anthropic/two", "google/three", "openai/four"]
LEARNED = {
    "intercept": -2.0,
    "members": {"openai/one": 1.0, "anthropic/two": 1.0, "google/three": 4.0},
    "share": 1.5,
    "two_or_more": 0.5,
    "unanimous": 0.5,
    "pairs": {"openai/one & anthropic/two": 0.25},
}
CALIBRATION = {
    "rows": 200,
    "ids_digest": "0" * 64,
    "date": "2026-11-27",
    "extract": "number",
    "accuracy": 0.9,
    "interval": [0.85, 0.93],
    "calls": 1.4,
    "cost_usd": 0.002,
    "unanimous": 0.8,
    "sure": 0.7,
    "sure_accuracy": 0.96,
}
calls = [
    pytest.mark.usefixtures("results"),
    # Most tests call the algorithm without the flow around it, where Prefect has nowhere to send its logs.
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]


def config(**settings):
    return VoteConfig.model_validate({"members": MEMBERS[:3], "extract": "number"} | settings)


def learned(**settings):
    return config(**({"learned": LEARNED, "calibration": CALIBRATION} | settings))


# The settings.


def test_a_cascade_is_written_in_a_line():
    found = config(cascade="one, anthropic/two>three")
    assert (found.cascade.ask, found.cascade.agree, found.cascade.then) == (["one", "anthropic/two"], 2, "three")
    assert [[str(member) for member in wave] for wave in found.in_waves()] == [["openai/one#1", "anthropic/two#1"]]
    assert [str(member) for member in found.behind()] == ["google/three#1"]
    assert config(cascade="2 of one,two,three>vote").cascade.agree == 2
    assert config(cascade="one,two>one").behind() == [], "who was asked already is not asked again"
    assert config(cascade="one,two>behind").saved_panel == "behind"
    named = config(
        members=["openai/one:2", *MEMBERS[1:]],
        cascade={"ask": ["one", "two"], "agree": 2, "then": "vote"},
    )
    assert len(named.in_waves()[0]) == 3, "the name of a model means all of its instances"


@pytest.mark.parametrize("written", ["one,two>three", "2 of one,two,three>vote"])
def test_a_cascade_is_shown_as_it_is_written(written):
    assert str(config(cascade=written).cascade) == written


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"cascade": "one,two"}, "is not a cascade: use a,b>c"),
        ({"cascade": "one,two>"}, "is not a cascade"),
        ({"cascade": "x of one,two>three"}, "is not a cascade"),
        ({"cascade": "3 of one,two>three"}, "agree is 3, but only 2"),
        ({"cascade": "one,nobody>three"}, "cascade: 'nobody' is not the name of exactly one"),
        ({"cascade": "one,two>openai/nobody"}, "cascade: 'openai/nobody' is not the name"),
        ({"cascade": "one,two>three", "stop_when": 2}, "cascade: cannot be used with stop_when"),
        ({"cascade": "one,two>three", "waves": 2}, "waves: requires stop_when"),
        ({"cascade": "one,two>three", "weights": "two=0"}, "'two' is not the name of exactly one"),
        ({"cascade": "one,two>three", "pairwise_judge": "openai/j"}, "counts no votes"),
        ({"tie_order": "nobody"}, "tie_order: 'nobody' is not the name"),
        ({"stop_at_confidence": 0.9}, "requires a panel calibrated on labeled rows: `consensus calibrate`"),
        ({"stop_at_confidence": 1}, "less than 1"),
        ({"learned": LEARNED}, "learned: requires calibration"),
        ({"learned": LEARNED, "calibration": CALIBRATION, "weights": "one=2"}, "weights: have no effect on a learned"),
        ({"learned": LEARNED, "calibration": CALIBRATION, "members": MEMBERS}, "was fitted on the members openai/one,"),
    ],
)
def test_ways_that_make_no_sense_are_refused(settings, cause):
    with pytest.raises(ValueError, match=cause):
        config(**settings)


def test_a_way_that_is_given_takes_the_place_of_the_saved_one():
    saved = {"members": MEMBERS, "stop_when": 2, "extract": "number"}
    assert VoteConfig.under(saved, {"cascade": "one,two>three"}) == {"members": MEMBERS, "extract": "number"}
    assert VoteConfig.under(saved | {"tie_order": ["one"]}, {"pairwise_judge": "a/b"}) == {"members": MEMBERS}


def test_a_member_of_weight_0_is_left_out():
    found = config(weights="two=0,three=2")
    assert [str(member) for member in found.panel()] == ["openai/one#1", "google/three#1"]
    assert found.weights_of(found.panel()) == [1, 2]
    assert [str(name) for name in found.models()] == ["openai/one", "google/three"]


# The count.


def test_the_order_of_ties_is_given():
    assert count_votes(["a", "b", "b", "a"]).winner.value == "a"
    assert count_votes(["a", "b", "b", "a"], places=[3, 1, 0, 2]).winner.value == "b"
    assert count_votes(["a", "b", "b"], places=[0, 1, 2]).winner.value == "b", "only of a tie"


def test_an_answer_may_win_by_something_else_than_votes():
    tally = count_votes(["a", "a", "b"])
    won = tally.won_by("b")
    assert ([count.value for count in won.counts], won.margin, won.tie) == (["b", "a"], pytest.approx(-1 / 3), False)
    assert (tally.won_by("c").winner.votes, tally.won_by("c").share) == (0, 0)


# The plan.


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"cascade": "one,two>three"}, 2, 3),
        ({"cascade": "one,two>one"}, 2, 2),
        ({"cascade": "one,two>vote", "members": MEMBERS}, 2, 4),
        ({"weights": "two=0"}, 2, 2),
        ({"learned": LEARNED, "calibration": CALIBRATION, "stop_at_confidence": 0.6}, 2, 3),
        ({"learned": LEARNED, "calibration": CALIBRATION, "stop_at_confidence": 0.99}, 3, 3),
    ],
)
def test_the_plan_counts_calls(settings, least, most):
    plans = algorithm("vote").plan(config(**settings))
    assert (sum(one.least for one in plans), sum(one.most for one in plans)) == (least, most)


class TestCalls:
    pytestmark = calls

    async def test_the_members_agree_and_nobody_else_is_asked(self, vendors):
        say(vendors, one="7", two="It is 7.", three="8")
        record = await run_vote("How many?", config(cascade="one,two>three"))
        assert (record.answer, record.status, record.calls) == ("7", "agreed", 2)
        assert (record.not_asked, record.unanimous, vendors.count("three")) == (["google/three#1"], True, 0)
        assert record.confidence is None, "agreement is no probability"

    async def test_they_differ_and_the_strong_one_decides(self, vendors):
        say(vendors, one="7", two="8", three="So it is 9.")
        record = await run_vote("How many?", config(cascade="one,two>three"))
        assert (record.answer, record.full_text, record.status) == ("9", "So it is 9.", "finished")
        assert (record.calls, record.not_asked, record.tie) == (3, [], False)
        assert record.iterations[0].synthesis.arbiter == "google/three#1"
        assert [(one.answer, one.votes) for one in record.tally] == [("9", 1), ("7", 1), ("8", 1)]

    async def test_who_has_answered_already_decides_without_a_call(self, vendors):
        say(vendors, one="7", two="8")
        record = await run_vote("How many?", config(cascade="one,two>two"))
        assert (record.answer, record.calls) == ("8", 2)

    async def test_a_vote_of_all_decides_and_weights_count(self, vendors):
        say(vendors, one="7", two="8", three="8", four="7")
        ways = {"members": MEMBERS, "cascade": "one,two>vote", "weights": "three=3"}
        record = await run_vote("How many?", config(**ways))
        assert (record.answer, record.calls, record.agreement) == ("8", 4, round(4 / 6, 4))

    async def test_of_three_two_may_be_enough(self, vendors):
        say(vendors, one="7", two="8", three="7", four="9")
        record = await run_vote("How many?", config(members=MEMBERS, cascade="2 of one,two,three>four"))
        assert (record.answer, record.status, record.not_asked) == ("7", "agreed", ["openai/four#1"])

    async def test_one_that_fails_does_not_agree(self, vendors):
        say(vendors, two="8", three="9")
        vendors.script("one", then=faults.bad_request())
        record = await run_vote("How many?", config(cascade="one,two>three"))
        assert (record.answer, record.degraded, record.calls) == ("9", True, 3)

    async def test_the_answer_of_who_decides_needs_no_quorum(self, vendors):
        say(vendors, three="9")
        for model in ("one", "two"):
            vendors.script(model, then=faults.bad_request())
        assert (await run_vote("How many?", config(cascade="one,two>three"))).answer == "9"
        record = await run_vote("How many?", config(cascade="one,two>three", quorum=2))
        assert (record.answer, record.status) == (None, "failed")

    async def test_where_the_strong_one_fails_the_votes_decide(self, vendors):
        say(vendors, one="7", two="8")
        vendors.script("three", then=faults.bad_request())
        record = await run_vote("How many?", config(cascade="one,two>three", tie_order="two"))
        assert (record.answer, record.tie, record.degraded) == ("8", True, True)
        assert ("stand_in", "google/three#1", None) in kinds(record)

    async def test_who_is_named_first_wins_a_tie(self, vendors):
        say(vendors, one="1", two="2", three="3")
        record = await run_vote("How many?", config(tie_order="three,one"))
        assert (record.answer, record.tie) == ("3", True)

    async def test_the_most_probable_answer_wins_against_most_votes(self, vendors):
        say(vendors, one="7", two="7", three="8")
        record = await run_vote("How many?", learned())
        assert record.answer == "8"
        # By hand: 1 / (1 + exp(-(-2 + 4 + 1.5 / 3))), and -2 + 1 + 1 + 1.5 * 2 / 3 + 0.5 + 0.25 for the other one.
        assert record.confidence == pytest.approx(0.92414182)
        assert [one.probability for one in record.tally] == pytest.approx([0.92414182, 0.85195280])
        assert (record.confidence_measure, record.tie) == ("calibrated", False)
        assert (record.agreement, record.margin) == (round(1 / 3, 4), round(-1 / 3, 4))

    async def test_it_stops_when_the_answer_is_probable_enough(self, vendors):
        say(vendors, one="7", two="7", three="8")
        record = await run_vote("How many?", learned(stop_at_confidence=0.8))
        assert (record.answer, record.status, record.calls) == ("7", "confident", 2)
        assert record.confidence == pytest.approx(0.85195280)
        assert record.not_asked == ["google/three#1"]

    async def test_a_cascade_says_how_probable_its_answer_is(self, vendors):
        say(vendors, one="7", two="7", three="8")
        record = await run_vote("How many?", learned(cascade="one,two>three"))
        assert (record.answer, record.confidence) == ("7", pytest.approx(0.85195280))

    async def test_a_saved_panel_that_is_not_there_is_named_before_any_call(self, vendors):
        with pytest.raises(ConfigurationError, match="cascade: no configuration is saved as 'behind'"):
            await run_vote("How many?", config(cascade="one,two>behind"))
        assert vendors.count() == 0


@pytest.mark.usefixtures("results")
async def test_a_saved_panel_of_any_algorithm_decides(vendors):
    panel = {"members": ["openai/five", "openai/six"], "arbiter": "openai/judge", "max_iterations": 1}
    await Consortium.model_validate({"config": panel}).save("behind", overwrite=True)
    say(vendors, one="7", two="8", five="It is 9", six="It is 8")
    vendors.script("judge", then=judged(95, "All in all it is 9."))
    record = await vote("How many?", config(members=MEMBERS[:2], cascade="one,two>behind"))
    assert (record.answer, record.full_text, record.status) == ("9", "All in all it is 9.", "finished")
    assert (record.calls, record.confidence, record.best_iteration) == (5, None, 1)
    assert [len(one.responses) for one in record.iterations] == [2, 2]
    assert record.iterations[0].synthesis.arbiter == "behind"
    assert [(one.answer, one.votes) for one in record.tally] == [("9", 0), ("7", 1), ("8", 1)]
    found = await with_panels(config(members=MEMBERS[:2], cascade="one,two>behind"))
    assert found.saved_panel.models == ["openai/five", "openai/six", "openai/judge"]
    plans = algorithm("vote").plan(found)
    assert (sum(one.least for one in plans), sum(one.most for one in plans)) == (2, 6), (
        "a long answer has a call of its own"
    )
    await Vote(config=config(members=MEMBERS[:2], cascade="one,two>behind")).save("in-front", overwrite=True)
    with pytest.raises(ConfigurationError, match="'in-front' has itself a saved panel behind"):
        await vote("How many?", config(cascade="one,two>in-front"))
