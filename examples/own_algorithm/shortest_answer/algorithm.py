"""The shortest answer that enough others support.

An answer supports another if their wording is similar: by `similarity`, from 0 for no word in common to 1 for the same text.
"""

from collections.abc import Iterator

from prefect import flow
from pydantic import Field

from consensus_flows import (
    FLOW,
    Call,
    Message,
    PanelConfig,
    Planned,
    Record,
    Report,
    begin,
    member_calls,
    run_as_flow,
    saved_config,
)
from consensus_flows.tasks.counting.agreement import similarity


class ShortestConfig(PanelConfig):
    """Who is asked, and how much support an answer needs."""

    support: int = Field(2, ge=0, description="Other answers that must be similar to the one that is returned.")
    similar: float = Field(0.5, gt=0, le=1, description="Similarity of wording from which an answer supports another.")


Shortest = saved_config("Shortest", ShortestConfig)


def best(texts: list[str], config: ShortestConfig) -> str | None:
    """Return the shortest text that is supported; None if there is none."""
    likes = [sum(similarity(one, other) >= config.similar for other in texts) - 1 for one in texts]
    supported = [text for text, support in zip(texts, likes, strict=True) if support >= config.support]
    return min(supported, key=len, default=None)


async def run_shortest(
    prompt: str, config: ShortestConfig, call: Call | None = None, *, conversation: tuple[Message, ...] = ()
) -> Record:
    """Ask all members once and choose among their answers."""
    async with begin("shortest", prompt, config, call, conversation=conversation) as run, run.iteration() as iteration:
        await run.ask(iteration, config.panel(), quorum=config.needed())
        answers = [response.text or "" for response in iteration.answered()]
        if not run.stop_short(iteration, config.needed(), await run.measure(iteration)):
            run.record.answer = best(answers, config)
        if run.record.answer is None:
            unsupported = f"no answer of {len(answers)} is supported by {config.support} others"
            run.record.status, run.record.error = "failed", run.record.error or unsupported
    return run.record


@flow(name="shortest", **FLOW)
async def shortest(
    prompt: str, config: ShortestConfig | str | None = None, conversation: list[Message] | None = None
) -> Record:
    """Ask many models; return the shortest answer that others support."""
    return await run_as_flow(run_shortest, Shortest, lambda _: Report(), prompt, config, conversation=conversation)


def plan(config: ShortestConfig) -> Iterator[Planned]:
    """Plan the calls of a run, for estimates."""
    yield from member_calls(config, config.panel(), (1, 1), compared=False)
