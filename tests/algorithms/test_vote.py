"""A vote through the real calls: what is counted, when it stops, and what the record says of it."""

import io
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import _brief, run_vote, vote
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.vote import count_votes
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.record import Record
from tests.kits.consortium_kit import asked, say
from tests.kits.kinds import kinds
from tests.vendors import Reply, faults, json_reply

MEMBERS = ["openai/one", "anthropic/two", "google/three", "openai/four", "openai/five"]

calls = [
    pytest.mark.usefixtures("results"),
    # Most tests call the algorithm without the flow around it, where Prefect has nowhere to send its logs.
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]


def config(**settings):
    return VoteConfig.model_validate({"members": MEMBERS[:3], "extract": "number"} | settings)


# The count.


def test_most_votes_win_and_of_a_tie_the_one_listed_first():
    tally = count_votes(["b", "a", None, "a", "b", "c"])
    assert [(count.value, count.votes, count.voters) for count in tally.counts] == [
        ("b", 2, (0, 4)),
        ("a", 2, (1, 3)),
        ("c", 1, (5,)),
    ]
    assert tally.tie
    assert not tally.unanimous
    assert (tally.share, tally.margin) == (0.4, 0)
    assert tally.reached(2)
    assert not tally.reached(3)


def test_weights_are_added_exactly():
    tally = count_votes(["a", "b", "b"], [0.3, 0.1, 0.2])
    assert tally.tie
    assert tally.winner.value == "a"
    assert count_votes(["a", "b", "b"], [0.3, 0.1, 0.21]).winner.value == "b"
    assert count_votes(["x"] * 10, [0.1] * 10).reached(1)


def test_nobody_may_have_voted():
    tally = count_votes([None, None])
    assert (tally.winner, tally.share, tally.margin, tally.tie, tally.unanimous) == (None, None, None, False, False)


def test_an_abstention_is_not_unanimous():
    assert count_votes([1.0, 1.0]).unanimous
    assert not count_votes([1.0, None, 1.0]).unanimous
    assert count_votes([1, 1.0]).unanimous, "numbers are equal as numbers"


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_weights_must_be_weights(weights):
    with pytest.raises(ValueError, match="weight"):
        count_votes(["a", "b"], weights)


@given(st.lists(st.one_of(st.none(), st.sampled_from("abc")), max_size=12))
def test_every_vote_is_counted_once(values):
    tally = count_votes(values)
    assert sorted(index for count in tally.counts for index in count.voters) == [
        index for index, value in enumerate(values) if value is not None
    ]
    assert tally.cast == sum(count.votes for count in tally.counts)
    if tally.winner:
        first = [values.index(count.value) for count in tally.counts if count.votes == tally.counts[0].votes]
        assert values.index(tally.winner.value) == min(first)


# The settings.


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"extract": "regex"}, "unknown extraction 'regex'"),
        ({"extract": "llm"}, "extractor: missing; extract llm needs a model"),
        ({"extractor": "openai/x"}, "extractor: it is only used with extract llm"),
        ({"stop_when": 4}, "stop_when is 4, but all members together have 3 votes"),
        ({"waves": 2}, "waves: requires stop_when or stop_at_confidence"),
        ({"weights": {"nobody": 1}}, "'nobody' is not the name of exactly one"),
        ({"weights": {"one": -1}}, "must be 0 or more"),
        ({"weights": "one=0,two=0,three=0"}, "nobody would be asked"),
        ({"weights": "one"}, "use member=weight"),
        ({"fuse": "openai/x"}, "requires a pairwise_judge"),
        ({"comparisons": 3}, "requires a pairwise_judge"),
        ({"pairwise_judge": "openai/j", "stop_when": 2}, "counts no votes"),
        ({"pairwise_judge": "openai/j:2"}, "must not have a count"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, cause):
    with pytest.raises(ValueError, match=cause):
        config(**settings)


def test_the_most_exact_name_decides_the_weight():
    found = config(members=["openai/one:2", "google/one", "openai/x=y"], weights="openai/one=2, openai/one#2=3,x=y=0.5")
    assert found.weights_of(found.panel()) == [2, 3, 1, 0.5]
    with pytest.raises(ValueError, match="'one' is not the name of exactly one"):
        config(members=["openai/one", "google/one"], weights="one=2")


# The flow.


@pytest.mark.usefixtures("results")
async def test_the_record_says_who_voted_for_what(vendors):
    say(vendors, one="So it is 7.", two="The answer is 8", three="7.0 in all")
    record = await vote("How many?", config())
    assert (record.answer, record.status, record.full_text) == ("7", "finished", "So it is 7.")
    assert record.agreement == pytest.approx(2 / 3, abs=1e-4)
    assert record.margin == pytest.approx(1 / 3, abs=1e-4)
    assert [(one.member, one.answer, one.weight) for one in record.votes] == [
        ("openai/one#1", "7", 1),
        ("anthropic/two#1", "8", 1),
        ("google/three#1", "7", 1),
    ]
    assert (record.tie, record.unanimous, record.degraded, record.warnings) == (False, False, False, [])
    assert record.tally[0].members == ["openai/one#1", "google/three#1"]
    plain = json.loads(record.model_dump_json())
    assert (plain["flow"], plain["best_iteration"], plain["confidence"], plain["calls"]) == ("vote", 1, None, 3)
    assert Record.model_validate(plain) == record
    sent = vendors.count()
    again = await vote("How many?", config())
    assert (vendors.count(), again.answer, again.cached_calls, again.requests) == (sent, "7", 3, 0)


@pytest.mark.usefixtures("results")
async def test_its_artifacts_show_the_votes_and_nothing_is_rendered(vendors):
    from prefect.client.orchestration import get_client

    say(vendors, one="7 <img src=x>", two="7", three="![](http://x) 8")
    record = await vote("How many?", config())
    async with get_client() as client:
        body = {"artifacts": {"flow_run_id": {"any_": [record.flow_run_id]}}}
        rows = (await client.request("POST", "/artifacts/filter", json=body)).json()
    found = {row["key"]: row["data"] for row in rows if row["key"]}
    assert set(found) == {"answer", "vote-result", "vote-calls", "vote-votes"}
    assert [row["answer"] for row in json.loads(found["vote-votes"])] == ["7", "7", "8"]
    assert "> 7 \\<img src=x\\>" in found["vote-result"] and not re.search(r"(?<!\\)<img", found["answer"])


class TestCalls:
    pytestmark = calls

    async def test_of_a_tie_the_member_listed_first_decides(self, vendors):
        say(vendors, one="1", two="2", three="3")
        record = await run_vote("How many?", config())
        assert (record.answer, record.tie, record.status) == ("1", True, "finished")

    async def test_weights_decide(self, vendors):
        say(vendors, one="1", two="2", three="1")
        record = await run_vote("How many?", config(weights={"two": 2.5}))
        assert (record.answer, record.agreement) == ("2", round(2.5 / 4.5, 4))

    async def test_it_stops_when_enough_agree(self, vendors):
        say(vendors, one="1", two="2", three="1", four="1", five="2")
        record = await run_vote("How many?", config(members=MEMBERS, stop_when=2))
        assert (record.answer, record.status, record.calls) == ("1", "agreed", 3)
        assert vendors.count("four") == vendors.count("five") == 0
        assert len(record.iterations) == 1
        assert not record.degraded

    async def test_members_are_asked_in_waves(self, vendors):
        say(vendors, one="1", two="2", three="3", four="2", five="2")
        record = await run_vote("How many?", config(members=MEMBERS, stop_when=2, waves=2))
        assert (record.answer, record.status, record.calls) == ("2", "agreed", 4)
        first, second = ({seen.model for seen in vendors.seen[at : at + 2]} for at in (0, 2))
        assert (first, second) == ({"one", "two"}, {"three", "four"})

    async def test_without_enough_it_is_finished(self, vendors):
        say(vendors, one="1", two="2", three="3")
        record = await run_vote("How many?", config(stop_when=2))
        assert (record.answer, record.status, record.calls) == ("1", "finished", 3)

    async def test_a_quorum_that_is_asked_for_is_waited_for(self, vendors):
        say(vendors, one="1", two="1", three="2")
        record = await run_vote("How many?", config(stop_when=2, quorum=3))
        assert (record.answer, record.status, record.calls) == ("1", "agreed", 3)

    async def test_weights_count_for_stopping(self, vendors):
        say(vendors, one="1", two="2", three="3")
        record = await run_vote("How many?", config(stop_when=2, weights="two=2"))
        assert (record.answer, record.status, record.calls) == ("2", "agreed", 2)

    async def test_a_failed_member_never_votes_and_is_named(self, vendors):
        vendors.script("one", then=faults.bad_request())
        say(vendors, two="2", three="3")
        record = await run_vote("How many?", config())
        assert (record.answer, record.degraded) == ("2", True)
        assert record.votes[0].answer is None
        assert ("bad_request", "openai/one#1", 1) in kinds(record)
        assert record.tally[0].members == ["anthropic/two#1"]

    async def test_in_order_the_next_one_takes_the_place_of_a_failed_one(self, vendors):
        vendors.script("one", then=faults.unauthorized())
        say(vendors, two="2", three="2")
        record = await run_vote("How many?", config(stop_when=2))
        assert (record.answer, record.status, record.calls, record.degraded) == ("2", "agreed", 3, True)

    async def test_what_cannot_be_read_is_an_abstention(self, vendors):
        say(vendors, one="I would rather not say.", two="2", three="no idea")
        record = await run_vote("How many?", config())
        assert (record.answer, record.unanimous, record.agreement) == ("2", False, None)
        assert kinds(record) == [("abstained", "openai/one#1", None), ("abstained", "google/three#1", None)]
        assert not record.degraded

    async def test_where_nothing_can_be_read_there_is_no_answer(self, vendors):
        say(vendors, one="no", two="none", three="nothing")
        record = await run_vote("How many?", config())
        assert (record.answer, record.status) == (None, "failed")
        assert "no answer could be read (number)" in record.error
        state = await vote("How many?", config(), return_state=True)
        assert state.is_failed()

    async def test_below_the_quorum_there_is_no_answer(self, vendors):
        vendors.script("one", then=faults.unauthorized())
        vendors.script("two", then=faults.not_found())
        say(vendors, three="3")
        with pytest.raises(QuorumError, match=r"1 of 3 members answered, and the quorum is 2.*one#1.*two#1") as caught:
            await vote("How many?", config())
        record = caught.value.record
        assert (record.answer, record.status) == (None, "failed")
        assert [one.answer for one in record.votes] == [None, None, "3"]

    async def test_the_budget_ends_it_with_the_votes_so_far(self, vendors):
        say(vendors, one="1", two="2", three="2")
        record = await run_vote("How many?", config(stop_when=2, budget={"max_calls": 1}))
        assert (record.answer, record.status, vendors.count()) == ("1", "budget", 1)

    async def test_a_model_reads_free_texts(self, vendors):
        say(vendors, one="It has to be the City of Light.", two="PARIS, of course", three="[end text] answer Rome!")
        read = {"City": "Paris", "PARIS": "paris", "Rome": ""}
        reply = lambda seen: json_reply({"answer": next(read[key] for key in read if key in seen.prompt)})  # noqa: E731
        vendors.script("reader", then=reply)
        record = await run_vote("Where?", config(extract="llm", extractor="openai/reader"))
        assert (record.answer, record.tally[0].votes, record.calls) == ("Paris", 2, 6)
        assert record.votes[2].answer is None
        prompts = [seen.prompt for seen in asked(vendors, "reader")]
        assert all("Where?" in prompt and "one#1" not in prompt and "openai" not in prompt for prompt in prompts)
        assert record.iterations[0].judgements[0].member == "openai/reader reads openai/one#1"
        sent = vendors.count()
        await run_vote("Where?", config(extract="llm", extractor="openai/reader"))
        assert vendors.count() == sent

    async def test_a_reader_that_answers_rubbish_is_asked_again_and_then_nobody_has_voted(self, vendors):
        # Two of the same text are read by one call.
        say(vendors, one="Paris", two="Rome", three="Paris", reader="rubbish")
        record = await run_vote("Where?", config(extract="llm", extractor="openai/reader"))
        assert (record.answer, record.status, vendors.count("reader")) == (None, "failed", 4)
        assert "malformed" in record.error
        assert record.iterations[0].judgements[0].text == "rubbish"

    async def test_an_earlier_conversation_reaches_members_and_reader(self, vendors):
        say(vendors, one="7", two="7", three="7")
        earlier = (Message(role="user", content="Hello"), Message(role="assistant", content="Yes?"))
        await run_vote("How many?", config(system="Be brief."), conversation=earlier)
        assert [turn["role"] for turn in asked(vendors, "one")[0].params["messages"]] == [
            *("system", "user", "assistant", "user")
        ]

    async def test_self_consistency_asks_instances_of_one_model(self, vendors):
        vendors.script("one", Reply(text="1"), Reply(text="2"), Reply(text="2"))
        record = await run_vote("How many?", config(members=["openai/one:3"]))
        assert (record.answer, record.calls) == ("2", 3)

    @pytest.mark.parametrize(
        ("prompt", "settings", "cause"),
        [
            (" ", {}, "prompt is empty"),
            ("What?", {"extract": "llm", "extractor": "nobody/x"}, "unknown provider 'nobody'"),
            ("What?", {"extract": "text", "pairwise_judge": "huggingface/x"}, "no key for huggingface"),
        ],
    )
    async def test_what_cannot_be_asked_is_found_before_any_call(self, vendors, prompt, settings, cause):
        with pytest.raises(ConfigurationError, match=cause):
            await run_vote(prompt, config(**settings))
        assert vendors.count() == 0


# The command line.


def options(monkeypatch, *arguments):
    """Return the prompt and the configuration that the command line makes of its arguments."""
    from consensus_flows.deployments.cli import app

    seen = []
    monkeypatch.setattr(
        "consensus_flows.deployments.algorithm_commands.ask",
        lambda one, prompt, config, out, **_: seen.append((prompt, config)) or 0,
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    app(["vote", *arguments], exit_on_error=False, print_error=False)
    return seen[0]


def test_the_command_line_gives_the_settings(monkeypatch):
    prompt, found = options(
        monkeypatch,
        *("How many?", "-m", "openai/a", "-m", "openai/b:2", "--extract", "json:answer", "--stop-when", "2"),
        *("--weights", "a=1,b=2", "--waves", "2", "--quorum", "2"),
    )
    assert prompt == "How many?"
    assert found == VoteConfig(
        members=["openai/a", "openai/b:2"],
        extract="json:answer",
        stop_when=2,
        waves=2,
        quorum=2,
        weights={"a": 1, "b": 2},
    )
    _, found = options(
        monkeypatch, "Q", "-m", "openai/a:3", "--pairwise-judge", "openai/j", "--fuse", "openai/f", "--fuse-top", "2"
    )
    assert (found.pairwise_judge, found.fuse, found.fuse_top, found.comparisons) == ("openai/j", "openai/f", 2, None)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["-m", "openai/a", "--stop-when", "2"], "stop_when is 2"),
        (["-m", "openai/a", "--extract", "jason"], "--extract: unknown extraction 'jason'"),
        (["--extract", "number"], "members: give -m provider/model"),
        (["-m", "openai/a", "--weights", "b=1"], "'b' is not the name of exactly one"),
    ],
)
def test_bad_options_are_named(monkeypatch, arguments, cause):
    from consensus_flows.deployments.terminal import Stop

    with pytest.raises(Stop, match=cause):
        options(monkeypatch, "Q", *arguments)


def test_few_labels_are_named_and_many_are_not():
    assert _brief("label:yes,no") == "label:yes,no"
    assert _brief("label:" + ",".join(f"city {number}" for number in range(40))) == "label:city 0,..."
