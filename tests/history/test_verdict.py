"""What the final state of a run says: its name, for filters and automations, and its message."""

import logging
from collections.abc import Sequence

import pytest
from prefect.client.orchestration import get_client

from consensus_flows.flows.consortium import consortium
from consensus_flows.flows.vote import vote
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.batches.totals import ModelSummary
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import CallError, Iteration, NoAnswerError, Option, Record, Response, Synthesis
from consensus_flows.tasks.reports.batch_report import of_batch
from consensus_flows.tasks.reports.verdict import of_run
from tests.kits.consortium_kit import config, judged, say
from tests.vendors import faults


def record(*, failed: int = 0, needs: Sequence[bool] = (False,), **fields):
    answered = [Response(member=f"p/m#{n}", provider="p", model="m", text="Yes", cost_usd=0.0041) for n in range(3)]
    for one in answered[:failed]:
        one.text, one.cost_usd, one.error = None, None, CallError(kind="auth", message="p/m: auth")
    made = [Synthesis(text="Yes", needs_iteration=one) for one in needs]
    return Record(
        flow="consortium",
        prompt="?",
        **{"answer": "Yes, **prime**", "best_iteration": 1, "cost_usd": 0.0123, "calls": 4} | fields,
        iterations=[Iteration(number=n, responses=answered, synthesis=one) for n, one in enumerate(made, 1)],
    )


@pytest.mark.parametrize(
    ("fields", "name", "message"),
    [
        ({"status": "confident", "confidence": 0.9}, "Completed", "confident 90 %: Yes, prime · $0.0123"),
        ({"cached_calls": 4, "agreement": 0.5}, "Completed", "agreement 50 %: Yes, prime · from the cache"),
        (
            {"status": "confident", "confidence": 0.9, "failed": 1, "degraded": True},
            "Degraded",
            "confident 90 % without p/m#0 (auth): Yes, prime · $0.0123",
        ),
        (
            {"status": "max_iterations", "confidence": 0.4},
            "LowConfidence",
            "confidence 40 % after 1 iteration: Yes, prime · $0.0123",
        ),
        (
            {"status": "max_iterations", "confidence": 1.0, "needs": [True]},
            "LowConfidence",
            "confidence 100 %, but not final after 1 iteration: Yes, prime · $0.0123",
        ),
        (
            {"status": "max_iterations", "confidence": 0.95, "needs": [False, True]},
            "LowConfidence",
            "confidence 95 % in iteration 1 of 2: Yes, prime · $0.0123",
        ),
        (
            {"status": "budget", "cost_usd": None, "degraded": True},
            "BudgetEnded",
            "budget ended, answered: Yes, prime · cost unknown",
        ),
        (
            {"tie": True, "tally": [Option(answer=str(n), votes=1, share=0.5) for n in (4, 5)], "answer": "4"},
            "Tie",
            "tie, 1 of 2 votes: 4 · $0.0123",
        ),
        ({"answer": None, "status": "failed", "error": "only 1 of 3"}, "Failed", "only 1 of 3"),
        (
            {"answer": "\n## [x](https://evil.example) <b>\n\nY"},
            "Completed",
            "answered: x (https: //evil.example) b · $0.0123",
        ),
        ({"answer": "x" * 500}, "Completed", f"answered: {'x' * 99}… · $0.0123"),
    ],
)
def test_a_run_says_what_came_of_it(fields, name, message):
    assert of_run(record(**fields)) == (name, message)


def test_answers_side_by_side_are_counted_and_not_quoted():
    pumped = record(failed=1, degraded=True)
    pumped.iterations[0].synthesis = None
    assert of_run(pumped) == ("Degraded", "2 of 3 members answered without p/m#0 (auth) · $0.0123")


def summary(models=(), **fields):
    return BatchSummary(**{"rows": 48, "done": 48, "sent_calls": 9, "cost_usd": 0.5} | fields, models=list(models))


DEAD = ModelSummary(model="openai/gpt-x", calls=48, failed=48)
WEAK = ModelSummary(model="google/y", calls=48, failed=3)


@pytest.mark.parametrize(
    ("found", "name", "message"),
    [
        (summary(), "Completed", "48 rows answered · $0.5000"),
        (summary(sent_calls=0), "Completed", "48 rows answered · from the cache"),
        (
            summary([WEAK, DEAD], degraded=48),
            "Degraded",
            "48 rows, 48 degraded: openai/gpt-x never answered, google/y failed 3 of 48 calls · $0.5000",
        ),
        (
            summary(status="budget", not_started=18, done=30, error="no money"),
            "BudgetEnded",
            "30 of 48 rows, budget ended · $0.5000",
        ),
        (summary(done=0, failed=48, failures=["1: auth"]), "Failed", "48 rows, 48 failed: 1: auth · $0.5000"),
        (summary(done=46, abstained=2), "LowConfidence", "48 rows, 2 abstained · $0.5000"),
        (summary(status="stopped", error="25 in a row"), "Failed", "48 rows answered: 25 in a row · $0.5000"),
    ],
)
def test_a_batch_says_what_came_of_it(found, name, message):
    assert of_batch(found) == (name, message)


def test_a_model_that_failed_is_named_only_where_rows_suffered():
    assert of_batch(summary([WEAK])).message == "48 rows answered · $0.5000", (
        "each of its rows was answered all the same"
    )
    assert "google/y failed 3 of 48 calls" in of_batch(summary([WEAK], degraded=3)).message


@pytest.mark.usefixtures("results")
async def test_the_final_state_of_a_flow_says_it_and_its_result_is_the_record(vendors):
    vendors.script("arbiter", judged(40, "maybe"))
    vendors.script("three", then=faults.unauthorized())
    made = await consortium("What?", config())
    assert isinstance(made, Record)
    assert made.answer == "maybe"
    async with get_client() as client:
        run = await client.read_flow_run(made.flow_run_id)
    assert (run.state_name, run.state_type.value) == ("Degraded", "COMPLETED")
    assert run.state.message.startswith("confidence 40 % after 1 iteration without openai/three#1 (auth): maybe")
    assert (await run.state.aresult()).answer == "maybe"  # as it is stored

    say(vendors, one="1", two="2")
    state = await vote("How many?", {"members": ["openai/one", "openai/two"], "extract": "number"}, return_state=True)
    assert (state.name, state.is_completed()) == ("Tie", True)
    assert (await state.aresult()).tie


@pytest.mark.usefixtures("results")
async def test_a_mistake_is_one_sentence_and_no_traceback(vendors, caplog):
    with caplog.at_level(logging.INFO), pytest.raises(ConfigurationError, match="prompt is empty"):
        await consortium(" ", config())
    vendors.script("one", then=faults.unauthorized())
    with caplog.at_level(logging.INFO), pytest.raises(NoAnswerError) as raised:
        await vote("Why?", {"members": ["openai/one"]})
    assert raised.value.record.status == "failed"
    assert "prompt is empty" in caplog.text
    assert "Traceback" not in caplog.text and "QuorumError" not in caplog.text
