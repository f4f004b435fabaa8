"""Votes of real models: recorded answers give the published figures, question by question."""

import asyncio
import random

import pytest
from prefect.context import AsyncClientContext

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.counting.extraction.extract import extract_all
from consensus_flows.tasks.counting.vote import count_votes
from tests.kits.recorded import (
    GSM,
    GSM_MEMBERS,
    MATH,
    MATH_MEMBERS,
    PARSED_GSM,
    gsm_questions,
    parsed,
    scored,
    serve,
)

pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in (GSM, MATH, PARSED_GSM)), reason=f"the recorded answers are not in {GSM.parent}"
)

FORM = parse_extraction("json:answer")
SAMPLE = 16


def values_of(texts):
    return [reading and reading.value for reading in extract_all(texts, FORM)]


def percent(part, whole):
    return round(100 * part / whole, 2)


def figures(questions):
    """Count votes of `questions`: pairs of the right answer and what the members answered, in order."""
    tallies = [(gold, count_votes(values)) for gold, values in questions]
    unanimous = [(gold, tally) for gold, tally in tallies if tally.unanimous]

    def right(found):
        return sum(tally.winner is not None and scored(tally.winner.value) == gold for gold, tally in found)

    return {
        "vote": percent(right(tallies), len(tallies)),
        "ties": sum(tally.tie for _, tally in tallies),
        "unanimous": round(percent(len(unanimous), len(tallies)), 1),
        "unanimous right": percent(right(unanimous), len(unanimous)),
    }


def stopped(questions, k=2):
    """Stop as soon as `k` agree; `questions` give the right answer and how to read the first so many members."""
    right = calls = 0
    for gold, values_of_first in questions:
        for asked in range(1, 6):
            tally = count_votes(values_of_first(asked))
            if tally.reached(k):
                break
        calls += asked
        right += tally.winner is not None and scored(tally.winner.value) == gold
    return percent(right, len(questions)), round(calls / len(questions), 2)


def test_gsm_from_the_raw_texts():
    questions = gsm_questions()
    assert len(questions) == 1319
    read = [(one.gold, values_of(one.outputs)) for one in questions]
    alone = [percent(sum(scored(values[at]) == gold for gold, values in read), 1319) for at in range(5)]
    assert alone == [87.41, 84.00, 82.79, 80.06, 78.54]
    assert figures(read) == {"vote": 91.74, "ties": 51, "unanimous": 57.5, "unanimous right": 99.08}
    early = [(one.gold, lambda asked, one=one: values_of(one.outputs[:asked])) for one in questions]
    assert stopped(early) == (91.51, 2.29)


def test_gsm_is_read_as_the_published_table_reads_it():
    table = parsed(PARSED_GSM)
    rows = {name: index for index, name in enumerate(table["ids"])}
    differing = [
        (value, table["models"][name][rows[one.id]])
        for one in gsm_questions()
        for name, value in zip(GSM_MEMBERS, values_of(one.outputs), strict=True)
        if scored(value) != table["models"][name][rows[one.id]]
    ]
    # The table takes the first number of whatever there is. Of "1,360 - (64 + 30 + 48) = 1,360 - 142 = 1,218" the result
    # is read, of two answers none, and a sentence that denies that there is one is an abstention.
    assert differing == [("1/3 or approximately 33.33%", 1), (None, 10), (1218, 1360)]


def test_math_from_the_parsed_answers():
    table = parsed(MATH)
    columns = [table["models"][name] for name in MATH_MEMBERS]
    read = [(gold, list(values)) for gold, *values in zip(table["gold"], *columns, strict=True)]
    assert len(read) == 721
    alone = [percent(sum(values[at] == gold for gold, values in read), 721) for at in range(5)]
    assert alone == [60.19, 55.34, 59.36, 48.54, 60.89]
    assert figures(read) == {"vote": 68.10, "ties": 103, "unanimous": 27.7, "unanimous right": 99.50}
    assert stopped([(gold, lambda asked, values=values: values[:asked]) for gold, values in read]) == (67.82, 2.92)


@pytest.mark.usefixtures("results")
@pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted")
async def test_the_flow_gives_the_same_over_http(vendors):
    serve(vendors)
    sample = random.Random(0).sample(gsm_questions(), SAMPLE)
    # Some that are tied or cannot be read, whatever the sample is.
    sample += [
        one for one in gsm_questions() if count_votes(values_of(one.outputs)).tie or None in values_of(one.outputs)
    ][:6]
    sample = list({one.id: one for one in sample}.values())
    members = [f"openai/{name}" for name in GSM_MEMBERS]
    every = VoteConfig(members=members, extract="json:answer")
    early = VoteConfig(members=members, extract="json:answer", stop_when=2)
    # What a flow has around its calls: without it every call makes a client, and its TLS context, of its own.
    async with AsyncClientContext.get_or_create():
        stops = await asyncio.gather(*(run_vote(one.text, early) for one in sample))
        assert vendors.count() == sum(record.calls for record in stops)
        records = await asyncio.gather(*(run_vote(one.text, every) for one in sample))
    assert vendors.count() == 5 * len(sample), "what was asked before is in the store"
    for one, record, stop in zip(sample, records, stops, strict=True):
        tally = count_votes(values_of(one.outputs))
        assert scored(record.answer) == scored(tally.winner.value)
        assert (record.tie, record.unanimous, record.status) == (tally.tie, tally.unanimous, "finished")
        assert [response.text for response in record.iterations[0].responses] == list(one.outputs)
        agreed = next((n for n in range(1, 6) if count_votes(values_of(one.outputs[:n])).reached(2)), None)
        assert (stop.calls, stop.status) == (agreed or 5, "agreed" if agreed else "finished")
