"""What always holds of the pure parts: votes, rankings, budgets, keys, records; against naive references."""

from __future__ import annotations

import asyncio
import json
import random
from decimal import Decimal
from itertools import combinations, permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus_flows.blocks.credentials import AnthropicCredentials
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import Budget
from consensus_flows.tasks.calls.budget import BudgetTracker
from consensus_flows.tasks.calls.providers import _endpoint
from consensus_flows.tasks.calls.request import KEYED, Answer, Message, Request, request_key
from consensus_flows.tasks.counting.agreement import agreement
from consensus_flows.tasks.counting.ranking import borda, condorcet_winner, kendall_w
from consensus_flows.tasks.counting.vote import count_votes
from consensus_flows.tasks.errors import BudgetError
from consensus_flows.tasks.record import CallError, Iteration, Record, Response, RunWarning, Synthesis, Usage

slow = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
votes = st.lists(st.one_of(st.none(), st.sampled_from("abcd")), max_size=9)
plain = st.text(alphabet=st.characters(codec="utf-8"), max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3),
    max_leaves=6,
)


@given(votes, st.randoms(use_true_random=False))
def test_a_vote_depends_on_the_order_of_members_only_by_the_rule_for_ties(values, chance):
    order = list(values)
    chance.shuffle(order)
    one, other = count_votes(values), count_votes(order)
    assert {count.value: count.votes for count in one.counts} == {count.value: count.votes for count in other.counts}
    assert (one.cast, one.tie, one.unanimous, one.share, one.margin) == (
        other.cast,
        other.tie,
        other.unanimous,
        other.share,
        other.margin,
    )
    if one.winner is not None and not one.tie:
        assert other.winner is not None and other.winner.value == one.winner.value
    if one.tie:  # who is listed first among those that have most
        most = [count.value for count in one.counts if count.votes == one.counts[0].votes]
        assert one.winner is not None and one.winner.value == next(value for value in values if value in most)


weights = st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.0, 3.0, 1e-9, 1e9])


@given(st.lists(st.tuples(st.one_of(st.none(), st.sampled_from("abcd")), weights), max_size=9), st.randoms())
def test_a_weighted_vote_is_exact_and_depends_on_the_order_by_the_rule_for_ties_alone(cast, chance):
    sums: dict[str, Decimal] = {}
    for value, weight in cast:
        if value is not None:
            sums[value] = sums.get(value, Decimal(0)) + Decimal(str(weight))
    most = [value for value, _ in cast if value is not None and sums[value] == max(sums.values())]
    for order in (cast, chance.sample(cast, len(cast))):
        found = count_votes([value for value, _ in order], [weight for _, weight in order])
        assert {count.value: count.votes for count in found.counts} == pytest.approx(
            {value: float(total) for value, total in sums.items()}
        )
        assert found.tie == (len(set(most)) > 1)
        first = next((value for value, _ in order if value in most), None)
        assert (found.winner.value if found.winner else None) == first


@given(st.lists(plain, max_size=6))
def test_agreement_is_a_symmetric_share(texts):
    found = agreement(texts)
    assert found is None if len(texts) < 2 else 0 <= found <= 1
    assert agreement(list(reversed(texts))) == found
    if texts:
        assert agreement([texts[0], texts[0]]) == 1


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([None, 0.0, 1.0]),
    top_p=st.sampled_from([None, 0.5, 1.0]),
    top_k=st.sampled_from([None, 1]),
    max_output_tokens=st.sampled_from([None, 1]),
    stop=st.sampled_from([(), ("x",), ("x", "y"), ("y", "x")]),
    seed=st.sampled_from([None, 0, 1]),
    reasoning_effort=st.sampled_from([None, "low"]),
    extra=st.sampled_from(
        [{}, {"min_p": 0}, {"min_p": None}, {"min_p": 0.0}, {"min_p": {"a": None}}, {"min_p": False}]
    ),
)
schemas: list[dict[str, Any] | None] = [None, {}, {"type": "object"}, {"type": "object", "default": None}]
requests = st.builds(
    Request,
    provider=st.sampled_from(["openai", "anthropic"]),
    model=st.sampled_from(["a", "b"]),
    messages=st.lists(
        st.builds(Message, role=st.sampled_from(["user", "system", "assistant"]), content=plain), min_size=1, max_size=2
    ).map(tuple),
    sampling=samplings,
    response_schema=st.sampled_from(schemas),
    reader=st.sampled_from(["", "json"]),
    sample=st.integers(0, 2),
    kind=st.sampled_from(["chat", "completion"]),
    label=plain,
    timeout=st.sampled_from([1.0, 2.0]),
    service_tier=st.sampled_from([None, "flex"]),
)


@given(requests, requests, st.sampled_from(["x", "y"]), st.sampled_from(["x", "y"]))
def test_two_requests_share_a_key_exactly_if_all_that_decides_is_equal(one, other, here, there):
    same = here == there and all(written(getattr(one, name)) == written(getattr(other, name)) for name in KEYED)
    assert (request_key(one, here) == request_key(other, there)) == same
    assert request_key(Request.model_validate_json(one.model_dump_json()), here) == request_key(one, here)


@given(requests, requests, st.sampled_from(sorted(Request.model_fields)))
def test_one_field_changes_the_key_exactly_if_it_decides(one, other, name):
    """Two requests drawn at random differ nearly always; here they are the same but for one field."""
    changed = one.model_copy(update={name: getattr(other, name)})
    differ = written(getattr(one, name)) != written(getattr(other, name))
    assert (request_key(one, "x") != request_key(changed, "x")) == (differ and name in KEYED)


@given(samplings, samplings, st.sampled_from(sorted(Sampling.model_fields)))
def test_every_setting_of_sampling_decides(one, other, name):
    request = Request(provider="openai", model="a", messages=(Message(role="user", content="x"),), sampling=one)
    changed = request.model_copy(update={"sampling": one.model_copy(update={name: getattr(other, name)})})
    differ = written(getattr(one, name)) != written(getattr(other, name))
    assert (request_key(request, "x") != request_key(changed, "x")) == differ


def written(value: Any) -> str:
    """What goes out is JSON, in which 0, 0.0 and false are three things."""
    return json.dumps(value, default=lambda found: found.model_dump(mode="json"), sort_keys=True)


END = _endpoint("anthropic", AnthropicCredentials(api_key="k"))


@slow
@given(
    st.integers(1, 12),
    st.integers(1, 40_000),
    st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 4000), st.booleans()), max_size=20),
    st.integers(0, 2**32),
)
async def test_a_budget_is_never_exceeded_whoever_spends_at_once(most_calls, most_tokens, calls, seed):
    chance = random.Random(seed)
    outer = BudgetTracker(Budget(max_calls=most_calls, max_tokens=most_tokens, max_cost_usd=0.05))
    inner = BudgetTracker(Budget(max_calls=max(1, most_calls // 2)), outer)
    price_out = 5e-6

    async def spend(budget: BudgetTracker, limit: int, used: int, lost: bool) -> None:
        request = Request(
            provider="anthropic",
            model="claude-haiku-4-5",
            messages=(Message(role="user", content="x" * 20),),
            sampling=Sampling(max_output_tokens=limit),
        )
        try:
            reservation = await budget.reserve(request, END)
        except BudgetError:
            return
        await asyncio.sleep(chance.random() / 1000)
        if lost:  # it stays booked at its worst case
            reservation.settle(None, None, lost=True)
        else:
            used = min(used, limit)
            reservation.settle(Usage(input_tokens=10, output_tokens=used), 10 * 1e-6 + used * price_out)

    async def watch() -> None:
        for _ in range(5):
            for budget in (outer, inner):
                check(budget)
            await asyncio.sleep(0)

    def check(budget: BudgetTracker) -> None:
        limits = budget.limits
        assert limits.max_calls is None or budget.calls <= limits.max_calls
        assert limits.max_tokens is None or budget.tokens <= limits.max_tokens
        assert limits.max_cost_usd is None or budget.cost_usd <= limits.max_cost_usd + 1e-12
        assert budget.calls >= 0 and budget.tokens >= 0 and budget.cost_usd > -1e-12

    spending = [spend(chance.choice([outer, inner]), *call) for call in calls]
    await asyncio.gather(watch(), *spending)
    check(outer)
    check(inner)
    assert inner.calls <= outer.calls and inner.tokens <= outer.tokens


usages = st.builds(Usage, input_tokens=st.integers(0, 10**6), output_tokens=st.integers(0, 10**6))
answers = st.builds(
    Answer,
    text=plain,
    model_served=st.none() | plain,
    usage=usages,
    cost_usd=st.none() | st.floats(0, 10),
    latency_s=st.floats(0, 100),
    warnings=st.lists(plain, max_size=2).map(tuple),
)
warnings = st.builds(
    RunWarning, kind=plain, message=plain, member=st.none() | plain, iteration=st.none() | st.integers(1, 5)
)
responses = st.builds(
    Response,
    member=plain,
    provider=plain,
    model=plain,
    text=st.none() | plain,
    usage=usages,
    cost_usd=st.none() | st.floats(0, 10),
    error=st.none() | st.builds(CallError, kind=st.sampled_from(["server", "quota"]), message=plain),
    hazards=st.lists(plain, max_size=2),
    warnings=st.lists(warnings, max_size=2),
)
records = st.builds(
    Record,
    flow=plain,
    prompt=plain,
    answer=st.none() | plain,
    warnings=st.lists(warnings, max_size=3),
    confidence=st.none() | st.floats(0, 1),
    iterations=st.lists(
        st.builds(
            Iteration,
            number=st.integers(1, 5),
            responses=st.lists(responses, max_size=3),
            synthesis=st.none() | st.builds(Synthesis, text=plain, refinement_areas=st.lists(plain, max_size=2)),
        ),
        max_size=2,
    ),
)


@slow
@given(st.one_of(requests, answers, responses, records))
def test_json_in_json_out(value):
    kind: Any = type(value)
    assert kind.model_validate_json(value.model_dump_json()) == value
    assert kind.model_validate(json.loads(json.dumps(value.model_dump(mode="json")))) == value


CANDIDATES = ["a", "b", "c", "d"]
orders = st.lists(st.permutations(CANDIDATES), min_size=1, max_size=7)


@given(orders)
def test_rankings_against_a_naive_reference(found):
    rankings = [[[name] for name in order] for order in found]
    points = {name: float(sum(len(order) - 1 - order.index(name) for order in found)) for name in CANDIDATES}
    assert borda(rankings, CANDIDATES) == pytest.approx(points)

    def beats(one: str, other: str) -> bool:
        return 2 * sum(order.index(one) < order.index(other) for order in found) > len(found)

    winners = [one for one in CANDIDATES if all(beats(one, other) for other in CANDIDATES if other != one)]
    assert condorcet_winner(rankings, CANDIDATES) == (winners[0] if winners else None)

    concord = kendall_w(rankings, CANDIDATES)
    if len(found) < 2:
        assert concord is None
    else:
        m, n = len(found), len(CANDIDATES)
        sums = [sum(order.index(name) + 1 for order in found) for name in CANDIDATES]
        mean = sum(sums) / n
        assert concord == pytest.approx(12 * sum((total - mean) ** 2 for total in sums) / (m**2 * (n**3 - n)))
        # And by Spearman: W is the mean correlation of all pairs, stretched to 0..1.
        pairs = [
            1 - 6 * sum((a.index(x) - b.index(x)) ** 2 for x in CANDIDATES) / (n**3 - n)
            for a, b in combinations(found, 2)
        ]
        assert concord == pytest.approx((sum(pairs) / len(pairs) * (m - 1) + 1) / m)


def test_a_condorcet_winner_is_found_among_all_orders_of_three():
    for orders_of_three in permutations(list(permutations("abc")), 3):
        rankings = [[[name] for name in order] for order in orders_of_three]
        winner = condorcet_winner(rankings, list("abc"))
        cycle = {tuple(order) for order in orders_of_three} in ({*_rotations("abc")}, {*_rotations("acb")})
        assert (winner is None) == cycle


def _rotations(text: str) -> list[tuple[str, ...]]:
    return [tuple(text[at:] + text[:at]) for at in range(3)]
