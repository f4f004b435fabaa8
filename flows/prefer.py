"""Prefer: many models answer, then every one of them ranks the answers of the others.

After the `prefer` of parallellm-pump (github.com/lukerm/parallellm-pump), with its failures mended: each judge sees the
answers in an order of its own and never its own among them, failures are not ranked, rankings come by schema, and they
are counted (Borda 1781, Condorcet 1785, Kendall 1939) and not just printed.
"""

import time
from dataclasses import dataclass

from prefect import flow

from consensus_flows.blocks.prefer import Prefer, PreferConfig
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.money.budget import spending
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.likeness import Likeness
from consensus_flows.tasks.counting.preference import best_round, score
from consensus_flows.tasks.draws import drawing
from consensus_flows.tasks.ending import cut_by_budget, end_by_budget, out_of_budget
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.judging.judge import fallback
from consensus_flows.tasks.judging.poll import Poll, poll
from consensus_flows.tasks.measuring import measure
from consensus_flows.tasks.panel import check_quorum
from consensus_flows.tasks.prompting.turns import Turns, apart
from consensus_flows.tasks.record import Iteration, Record, Synthesis
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.preference_report import PreferReport
from consensus_flows.tasks.reports.report import run_name, start_record, told_of_end
from consensus_flows.tasks.rounds import ask_members
from consensus_flows.tasks.saved_config import chosen
from consensus_flows.tasks.watch import tell


async def run_prefer(
    prompt: str,
    config: PreferConfig,
    call: Call | None = None,
    *,
    conversation: tuple[Message, ...] = (),
) -> Record:
    """Let the members answer and rank each other's answers.

    Args:
        prompt: The question.
        config: Who takes part, and how often.
        call: Makes the calls; by default the `ask` task.
        conversation: Earlier turns, which members see when they answer and when they judge.

    Returns:
        The record of the run; `rankings` holds what each judge said, `scores` what follows from all of it. The answer
        is that of the member with the highest Borda count, word for word, from the round in which it was ranked best.
        If no judge ranks anything it is the answer nearest to all others, marked degraded.

    Raises:
        ConfigurationError: Before any call, if the prompt is empty or a model cannot be asked.
    """
    if not prompt.strip():
        raise ConfigurationError("prompt is empty: write a question")
    await check_models(config.models(), config.embedding())
    record = start_record("prefer", prompt, seed=config.seed)
    system, turns = apart(config.system, conversation)
    run = _Run(prompt, config, record, call or Caller(config.fresh, config.service_tier), system, turns)
    started = time.monotonic()
    await tell("started", record)
    with spending(config.budget):
        for number in range(1, config.rounds + 1):
            began = time.monotonic()
            iteration = Iteration(number=number)
            record.iterations.append(iteration)
            goes_on = await _round(run, iteration)
            iteration.duration_s = round(time.monotonic() - began, 4)
            await tell("iterated", iteration)
            if not goes_on:
                break
    _conclude(record, config)
    record.add_up()
    record.duration_s = round(time.monotonic() - started, 4)
    await tell("ended", record)
    return record


@dataclass(frozen=True)
class _Run:
    """What does not change from one round to the next."""

    prompt: str
    config: PreferConfig
    record: Record
    call: Call
    system: str | None
    conversation: tuple[Message, ...]


async def _round(run: _Run, iteration: Iteration) -> bool:
    """Run one round, and tell whether another may follow."""
    config, record, number = run.config, run.record, iteration.number
    members = config.panel()
    call = drawing(run.call, members, number)
    iteration.responses = await ask_members(
        members,
        [Turns(run.prompt, run.system, run.conversation).messages] * len(members),
        config,
        call,
        quorum=config.needed(),
        label=f"round {number}",
    )
    answered = [response for response in iteration.responses if response.answered]
    likeness = await measure(iteration, record, config, run.call, f"round {number}")
    try:
        check_quorum(iteration.responses, config.needed())
    except QuorumError as error:
        _stop_short(record, iteration, error, likeness)
        return False
    asked = Poll(run.prompt, config, run.system, run.conversation, number)
    entries, iteration.judgements = await poll(asked, members, iteration.responses, call)
    record.rankings += entries
    scores = score(entries, [response.member for response in answered])
    if scores.winner is None:
        iteration.synthesis = fallback(answered, likeness)
        cause = "no judge ranked anything" if entries else f"{len(answered)} answers are too few to rank"
        record.warnings.append(f"round {number}: {cause}")
    else:
        text = next(response.text or "" for response in answered if response.member == scores.winner)
        iteration.synthesis = Synthesis(text=text, chosen=scores.winner, ranking=list(scores.members))
    return not cut_by_budget(iteration)


def _stop_short(record: Record, iteration: Iteration, error: QuorumError, likeness: Likeness) -> None:
    """End the run where the quorum is lost; what earlier rounds gave stands."""
    record.error = error.message
    answered = [response for response in iteration.responses if response.answered]
    earlier = any(one.synthesis for one in record.iterations)
    if earlier:
        record.warnings.append(f"round {iteration.number} was not finished: {error.message}")
    elif answered and out_of_budget(iteration.responses):
        # The members did not fail, they were not asked: the best answer that the budget paid for is one.
        iteration.synthesis = fallback(answered, likeness)
    if not (earlier or iteration.synthesis):
        record.status = "failed"


def _conclude(record: Record, config: PreferConfig) -> None:
    """Count all rankings, choose the answer, and say what was not as it should be."""
    record.scores = scores = score(record.rankings, [str(member) for member in config.panel()])
    number = best_round(record.rankings, scores.winner) if scores.winner else None
    best = next((one for one in record.iterations if number in {None, one.number} and one.synthesis), None)
    if best is not None and best.synthesis is not None:
        texts = {response.member: response.text for response in best.responses if response.answered}
        record.answer = texts[scores.winner] if scores.winner else best.synthesis.text
        record.agreement, record.agreement_measure = best.agreement, best.agreement_measure
        record.best_iteration = best.number
    record.degraded = scores.winner is None
    if scores.tied:
        record.warnings.append(f"{', '.join(scores.tied)} have the same Borda count; {scores.winner} is taken")
    for entry in record.rankings:
        record.degraded |= entry.error is not None
        if entry.abstained and entry.error is None:
            record.warnings.append(f"round {entry.round}: {entry.judge} abstained as judge")
    for one in record.iterations:
        record.degraded |= not all(response.answered for response in one.responses)
        for call in (*one.responses, *one.judgements):
            if call.error is not None:
                record.warnings.append(f"round {one.number}: {call.member}: {call.error.kind}")
            record.warnings.extend(warning for warning in call.warnings if warning not in record.warnings)
    end_by_budget(record)


@flow(name="prefer", flow_run_name=run_name, persist_result=True, result_serializer="json", validate_parameters=True)
async def prefer(
    prompt: str,
    config: PreferConfig | None = None,
    saved: str | None = None,
    conversation: list[Message] | None = None,
) -> Record:
    """Let models answer and rank each other's answers.

    Args:
        prompt: The question.
        config: Who takes part, and how often. Empty: a saved configuration.
        saved: Name of a saved configuration (a Prefer block) to run in place of config,
            whatever config the deployment sets. Both empty: the one called default.
        conversation: Earlier turns of a conversation that this question goes on.
    """
    config = await chosen(Prefer, PreferConfig, config, saved)
    async with record_runs(PreferReport(config.rounds), conversation=conversation):
        record = await run_prefer(prompt, config, conversation=tuple(conversation or ()))
    return told_of_end(record)
