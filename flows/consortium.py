"""The consortium: many models answer, an arbiter makes one answer of theirs, and they continue until it is confident.

The algorithm is that of llm-consortium (github.com/irthomasthomas/llm-consortium), with its failures mended: answers
are shown anonymously and fenced, judgements come by schema, what was missing reaches the next round, and the best round
is kept.
"""

from collections.abc import Iterator

from prefect import flow

from consensus_flows.blocks.consortium import Consortium, ConsortiumConfig
from consensus_flows.flows.algorithms import takes
from consensus_flows.flows.run import FLOW, Attachments, ConfigOrName, Run, begin, run_as_flow
from consensus_flows.tasks.asking import Turns, guidance
from consensus_flows.tasks.batches.planning import (
    COMPARISON_CHARACTERS,
    SCHEMA_CHARACTERS,
    Planned,
    judge_calls,
    member_calls,
    prompt_length,
    rounds_before,
)
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.judging.arbiter import judge
from consensus_flows.tasks.judging.judge import JudgeRequest
from consensus_flows.tasks.prompts import prompt
from consensus_flows.tasks.record import Iteration, Record, Synthesis
from consensus_flows.tasks.reports.markdown import cell, percent, prose
from consensus_flows.tasks.reports.report import (
    Artifact,
    Report,
    agreement_note,
    calls_artifact,
    comparison_section,
    iteration_page,
)


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
    async with begin("consortium", prompt, config, call, conversation=conversation, word="iteration") as run:
        if any(member.name in config.arbiters() for member in config.panel()):
            run.warn("self_preference", "the arbiter is also a member: it may prefer its own answer")
        members = [run.turns() for _ in config.panel()]
        for number in range(1, config.max_iterations + 1):
            async with run.iteration() as iteration:
                done = await _iterate(run, iteration, members)
            if done:
                break
            _tell_members(members, iteration, f"{config.order_seed}:{number}")
        else:
            run.record.status = "max_iterations"
        run.note_fallbacks(config.arbiters()[0], "judge")
        if (best := _best(run.record, config)) is not None:
            run.answer_with(best)
    return run.record


async def _iterate(run: Run[ConsortiumConfig], iteration: Iteration, members: list[Turns]) -> bool:
    """Run one iteration, and tell whether it was the last one."""
    config, record, number = run.config, run.record, iteration.number
    await run.ask(iteration, config.panel(), members, quorum=config.needed())
    likeness = await run.measure(iteration)
    if run.stop_short(iteration, config.needed(), likeness):
        return True
    asked = JudgeRequest(
        question=run.prompt,
        system=run.system,
        conversation=run.conversation,
        sampling=config.arbiter_settings,
        timeout=config.timeout_s(),
        seed=f"{config.order_seed}:{number}",
        label=run.label(iteration),
        history=[one.synthesis.text for one in record.iterations[:-1] if one.synthesis],
    )

    def is_enough(confidence: float, final: bool) -> bool:
        return final and confidence >= config.confidence_threshold and number >= config.min_iterations

    def ends(confidence: float, final: bool) -> bool:
        """Tell whether an answer is the last one, and the one that is returned."""
        last = number == config.max_iterations or is_enough(confidence, final)
        earlier = [_confidence(one.synthesis) for one in record.iterations[:-1] if one.synthesis]
        return last and (config.keep == "last" or confidence >= max(earlier, default=0.0))

    iteration.synthesis, iteration.judgements = await judge(asked, iteration.answered(), config, run.call, ends)
    if iteration.synthesis is None:
        await run.stand_in(iteration, config.stand_in, likeness, "no arbiter could judge")
        return True
    if is_enough(iteration.synthesis.confidence or 0.0, not iteration.synthesis.needs_iteration):
        record.status = "confident"
        return True
    return iteration.cut_by_budget


def _tell_members(members: list[Turns], iteration: Iteration, seed: str) -> None:
    """Show every member what was made of all answers; one that failed is asked again."""
    assert iteration.synthesis is not None
    shown = guidance(iteration.synthesis, seed)
    for turns, response in zip(members, iteration.responses, strict=True):
        turns.continue_after(response.text if response.answered else None, shown)


def _best(record: Record, config: ConsortiumConfig) -> Iteration | None:
    """Choose the iteration whose answer is returned."""
    finished = [(one, one.synthesis) for one in record.iterations if one.synthesis is not None]
    # An answer that stands in for a synthesis does not displace a synthesis.
    judged = [(one, synthesis) for one, synthesis in finished if synthesis.arbiter] or finished
    if not judged:
        return None
    if config.keep == "last":
        return judged[-1][0]
    return max(judged, key=lambda pair: (_confidence(pair[1]), pair[0].number))[0]


def _confidence(synthesis: Synthesis) -> float:
    return -1.0 if synthesis.confidence is None else synthesis.confidence


def report(config: ConsortiumConfig) -> Report:
    """Show each iteration's synthesis, calls and confidence."""

    def artifacts(record: Record, iteration: Iteration) -> Iterator[Artifact]:
        number, confidence = iteration.number, iteration.synthesis.confidence if iteration.synthesis else None
        near = 0.0 if confidence is None else min(1.0, confidence / (config.confidence_threshold or confidence or 1.0))
        yield Artifact("consortium-iteration", f"Iteration {number}", page(iteration))
        yield calls_artifact(record, iteration, f"iteration {number}")
        yield Artifact("consortium-progress", f"Confidence after iteration {number}", round(near * 100, 1))

    return Report(artifacts, threshold=config.confidence_threshold)


def page(iteration: Iteration) -> str:
    """Describe an iteration for a person."""
    title, synthesis = f"Iteration {iteration.number}", iteration.synthesis
    if synthesis is None:
        return iteration_page(title, iteration, ["Too few members answered."])
    by = f"by `{cell(synthesis.arbiter)}`" if synthesis.arbiter else "no arbiter could judge"
    sections = [
        f"**Confidence** {percent(synthesis.confidence)} (the arbiter's word, {by}) · {agreement_note(iteration)}",
        f"## Answer of `{cell(synthesis.chosen)}`" if synthesis.chosen else "## Synthesis",
        prose(synthesis.text),
    ]
    if synthesis.dissent:
        sections += ["## Dissent", prose(synthesis.dissent)]
    if synthesis.refinement_areas:
        sections += ["## Open points", prose("\n".join(f"- {area}" for area in synthesis.refinement_areas))]
    if synthesis.comparison:
        sections += comparison_section(synthesis.comparison)
    if synthesis.analysis:
        sections += ["## Analysis", prose(synthesis.analysis)]
    return iteration_page(title, iteration, sections)


@flow(name="consortium", **FLOW)
async def consortium(
    prompt: str,
    config: ConfigOrName[ConsortiumConfig] = None,
    conversation: list[Message] | None = None,
    attachments: Attachments = None,
) -> Record:
    """Ask a panel of models and let an arbiter make one answer of theirs.

    Args:
        prompt: The question.
        config: Who is asked, who judges, and when to stop; or the name of a saved configuration (a Consortium block).
            Empty: the one called default.
        conversation: Earlier turns of the conversation that this question continues.
        attachments: Images, PDFs and text files that the question is about: paths or URLs.
    """
    return await run_as_flow(
        run_consortium, Consortium, report, prompt, config, conversation=conversation, attachments=attachments
    )


def plan(config: ConsortiumConfig) -> Iterator[Planned]:
    """Plan the calls of a run as long as every model answers."""
    members = config.panel()
    rounds = config.min_iterations, config.max_iterations
    yield from member_calls(config, members, rounds, guidance=prompt("iterate"))
    ranks = config.judging_method == "rank"
    characters = prompt_length(
        "arbiter_system", "arbiter", "arbiter_ranking" if ranks else "arbiter_synthesis", "later_round"
    )
    characters += len(config.system or "") + SCHEMA_CHARACTERS
    if config.comparison:
        characters += prompt_length("arbiter_comparison") + COMPARISON_CHARACTERS
    # Every answer of the round, and its own syntheses of the rounds before.
    read = [count * len(members) + rounds_before(count) for count in rounds]
    arbiter, settings = config.arbiters()[0], config.arbiter_settings
    yield judge_calls(arbiter, "arbiter", rounds, read, characters, settings=settings)
    if not ranks:  # long answers are written in a call of their own, which has the verdict before it
        most = rounds[1]
        yield judge_calls(arbiter, "arbiter", (0, most), [0, read[1] + most], characters, settings=settings)


def waves(config: ConsortiumConfig) -> tuple[int, int]:
    """Return how often a run waits for calls that depend on those before, at least and at most."""
    members, arbiter = takes(config, [one.name for one in config.panel()]), takes(config, config.arbiters()[:1])
    # Long answers are written in a call of their own, after the verdict.
    judged = 1 if config.judging_method == "rank" else 2
    return config.min_iterations * (members[0] + arbiter[0]), config.max_iterations * (members[1] + judged * arbiter[1])
