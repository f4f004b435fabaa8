"""Mixture of agents: layers of models, each of which sees all answers of the layer before; the last makes one answer.

The algorithm is that of Wang et al., arXiv:2406.04692 (github.com/togethercomputer/MoA), and Self-MoA with its sliding
window that of Li et al., arXiv:2502.00674. L layers of N proposers and the aggregator are N * L + 1 calls. Unlike the
original, a model that fails is left out and named, every call has a timeout and a budget, and the answers are fenced.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from prefect import flow

from consensus_flows.blocks.layer import Layer
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgents, MixtureOfAgentsConfig
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.money.budget import spending
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.likeness import LEXICAL, Likeness
from consensus_flows.tasks.ending import out_of_budget
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.judging.judge import fallback
from consensus_flows.tasks.judging.mixture import Task, in_order, windows
from consensus_flows.tasks.judging.mixture_aggregator import SO_FAR, Material, synthesize
from consensus_flows.tasks.judging.mixture_end import conclude
from consensus_flows.tasks.measuring import measure
from consensus_flows.tasks.panel import check_quorum
from consensus_flows.tasks.record import Iteration, Record, Response, Synthesis
from consensus_flows.tasks.recording import recorded
from consensus_flows.tasks.reports.mixture_report import MixtureReport
from consensus_flows.tasks.reports.recorded import Recorded, recorded_for
from consensus_flows.tasks.reports.report import run_name, start_record, told_of_end
from consensus_flows.tasks.rounds import ask_members
from consensus_flows.tasks.saved_config import chosen
from consensus_flows.tasks.watch import tell


async def run_mixture_of_agents(
    prompt: str,
    config: MixtureOfAgentsConfig,
    call: Call | None = None,
    *,
    conversation: tuple[Message, ...] = (),
    reference: Recorded | None = None,
) -> Record:
    """Ask layer after layer, and let the aggregator make one answer of the last one's.

    Args:
        prompt: The question.
        config: Who is in which layer, and who aggregates.
        call: Makes the calls; by default the `ask` task.
        conversation: Earlier turns, which every model of every layer sees.
        reference: Recorded answers that stand in for a layer before those of `config`.

    Returns:
        The record of the run: one iteration a layer, the aggregator's being the last, or one for each window of it.
        Where a layer is below its quorum the status is `failed` and `error` says why.

    Raises:
        ConfigurationError: Before any call, if the prompt is empty, there is no layer, or a model cannot be asked.
    """
    await _check(prompt, config, reference)
    record = start_record("mixture-of-agents", prompt, seed=config.seed)
    run = _Run(prompt, config, record, call or Caller(config.fresh, config.service_tier), conversation)
    started = time.monotonic()
    await tell("started", record)
    with spending(config.budget):
        if await _propose(run, reference):
            await _aggregate(run)
    conclude(record, config)
    record.duration_s = round(time.monotonic() - started, 4)
    await tell("ended", record)
    return record


async def _check(prompt: str, config: MixtureOfAgentsConfig, reference: Recorded | None) -> None:
    if not prompt.strip():
        raise ConfigurationError("prompt is empty: write a question")
    if not config.proposer_layers() and reference is None:
        raise ConfigurationError("layers: there is none: name models for at least one, or give recorded answers")
    await check_models(config.models(), config.embedding())


@dataclass(frozen=True)
class _Run:
    """What does not change from one layer to the next."""

    prompt: str
    config: MixtureOfAgentsConfig
    record: Record
    call: Call
    conversation: tuple[Message, ...]
    likeness: dict[int, Likeness] = field(default_factory=dict)
    """For each layer of proposers how its answers are compared."""

    def answers(self) -> list[Response]:
        """What the layer before has answered; failures are left out."""
        return [r for r in self.record.iterations[-1].responses if r.answered] if self.record.iterations else []

    def next(self) -> Iteration:
        """Begin the next iteration."""
        iteration = Iteration(number=len(self.record.iterations) + 1)
        self.record.iterations.append(iteration)
        return iteration


async def _propose(run: _Run, reference: Recorded | None) -> bool:
    """Ask the layers of proposers, one after the other, and tell whether each had its quorum."""
    if reference is not None:
        iteration = run.next()
        iteration.responses = reference.responses()
        if not await _layer_done(run, iteration, len(iteration.responses) // 2 + 1):
            return False
    for layer in run.config.proposer_layers():
        before, began = run.answers(), time.monotonic()
        iteration = run.next()
        await _ask(run, layer, iteration, before)
        iteration.duration_s = round(time.monotonic() - began, 4)
        if not await _layer_done(run, iteration, run.config.panel_of(layer).needed()):
            return False
    return True


async def _ask(run: _Run, layer: Layer, iteration: Iteration, before: Sequence[Response]) -> None:
    """Ask all models of a layer at once; each sees what the layer `before` has answered."""
    config, members = run.config.panel_of(layer), layer.panel()
    prompts = run.config.prompts
    task = Task(run.prompt, "initial", prompts.initial, config.system, run.conversation)
    if before:
        task = Task(run.prompt, "aggregate", prompts.aggregate, config.system, run.conversation)
    conversations = []
    for member in members:
        seed = f"{config.seed}:{iteration.number}:{member}"
        order = in_order(before, seed)
        if before:
            iteration.shown[str(member)] = [response.member for response in order]
        conversations.append(task.messages([response.text or "" for response in order], seed))
    await tell("asking", [str(member) for member in members])
    iteration.responses = await ask_members(
        members,
        conversations,
        config,
        run.call,
        quorum=config.needed(),
        label=f"layer {iteration.number}",
        prompt_version=task.version,
    )


async def _layer_done(run: _Run, iteration: Iteration, quorum: int) -> bool:
    """Note what came of a layer, and tell whether enough of it answered."""
    run.likeness[iteration.number] = await measure(
        iteration, run.record, run.config, run.call, f"layer {iteration.number}"
    )
    try:
        check_quorum(iteration.responses, quorum)
    except QuorumError as error:
        record = run.record
        record.error = f"layer {iteration.number}: {error.message}"
        record.status = "failed"
        if out_of_budget(iteration.responses):
            # The models did not fail, they were not asked: the best answer that the budget paid for is one.
            paid = [(one.number, [r for r in one.responses if r.answered]) for one in reversed(record.iterations)]
            number, best = next(((number, answers) for number, answers in paid if answers), (0, []))
            if best:
                iteration.synthesis = fallback(best, run.likeness.get(number, LEXICAL))
                record.status = "finished"  # by its budget, as is said at the end
        await tell("iterated", iteration)
        return False
    await tell("iterated", iteration)
    return True


async def _aggregate(run: _Run) -> None:
    """Let the aggregator make one answer, of all answers at once or window after window."""
    config, record, answers = run.config, run.record, run.answers()
    task = Task(run.prompt, "final", config.prompts.final, config.system, run.conversation)
    so_far, likeness = None, run.likeness.get(len(record.iterations), LEXICAL)
    parts = windows(len(answers), config.window, config.reserved)
    for place, part in enumerate(parts, 1):
        began = time.monotonic()
        iteration = run.next()
        material = Material(
            [answers[index] for index in part],
            so_far.text if so_far else None,
            seed=f"{config.seed}:{iteration.number}",
            label=f"layer {iteration.number}" if len(parts) == 1 else f"window {place} of {len(parts)}",
        )
        await tell("asking", [f"{config.aggregators()[0]}#1"])
        made, iteration.judgements = await synthesize(task, material, config, run.call)
        iteration.synthesis = made or _stand_in(so_far, answers, likeness)
        iteration.duration_s = round(time.monotonic() - began, 4)
        if made is None:
            stands_in = f"the synthesis of window {place - 1}" if so_far else "the answer nearest to the others"
            record.warnings.append(f"layer {iteration.number}: no aggregator could answer, so {stands_in} stands in")
            record.degraded = True
        await tell("iterated", iteration)
        if made is None:
            break
        so_far = made


def _stand_in(so_far: Synthesis | None, answers: Sequence[Response], likeness: Likeness) -> Synthesis:
    """Return what is the answer when no aggregator wrote one: the synthesis so far, or the answer nearest to all others."""
    if so_far is not None:
        return so_far.model_copy(update={"method": SO_FAR})
    return fallback(answers, likeness).model_copy(update={"method": "medoid"})


@flow(
    name="mixture-of-agents",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
async def mixture_of_agents(
    prompt: str,
    config: MixtureOfAgentsConfig | None = None,
    saved: str | None = None,
    conversation: list[Message] | None = None,
    reference: list[Recorded] | None = None,
) -> Record:
    """Ask layers of models, each of which sees the answers of the one before; the last model makes one answer.

    Args:
        prompt: The question.
        config: Who is in which layer, and who aggregates. Empty: a saved configuration.
        saved: Name of a saved configuration (a Mixture of Agents block) to run in place of config,
            whatever config the deployment sets. Both empty: the one called default.
        conversation: Earlier turns of a conversation that this question goes on.
        reference: Recorded answers that stand in for the first layer.
    """
    config = await chosen(MixtureOfAgents, MixtureOfAgentsConfig, config, saved, "moa")
    turns, given = tuple(conversation or ()), reference or []
    (found,) = recorded_for([prompt], given)
    layers = len(config.proposer_layers()) + 1 + (found is not None)
    async with recorded(MixtureReport(layers), conversation=conversation):
        record = await run_mixture_of_agents(prompt, config, conversation=turns, reference=found)
    return told_of_end(record)
