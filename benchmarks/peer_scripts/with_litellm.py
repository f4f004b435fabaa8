"""litellm's `acompletion` in a gather: nothing is stored."""

import asyncio
import os
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network when it is imported

import litellm
from measure import JUDGE, MEMBERS, judge_prompt, measured_rows, run


async def measure(name: str, rows: int, concurrency: int, folder: Path) -> dict[str, Any]:
    """Measure."""
    _ = folder

    async def ask(model: str, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        done = await litellm.acompletion(model=f"openai/{model}", messages=messages, num_retries=0)
        return done.choices[0].message.content or ""

    async def row(question: str) -> None:
        answers = await asyncio.gather(*(ask(model, question) for model in MEMBERS))
        await ask(JUDGE, judge_prompt(question, answers))

    return await measured_rows(name, rows, concurrency, row) | {"stored": "nothing"}


run(measure)
