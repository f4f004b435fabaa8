"""inspect_ai: a sample for each row, a solver that asks the members and the arbiter, and its log."""

import asyncio
import os
from pathlib import Path
from typing import Any

os.environ["INSPECT_DISPLAY"] = "none"

from inspect_ai import Task, eval_async
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, Model, get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver
from measure import JUDGE, MEMBERS, WARM_UP, judge_prompt, measuring, questions, run, size_mb


def model(name: str, concurrency: int) -> Model:
    """Return a model, asked through chat completions as by the others."""
    config = GenerateConfig(max_connections=concurrency * len(MEMBERS), max_retries=0)
    return get_model(f"openai/{name}", config=config, responses_api=False)


@solver
def panel(concurrency: int) -> Solver:
    """Ask the members, and then the arbiter."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        _ = generate
        question = state.input_text
        said = await asyncio.gather(*(model(name, concurrency).generate(question) for name in MEMBERS))
        asked = judge_prompt(question, [one.completion for one in said])
        state.output = await model(JUDGE, concurrency).generate(asked)
        return state

    return solve


async def measure(name: str, rows: int, concurrency: int, folder: Path) -> dict[str, Any]:
    """Measure."""

    async def evaluate(texts: list[str]) -> Any:
        dataset = MemoryDataset([Sample(input=text) for text in texts])
        task = Task(dataset=dataset, solver=panel(concurrency), name="panel")
        logs = await eval_async(
            task, model=model(JUDGE, concurrency), max_samples=concurrency, log_dir=str(folder), score=False
        )
        return logs[0]

    measured: dict[str, Any] = {}
    await evaluate(questions(f"warm-up {name}", WARM_UP))
    async with measuring(measured):
        log = await evaluate(questions(name, rows))
    assert log.status == "success", log.error.message
    measured["stored"] = f"{log.results.completed_samples} samples, {size_mb(folder):.1f} MB"
    return measured


run(measure)
