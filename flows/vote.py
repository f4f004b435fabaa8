"""A vote: the answer is read out of what each member wrote and counted; or a judge compares the answers in pairs.

Self-consistency (arXiv:2203.11171) where the members are instances of one model, a majority vote where they are not.
The pairwise ranking is after LLM-Blender (arXiv:2306.02561).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from prefect import flow

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.member import Member, parse_member
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.money.budget import spending
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.extraction.extract import Reading, extract_all
from consensus_flows.tasks.counting.vote import count_votes
from consensus_flows.tasks.ending import cut_by_budget, end_by_budget, out_of_budget
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.judging.bench import Bench
from consensus_flows.tasks.judging.extract_by_model import Heard, extract_by_model
from consensus_flows.tasks.judging.judge import fallback
from consensus_flows.tasks.judging.pairwise import candidates, fuse, rank_pairs, told
from consensus_flows.tasks.judging.same_answers import SameAnswers
from consensus_flows.tasks.measuring import measure
from consensus_flows.tasks.panel import check_quorum
from consensus_flows.tasks.prompting.turns import Turns, apart
from consensus_flows.tasks.record import Iteration, Record, Response, Synthesis
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.report import run_name, start_record, told_of_end
from consensus_flows.tasks.reports.vote_record import nothing_read, write_votes
from consensus_flows.tasks.reports.vote_report import VoteReport
from consensus_flows.tasks.rounds import ask_members
from consensus_flows.tasks.saved_config import chosen
from consensus_flows.tasks.watch import tell


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
    if not prompt.strip():
        raise ConfigurationError("prompt is empty: write a question")
    await check_models(config.models(), config.embedding())
    record = start_record("vote", prompt, seed=config.seed)
    system, turns = apart(config.system, conversation)
    iteration = Iteration(number=1)
    record.iterations.append(iteration)
    run = _Run(prompt, config, record, iteration, call or Caller(config.fresh, config.service_tier), system, turns)
    started = time.monotonic()
    await tell("started", record)
    with spending(config.budget):
        if config.pairwise_judge is None:
            await _count(run)
        else:
            await _compare(run, config.pairwise_judge)
    iteration.duration_s = round(time.monotonic() - started, 4)
    _conclude(record, iteration)
    record.add_up()
    record.duration_s = iteration.duration_s
    await tell("iterated", iteration)
    await tell("ended", record)
    return record


@dataclass(frozen=True)
class _Run:
    prompt: str
    config: VoteConfig
    record: Record
    iteration: Iteration
    call: Call
    system: str | None
    conversation: tuple[Message, ...]

    async def ask(self, members: Sequence[Member], quorum: int, label: str) -> None:
        """Ask some of the members; none of them sees what another has said."""
        messages = Turns(self.prompt, self.system, self.conversation).messages
        self.iteration.responses += await ask_members(
            members, [messages] * len(members), self.config, self.call, quorum=quorum, label=label
        )


async def _count(run: _Run) -> None:
    """Ask wave after wave until an answer has enough votes or everybody was asked."""
    config, record, responses = run.config, run.record, run.iteration.responses
    panel, weights = config.panel(), config.weights_of(config.panel())
    size = len(panel) if config.stop_when is None else config.waves or 1
    heard: list[Heard] = []
    bench = None if config.extractor is None else _bench(run, config.extractor)
    same = SameAnswers(bench, record, run.iteration, run.call)
    tally, readings = count_votes([]), list[Reading | None]()
    while len(responses) < len(panel):
        wave = panel[len(responses) : len(responses) + size]
        missing = config.needed() - _known(heard)
        label = "vote" if size >= len(panel) else f"wave {len(responses) // size + 1}"
        await run.ask(wave, min(len(wave), max(1, missing)), label)
        heard += await _heard(run, responses[len(heard) :], bench)
        readings = await same.merged(extract_all([one.text for one in heard], parse_extraction(config.extract)))
        values = [reading.value if reading else None for reading in readings]
        tally = count_votes(values, weights[: len(values)])
        # A quorum that was asked for is waited for; the usual one guards a panel that was asked to the last member.
        enough = config.quorum is None or _known(heard) >= config.quorum
        if config.stop_when is not None and enough and tally.reached(config.stop_when):
            record.status = "agreed"
            break
        if cut_by_budget(run.iteration):
            break
    unheard = {response.member: one.error for response, one in zip(responses, heard, strict=True) if one.error}
    write_votes(
        record,
        run.iteration,
        readings=readings,
        unheard=unheard,
        tally=tally,
        weights=weights,
        extraction=config.extract,
    )
    if record.status == "agreed":
        return
    try:
        check_quorum(responses, config.needed(), unheard)
    except QuorumError as error:
        if not (cut_by_budget(run.iteration) and tally.winner):
            _fail(run, error.message)
            return
    if tally.winner is None:
        _fail(run, nothing_read(run.iteration, config.extract))
    elif cut_by_budget(run.iteration):
        record.warnings.append("the budget ended before everybody was heard: these are the votes that it paid for")


async def _heard(run: _Run, responses: Sequence[Response], bench: Bench | None) -> list[Heard]:
    """Return what is to be read of each response."""
    if bench is None:
        return [Heard(response.text if response.answered else None) for response in responses]
    heard, calls = await extract_by_model(responses, bench, run.call)
    run.iteration.judgements += calls
    return heard


def _known(heard: Sequence[Heard]) -> int:
    """Return of how many members it is known what they say, if only that they give no answer."""
    return sum(one.text is not None for one in heard)


async def _compare(run: _Run, judge: str) -> None:
    """Ask everybody at once, let the judge compare the answers, and fuse the best if that is wanted."""
    config, record, iteration = run.config, run.record, run.iteration
    await run.ask(config.panel(), config.needed(), "answers")
    responses = iteration.responses
    answered = [response for response in responses if response.answered]
    likeness = await measure(iteration, record, config, run.call, "answers")
    try:
        check_quorum(responses, config.needed())
    except QuorumError as error:
        if not (answered and out_of_budget(responses)):
            _fail(run, error.message)
            return
    bench = _bench(run, judge)
    compared = candidates(responses, bench.model)
    if len(compared) < len(answered):
        record.warnings.append(f"{judge} is also a member: its own answer is not compared")
    found = await rank_pairs(compared, bench, run.call, config.comparisons)
    iteration.judgements += found.calls
    record.comparisons = found.comparisons
    if not found.ranking:
        iteration.synthesis = fallback(answered, likeness)
        record.degraded = True
        cause = f"{judge} could not compare the answers" if found.calls else "there are no two answers to compare"
        record.warnings.append(f"{cause}: the one nearest to the others stands in")
        return
    if unread := sum(not told(comparison) for comparison in found.comparisons):
        record.degraded = True
        record.warnings.append(
            f"{judge} could not compare {unread} of {len(found.comparisons)} pairs: these count for neither side"
        )
    order = [member for group in found.ranking for member in group]
    if left_out := [response.member for response in compared if response.member not in order]:
        record.warnings.append(f"not ranked, because in no comparison that could be read: {', '.join(left_out)}")
    by_name = {response.member: response for response in answered}
    best = by_name[order[0]]
    record.tie = len(found.ranking[0]) > 1 or any(
        told(c) and c.winner is None and set(c.pair) == set(order[:2]) for c in found.comparisons
    )
    record.full_text = best.text
    iteration.synthesis = Synthesis(
        text=best.text or "", arbiter=judge, chosen=best.member, ranking=order, method="pairwise"
    )
    if config.fuse is not None:
        text, calls = await fuse(
            [by_name[name] for name in order[: config.fuse_top]], _bench(run, config.fuse), run.call
        )
        iteration.judgements += calls
        if text is None:
            record.degraded = True
            record.warnings.append(f"{config.fuse} could not fuse the answers: the best one is returned word for word")
        else:
            update = {"text": text, "arbiter": config.fuse, "chosen": None, "method": "fuse"}
            iteration.synthesis = iteration.synthesis.model_copy(update=update)


def _bench(run: _Run, model: str) -> Bench:
    return Bench(
        parse_member(model)[0],
        run.prompt,
        run.system,
        run.conversation,
        run.config.judge_settings,
        run.config.timeout_s(),
        str(run.config.seed),
    )


def _fail(run: _Run, cause: str) -> None:
    """End without an answer; the votes that were cast stay in the record."""
    run.record.status, run.record.error = "failed", cause
    run.iteration.synthesis = None


def _conclude(record: Record, iteration: Iteration) -> None:
    """Take the answer, and say what was not as it should be."""
    if iteration.synthesis is not None:
        record.answer = iteration.synthesis.text
        record.agreement, record.agreement_measure = iteration.agreement, iteration.agreement_measure
        record.best_iteration = iteration.number
    record.degraded |= not all(response.answered for response in iteration.responses)
    for call in (*iteration.responses, *iteration.judgements):
        if call.error is not None:
            record.warnings.append(f"{call.member}: {call.error.kind}")
        record.warnings.extend(warning for warning in call.warnings if warning not in record.warnings)
    end_by_budget(record)


@flow(name="vote", flow_run_name=run_name, persist_result=True, result_serializer="json", validate_parameters=True)
async def vote(
    prompt: str,
    config: VoteConfig | None = None,
    saved: str | None = None,
    conversation: list[Message] | None = None,
) -> Record:
    """Let models vote: their answers are read and counted, or compared in pairs by a judge.

    Args:
        prompt: The question.
        config: Who votes, and how it is counted. Empty: a saved configuration.
        saved: Name of a saved configuration (a Vote block) to run in place of config,
            whatever config the deployment sets. Both empty: the one called default.
        conversation: Earlier turns of a conversation that this question goes on.
    """
    config = await chosen(Vote, VoteConfig, config, saved)
    async with record_runs(VoteReport(), conversation=conversation):
        record = await run_vote(prompt, config, conversation=tuple(conversation or ()))
    return told_of_end(record)
