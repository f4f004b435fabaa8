"""All 1,319 recorded questions of GSM8K through the vote: five models over loopback HTTP, real calls, real counts.

The recorded texts are served as the models' answers; the vendors' SDK, the task with its store and the extractor are
those of any run. First every member is asked, then, over the same store, only until two agree.
"""

import asyncio
import os
import time

from common import prefect_server

from tests.kits.recorded import GSM, GSM_MEMBERS, gsm_questions, serve, table_number
from tests.vendors import LoopbackVendors

AT_ONCE = 16


async def run(stop_when: int | None) -> tuple[float, int, float, float, float]:
    """Vote on all questions.

    Returns:
        Right in per cent, ties, calls a question, seconds, unanimous in per cent.
    """
    from consensus_flows.blocks.vote import VoteConfig
    from consensus_flows.flows.vote import run_vote
    from consensus_flows.tasks.record import Record

    config = VoteConfig(members=[f"openai/{name}" for name in GSM_MEMBERS], extract="json:answer", stop_when=stop_when)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(text: str) -> Record:
        async with gate:
            return await run_vote(text, config)

    started = time.perf_counter()
    questions = gsm_questions()
    records = await asyncio.gather(*(one(question.text) for question in questions))
    right = sum(
        record.answer is not None and table_number(record.answer) == question.gold
        for question, record in zip(questions, records, strict=True)
    )
    whole = len(questions)
    return (
        100 * right / whole,
        sum(bool(record.tie) for record in records),
        sum(record.calls for record in records) / whole,
        time.perf_counter() - started,
        100 * sum(bool(record.unanimous) for record in records) / whole,
    )


async def figures(vendors: LoopbackVendors) -> None:
    """Run both ways and print what came of it."""
    from prefect.context import AsyncClientContext

    # What a flow has around its calls: without it every call makes a client, and its TLS context, of its own.
    async with AsyncClientContext.get_or_create():
        right, ties, calls, took, unanimous = await run(None)
        sent = vendors.count()
        print(f"all five: {right:.2f} % right, {ties} ties, {calls:.2f} calls a question, unanimous {unanimous:.1f} %")
        print(f"          {took:.0f} s, {sent} requests, {1000 * took / sent:.1f} ms a call")
        right, _, calls, took, _ = await run(2)
        print(f"until two agree: {right:.2f} % right, {calls:.2f} calls a question")
        print(f"          {took:.0f} s, {vendors.count() - sent} requests: the answers were in the store")


def main() -> None:
    """Serve the recorded texts and print the figures."""
    if not GSM.exists():
        print(f"no recorded answers at {GSM}: nothing to run")
        return
    # There is no flow around these calls, so their logs have no place on the server.
    os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
    with LoopbackVendors() as vendors, prefect_server(vendors.url):
        serve(vendors)
        asyncio.run(figures(vendors))


if __name__ == "__main__":
    main()
