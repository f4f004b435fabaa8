"""Mixture of agents: layers of models, each of which sees all answers of the layer before; the last makes one answer.

The algorithm is that of Wang et al., arXiv:2406.04692 (github.com/togethercomputer/MoA), and Self-MoA with its sliding
window that of Li et al., arXiv:2502.00674. L layers of N proposers and the aggregator are N * L + 1 calls. Unlike the
original, a model that fails is left out and named, every call has a timeout and a budget, and the answers are fenced.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from prefect import flow

from consensus_flows.blocks.layer import Layer
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgents, MixtureOfAgentsConfig
from consensus_flows.flows.algorithms import takes
from consensus_flows.flows.run import FLOW, Attachments, ConfigOrName, Run, begin, run_as_flow
from consensus_flows.tasks.asking import ask_members, missed_quorum
from consensus_flows.tasks.batches.planning import Planned, judge_calls, member_calls, prompt_length
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.agreement import LEXICAL, Likeness, nearest
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.judging.aggregator import SO_FAR, LayerPrompt, in_order, synthesize, windows
from consensus_flows.tasks.record import Iteration, Record, Response
from consensus_flows.tasks.reports.markdown import cell, prose
from consensus_flows.tasks.reports.recorded import Recorded, recorded_for
from consensus_flows.tasks.reports.report import Artifact, Report, agreement_note, calls_artifact, iteration_page
from consensus_flows.tasks.watch import emit


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
    if reference is None:
        _check_layers(config)
    async with begin("mixture-of-agents", prompt, config, call, conversation=conversation, word="layer") as run:
        likeness = await _propose(run, reference)
        if likeness is not None:
            await _aggregate(run, likeness)
        _conclude(run)
    return run.record


def _check_layers(config: MixtureOfAgentsConfig) -> None:
    if not config.proposer_layers():
        raise ConfigurationError("layers: there is none: name models for at least one, or give recorded answers")


MixtureRun = Run[MixtureOfAgentsConfig]


async def _propose(run: MixtureRun, reference: Recorded | None) -> Likeness | None:
    """Ask the layers of proposers, one after the other; return the last one's measure, or None where a quorum was missed."""
    likeness, before = LEXICAL, list[Response]()
    if reference is not None:
        async with run.iteration() as iteration:
            iteration.responses = reference.responses()
            likeness = await run.measure(iteration)
            if _stop_short(run, iteration, len(iteration.responses) // 2 + 1, before, likeness):
                return None
        before = iteration.answered()
    for layer in run.config.proposer_layers():
        async with run.iteration() as iteration:
            await _ask(run, layer, iteration, before)
            so_far, likeness = likeness, await run.measure(iteration)
            quorum = run.config.panel_of(layer).needed()
            if _stop_short(run, iteration, quorum, before, likeness if iteration.answered() else so_far):
                return None
        before = iteration.answered()
    return likeness


async def _ask(run: MixtureRun, layer: Layer, iteration: Iteration, before: Sequence[Response]) -> None:
    """Ask all models of a layer at once; each sees what the layer `before` has answered, in an order of its own."""
    config, members = run.config.panel_of(layer), layer.panel()
    task = _task(run, "aggregate" if before else "initial", config.system)
    conversations = []
    for member in members:
        seed = f"{config.order_seed}:{iteration.number}:{member}"
        order = in_order(before, seed)
        if before:
            iteration.shown[str(member)] = [response.member for response in order]
        conversations.append(task.messages([response.text or "" for response in order], seed))
    await emit("asking", [str(member) for member in members])
    iteration.responses = await ask_members(
        members, conversations, config, run.call, quorum=config.needed(), label=run.label(iteration)
    )


def _task(run: MixtureRun, role: Literal["initial", "aggregate", "final"], system: str | None) -> LayerPrompt:
    return LayerPrompt(run.prompt, role, getattr(run.config.prompts, role), system, run.given)


def _stop_short(
    run: MixtureRun, iteration: Iteration, quorum: int, before: Sequence[Response], likeness: Likeness
) -> bool:
    """Tell whether a layer missed its quorum, so that the run ends with it."""
    cause = missed_quorum(iteration.responses, quorum)
    if cause is None:
        return False
    record = run.record
    record.error, record.status = f"{run.label(iteration)}: {cause}", "failed"
    paid = iteration.answered() or before
    if paid and any(response.refused_by_budget for response in iteration.responses):
        # The models did not fail, they were not asked: the best answer that the budget paid for is one.
        iteration.synthesis = nearest(paid, "stand-in", likeness)
        record.status = "finished"  # by its budget, as is said at the end
    return True


async def _aggregate(run: MixtureRun, likeness: Likeness) -> None:
    """Let the aggregator make one answer, of all answers at once or window after window."""
    config, answers = run.config, run.record.iterations[-1].answered()
    task, so_far = _task(run, "final", config.system), None
    parts = windows(len(answers), config.window, config.reserved)
    for place, part in enumerate(parts, 1):
        async with run.iteration() as iteration:
            await emit("asking", [f"{config.aggregators()[0]}#1"])
            made, iteration.judgements = await synthesize(
                task,
                [answers[index] for index in part],
                config,
                run.call,
                so_far=so_far.text if so_far else None,
                seed=f"{config.order_seed}:{iteration.number}",
                label=run.label(iteration) if len(parts) == 1 else f"window {place} of {len(parts)}",
                final=place == len(parts),
            )
            iteration.synthesis = made
            if made is None and so_far is not None:
                iteration.synthesis = so_far.model_copy(update={"method": SO_FAR})
                stands_in = f"the synthesis of window {place - 1} stands in"
                run.warn("stand_in", f"no aggregator could answer: {stands_in}", iteration)
                run.record.degraded = True
            elif made is None:
                await run.stand_in(iteration, config.stand_in, likeness, "no aggregator could answer", answers)
        if made is None:
            break
        so_far = made


def _conclude(run: MixtureRun) -> None:
    """Return the last answer; how far the models agree is that of the last layer of proposers."""
    record = run.record
    run.note_fallbacks(run.config.aggregators()[0], "aggregate")
    last = next((one for one in reversed(record.iterations) if one.synthesis), None)
    if last is not None:
        run.answer_with(last)
    layers = [one for one in record.iterations if one.responses]
    if layers:
        record.agreement, record.agreement_measure = layers[-1].agreement, layers[-1].agreement_measure


def report(config: MixtureOfAgentsConfig, reference: Recorded | None = None) -> Report:
    """Show each layer's answers and calls, and how many of the layers are done."""
    layers = len(config.proposer_layers()) + 1 + (reference is not None)

    def artifacts(record: Record, iteration: Iteration) -> Iterator[Artifact]:
        number = iteration.number
        # How many windows there will be is known only when the last layer has answered.
        done = 100.0 if number >= layers else round(number / layers * 100, 1)
        yield Artifact("mixture-of-agents-layer", f"Layer {number}", page(iteration))
        yield calls_artifact(record, iteration, f"layer {number}")
        yield Artifact("mixture-of-agents-progress", f"Layer {number} of {max(number, layers)}", done)

    return Report(artifacts)


def page(iteration: Iteration) -> str:
    """Describe a layer for a person."""
    synthesis, answered, sections = iteration.synthesis, iteration.answered(), []
    if iteration.responses:
        earlier = ", recorded earlier" if any(response.recorded for response in answered) else ""
        sections.append(
            f"{len(answered)} of {len(iteration.responses)} models answered{earlier} · {agreement_note(iteration)}"
        )
    if synthesis:
        if iteration.judgements and not iteration.judgements[-1].answered and synthesis.arbiter:
            by = "no aggregator could answer; the synthesis so far stands in"
        elif synthesis.arbiter:
            by = f"by `{cell(synthesis.arbiter)}` from {len(synthesis.labels)} answers"
        else:
            by = f"no synthesis could be made; the answer of `{cell(synthesis.chosen or '')}` stands in for one"
        sections += ["## Answer", by, prose(synthesis.text)]
    return iteration_page(f"Layer {iteration.number}", iteration, sections)


@flow(name="mixture-of-agents", **FLOW)
async def mixture_of_agents(
    prompt: str,
    config: ConfigOrName[MixtureOfAgentsConfig] = None,
    conversation: list[Message] | None = None,
    attachments: Attachments = None,
    reference: list[Recorded] | None = None,
) -> Record:
    """Ask layers of models, each of which sees the answers of the one before; the last model makes one answer.

    Args:
        prompt: The question.
        config: Who is in which layer, and who aggregates; or the name of a saved configuration (a Mixture of Agents
            block). Empty: the one called default.
        conversation: Earlier turns of the conversation that this question continues.
        attachments: Images, PDFs and text files that the question is about: paths or URLs.
        reference: Recorded answers that stand in for the first layer.
    """
    (found,) = recorded_for([prompt], reference or [])
    return await run_as_flow(
        run_mixture_of_agents,
        MixtureOfAgents,
        lambda settings: report(settings, found),
        prompt,
        config,
        conversation=conversation,
        attachments=attachments,
        reference=found,
    )


def plan(config: MixtureOfAgentsConfig) -> Iterator[Planned]:
    """Plan the calls of a run as long as every model answers."""
    layers: Sequence[Layer] = config.proposer_layers()
    before = [0, *(len(layer.panel()) for layer in layers)]
    for layer, seen in zip(layers, before, strict=False):
        panel = config.panel_of(layer)
        instructions = prompt_length("moa_aggregate", "moa_answers") if seen else prompt_length("moa_initial")
        yield from member_calls(panel, layer.panel(), (1, 1), reads=seen, instructions=instructions)
    parts = windows(before[-1], config.window, config.reserved)
    calls = len(parts), len(parts)
    read = before[-1] + config.reserved * (len(parts) - 1)
    instructions = prompt_length("moa_final", "moa_answers") + len(config.system or "")
    yield judge_calls(
        config.aggregators()[0], "aggregator", calls, (read, read), instructions, settings=config.aggregator_sampling()
    )


def waves(config: MixtureOfAgentsConfig) -> tuple[int, int]:
    """Return how often a run waits for calls that depend on those before, at least and at most."""
    asked = [[one.name for one in layer.panel()] for layer in config.proposer_layers()]
    parts = windows(len(asked[-1]), config.window, config.reserved)  # one after the other
    each = [takes(config, models) for models in (*asked, *[config.aggregators()[:1]] * len(parts))]
    return sum(least for least, _ in each), sum(most for _, most in each)
