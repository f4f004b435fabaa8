"""Questions in a storm: every row of the failure table at a rate, mixed at random by a seed, over real sockets and SDKs.

What a model answers depends on the seed, the model, the question and how often this model was asked this question, and not on
what comes first: the same seed gives the same storm.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from prefect import flow

from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.calls.vendors.vendor import all_vendors
from consensus_flows.tasks.record import Record
from tests.kits.kinds import kinds
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Step, faults
from tests.vendors.ledger import ANY

MEMBERS = ["openai/m1", "anthropic/m2", "google/m3", "openrouter/m4", "openai/m5"]
RETRIES = 3
ATTEMPTS = RETRIES + 1
RATE = 0.1
AT_ONCE = 16
TIMEOUT_S = 5.0
STATUSES = {"finished", "failed"}

ROWS: dict[str, Callable[[], Step]] = {
    "rate limit": lambda: faults.rate_limit(0.01),
    "rate limit without a header": faults.rate_limit,
    "quota": faults.insufficient_quota,
    "payment required": faults.payment_required,
    "unauthorized": faults.unauthorized,
    "forbidden": faults.forbidden,
    "not found": faults.not_found,
    "bad request": faults.bad_request,
    "context too long": faults.context_too_long,
    "too large": faults.too_large,
    "request timeout": faults.request_timeout,
    "conflict": faults.conflict,
    "server error": faults.server_error,
    "bad gateway": lambda: faults.server_error(502),
    "unavailable": lambda: faults.server_error(503),
    "gateway timeout": lambda: faults.server_error(504),
    "overloaded": faults.overloaded,
    "closed before the answer": faults.close_before,
    "cut in the body": faults.cut_mid_body,
    "reset": faults.reset,
    "hang": faults.hang,
    "error in a success": faults.error_in_success,
    "broken JSON": faults.invalid_json,
    "a page": lambda: faults.html_page(200),
    "empty": faults.empty,
    "null": faults.null_content,
    "no choices": faults.no_choices,
    "refusal": faults.refusal,
    "safety": faults.safety_stop,
    "prompt blocked": faults.prompt_blocked,
    "truncated": faults.truncated,
    "tool call only": faults.tool_call_only,
    "unsupported parameter": lambda: faults.unsupported_parameter("wings"),
}
LOST_AT_MOST = 2
"""Attempts of a call whose answer is lost, or is none: each may have been billed."""
RUBBISH = ["", "\0\ufffd\u202e", "🤷 " * 200, '{"answer": ', "NaN", "-", "I think it is 1,2,3.4.5 or so", "<b>" * 50]


@dataclass
class Weather:
    """What a storm does."""

    seed: int
    rate: float = RATE
    rows: tuple[str, ...] = tuple(ROWS)
    """The rows of the failure table that it is made of."""
    always: dict[str, Step] = field(default_factory=dict)
    """What some model answers all the time."""
    rubbish: str | None = None
    """A model that answers `RUBBISH` all the time."""
    answer: Callable[[SeenRequest, random.Random], Reply] | None = None
    """What is answered when nothing is wrong; by default the number in the question, four of five times."""
    sent: Counter[str] = field(default_factory=Counter)
    """How often each fault was sent."""
    _asked: Counter[tuple[str, str]] = field(default_factory=Counter)

    def step(self, seen: SeenRequest) -> Reply:
        """Answer a request."""
        call = (seen.model, seen.prompt)
        self._asked[call] += 1
        chance = random.Random(f"{self.seed}:{seen.model}:{seen.prompt}:{self._asked[call]}")
        constant = self.always.get(seen.model)
        if constant is not None:
            self.sent[f"always: {seen.model}"] += 1
            return constant if isinstance(constant, Reply) else constant(seen)
        if seen.model == self.rubbish:
            self.sent[f"always: {seen.model}"] += 1
            return Reply(text=chance.choice(RUBBISH))
        if chance.random() < self.rate:
            name = chance.choice(self.rows)
            self.sent[name] += 1
            made = ROWS[name]()
            return made if isinstance(made, Reply) else made(seen)
        return (self.answer or mostly_right)(seen, chance)


def question_of(seen: SeenRequest) -> int:
    """The number of the question, whoever is asked about it."""
    said = "\n".join(message["content"] for message in seen.messages)
    found = re.search(r"Question (\d+) of storm", said)
    assert found is not None, said
    return int(found[1])


def mostly_right(seen: SeenRequest, chance: random.Random) -> Reply:
    """Answer the number of the question, four of five times."""
    number = question_of(seen)
    return Reply(text=f"The answer is {number if chance.random() < 0.8 else number + chance.randint(1, 9)}.")


@contextmanager
def patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short waits: a storm is about what is done, not how long it takes."""
    with monkeypatch.context() as patch:
        patch.setenv("CONSENSUS_RETRIES", str(RETRIES))
        patch.setenv("CONSENSUS_BACKOFF_S", "0.005")
        yield


async def ride_out(
    vendors: LoopbackVendors,
    weather: Weather,
    questions: int,
    timeout: float = TIMEOUT_S,
    ask: Callable[[str], Awaitable[Record]] | None = None,
) -> tuple[list[Record], dict[str, Any]]:
    """Ask every question of five members in one flow run, and say what came of it.

    Nothing is caught: an exception of any run ends the storm, and the test.

    Args:
        vendors: Who answers.
        weather: What they answer.
        questions: How many questions.
        timeout: Seconds that a call may take.
        ask: Answers a question; by default a vote.

    Returns:
        The records, and the figures.
    """
    for vendor in all_vendors().values():
        vendor.load()  # imported before: a second of it beside a call under way would pass for a timeout
    vendors.script(ANY, then=weather.step)
    config = VoteConfig(members=MEMBERS, extract="number", timeout=timeout)

    @flow(name="storm", log_prints=False)
    async def storm() -> list[Record]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> Record:
            prompt = f"Question {number} of storm {weather.seed}"
            async with gate:
                return await (ask(prompt) if ask else run_vote(prompt, config))

        return list(await asyncio.gather(*(one(number) for number in range(questions))))

    started = time.monotonic()
    records = await storm()
    return records, figures(records, weather, vendors, time.monotonic() - started)


def figures(records: list[Record], weather: Weather, vendors: LoopbackVendors, seconds: float) -> dict[str, Any]:
    """What is told of a storm."""
    responses = [response for record in records for response in record.iterations[0].responses]
    return {
        "questions": len(records),
        "members": len(MEMBERS),
        "seed": weather.seed,
        "rate": weather.rate,
        "always": sorted({*weather.always, *([weather.rubbish] if weather.rubbish else [])}),
        "statuses": dict(sorted(Counter(record.status for record in records).items())),
        "right": sum(record.answer == record.prompt.split()[1] for record in records),
        "calls": len(responses),
        "requests": vendors.count(),
        "most_attempts": max(response.attempts for response in responses),
        "most_attempts_of": {
            name: max(one.attempts for one in responses if one.model == name.partition("/")[2]) for name in MEMBERS
        },
        "most_lost_of_a_call": max(response.possibly_billed for response in responses),
        "failed_calls": dict(sorted(Counter(r.error.kind for r in responses if r.error is not None).items())),
        "requests_booked": sum(record.requests for record in records),
        "possibly_billed": sum(record.possibly_billed for record in records),
        "faults_sent": sum(weather.sent.values()),
        "rows_sent": len([name for name in weather.sent if not name.startswith("always")]),
        "seconds": round(seconds, 1),
    }


def check(records: list[Record], found: dict[str, Any], questions: int) -> None:
    """Check what holds in any weather."""
    assert len(records) == questions
    for record in records:
        assert record.status in STATUSES, record.status
        assert (record.answer is None) == (record.status == "failed"), record
        assert (record.error is None) == (record.status != "failed"), record
        responses = record.iterations[0].responses
        assert [one.member for one in responses] == [f"{name}#1" for name in MEMBERS]
        answered = [one for one in responses if one.answered]
        assert record.status == "failed" or len(answered) >= 3, "the quorum"
        for one in responses:
            assert 1 <= one.attempts <= ATTEMPTS, (one.member, one.attempts)
            assert one.possibly_billed <= LOST_AT_MOST, (one.member, one.possibly_billed)
            assert one.error is not None or (one.text and one.text.strip()), "no empty answer passes for one"
            if one.error is not None:
                assert one.error.message.startswith(f"{one.provider}/{one.model}: {one.error.kind}: "), one.error
                assert (one.error.kind, one.member, 1) in kinds(record), one.member
                assert one.error.kind != "unknown", one.error.message
        voters = {vote.member for vote in record.votes if vote.answer is not None}
        assert voters <= {one.member for one in answered}, "who failed does not vote"
    booked = sum(record.requests for record in records)
    # One that was given up before the server had read it is booked, and not seen.
    assert found["requests"] <= booked, f"{found['requests']} requests were seen, {booked} are booked"
