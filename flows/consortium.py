"""The consortium: many models answer, an arbiter makes one answer of theirs, and they go on until it is confident.

The algorithm is that of llm-consortium (github.com/irthomasthomas/llm-consortium), with its failures mended: answers
are shown anonymously and fenced, judgements come by schema, what was missing reaches the next round, and the best round
is kept.
"""

import time
from dataclasses import dataclass

from prefect import flow

from consensus_flows.blocks.consortium import Consortium, ConsortiumConfig
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.money.budget import spending
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.likeness import Likeness
from consensus_flows.tasks.ending import cut_by_budget, end_by_budget, out_of_budget
from consensus_flows.tasks.errors import ConfigurationError, ConsensusError, QuorumError
from consensus_flows.tasks.judging.fence import fence_tag, fenced
from consensus_flows.tasks.judging.judge import Case, Court, fallback, judge
from consensus_flows.tasks.measuring import measure
from consensus_flows.tasks.panel import check_quorum
from consensus_flows.tasks.prompting.turns import Turns, apart
from consensus_flows.tasks.prompts import fill, version
from consensus_flows.tasks.record import Iteration, Record, Synthesis
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.report import Report, run_name, start_record, told_of_end
from consensus_flows.tasks.rounds import ask_members
from consensus_flows.tasks.saved_config import chosen
from consensus_flows.tasks.watch import tell


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
    await check_models(config.models(), config.embedding())
    record = start_record("consortium", prompt, seed=config.seed)
    if any(member.name in config.arbiters() for member in config.panel()):
        record.warnings.append("the arbiter is also a member: it may prefer its own answer")
    system, turns = apart(config.system, conversation)
    run = _Run(prompt, config, record, call or Caller(config.fresh, config.service_tier), system, turns)
    voices = [Turns(prompt, system, turns) for _ in config.panel()]
    started = time.monotonic()
    await tell("started", record)
    with spending(config.budget):
        for number in range(1, config.max_iterations + 1):
            iteration = Iteration(number=number)
            record.iterations.append(iteration)
            done = await _iterate(run, iteration, voices)
            iteration.duration_s = round(time.monotonic() - started - sum(i.duration_s for i in record.iterations), 4)
            await tell("iterated", iteration)
            if done:
                break
            _carry_on(voices, iteration, f"{config.seed}:{number}")
        else:
            record.status = "max_iterations"
    _conclude(record, config)
    record.add_up()
    record.duration_s = round(time.monotonic() - started, 4)
    await tell("ended", record)
    return record


@dataclass(frozen=True)
class _Run:
    """What does not change from one iteration to the next."""

    prompt: str
    config: ConsortiumConfig
    record: Record
    call: Call
    system: str | None
    conversation: tuple[Message, ...]


async def _iterate(run: _Run, iteration: Iteration, voices: list[Turns]) -> bool:
    """Run one iteration, and tell whether it was the last one."""
    config, record, number = run.config, run.record, iteration.number
    iteration.responses = await ask_members(
        config.panel(),
        [voice.messages for voice in voices],
        config,
        run.call,
        quorum=config.needed(),
        label=f"iteration {number}",
        prompt_version=version("iterate") if number > 1 else "",
    )
    answered = [response for response in iteration.responses if response.answered]
    likeness = await measure(iteration, record, config, run.call)
    try:
        check_quorum(iteration.responses, config.needed())
    except QuorumError as error:
        return _stop_short(record, iteration, error, likeness)
    case = Case(
        question=run.prompt,
        responses=answered,
        history=[one.synthesis for one in record.iterations[:-1] if one.synthesis],
        system=run.system,
        conversation=run.conversation,
        seed=f"{config.seed}:{number}",
        label=f"iteration {number}",
        likeness=likeness,
    )
    court = Court(config.arbiters(), config.judging_method, config.arbiter_settings, config.timeout_s())
    iteration.synthesis, iteration.judgements = await judge(case, court, run.call)
    if iteration.synthesis.arbiter is None:
        record.warnings.append(
            f"iteration {number}: no arbiter could judge, so the answer nearest to the others stands in for a synthesis"
        )
        return True
    confidence = iteration.synthesis.confidence or 0.0
    if confidence >= config.confidence_threshold and number >= config.min_iterations:
        record.status = "confident"
        return True
    return cut_by_budget(iteration)


def _stop_short(record: Record, iteration: Iteration, error: QuorumError, likeness: Likeness) -> bool:
    """End the run where the quorum is lost; an earlier iteration's answer stands."""
    record.error = error.message
    answered = [response for response in iteration.responses if response.answered]
    earlier = any(one.synthesis for one in record.iterations)
    if earlier:
        record.warnings.append(f"iteration {iteration.number} was not finished: {error.message}")
    elif answered and out_of_budget(iteration.responses):
        # The members did not fail, they were not asked: the best answer that the budget paid for is one.
        iteration.synthesis = fallback(answered, likeness)
    if not (earlier or iteration.synthesis):
        record.status = "failed"
    return True


def _carry_on(voices: list[Turns], iteration: Iteration, seed: str) -> None:
    """Tell every member what was made of all answers; who failed is asked again.

    All of it is quoted as to a judge: it may be another member's answer word for word, or repeat one.
    """
    synthesis = iteration.synthesis
    assert synthesis is not None
    areas = "\n".join(f"- {area}" for area in synthesis.refinement_areas)
    tag = fence_tag([synthesis.text, synthesis.dissent, areas], seed)

    def quoted(label: str, text: str) -> str:
        return fenced({label: text}, seed, tag=tag)

    guidance = fill(
        "iterate",
        synthesis=quoted("so far", synthesis.text),
        dissent=f"A minority held:\n\n{quoted('of a minority', synthesis.dissent)}\n\n" if synthesis.dissent else "",
        areas=f"What should be looked into:\n\n{quoted('to look into', areas)}\n\n" if areas else "",
    )
    for voice, response in zip(voices, iteration.responses, strict=True):
        voice.go_on(response.text if response.answered else None, guidance)


def _conclude(record: Record, config: ConsortiumConfig) -> None:
    """Choose the iteration whose answer is returned, and say what was not as it should be."""
    finished = [(one, one.synthesis) for one in record.iterations if one.synthesis is not None]
    # An answer that stands in for a synthesis does not displace a synthesis.
    judged = [(one, synthesis) for one, synthesis in finished if synthesis.arbiter] or finished
    if judged:
        best, synthesis = judged[-1]
        if config.keep == "best":
            best, synthesis = max(judged, key=lambda pair: (_confidence(pair[1]), pair[0].number))
        record.answer = synthesis.text
        record.confidence = synthesis.confidence
        record.agreement, record.agreement_measure = best.agreement, best.agreement_measure
        record.best_iteration = best.number
    arbiter = str(config.arbiters()[0])
    for one in record.iterations:
        judge_of_it = one.synthesis.arbiter if one.synthesis else None
        if judge_of_it and judge_of_it != arbiter:
            record.warnings.append(f"iteration {one.number}: {arbiter} could not judge; {judge_of_it} did")
        # An arbiter that had to be asked twice has judged all the same.
        if judge_of_it != arbiter or not all(response.answered for response in one.responses):
            record.degraded = True
        for call in (*one.responses, *one.judgements):
            if call.error is not None:
                record.warnings.append(f"iteration {one.number}: {call.member}: {call.error.kind}")
            record.warnings.extend(warning for warning in call.warnings if warning not in record.warnings)
    end_by_budget(record)


def _confidence(synthesis: Synthesis) -> float:
    return -1.0 if synthesis.confidence is None else synthesis.confidence


@flow(
    name="consortium", flow_run_name=run_name, persist_result=True, result_serializer="json", validate_parameters=True
)
async def consortium(
    prompt: str,
    config: ConsortiumConfig | None = None,
    saved: str | None = None,
    conversation: list[Message] | None = None,
) -> Record:
    """Ask a panel of models and let an arbiter make one answer of theirs.

    Args:
        prompt: The question.
        config: Who is asked, who judges, and when to stop. Empty: a saved configuration.
        saved: Name of a saved configuration (a Consortium block) to run in place of config,
            whatever config the deployment sets. Both empty: the one called default.
        conversation: Earlier turns of a conversation that this question goes on.
    """
    config = await chosen(Consortium, ConsortiumConfig, config, saved)
    async with record_runs(Report(config.confidence_threshold), conversation=conversation):
        record = await run_consortium(prompt, config, conversation=tuple(conversation or ()))
    return told_of_end(record)


def ask_consortium(prompt: str, config: ConsortiumConfig) -> Record:
    """Run the consortium flow from synchronous code and return its record.

    Raises:
        ConsensusError: If no answer came of it.
    """
    import asyncio

    return asyncio.run(consortium(prompt, config))


__all__ = ["ConsensusError", "ConsortiumConfig", "ask_consortium", "consortium", "run_consortium"]
