"""LangGraph with its SQLite checkpointer: a graph of three nodes and an arbiter, a thread for each row.

The nodes call the SDK directly, which is faster than LangChain's chat models.
"""

import operator
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from measure import JUDGE, MEMBERS, judge_prompt, measured_rows, run, size_mb
from openai import AsyncOpenAI


class State(TypedDict):
    """What a row is while it is worked on."""

    question: str
    answers: Annotated[list[str], operator.add]
    answer: str


async def measure(name: str, rows: int, concurrency: int, folder: Path) -> dict[str, Any]:
    """Measure."""
    client = AsyncOpenAI(max_retries=0)

    async def ask(model: str, text: str) -> str:
        done = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
        return done.choices[0].message.content or ""

    def member(model: str) -> Callable[[State], Awaitable[dict[str, Any]]]:
        async def node(state: State) -> dict[str, Any]:
            return {"answers": [await ask(model, state["question"])]}

        return node

    async def judge(state: State) -> dict[str, Any]:
        return {"answer": await ask(JUDGE, judge_prompt(state["question"], state["answers"]))}

    builder = StateGraph(State)
    for model in MEMBERS:
        builder.add_node(model, member(model))
        builder.add_edge(START, model)
    builder.add_node(JUDGE, judge)
    builder.add_edge([*MEMBERS], JUDGE)
    builder.add_edge(JUDGE, END)
    async with client, AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as saver:
        graph = builder.compile(checkpointer=saver)

        async def row(question: str) -> None:
            await graph.ainvoke({"question": question, "answers": []}, {"configurable": {"thread_id": question}})

        measured = await measured_rows(name, rows, concurrency, row)
        async with saver.conn.execute("SELECT count(*), count(DISTINCT thread_id) FROM checkpoints") as found:
            checkpoints, threads = await found.fetchone()
    measured["stored"] = f"{checkpoints} checkpoints of {threads} threads, {size_mb(folder):.1f} MB"
    return measured


run(measure)
