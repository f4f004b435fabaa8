"""Prefer: many models answer, then every one of them ranks the answers of the others.

After the `prefer` of parallellm-pump (github.com/lukerm/parallellm-pump), with its failures mended: each judge sees the
answers in an order of its own and never its own among them, failures are not ranked, rankings come by schema, and they
are counted (Borda 1781, Condorcet 1785, Kendall 1939) and not just printed.
"""

from collections.abc import Iterator

from prefect import flow

from consensus_flows.blocks.prefer import Prefer, PreferConfig
from consensus_flows.flows.algorithms import takes
from consensus_flows.flows.run import FLOW, Attachments, ConfigOrName, Run, begin, run_as_flow
from consensus_flows.tasks.asking import new_samples
from consensus_flows.tasks.batches.planning import SCHEMA_CHARACTERS, Planned, judge_calls, member_calls, prompt_length
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.preference import best_round, score
from consensus_flows.tasks.judging.judge import JudgeRequest
from consensus_flows.tasks.judging.poll import poll
from consensus_flows.tasks.plain_text import labels
from consensus_flows.tasks.prompts import prompt
from consensus_flows.tasks.record import Iteration, JudgeRanking, Record, Synthesis
from consensus_flows.tasks.reports.markdown import cell, percent, prose, quoted
from consensus_flows.tasks.reports.preference_report import number_text, said_by, scores_lines, scores_table
from consensus_flows.tasks.reports.report import Artifact, Report, calls_artifact, iteration_page


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
    async with begin("prefer", prompt, config, call, conversation=conversation, word="round") as run:
        for _ in range(config.rounds):
            async with run.iteration() as iteration:
                done = await _round(run, iteration)
            if done:
                break
        _conclude(run)
    return run.record


async def _round(run: Run[PreferConfig], iteration: Iteration) -> bool:
    """Run one round, and tell whether it was the last one."""
    config, members = run.config, run.config.panel()
    call = new_samples(run.call, members, iteration.number)
    await run.ask(iteration, members, quorum=config.needed(), call=call)
    likeness = await run.measure(iteration)
    if run.stop_short(iteration, config.needed(), likeness):
        return True
    answered = iteration.answered()
    asked = JudgeRequest(
        question=run.prompt,
        system=run.system,
        conversation=run.conversation,
        sampling=config.judge_settings,
        timeout=config.timeout_s(),
    )
    entries, iteration.judgements = await poll(
        asked, members, iteration.responses, config, call, number=iteration.number
    )
    run.record.rankings += entries
    scores = score(entries, [response.member for response in answered])
    if scores.winner is None:
        cause = "no judge ranked anything" if entries else f"{len(answered)} answers are too few to rank"
        await run.stand_in(iteration, config.stand_in, likeness, cause)
    else:
        text = next(response.text or "" for response in answered if response.member == scores.winner)
        iteration.synthesis = Synthesis(text=text, chosen=scores.winner, ranking=list(scores.members))
    return iteration.cut_by_budget


def _conclude(run: Run[PreferConfig]) -> None:
    """Count all rankings, and choose the answer."""
    record = run.record
    record.scores = scores = score(record.rankings, [str(member) for member in run.config.panel()])
    number = best_round(record.rankings, scores.winner) if scores.winner else None
    best = next((one for one in record.iterations if number in {None, one.number} and one.synthesis), None)
    if best is not None:
        run.answer_with(best)
        if scores.winner:
            record.answer = next(one.text for one in best.answered() if one.member == scores.winner)
    record.degraded = scores.winner is None
    if scores.tied:
        run.warn("tie", f"{', '.join(scores.tied)} have the same Borda count; {scores.winner} is taken")
    for entry in record.rankings:
        record.degraded |= entry.error is not None
        if entry.abstained and entry.error is None:
            run.warn("abstained", f"{entry.judge} abstained as judge", record.iterations[entry.round - 1], entry.judge)


def report(config: PreferConfig) -> Report:
    """Show each round's rankings and calls, and in the end what follows from all of them."""

    def artifacts(record: Record, iteration: Iteration) -> Iterator[Artifact]:
        number = iteration.number
        yield Artifact("prefer-round", f"Round {number}", page(iteration, record.rankings))
        yield calls_artifact(record, iteration, f"round {number}")
        yield Artifact("prefer-progress", "Rounds done", round(100 * number / config.rounds, 1))

    def summary(record: Record) -> Iterator[Artifact]:
        if record.scores is not None:
            yield Artifact("prefer-scores", "All rankings put together", scores_table(record.scores))
            yield Artifact("prefer-summary", "What the judges prefer", quoted("\n".join(scores_lines(record.scores))))

    return Report(artifacts, summary)


def page(iteration: Iteration, rankings: list[JudgeRanking]) -> str:
    """Describe a round for a person."""
    answered = iteration.answered()
    own = [entry for entry in rankings if entry.round == iteration.number]
    sections = [
        f"{len(answered)} of {len(iteration.responses)} members answered · **agreement** {percent(iteration.agreement)} (measured)",
        "## Rankings",
        quoted("\n".join(f"{entry.judge}: {said_by(entry)}" for entry in own)) if own else "None.",
    ]
    if own:
        scores = score(own, [response.member for response in answered])
        sections.append(f"Best by Borda: `{cell(scores.winner or '-')}` · Kendall's W {number_text(scores.kendall_w)}")
    remarks = [entry for entry in own if entry.analysis or entry.abstained]
    if remarks:
        sections.append("## What the judges said")
        for entry in remarks:
            pairs = zip(labels(len(entry.order)), entry.order, strict=True)
            shown = ", ".join(f"{label} {member}" for label, member in pairs)
            text = prose(entry.analysis or entry.text or "")
            sections.append(f"### `{cell(entry.judge)}`\n\nIt saw `{cell(shown)}`.\n\n{text}")
    return iteration_page(f"Round {iteration.number}", iteration, sections)


@flow(name="prefer", **FLOW)
async def prefer(
    prompt: str,
    config: ConfigOrName[PreferConfig] = None,
    conversation: list[Message] | None = None,
    attachments: Attachments = None,
) -> Record:
    """Let models answer and rank each other's answers.

    Args:
        prompt: The question.
        config: Who takes part, and how often; or the name of a saved configuration (a Prefer block). Empty: the one
            called default.
        conversation: Earlier turns of the conversation that this question continues.
        attachments: Images, PDFs and text files that the question is about: paths or URLs.
    """
    return await run_as_flow(
        run_prefer, Prefer, report, prompt, config, conversation=conversation, attachments=attachments
    )


def plan(config: PreferConfig) -> Iterator[Planned]:
    """Plan the calls of a run as long as every model answers."""
    members, rounds = config.panel(), (config.rounds, config.rounds)
    for _ in range(config.rounds):
        yield from member_calls(config, members, (1, 1))
    seen = len(members) - (not config.include_self)
    instructions = (
        prompt_length("preference_system", "preference")
        + len((config.criteria or prompt("criteria")) + (config.system or ""))
        + SCHEMA_CHARACTERS
    )
    for member in members:
        read = [count * seen for count in rounds]
        yield judge_calls(
            member.name, "judge of the others", rounds, read, instructions, settings=config.judge_settings
        )


def waves(config: PreferConfig) -> tuple[int, int]:
    """Return how often a run waits for calls that depend on those before, at least and at most."""
    least, most = takes(config, [member.name for member in config.panel()])
    return 2 * config.rounds * least, 2 * config.rounds * most
