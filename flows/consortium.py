"""The consortium: many models answer, an arbiter makes one answer of theirs, and they go on until it is confident.

The algorithm is that of llm-consortium (github.com/irthomasthomas/llm-consortium), with its failures mended: answers
are shown anonymously and fenced, judgements come by schema, what was missing reaches the next round, and the best round
is kept.
"""

import time
from typing import Any

from prefect import flow

from blocks.consortium import Consortium, ConsortiumConfig
from blocks.member import Member
from tasks.agreement import agreement
from tasks.budget import current_purse, spending
from tasks.call import Caller
from tasks.errors import ConfigurationError, ConsensusError, QuorumError
from tasks.judge import Call, Case, Court, judge
from tasks.panel import check_quorum, gather_panel
from tasks.prompts import fill, version
from tasks.providers import check_models
from tasks.record import Iteration, Record, Response, Synthesis
from tasks.report import Report, run_name, start_record, told_of_end
from tasks.request import Message, Request
from tasks.watch import tell, watched_by


async def run_consortium(
    prompt: str,
    config: ConsortiumConfig,
    call: Call | None = None,
    *,
    conversation: tuple[Message, ...] = (),
) -> Record:
    """Ask the panel until the arbiter is confident.

    Args:
        prompt: The question.
        config: Who is asked, who judges, when to stop.
        call: Makes the calls; by default the `ask` task.
        conversation: Earlier turns, which members and arbiter see alike.

    Returns:
        The record of the run. When no iteration gave an answer its status is `failed` and `error` says why.

    Raises:
        ConfigurationError: Before any call, if the prompt is empty or a model cannot be asked.
    """
    if not prompt.strip():
        raise ConfigurationError("prompt is empty: write a question")
    members = config.panel()
    await check_models([*(member.name for member in members), *config.arbiters()])
    call = call or Caller(fresh=config.fresh)
    record = start_record("consortium", prompt, seed=config.seed)
    if any(member.name in config.arbiters() for member in members):
        record.warnings.append("the arbiter is also a member: it may prefer its own answer")
    started = time.monotonic()
    await tell("started", record)
    turns = [_opening(prompt, config, conversation) for _ in members]
    with spending(config.budget):
        for number in range(1, config.max_iterations + 1):
            done = await _iterate(number, prompt, config, members, turns, record, call, conversation)
            if done:
                break
            _carry_on(turns, record.iterations[-1], conversation=(prompt, config, conversation))
        else:
            record.status = "max_iterations"
    _conclude(record, config)
    record.add_up()
    record.duration_s = round(time.monotonic() - started, 4)
    await tell("ended", record)
    return record


async def _iterate(
    number: int,
    prompt: str,
    config: ConsortiumConfig,
    members: list[Member],
    turns: list[tuple[Message, ...]],
    record: Record,
    call: Call,
    conversation: tuple[Message, ...],
) -> bool:
    """Run one iteration, and tell whether it was the last one."""
    started = time.monotonic()
    iteration = Iteration(number=number)
    asked = []
    for member, messages in zip(members, turns, strict=True):
        request = _request(member, messages, number, config)
        asked.append((request, member.instance, call(request, instance=member.instance)))
    iteration.responses = await gather_panel(asked, config.needed(), config.straggler_grace)
    record.iterations.append(iteration)
    answered = [response for response in iteration.responses if response.answered]
    iteration.agreement = agreement([response.text or "" for response in answered])
    try:
        check_quorum(iteration.responses, config.needed())
    except QuorumError as error:
        return await _stop_short(record, iteration, error)
    case = Case(
        question=prompt,
        responses=answered,
        history=[one.synthesis for one in record.iterations[:-1] if one.synthesis],
        system=config.system,
        conversation=conversation,
        seed=f"{config.seed}:{number}",
        label=f"iteration {number}",
    )
    court = Court(config.arbiters(), config.judging_method, config.arbiter_settings, config.timeout)
    iteration.synthesis, iteration.judgements = await judge(case, court, call)
    iteration.duration_s = round(time.monotonic() - started, 4)
    await tell("iterated", iteration)
    if iteration.synthesis.arbiter is None:
        record.warnings.append(
            f"iteration {number}: no arbiter could judge, so the answer nearest to the others stands in for a synthesis"
        )
        record.status = "budget" if _out_of_budget(iteration.judgements) else "finished"
        return True
    confidence = iteration.synthesis.confidence or 0.0
    if confidence >= config.confidence_threshold and number >= config.min_iterations:
        record.status = "confident"
        return True
    return False


async def _stop_short(record: Record, iteration: Iteration, error: QuorumError) -> bool:
    """End the run where the quorum is lost; an earlier iteration's answer stands."""
    await tell("iterated", iteration)
    out_of_budget = _out_of_budget(iteration.responses)
    record.status = "budget" if out_of_budget else "failed"
    record.error = error.message
    earlier = any(one.synthesis for one in record.iterations)
    if earlier:
        record.warnings.append(f"iteration {iteration.number} was not finished: {error.message}")
        record.status = "budget" if out_of_budget else "finished"
    elif out_of_budget:
        answered = [response for response in iteration.responses if response.answered]
        if answered:
            iteration.synthesis = Synthesis(text=answered[0].text or "", chosen=answered[0].member)
        else:
            record.status = "failed"
    return True


def _out_of_budget(responses: list[Response]) -> bool:
    return any(response.error is not None and response.error.kind == "budget" for response in responses)


def _opening(prompt: str, config: ConsortiumConfig, conversation: tuple[Message, ...]) -> tuple[Message, ...]:
    system = (Message(role="system", content=config.system),) if config.system else ()
    return (*system, *conversation, Message(role="user", content=prompt))


def _request(member: Member, messages: tuple[Message, ...], number: int, config: ConsortiumConfig) -> Request:
    return Request(
        provider=member.name.provider,
        model=member.name.model,
        messages=messages,
        sampling=config.settings_of(member),
        sample=member.instance - 1,
        prompt_version=version("iterate") if number > 1 else "",
        label=f"{member.name} #{member.instance} · iteration {number}",
        timeout=config.timeout,
    )


def _carry_on(
    turns: list[tuple[Message, ...]],
    iteration: Iteration,
    conversation: tuple[str, ConsortiumConfig, tuple[Message, ...]],
) -> None:
    """Give every member its own answer and what was made of all answers; who failed starts from the question again."""
    synthesis = iteration.synthesis
    assert synthesis is not None
    dissent = f"A minority held:\n\n{synthesis.dissent}\n\n" if synthesis.dissent else ""
    areas = "".join(f"- {area}\n" for area in synthesis.refinement_areas)
    guidance = fill(
        "iterate",
        synthesis=synthesis.text,
        dissent=dissent,
        areas=f"What should be looked into:\n{areas}\n" if areas else "",
    )
    for index, response in enumerate(iteration.responses):
        if response.answered:
            said = Message(role="assistant", content=response.text or "")
            turns[index] = (*turns[index], said, Message(role="user", content=guidance))
        else:
            *before, last = turns[index]
            joined = Message(role="user", content=f"{last.content}\n\n{guidance}")
            turns[index] = (*before, joined)


def _conclude(record: Record, config: ConsortiumConfig) -> None:
    """Choose the iteration whose answer is returned, and say what was not as it should be."""
    judged = [one for one in record.iterations if one.synthesis is not None]
    if judged:
        best = judged[-1]
        if config.keep == "best":
            best = max(judged, key=lambda one: (_confidence(one), one.number))
        assert best.synthesis is not None
        record.answer = best.synthesis.text
        record.confidence = best.synthesis.confidence
        record.agreement = best.agreement
        record.best_iteration = best.number
        first = str(config.arbiters()[0])
        stand_in = best.synthesis.arbiter is not None and best.synthesis.arbiter != first
        if stand_in:
            record.warnings.append(f"{first} could not judge; {best.synthesis.arbiter} did")
        record.degraded = stand_in or best.synthesis.arbiter is None
    for call in record.calls_made():
        if call.error is not None:
            record.degraded = True
            record.warnings.append(f"{call.member}: {call.error.kind}")
        record.warnings.extend(warning for warning in call.warnings if warning not in record.warnings)


def _confidence(iteration: Iteration) -> float:
    confidence = iteration.synthesis.confidence if iteration.synthesis else None
    return -1.0 if confidence is None else confidence


@flow(name="consortium", flow_run_name=run_name, persist_result=True, result_serializer="json", validate_parameters=True)
async def consortium(
    prompt: str, config: ConsortiumConfig | None = None, saved: str = "default", conversation: list[Message] | None = None
) -> Record:
    """Ask a panel of models and let an arbiter make one answer of theirs.

    Args:
        prompt: The question.
        config: Who is asked, who judges, and when to stop. Empty: the saved configuration.
        saved: Name of the Consortium block to use when no configuration is given.
        conversation: Earlier turns of a conversation that this question goes on.
    """
    config = config or await load_saved(saved)
    with watched_by(Report(config.confidence_threshold)):
        record = await run_consortium(prompt, config, conversation=tuple(conversation or ()))
    return told_of_end(record)


async def load_saved(name: str) -> ConsortiumConfig:
    """Load the saved configuration `name`.

    Raises:
        ConfigurationError: If there is none.
    """
    try:
        block: Any = await Consortium.aload(name)
    except ValueError:
        raise ConfigurationError(
            f"no configuration is saved as {name!r}: `consensus save {name} -m provider/model:count --arbiter provider/model`"
        ) from None
    return ConsortiumConfig.model_validate(block.config.model_dump())


def ask_consortium(prompt: str, config: ConsortiumConfig) -> Record:
    """Run the consortium flow from synchronous code and return its record.

    Raises:
        ConsensusError: If no answer came of it.
    """
    import asyncio

    return asyncio.run(consortium(prompt, config))


__all__ = ["ConsensusError", "ConsortiumConfig", "ask_consortium", "consortium", "load_saved", "run_consortium"]
