"""Prefect as its documentation shows it: a flow whose calls are cached tasks with retries, and the SDK; nothing of ours.

It is what a batch cannot be without: a task run for every call.
"""

import asyncio
from pathlib import Path
from typing import Any

from measure import CALLS, JUDGE, MEMBERS, WARM_UP, judge_prompt, measured_rows, run
from openai import AsyncOpenAI
from prefect import flow, task
from prefect.cache_policies import INPUTS


async def measure(name: str, rows: int, concurrency: int, folder: Path) -> dict[str, Any]:
    """Measure."""
    _ = folder
    client = AsyncOpenAI(max_retries=0)

    @task(cache_policy=INPUTS, retries=4, persist_result=True, cache_result_in_memory=False, result_serializer="json")
    async def ask(model: str, text: str) -> str:
        done = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
        return done.choices[0].message.content or ""

    async def row(question: str) -> None:
        answers = await asyncio.gather(*(ask(model, question) for model in MEMBERS))
        await ask(JUDGE, judge_prompt(question, answers))

    @flow
    async def questions() -> dict[str, Any]:
        return await measured_rows(name, rows, concurrency, row)

    async with client:
        measured = await questions()
    return measured | {"stored": f"{(rows + WARM_UP) * CALLS} task runs"}


run(measure)
