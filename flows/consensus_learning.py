"""Consensus learning: many models answer, their answers are aggregated, and the aggregate comes back to each of them.

The algorithm is that of Flare's AI Consensus (github.com/flare-research/flare-ai-consensus), with its failures mended:
the aggregator sees the question, answers are labelled and fenced, one failing model does not fail the round, and a model
sees its own earlier answer. The decentralized approach is the consensus phase of arXiv:2402.16157.
"""

import time
from dataclasses import dataclass

from prefect import flow

from consensus_flows.blocks.consensus_learning import ConsensusLearning, ConsensusLearningConfig
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.money.budget import spending
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.consensus import decentralized, held_texts, majority, nearest, stable, tied
from consensus_flows.tasks.counting.likeness import LEXICAL, Likeness
from consensus_flows.tasks.ending import cut_by_budget, end_by_budget, out_of_budget
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.judging.aggregate import Material, aggregate
from consensus_flows.tasks.judging.learner import Feedback, Learner, feedback
from consensus_flows.tasks.measuring import likeness_of, measure
from consensus_flows.tasks.panel import check_quorum
from consensus_flows.tasks.prompting.turns import apart
from consensus_flows.tasks.record import Iteration, Record, Response
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.learning_report import LearningReport
from consensus_flows.tasks.reports.report import run_name, start_record, told_of_end
from consensus_flows.tasks.rounds import ask_members
from consensus_flows.tasks.saved_config import chosen
from consensus_flows.tasks.watch import tell


async def run_consensus_learning(
    prompt: str,
    config: ConsensusLearningConfig,
    call: Call | None = None,
    *,
    conversation: tuple[Message, ...] = (),
) -> Record:
    """Ask the panel, aggregate, and let every member improve its answer with the aggregate in mind.

    Args:
        prompt: The question.
        config: Who is asked, how answers are aggregated, how often they are improved.
        call: Makes the calls; by default the `ask` task.
        conversation: Earlier turns, which members and aggregator see alike.

    Returns:
        The record of the run. When no round gave an answer its status is `failed` and `error` says why.

    Raises:
        ConfigurationError: Before any call, if the prompt is empty or a model cannot be asked.
    """
    if not prompt.strip():
        raise ConfigurationError("prompt is empty: write a question")
    await check_models(config.models(), config.embedding())
    record = start_record("consensus-learning", prompt, seed=config.seed)
    if any(member.name in config.aggregators() for member in config.panel()):
        record.warnings.append("the aggregator is also a member: it may prefer its own answer")
    system, turns = apart(config.system, conversation)
    back = feedback(config.aggregated_prompt_type, config.improvement_prompt, str(config.seed))
    run = _Run(prompt, config, record, call or Caller(config.fresh, config.service_tier), system, turns, back)
    learners = [Learner(prompt, back, system, turns) for _ in config.panel()]
    started = time.monotonic()
    await tell("started", record)
    with spending(config.budget):
        for number in range(1, config.iterations + 2):
            iteration = Iteration(number=number)
            record.iterations.append(iteration)
            done = await _round(run, iteration, learners)
            iteration.duration_s = round(time.monotonic() - started - sum(i.duration_s for i in record.iterations), 4)
            await tell("iterated", iteration)
            if done:
                break
            _carry_on(learners, iteration)
    _conclude(record, config)
    record.add_up()
    record.duration_s = round(time.monotonic() - started, 4)
    await tell("ended", record)
    return record


@dataclass(frozen=True)
class _Run:
    """What does not change from one round to the next."""

    prompt: str
    config: ConsensusLearningConfig
    record: Record
    call: Call
    system: str | None
    conversation: tuple[Message, ...]
    back: Feedback


async def _round(run: _Run, iteration: Iteration, learners: list[Learner]) -> bool:
    """Run one round, and tell whether it was the last one."""
    config, record, number = run.config, run.record, iteration.number
    iteration.responses = await ask_members(
        config.panel(),
        [learner.messages for learner in learners],
        config,
        run.call,
        quorum=config.needed(),
        label=f"round {number}",
        prompt_version=run.back.version if number > 1 else "",
    )
    answered = [response for response in iteration.responses if response.answered]
    likeness = await measure(iteration, record, config, run.call, f"round {number}")
    try:
        check_quorum(iteration.responses, config.needed())
    except QuorumError as error:
        return _stop_short(record, iteration, error, likeness)
    await _put_together(run, iteration, answered, likeness)
    if iteration.synthesis is None:
        iteration.synthesis = nearest(answered, "stand-in", likeness)
        cause = "no aggregator gave an aggregate" if config.aggregators() else "no member's answer could be read"
        record.warnings.append(f"round {number}: {cause}, so the answer nearest to the others stands in for one")
        record.degraded = True
        return cut_by_budget(iteration)
    settled = iteration.settlement is not None and iteration.settlement.settled
    if settled or (config.stop_when_stable and await _is_stable(run)):
        record.status = "agreed"
        return True
    return cut_by_budget(iteration)


async def _put_together(run: _Run, iteration: Iteration, answered: list[Response], likeness: Likeness) -> None:
    """Make one answer of all by the approach that was chosen; leaves no synthesis where that fails."""
    config, seed = run.config, f"{run.config.seed}:{iteration.number}"
    match config.approach:
        case "majority":
            iteration.synthesis = majority(answered, config, likeness)
            others = tied(iteration.synthesis) if iteration.synthesis else []
            if iteration.synthesis and others:
                run.record.warnings.append(
                    f"round {iteration.number}: a tie of {iteration.synthesis.value} with {', '.join(others)}: "
                    "the one whose first voter is listed first is taken"
                )
        case "medoid":
            iteration.synthesis = nearest(answered, likeness=likeness)
        case "decentralized":
            iteration.synthesis, iteration.settlement = decentralized(answered, config, seed, likeness)
        case "centralized_llm":
            material = Material(
                run.prompt, answered, run.system, run.conversation, seed, label=f"round {iteration.number}"
            )
            iteration.synthesis, iteration.judgements = await aggregate(material, config, run.call)


async def _is_stable(run: _Run) -> bool:
    record, config = run.record, run.config
    if len(record.iterations) < 2:
        return False
    before, now = record.iterations[-2:]
    if before.synthesis is None or now.synthesis is None or before.synthesis.method != config.approach:
        return False
    likeness = LEXICAL
    if now.synthesis.value is None:
        named = {one.synthesis.text: f"the answer of round {one.number}" for one in (before, now) if one.synthesis}
        likeness = await likeness_of(named, now, record, config, run.call, label=f"round {now.number}")
    return stable(before, now, config.stability_threshold, likeness)


def _stop_short(record: Record, iteration: Iteration, error: QuorumError, likeness: Likeness) -> bool:
    """End the run where the quorum is lost; an earlier round's answer stands."""
    record.error = error.message
    answered = [response for response in iteration.responses if response.answered]
    earlier = any(one.synthesis for one in record.iterations)
    if earlier:
        record.warnings.append(f"round {iteration.number} was not finished: {error.message}")
    elif answered and out_of_budget(iteration.responses):
        # The members did not fail, they were not asked: the best answer that the budget paid for is one.
        iteration.synthesis = nearest(answered, "stand-in", likeness)
        record.degraded = True
    if not (earlier or iteration.synthesis):
        record.status = "failed"
    return True


def _carry_on(learners: list[Learner], iteration: Iteration) -> None:
    """Tell every member what the round came to; without a central aggregator, what it holds itself."""
    assert iteration.synthesis is not None
    answered = [response for response in iteration.responses if response.answered]
    held = held_texts(answered, iteration.settlement) if iteration.settlement else {}
    for learner, response in zip(learners, iteration.responses, strict=True):
        consensus = held.get(response.member, iteration.synthesis.text)
        learner.go_on(response.text if response.answered else None, consensus)


def _conclude(record: Record, config: ConsensusLearningConfig) -> None:
    """Return the last aggregate, and say what was not as it should be."""
    finished = [(one, one.synthesis) for one in record.iterations if one.synthesis is not None]
    # An answer that stands in for an aggregate does not displace one.
    made = [(one, synthesis) for one, synthesis in finished if synthesis.method != "stand-in"] or finished
    if made:
        last, synthesis = made[-1]
        record.answer = synthesis.text
        record.agreement, record.agreement_measure = last.agreement, last.agreement_measure
        record.best_iteration = last.number
        if last.settlement is not None and not last.settlement.settled:
            record.warnings.append(
                f"the members did not settle on one value in {last.settlement.rounds} rounds: "
                "the one that most of them hold is returned"
            )
    for one in record.iterations:
        by = one.synthesis.arbiter if one.synthesis else None
        if by is not None and by != str(config.aggregators()[0]):
            record.degraded = True
            record.warnings.append(f"round {one.number}: {config.aggregator} could not aggregate; {by} did")
        if not all(response.answered for response in one.responses):
            record.degraded = True
        for call in (*one.responses, *one.judgements):
            if call.error is not None:
                record.warnings.append(f"round {one.number}: {call.member}: {call.error.kind}")
            record.warnings.extend(warning for warning in call.warnings if warning not in record.warnings)
    end_by_budget(record)


@flow(
    name="consensus-learning",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
async def consensus_learning(
    prompt: str,
    config: ConsensusLearningConfig | None = None,
    saved: str | None = None,
    conversation: list[Message] | None = None,
) -> Record:
    """Ask a panel of models, aggregate their answers, and let each improve its own with the aggregate in mind.

    Args:
        prompt: The question.
        config: Who is asked, how answers are aggregated, how often they are improved. Empty: a saved configuration.
        saved: Name of a saved configuration (a Consensus Learning block) to run in place of config,
            whatever config the deployment sets. Both empty: the one called default.
        conversation: Earlier turns of a conversation that this question goes on.
    """
    config = await chosen(ConsensusLearning, ConsensusLearningConfig, config, saved, "learn")
    async with record_runs(LearningReport(config.iterations + 1), conversation=conversation):
        record = await run_consensus_learning(prompt, config, conversation=tuple(conversation or ()))
    return told_of_end(record)
