"""A judge that compares answers in pairs: both orders, ties, sorting by few comparisons, and fusing the best."""

import asyncio
import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.judging.judgements import PairVerdict
from consensus_flows.tasks.judging.pairwise import bubble, win_shares
from consensus_flows.tasks.readers import UnreadableError
from consensus_flows.tasks.record import Comparison
from tests.kits.consortium_kit import asked, say
from tests.kits.kinds import kinds
from tests.vendors import Reply, faults, json_reply

pytestmark = pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted")

MEMBERS = ["openai/one", "anthropic/two", "google/three", "openai/four"]
TEXTS = {"one": "worth 1", "two": "worth 4", "three": "worth 2", "four": "worth 3"}


def config(**settings):
    return VoteConfig.model_validate({"members": MEMBERS, "pairwise_judge": "openai/judge"} | settings)


def verdict(seen):
    """A judge that finds the higher worth better."""
    first, second = (int(worth) for worth in re.findall(r"worth (\d)", seen.prompt))
    return json_reply({"better": "first" if first > second else "second" if first < second else "tie"})


@pytest.fixture
def panel(results, vendors):
    say(vendors, **TEXTS)
    vendors.script("judge", then=verdict)
    return vendors


async def test_all_pairs_are_compared_in_both_orders(panel):
    record = await run_vote("What?", config(system="Be brief."))
    assert (record.answer, record.status, record.degraded) == ("worth 4", "finished", False)
    synthesis = record.iterations[0].synthesis
    assert synthesis.ranking == ["anthropic/two#1", "openai/four#1", "google/three#1", "openai/one#1"]
    assert (synthesis.chosen, synthesis.arbiter, synthesis.method) == ("anthropic/two#1", "openai/judge", "pairwise")
    assert len(record.comparisons) == 6
    assert panel.count("judge") == 12
    shown = [tuple(re.findall(r"worth \d", seen.prompt)) for seen in asked(panel, "judge")]
    assert len(set(shown)) == 12
    assert {(b, a) for a, b in shown} == set(shown)
    for seen in asked(panel, "judge"):
        assert "What?" in seen.prompt
        assert "Be brief." in seen.prompt
        assert not re.search(r"openai|anthropic|google|one#|two#", seen.prompt), "the judge sees no names"
        assert seen.schema["properties"]["better"]["enum"] == ["first", "second", "tie"]
    sent = panel.count()
    again = await run_vote("What?", config(system="Be brief."))
    assert (panel.count(), again.answer) == (sent, "worth 4")


async def test_where_the_orders_disagree_it_is_a_tie(panel):
    panel.script("judge", then=json_reply({"better": "first"}))
    record = await run_vote("What?", config())
    assert {one.winner for one in record.comparisons} == {None}
    assert record.comparisons[0].said == ("first", "second")
    assert (record.answer, record.tie) == ("worth 1", True), "of a tie, the member listed first"


async def test_the_best_is_found_by_one_pair_fewer_than_there_are_answers(panel):
    record = await run_vote("What?", config(comparisons=3))
    assert (record.answer, len(record.comparisons), panel.count("judge")) == ("worth 4", 3, 6)
    panel.reset()
    say(panel, **TEXTS)
    panel.script("judge", then=verdict)
    record = await run_vote("What else?", config(comparisons=100))
    assert [name.split("/")[1][:-2] for name in record.iterations[0].synthesis.ranking] == [
        "two",
        "four",
        "three",
        "one",
    ]
    assert len(record.comparisons) <= 6


async def test_a_judge_never_compares_its_own_answer(panel):
    record = await run_vote("What?", config(pairwise_judge="anthropic/two"))
    assert record.iterations[0].responses[1].text == "worth 4"
    assert not any("worth 4" in seen.prompt for seen in asked(panel, "two"))
    assert ("self_preference", "anthropic/two", None) in kinds(record)


async def test_a_failed_member_is_not_compared(panel):
    panel.script("two", then=faults.bad_request())
    record = await run_vote("What?", config())
    assert (record.answer, record.degraded, len(record.comparisons)) == ("worth 3", True, 3)
    assert ("bad_request", "anthropic/two#1", 1) in kinds(record)


async def test_below_the_quorum_nothing_is_compared(panel):
    for model in ("one", "two"):
        panel.script(model, then=faults.unauthorized())
    record = await run_vote("What?", config())
    assert (record.answer, record.status, panel.count("judge")) == (None, "failed", 0)
    assert "openai/one#1" in record.error
    assert "anthropic/two#1" in record.error


async def test_rubbish_is_asked_for_again_and_then_decides_nothing(panel):
    def moody(seen):
        said = [message["content"] for message in seen.messages]
        return Reply(text="rubbish") if "worth 4" in said[0] else verdict(seen)

    panel.script("judge", then=moody)
    record = await run_vote("What?", config())
    assert (record.answer, record.degraded) == ("worth 3", True)
    assert {("unparsed", "openai/judge", None), ("not_ranked", None, None)} <= set(kinds(record))
    unread = [one for one in record.comparisons if one.said == (None, None)]
    assert len(unread) == 3
    assert record.iterations[0].synthesis.ranking == ["openai/four#1", "google/three#1", "openai/one#1"]
    assert panel.count("judge") == 6 + 2 * 6
    assert any(call.text == "rubbish" and call.error.kind == "malformed" for call in record.iterations[0].judgements)


@pytest.mark.parametrize("unread", ["one", "two", "three", "four"])
@pytest.mark.parametrize("comparisons", [3, 4, 6])
async def test_an_answer_that_cannot_be_judged_is_not_elected(panel, unread, comparisons):
    """Sorting took the first of a pair that the judge could not judge for the better one."""

    def blind(seen):
        return faults.bad_request()(seen) if TEXTS[unread] in seen.prompt else verdict(seen)

    panel.script("judge", then=blind)
    record = await run_vote("What?", config(comparisons=comparisons))
    assert (record.answer != TEXTS[unread], record.degraded) == (True, True)
    if comparisons == 6:
        assert record.answer == ("worth 3" if unread == "two" else "worth 4")
    ranked = record.iterations[0].synthesis.ranking
    judged = {member for one in record.comparisons if None not in one.said for member in one.pair}
    assert set(ranked) == judged


async def test_what_was_not_compared_is_not_ranked(panel):
    record = await run_vote("What?", config(comparisons=1))
    assert record.answer == "worth 3", "of three and four; who is listed first was not compared with anybody"
    assert record.iterations[0].synthesis.ranking == ["openai/four#1", "google/three#1"]
    assert not record.degraded


async def test_a_judge_that_fails_leaves_the_answer_nearest_to_the_others(panel):
    panel.script("judge", then=faults.unauthorized())
    record = await run_vote("What?", config())
    assert record.answer in TEXTS.values()
    assert record.degraded
    assert ("stand_in", None, None) in kinds(record)


async def test_the_best_are_fused(panel):
    panel.script("fuser", then=json_reply({"answer": "all of it"}))
    record = await run_vote("What?", config(fuse="openai/fuser", fuse_top=2))
    synthesis = record.iterations[0].synthesis
    assert (record.answer, synthesis.arbiter, synthesis.method, synthesis.chosen) == (
        *("all of it", "openai/fuser", "fuse", None),
    )
    (seen,) = asked(panel, "fuser")
    assert sorted(re.findall(r"worth \d", seen.prompt)) == ["worth 3", "worth 4"]
    assert "What?" in seen.prompt
    assert record.full_text == "worth 4"


async def test_a_fuser_that_answers_rubbish_leaves_the_best_answer(panel):
    panel.script("fuser", then=Reply(text="rubbish"))
    record = await run_vote("What?", config(fuse="openai/fuser"))
    assert (record.answer, record.degraded, panel.count("fuser")) == ("worth 4", True, 2)
    assert ("not_fused", "openai/fuser", None) in kinds(record)


def test_a_judgement_is_one_of_three_words():
    assert PairVerdict.read('{"better": " Second "}').better == "second"
    for text in ('{"better": "A"}', '{"better": null}', "first", "{}"):
        with pytest.raises(UnreadableError):
            PairVerdict.read(text)


def test_what_was_not_judged_counts_for_neither():
    found = [
        Comparison(pair=("a", "b"), said=("first", "first"), winner="a"),
        Comparison(pair=("a", "c"), said=("first", None)),
        Comparison(pair=("b", "c"), said=("tie", "tie")),
    ]
    assert win_shares(found, "abcd") == {"a": 1, "b": 0.25, "c": 0.5}


async def test_sorting_never_compares_a_pair_twice():
    worth = {name: number for number, name in enumerate("hcfaegbd")}
    seen = []

    async def duel(one, other):
        seen.append(frozenset((one, other)))
        return Comparison(pair=(one, other), said=("tie", "tie"), winner=max(one, other, key=worth.get))

    order = await bubble("abcdefgh", duel, 1000)
    assert [name for (name,) in order] == sorted("abcdefgh", key=worth.get, reverse=True)
    assert len(seen) == len(set(seen)) <= 28
    seen.clear()
    assert (await bubble("abcdefgh", duel, 7))[0] == ["d"]
    assert len(seen) == 7
    assert ModelName("openai", "judge") == ("openai", "judge")


@given(st.permutations("abcdef"), st.sets(st.sampled_from(list(combinations("abcdef", 2)))), st.integers(1, 20))
def test_who_leads_was_judged_and_lost_to_nobody_without_need(worth, unread, limit):
    """With enough duels the first is the best of all with whom it could be compared, whatever could not be judged."""
    fought = []

    async def duel(one, other):
        said = None if (one, other) in unread else "tie"
        fought.append((one, other))
        winner = None if said is None else max(one, other, key=worth.index)
        return Comparison(pair=(one, other), said=(said, said), winner=winner)

    order = [name for (name,) in asyncio.run(bubble("abcdef", duel, limit))]
    told = [pair for pair in fought if pair not in unread]
    assert len(fought) == len(set(fought)) <= limit
    assert set(order) == {name for pair in told for name in pair}
    if not unread and limit >= 15:
        assert order == list(reversed(worth))
    if order and limit >= 15:
        lost = [pair for pair in told if order[0] in pair and max(pair, key=worth.index) != order[0]]
        assert not lost
