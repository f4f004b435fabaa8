"""How much panel a question needs: a small model grades it, and what is not hard is answered by one model alone."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from consensus_flows.blocks.member import parse_member
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.flows.algorithms import Algorithm, algorithm_of, alone
from consensus_flows.flows.saved_algorithm import with_panels
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.pricing import priced
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.judging.grading import grade, graded_as
from consensus_flows.tasks.record import Record


@asynccontextmanager
async def enough(
    prompt: str, config: RunConfig, call: Call | None = None, conversation: Sequence[Message] = ()
) -> AsyncIterator[RunConfig]:
    """Grade a question, and yield the settings with which it is to be answered, within the budget of the run.

    Those are the settings of the panel itself where nothing is graded, or the question is hard.

    Args:
        prompt: The question.
        config: The panel.
        call: Makes the calls.
        conversation: Earlier turns.

    Raises:
        ConfigurationError: Before any call, if the prompt is empty or a model cannot be asked.
    """
    grading = config.grading
    if grading.model is None:
        yield config
        return
    if not prompt.strip():
        raise ConfigurationError("prompt is empty: write a question")
    known = await with_panels(config)
    await check_models(known.all_models(), known.embedding())
    with spending(config.budget), priced(known.price_table()):
        made = await grade(
            prompt,
            parse_member(grading.model)[0],
            call or Caller.of(config),
            conversation=conversation,
            timeout=config.timeout_s(),
        )
        made.flow = algorithm_of(config).name
        made.answered_by = grading.easy if made.level == "easy" else grading.medium if made.level == "medium" else None
        with graded_as(made):
            yield config if made.answered_by is None else alone(known, made.answered_by)


async def run_enough(
    one: Algorithm, prompt: str, config: RunConfig, call: Call, *, conversation: Sequence[Message] = (), **options: Any
) -> Record:
    """Answer a question with as much panel as it needs.

    Args:
        one: The algorithm of the panel.
        prompt: The question.
        config: The panel.
        call: Makes the calls.
        conversation: Earlier turns.
        options: Further arguments of the algorithm, which one model alone has not.
    """
    async with enough(prompt, config, call, conversation) as chosen:
        if chosen is not config:
            one, options = algorithm_of(chosen), {}
        record: Record = await one.run()(prompt, chosen, call, conversation=tuple(conversation), **options)
    return record
