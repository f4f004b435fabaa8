"""Bare asyncio and the openai SDK: nothing is stored, retried or counted."""

import asyncio
from pathlib import Path
from typing import Any

from measure import JUDGE, MEMBERS, judge_prompt, measured_rows, run
from openai import AsyncOpenAI


async def measure(name: str, rows: int, concurrency: int, folder: Path) -> dict[str, Any]:
    """Measure."""
    _ = folder
    client = AsyncOpenAI(max_retries=0)

    async def ask(model: str, text: str) -> str:
        done = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
        return done.choices[0].message.content or ""

    async def row(question: str) -> None:
        answers = await asyncio.gather(*(ask(model, question) for model in MEMBERS))
        await ask(JUDGE, judge_prompt(question, answers))

    async with client:
        return await measured_rows(name, rows, concurrency, row) | {"stored": "nothing"}


run(measure)
