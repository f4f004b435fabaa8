"""The shortest answer that enough others support.

An answer supports another if their wording is similar: by `similarity`, from 0 for no word in common to 1 for the same text.
"""

from collections.abc import Iterator

from prefect import flow
from pydantic import Field

from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.settings import saved_config
from consensus_flows.tasks.batches.planned import Planned
from consensus_flows.tasks.batches.planning import member_calls
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.money.budget import spending
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.wording import similarity
from consensus_flows.tasks.prompting.turns import Turns, apart
from consensus_flows.tasks.record import Iteration, Record
from consensus_flows.tasks.recording import recorded
from consensus_flows.tasks.reports.report import Report, run_name, start_record, told_of_end
from consensus_flows.tasks.rounds import ask_members
from consensus_flows.tasks.saved_config import chosen
from consensus_flows.tasks.watch import tell


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
    prompt: str,
    config: ShortestConfig,
    call: Call | None = None,
    *,
    conversation: tuple[Message, ...] = (),
    name: str = "shortest",
) -> Record:
    """Ask all members once and choose among their answers."""
    await check_models(config.models(), config.embedding())
    record, iteration, members = start_record(name, prompt), Iteration(number=1), config.panel()
    record.iterations.append(iteration)
    await tell("started", record)
    with spending(config.budget):
        messages = Turns(prompt, *apart(config.system, conversation)).messages
        call = call or Caller(config.fresh, config.service_tier)
        iteration.responses = await ask_members(
            members, [messages] * len(members), config, call, quorum=config.needed(), label=name
        )
    answers = [response.text or "" for response in iteration.responses if response.answered]
    if len(answers) >= config.needed():
        record.answer = best(answers, config)
    if record.answer is None:
        record.status, record.error = "failed", f"no answer of {len(answers)} is supported by {config.support} others"
    await tell("iterated", iteration)
    record.add_up()
    await tell("ended", record)
    return record


@flow(name="shortest", flow_run_name=run_name, persist_result=True, result_serializer="json")
async def shortest(
    prompt: str,
    config: ShortestConfig | None = None,
    saved: str | None = None,
    conversation: list[Message] | None = None,
) -> Record:
    """Ask many models; return the shortest answer that others support."""
    config = await chosen(Shortest, ShortestConfig, config, saved)
    async with recorded(Report(), conversation=conversation):
        return told_of_end(await run_shortest(prompt, config, conversation=tuple(conversation or ())))


def plan(config: ShortestConfig) -> Iterator[Planned]:
    """Plan the calls of a run, for estimates."""
    yield from member_calls(config, config.panel(), (1, 1), compared=False)
