"""A vote: the answer is read out of what each member wrote and counted; or a judge compares the answers in pairs.

Self-consistency (arXiv:2203.11171) where the members are instances of one model, a majority vote where they are not.
The pairwise ranking is after LLM-Blender (arXiv:2306.02561).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefect import flow

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.member import Member, ModelName, parse_member
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.flows.run import FLOW, ConfigOrName, Run, begin, run_as_flow
from consensus_flows.tasks.asking import missed_quorum
from consensus_flows.tasks.batches.planning import (
    READING_CHARACTERS,
    SCHEMA_CHARACTERS,
    Planned,
    judge_calls,
    member_calls,
    prompt_length,
)
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.extraction.extract import Reading, extract_all
from consensus_flows.tasks.counting.vote import Tally, count_votes
from consensus_flows.tasks.judging.judge import JudgeRequest
from consensus_flows.tasks.judging.pairwise import candidates, fuse, judged, rank_pairs
from consensus_flows.tasks.judging.readings import Extracted, SameAnswers, extract_by_model
from consensus_flows.tasks.record import CallError, Comparison, Iteration, Option, Record, Response, Synthesis
from consensus_flows.tasks.record import Vote as CastVote
from consensus_flows.tasks.reports.markdown import cell, percent, prose, quoted
from consensus_flows.tasks.reports.report import Artifact, Report, calls_table, iteration_page


async def run_vote(
    prompt: str,
    config: VoteConfig,
    call: Call | None = None,
    *,
    conversation: tuple[Message, ...] = (),
) -> Record:
    """Ask the members and count their votes, or let a judge compare their answers.

    Args:
        prompt: The question.
        config: Who is asked, how answers are read, when to stop.
        call: Makes the calls; by default the `ask` task.
        conversation: Earlier turns, which members and judges see alike.

    Returns:
        The record of the run. When no answer could be read its status is `failed` and `error` says why.

    Raises:
        ConfigurationError: Before any call, if the prompt is empty or a model cannot be asked.
    """
    async with begin("vote", prompt, config, call, conversation=conversation) as run, run.iteration() as iteration:
        if config.pairwise_judge is None:
            failure = await _count(run, iteration)
        else:
            failure = await _compare(run, iteration, config.pairwise_judge)
        if failure is not None:
            # The votes that were cast stay in the record.
            run.record.status, run.record.error, iteration.synthesis = "failed", failure, None
        elif iteration.synthesis is not None:
            run.answer_with(iteration)
    return run.record


async def _count(run: Run[VoteConfig], iteration: Iteration) -> str | None:
    """Ask wave after wave until an answer has enough votes or everybody was asked; return why there is no answer."""
    config, responses = run.config, iteration.responses
    panel, weights = config.panel(), config.weights_of(config.panel())
    size = len(panel) if config.stop_when is None else config.waves or 1
    extracted: list[Extracted] = []
    extractor = None if config.extractor is None else parse_member(config.extractor)[0]
    same = SameAnswers(_asked(run), extractor, run.record, iteration, run.call)
    tally, readings = count_votes([]), list[Reading | None]()
    while len(responses) < len(panel):
        wave = panel[len(responses) : len(responses) + size]
        missing = config.needed() - _known(extracted)
        label = "vote" if size >= len(panel) else f"wave {len(responses) // size + 1}"
        await run.ask(iteration, wave, quorum=min(len(wave), max(1, missing)), label=label)
        extracted += await _read(run, iteration, responses[len(extracted) :], extractor)
        readings = await same.merged(extract_all([one.text for one in extracted], parse_extraction(config.extract)))
        values = [reading.value if reading else None for reading in readings]
        tally = count_votes(values, weights[: len(values)])
        # A quorum that was asked for is waited for; the usual one guards a panel that was asked to the last member.
        enough = config.quorum is None or _known(extracted) >= config.quorum
        if config.stop_when is not None and enough and tally.reached(config.stop_when):
            run.record.status = "agreed"
            break
        if iteration.cut_by_budget:
            break
    unparsed = {response.member: one.error for response, one in zip(responses, extracted, strict=True) if one.error}
    _cast(run, iteration, readings, unparsed)
    _enter(run.record, iteration, readings, tally)
    if run.record.status == "agreed":
        return None
    failure = missed_quorum(responses, config.needed(), unparsed)
    if failure and not (iteration.cut_by_budget and tally.winner):
        return failure
    if tally.winner is None:
        return _nothing_read(iteration, config.extract)
    if iteration.cut_by_budget:
        run.warn("budget", "the budget ended before everybody was asked: these are the votes that it paid for")
    return None


async def _read(
    run: Run[VoteConfig], iteration: Iteration, responses: Sequence[Response], model: ModelName | None
) -> list[Extracted]:
    """Return what is to be read of each response."""
    if model is None:
        return [Extracted(response.text if response.answered else None) for response in responses]
    extracted, calls = await extract_by_model(responses, _asked(run), model, run.call)
    iteration.judgements += calls
    return extracted


def _known(extracted: Sequence[Extracted]) -> int:
    """Return of how many members it is known what they say, if only that they give no answer."""
    return sum(one.text is not None for one in extracted)


def _cast(
    run: Run[VoteConfig],
    iteration: Iteration,
    readings: Sequence[Reading | None],
    unparsed: Mapping[str, CallError],
) -> None:
    """Enter what each member voted for."""
    config, record = run.config, run.record
    written = _as_first_written(readings)
    weights = config.weights_of(config.panel())
    for response, reading, weight in zip(iteration.responses, readings, weights, strict=False):
        member, error = response.member, unparsed.get(response.member)
        answer = None if reading is None else written[reading.value]
        heard = response.answered and error is None
        record.votes.append(CastVote(member=member, answer=answer, weight=weight, heard=heard))
        if error is not None:
            record.degraded = True
            run.warn("unparsed", f"{member}: its answer could not be read ({error.kind})", member=member)
        elif reading is None and response.answered:
            run.warn(
                "abstained", f"{member} abstains: no answer could be read ({_brief(config.extract)})", member=member
            )


def _enter(record: Record, iteration: Iteration, readings: Sequence[Reading | None], tally: Tally) -> None:
    """Enter the count of the votes, and the answer that has most of them."""
    written = _as_first_written(readings)
    record.tally = [
        Option(
            answer=written[count.value],
            votes=count.votes,
            share=round(count.votes / tally.cast, 4),
            members=[iteration.responses[index].member for index in count.voters],
        )
        for count in tally.counts
    ]
    if tally.winner is None:
        return
    winner, first = record.tally[0], iteration.responses[tally.winner.voters[0]]
    record.tie, record.unanimous = tally.tie, tally.unanimous
    record.margin = round(tally.margin or 0.0, 4)
    record.full_text = first.text
    if sum(map(len, (count.voters for count in tally.counts))) > 1:  # one voice agrees with nobody
        iteration.agreement, iteration.agreement_measure = round(tally.share or 0.0, 4), "votes"
    iteration.synthesis = Synthesis(
        text=winner.answer,
        chosen=first.member,
        method="vote",
        value=winner.answer,
        votes={option.answer: option.members for option in record.tally},
    )


def _as_first_written(readings: Sequence[Reading | None]) -> dict[object, str]:
    """For each value its text as the first member that gave it wrote it."""
    return {reading.value: reading.text for reading in reversed(readings) if reading}


def _nothing_read(iteration: Iteration, extraction: str) -> str:
    """Say why there is no answer although members have answered."""
    calls = [*iteration.responses, *iteration.judgements]
    causes = [f"{call.member}: {call.error.message}" for call in calls if call.error is not None]
    return "; ".join([f"no answer could be read ({_brief(extraction)}) in what the members wrote", *causes])


def _brief(extraction: str) -> str:
    """Name an extraction without all of its labels."""
    first, more, _ = extraction.partition(",")
    return first + more + "..." * bool(more)


async def _compare(run: Run[VoteConfig], iteration: Iteration, judge: str) -> str | None:
    """Ask everybody at once, let the judge compare the answers, and fuse the best; return why there is no answer."""
    config, record = run.config, run.record
    await run.ask(iteration, config.panel(), quorum=config.needed(), label="answers")
    likeness = await run.measure(iteration, "answers")
    answered = iteration.answered()
    failure = missed_quorum(iteration.responses, config.needed())
    if failure and not (answered and iteration.cut_by_budget):
        return failure
    model = parse_member(judge)[0]
    compared = candidates(iteration.responses, model)
    if len(compared) < len(answered):
        run.warn("self_preference", f"{judge} is also a member: its own answer is not compared", member=judge)
    found = await rank_pairs(compared, _asked(run), model, run.call, config.comparisons)
    iteration.judgements += found.calls
    record.comparisons = found.comparisons
    if not found.ranking:
        cause = f"{judge} could not compare the answers" if found.calls else "fewer than two answers to compare"
        await run.stand_in(iteration, config.stand_in, likeness, cause)
        return None
    if unread := sum(not judged(comparison) for comparison in found.comparisons):
        record.degraded = True
        pairs = f"{unread} of {len(found.comparisons)} pairs"
        run.warn("unparsed", f"{judge} could not compare {pairs}: these count for neither side", member=judge)
    order = [member for group in found.ranking for member in group]
    if left_out := [response.member for response in compared if response.member not in order]:
        run.warn("not_ranked", f"not ranked, because in no comparison that could be read: {', '.join(left_out)}")
    by_name = {response.member: response for response in answered}
    best = by_name[order[0]]
    record.tie = len(found.ranking[0]) > 1 or any(
        judged(c) and c.winner is None and set(c.pair) == set(order[:2]) for c in found.comparisons
    )
    record.full_text = best.text
    iteration.synthesis = Synthesis(
        text=best.text or "", arbiter=judge, chosen=best.member, ranking=order, method="pairwise"
    )
    if config.fuse is not None:
        top = [by_name[name] for name in order[: config.fuse_top]]
        text, calls = await fuse(top, _asked(run), parse_member(config.fuse)[0], run.call)
        iteration.judgements += calls
        if text is None:
            record.degraded = True
            cause = f"{config.fuse} could not fuse the answers: the best one is returned verbatim"
            run.warn("not_fused", cause, member=config.fuse)
        else:
            update = {"text": text, "arbiter": config.fuse, "chosen": None, "method": "fuse"}
            iteration.synthesis = iteration.synthesis.model_copy(update=update)
    return None


def _asked(run: Run[VoteConfig]) -> JudgeRequest:
    return JudgeRequest(
        question=run.prompt,
        system=run.system,
        conversation=run.conversation,
        sampling=run.config.judge_settings,
        timeout=run.config.timeout_s(),
        seed=str(run.config.order_seed),
    )


def report(_config: VoteConfig | None = None) -> Report:
    """Show the votes and the count, or what the judge found in pairs."""
    return Report(_artifacts)


def _artifacts(record: Record, iteration: Iteration) -> Iterator[Artifact]:
    yield Artifact("vote-result", "Result", page(record, iteration))
    yield Artifact("vote-calls", "Calls", calls_table(iteration))
    if record.votes:
        yield Artifact("vote-votes", "Votes", votes_table(record))
    if record.comparisons:
        yield Artifact("vote-pairs", "Compared pairs", pairs_table(record.comparisons))


def page(record: Record, iteration: Iteration) -> str:
    """Describe the result for a person."""
    sections, synthesis = [], iteration.synthesis
    if synthesis is None:
        sections.append(f"No answer.\n\n{prose(record.error or '')}")
    else:
        how = {"vote": "Most votes", "pairwise": "Best in pairs", "fuse": "Fused of the best"}
        title = how.get(synthesis.method or "", "Nearest to the others, because the judge failed")
        sections += [f"## {title}", prose(synthesis.text)]
        notes = [f"**agreement** {percent(iteration.agreement)}"]
        notes += ["**unanimous**"] if record.unanimous else []
        notes += ["**tie**, the member listed first decided"] if record.tie else []
        sections.append(" · ".join(notes))
    if record.tally:
        sections += ["## Votes", quoted("\n".join(tally_lines(record)))]
    if synthesis is not None and synthesis.ranking:
        sections += ["## Ranking", quoted("\n".join(f"{n}. {name}" for n, name in enumerate(synthesis.ranking, 1)))]
    return iteration_page("Result", iteration, sections)


def votes_table(record: Record) -> list[dict[str, Any]]:
    """List what each member voted for, in the order in which they were asked."""
    return [
        {
            "member": vote.member,
            "answer": "abstains" if vote.answer is None else cell(vote.answer),
            "weight": vote.weight,
        }
        for vote in record.votes
    ]


def pairs_table(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """List the compared pairs and what the judge said of them in both orders."""
    return [
        {
            "first": one.pair[0],
            "second": one.pair[1],
            "better in this order": one.said[0] or "nothing",
            "better in the other order": one.said[1] or "nothing",
            "winner": one.winner or ("none" if None in one.said else "tie"),
        }
        for one in comparisons
    ]


def tally_lines(record: Record) -> list[str]:
    """Say in a line each how many votes an answer has and whose they are."""
    lines = [
        f"{option.votes:g} ({percent(option.share)}) {cell(option.answer)[:80]}: {', '.join(option.members)}"
        for option in record.tally
    ]
    abstained = [vote.member for vote in record.votes if vote.answer is None]
    return [*lines, f"no vote: {', '.join(abstained)}"] if abstained else lines


@flow(name="vote", **FLOW)
async def vote(
    prompt: str, config: ConfigOrName[VoteConfig] = None, conversation: list[Message] | None = None
) -> Record:
    """Let models vote: their answers are read and counted, or compared in pairs by a judge.

    Args:
        prompt: The question.
        config: Who votes, and how it is counted; or the name of a saved configuration (a Vote block). Empty: the one
            called default.
        conversation: Earlier turns of the conversation that this question continues.
    """
    return await run_as_flow(run_vote, Vote, report, prompt, config, conversation=conversation)


def plan(config: VoteConfig) -> Iterator[Planned]:
    """Plan the calls of a run as long as every model answers."""
    members = config.panel()
    if config.pairwise_judge is not None:
        yield from member_calls(config, members, (1, 1))
        yield from _pairwise(config, parse_member(config.pairwise_judge)[0])
        return
    size = len(members) if config.stop_when is None else config.waves or 1
    asked = _enough(config, members, size)
    # Votes are counted and not compared, so that nothing is embedded.
    yield from member_calls(config, members[:asked], (1, 1), compared=False)
    yield from member_calls(config, members[asked:], (0, 1), compared=False)
    if config.extractor is not None:
        model, settings = parse_member(config.extractor)[0], config.judge_settings
        # Members that wrote the same are read once in each wave.
        calls = math.ceil(asked / size), len(members)
        instructions = prompt_length("extract_system", "extract") + SCHEMA_CHARACTERS
        yield judge_calls(model, "extractor", calls, calls, instructions, settings=settings)
        # After each wave it says which readings mean the same, if there are two that differ.
        comparing = 0, math.ceil(len(members) / size) - (size == 1 or len(members) == 1)
        instructions = (
            prompt_length("same_meaning_system", "same_meaning") + READING_CHARACTERS * len(members) + SCHEMA_CHARACTERS
        )
        if comparing[1]:
            yield judge_calls(model, "extractor", comparing, (0, 0), instructions, settings=settings)


def _enough(config: VoteConfig, members: Sequence[Member], size: int) -> int:
    """How many members are asked when all of them agree, in waves of `size`."""
    if config.stop_when is None:
        return len(members)
    weights = config.weights_of(members)
    for asked in range(size, len(members), size):
        if math.fsum(weights[:asked]) >= config.stop_when and asked >= (config.quorum or 1):
            return asked
    return len(members)


def _pairwise(config: VoteConfig, judge: ModelName) -> Iterator[Planned]:
    count = sum(member.name != judge for member in config.panel())
    pairs = count * (count - 1) // 2
    # Sorting compares at least every neighbour, and at most as many pairs as there are.
    some = (pairs, pairs) if config.comparisons is None else (count - 1, pairs)
    calls = tuple(2 * min(number, config.comparisons or pairs) for number in some)
    if count < 2:
        return
    instructions = len(config.system or "") + SCHEMA_CHARACTERS
    yield judge_calls(
        judge,
        "pairwise judge",
        (calls[0], calls[1]),
        [2 * number for number in calls],
        prompt_length("compare_system", "compare") + instructions,
        settings=config.judge_settings,
    )
    if config.fuse is not None:
        best = min(config.fuse_top, count)
        yield judge_calls(
            parse_member(config.fuse)[0],
            "fuser",
            (1, 2),  # a long answer is written in a call of its own
            (best, 2 * best + 1),
            prompt_length("fuse_system", "fuse", "fuse_answer") + instructions,
            settings=config.judge_settings,
        )
