"""A vote: the answer is read out of what each member wrote and counted; or a judge compares the answers in pairs.

Self-consistency (arXiv:2203.11171) where the members are instances of one model, a majority vote where they are not. Not
everybody has to be asked: members are asked one after the other until an answer has enough votes or is probable enough, or
a few are asked and, where they do not agree, a stronger one decides (a cascade, as in FrugalGPT, arXiv:2305.05176).
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prefect import flow

from consensus_flows.blocks.calibration import SavedPanel
from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.member import Member, named, parse_member
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.flows.algorithms import algorithm, takes, waves_of
from consensus_flows.flows.field_vote import vote_on_fields
from consensus_flows.flows.pairwise_vote import compare, judge_plan, judge_request
from consensus_flows.flows.run import FLOW, Attachments, ConfigOrName, Run, begin, run_as_flow
from consensus_flows.tasks.asking import missed_quorum
from consensus_flows.tasks.batches.planning import (
    READING_CHARACTERS,
    SCHEMA_CHARACTERS,
    Planned,
    judge_calls,
    member_calls,
    prompt_length,
)
from consensus_flows.tasks.calibration import differences
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.extraction.extract import Reading, extract, extract_all
from consensus_flows.tasks.counting.learned import probabilities
from consensus_flows.tasks.counting.vote import Count, Tally, count_votes
from consensus_flows.tasks.judging.readings import Extracted, SameAnswers, extract_by_model
from consensus_flows.tasks.record import CALIBRATED, Iteration, Option, Record, Response, Status, Synthesis
from consensus_flows.tasks.record import Vote as CastVote
from consensus_flows.tasks.reports.report import Report
from consensus_flows.tasks.reports.vote_report import artifacts
from consensus_flows.tasks.watch import calls_only, emit

BRIEF = 40
"""Characters of an extraction that is named whole."""


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
    async with begin("vote", prompt, config, call, conversation=conversation) as run:
        for text in differences(config):
            run.warn("calibration", text)
        async with run.iteration() as iteration:
            if config.pairwise_judge is not None:
                failure = await compare(run, iteration, config.pairwise_judge)
            elif config.by_field:
                failure = await vote_on_fields(run, iteration)
            else:
                failure = await _count(run, iteration)
            if failure is not None:
                # The votes that were cast stay in the record.
                run.record.status, run.record.error, iteration.synthesis = "failed", failure, None
            elif iteration.synthesis is not None:
                run.answer_with(iteration)
        for behind in run.record.iterations[1:]:
            await emit("iterated", behind)
    return run.record


async def _count(run: Run[VoteConfig], iteration: Iteration) -> str | None:
    """Ask wave after wave until the answer is settled or everybody was asked; return why there is no answer."""
    config, record, ballot = run.config, run.record, _Ballot(run, iteration)
    waves = config.in_waves()
    for number, wave in enumerate(waves, 1):
        await ballot.ask(wave, "vote" if waves == [config.panel()] else f"wave {number}")
        # A quorum that was asked for is waited for; the usual one guards a panel that was asked to the last member.
        enough = config.quorum is None or ballot.known >= config.quorum
        if enough and (status := _settled(config, ballot.decision)):
            record.status = status
            record.not_asked = _spared(config, waves[number:])
            break
        if iteration.cut_by_budget:
            break
    else:
        await _escalate(run, ballot)
    ballot.enter()
    return None if record.status in {"agreed", "confident"} else ballot.failure()


async def _escalate(run: Run[VoteConfig], ballot: "_Ballot") -> None:
    """Let decide who is behind a cascade whose first members do not agree: one member, all of them, or a saved panel."""
    config = run.config
    if members := config.behind():
        await ballot.ask(members, "cascade")
    if config.decider is not None:
        ballot.decide(str(config.decider), ballot.reading_of(config.decider))
    elif isinstance(config.saved_panel, SavedPanel):
        panel, found = config.saved_panel, await _ask_panel(run, config.saved_panel)
        probable = found.confidence if found.confidence_measure == CALIBRATED else None
        ballot.decide(panel.name, ballot.reading(found.answer), found.full_text or found.answer, probable)


async def _ask_panel(run: Run[VoteConfig], panel: SavedPanel) -> Record:
    """Ask a saved panel within this run: its rounds become further iterations of the record."""
    one = algorithm(panel.flow)
    with calls_only():
        found: Record = await one.run()(
            run.prompt,
            one.config_class().model_validate({**panel.config, "attestation": {}}),
            run.call,
            conversation=run.given,
        )
    for iteration in found.iterations:
        iteration.number = len(run.record.iterations) + 1
        run.record.iterations.append(iteration)
    run.record.add_warnings(found.warnings)
    run.record.degraded |= found.degraded
    return found


def _settled(config: VoteConfig, decision: "_Decision") -> Status | None:
    """Tell whether nobody else has to be asked, and as what the run then ends."""
    winner = decision.tally.winner
    if winner is None:
        return None
    if config.cascade is not None:
        return "agreed" if len(winner.voters) >= config.cascade.agree else None
    if config.stop_at_confidence is not None:
        return "confident" if decision.probabilities[winner.value] >= config.stop_at_confidence else None
    return "agreed" if config.stop_when is not None and winner.votes >= config.stop_when else None


class _Decision(NamedTuple):
    """What votes come to."""

    tally: Tally
    probabilities: Mapping[Hashable, float]
    """For each answer how probable it is that it is right; empty where that was not learned."""


def _decide(config: VoteConfig, asked: Sequence[Member], values: Sequence[Hashable | None]) -> _Decision:
    """Count the votes of those that were asked; of a learned vote the most probable answer wins."""
    tally = count_votes(values, config.weights_of(asked), config.places_of(asked))
    if config.learned is None or tally.winner is None:
        return _Decision(tally, {})
    fitted = [*config.learned.members]
    members = config.fitted_as(asked, fitted)
    voters = {count.value: [fitted.index(members[voter]) for voter in count.voters] for count in tally.counts}
    found = probabilities(config.learned, voters, fitted)
    return _Decision(tally.won_by(max(voters, key=found.__getitem__)), found)


def _spared(config: VoteConfig, waves: Sequence[Sequence[Member]]) -> list[str]:
    """Name who did not have to be asked."""
    left = [str(member) for wave in (*waves, config.behind()) for member in wave]
    return [*left, config.saved_panel.name] if isinstance(config.saved_panel, SavedPanel) else left


class _Ballot:
    """What the members that were asked have voted for, and what it comes to."""

    def __init__(self, run: Run[VoteConfig], iteration: Iteration) -> None:
        self._run, self._config, self._iteration = run, run.config, iteration
        self._extraction = parse_extraction(self._config.extract)
        self._extractor = None if self._config.extractor is None else parse_member(self._config.extractor)[0]
        self._same = SameAnswers(judge_request(run).without_files(), self._extractor, run.record, iteration, run.call)
        self._asked: list[Member] = []
        self._extracted: list[Extracted] = []
        self._readings: list[Reading | None] = []
        self._decided: _Decided | None = None
        self.decision = _decide(self._config, [], [])

    @property
    def known(self) -> int:
        """Of how many members it is known what they say, if only that they give no answer."""
        return sum(one.text is not None for one in self._extracted)

    async def ask(self, members: Sequence[Member], label: str) -> None:
        """Ask members, read their answers and count again."""
        run, responses = self._run, self._iteration.responses
        missing = self._config.needed() - self.known
        await run.ask(self._iteration, members, quorum=min(len(members), max(1, missing)), label=label)
        self._asked += members
        self._extracted += await self._extract(responses[len(self._extracted) :])
        found = extract_all([one.text for one in self._extracted], self._extraction)
        self._readings = await self._same.merged(found)
        values = [reading.value if reading else None for reading in self._readings]
        self.decision = _decide(self._config, self._asked, values)

    async def _extract(self, responses: Sequence[Response]) -> list[Extracted]:
        """Return what is to be read of each response."""
        if self._extractor is None:
            return [Extracted(response.text if response.answered else None) for response in responses]
        asked = judge_request(self._run).without_files()
        extracted, calls = await extract_by_model(responses, asked, self._extractor, self._run.call)
        self._iteration.judgements += calls
        return extracted

    def reading_of(self, member: Member) -> Reading | None:
        """Return what a member that was asked has voted for."""
        return self._readings[self._asked.index(member)]

    def reading(self, answer: str | None) -> Reading | None:
        """Return the answer of a panel as the members' answers are read, or as it is where it cannot be read so."""
        if answer is None:
            return None
        given = next((one for one in self._readings if one and one.text == answer), None)
        return given or extract(answer, self._extraction) or Reading(answer, answer)

    def decide(
        self, by: str, reading: Reading | None, text: str | None = None, confidence: float | None = None
    ) -> None:
        """Let one answer win, whatever the votes are; without one the votes decide.

        Args:
            by: Whose answer it is.
            reading: The answer.
            text: The whole text, if it is not a member's.
            confidence: Probability that it is right, if it is not a member's and that is known.
        """
        if reading is None:
            self._run.record.degraded = True
            self._run.warn("stand_in", f"{by} gave no answer that could be read: the votes decide", member=by)
            return
        self._decided = _Decided(by, reading, text, confidence)
        self.decision = self.decision._replace(tally=self.decision.tally.won_by(reading.value))

    def enter(self) -> None:
        """Enter what each member voted for, the count, and the answer that has won."""
        self._cast()
        record, iteration, tally = self._run.record, self._iteration, self.decision.tally
        decided = self._decided
        written = self._as_first_written()
        if decided is not None:
            written.setdefault(decided.reading.value, decided.reading.text)
        record.tally = [
            Option(
                answer=written[count.value],
                votes=count.votes,
                share=round(count.votes / (tally.cast or 1), 4),
                members=[iteration.responses[index].member for index in count.voters],
                probability=self.decision.probabilities.get(count.value),
            )
            for count in tally.counts
        ]
        if tally.winner is None:
            return
        winner = record.tally[0]
        record.tie, record.unanimous = tally.tie, tally.unanimous
        record.margin = round(tally.margin or 0.0, 4)
        by_name = {response.member: response for response in iteration.responses}
        first = by_name.get(decided.by) if decided else iteration.responses[tally.winner.voters[0]]
        record.full_text = first.text if first else decided.text if decided else None
        if sum(map(len, (count.voters for count in tally.counts))) > 1:  # one voice agrees with nobody
            iteration.agreement, iteration.agreement_measure = round(tally.share or 0.0, 4), "votes"
        if decided is None or decided.text is None:
            winner.probability = confidence = winner.probability or self._probability(tally.winner)
        else:
            confidence = decided.confidence
        record.confidence_measure = None if confidence is None else CALIBRATED
        iteration.synthesis = Synthesis(
            text=winner.answer,
            confidence=confidence,
            arbiter=decided and decided.by,
            chosen=first and first.member,
            method="cascade" if decided else "learned" if self._config.learned else "vote",
            value=winner.answer,
            votes={option.answer: option.members for option in record.tally},
        )

    def _probability(self, winner: Count) -> float | None:
        """How probable it is that the answer is right, by who gave it; None where that was not fitted on labeled rows."""
        fitted = self._config.outcome_probability()
        if fitted is None or self._iteration.cut_by_budget:
            return None
        names = [*fitted.members]
        voters = [
            names.index(name) for name in self._config.fitted_as([self._asked[one] for one in winner.voters], names)
        ]
        return probabilities(fitted, {0: voters}, names)[0]

    def _as_first_written(self) -> dict[Hashable, str]:
        """For each value its text as the first member that gave it wrote it."""
        return {reading.value: reading.text for reading in reversed(self._readings) if reading}

    def _cast(self) -> None:
        """Enter what each member voted for."""
        run, config = self._run, self._config
        written = self._as_first_written()
        weights = config.weights_of(self._asked)
        for response, one, reading, weight in zip(
            self._iteration.responses, self._extracted, self._readings, weights, strict=True
        ):
            member = response.member
            answer = None if reading is None else written[reading.value]
            heard = response.answered and one.error is None
            run.record.votes.append(CastVote(member=member, answer=answer, weight=weight, heard=heard))
            if one.error is not None:
                run.record.degraded = True
                run.warn("unparsed", f"{member}: its answer could not be read ({one.error.kind})", member=member)
            elif reading is None and response.answered:
                unread = f"no answer could be read ({_brief(config.extract)})"
                run.warn("abstained", f"{member} abstains: {unread}", member=member)

    def failure(self) -> str | None:
        """Say why there is no answer, of a run that was not settled; what decides alone needs no quorum beside it."""
        iteration, config = self._iteration, self._config
        unparsed = {
            response.member: one.error
            for response, one in zip(iteration.responses, self._extracted, strict=True)
            if one.error
        }
        cut = iteration.cut_by_budget
        short = missed_quorum(iteration.responses, config.needed(), unparsed)
        alone = self._decided is not None and config.quorum is None
        if short and not alone and not (cut and self.decision.tally.winner):
            return short
        if self.decision.tally.winner is None:
            return _nothing_read(iteration, config.extract)
        if cut:
            self._run.warn(
                "budget", "the budget ended before everybody was asked: these are the votes that it paid for"
            )
        return None


class _Decided(NamedTuple):
    """The answer of who is behind a cascade."""

    by: str
    reading: Reading
    text: str | None
    confidence: float | None


def _nothing_read(iteration: Iteration, extraction: str) -> str:
    """Say why there is no answer although members have answered."""
    calls = [*iteration.responses, *iteration.judgements]
    causes = [f"{call.member}: {call.error.message}" for call in calls if call.error is not None]
    return "; ".join([f"no answer could be read ({_brief(extraction)}) in what the members wrote", *causes])


def _brief(extraction: str) -> str:
    """Name an extraction without all of its labels, if they are many."""
    return extraction if len(extraction) <= BRIEF else f"{extraction.partition(',')[0]},..."


def report(_config: VoteConfig | None = None) -> Report:
    """Show the votes and the count, or what the judge found in pairs."""
    return Report(artifacts)


@flow(name="vote", **FLOW)
async def vote(
    prompt: str,
    config: ConfigOrName[VoteConfig] = None,
    conversation: list[Message] | None = None,
    attachments: Attachments = None,
) -> Record:
    """Let models vote: their answers are read and counted, or compared in pairs by a judge.

    Args:
        prompt: The question.
        config: Who votes, and how it is counted; or the name of a saved configuration (a Vote block). Empty: the one
            called default.
        conversation: Earlier turns of the conversation that this question continues.
        attachments: Images, PDFs and text files that the question is about: paths or URLs.
    """
    return await run_as_flow(run_vote, Vote, report, prompt, config, conversation=conversation, attachments=attachments)


def plan(config: VoteConfig) -> Iterator[Planned]:
    """Plan the calls of a run as long as every model answers."""
    members = config.panel()
    if config.pairwise_judge is not None:
        yield from member_calls(config, members, (1, 1))
        yield from judge_plan(config, parse_member(config.pairwise_judge)[0])
        return
    waves, behind = config.in_waves(), config.behind()
    sure = _until_settled(config, waves)
    asked = [member for wave in waves[:sure] for member in wave]
    perhaps = [member for wave in (*waves[sure:], behind) for member in wave]
    # Votes are counted and not compared, so that nothing is embedded.
    yield from member_calls(config, asked, (1, 1), compared=False)
    yield from member_calls(config, perhaps, (0, 1), compared=False)
    if isinstance(config.saved_panel, SavedPanel):
        one = algorithm(config.saved_panel.flow)
        plans = one.plan(one.config_class().model_validate(config.saved_panel.config))
        yield from (planned._replace(least=0, read_least=0) for planned in plans)
    if config.extractor is not None:
        rounds = len(waves) + bool(behind)
        yield from _extractor_plan(config, config.extractor, (sure, rounds), len(asked) + len(perhaps))


def _extractor_plan(config: VoteConfig, extractor: str, waves: tuple[int, int], most: int) -> Iterator[Planned]:
    """Plan the calls of the extractor.

    Args:
        config: The settings.
        extractor: The model.
        waves: In how many waves members are asked, at least and at most.
        most: How many members are asked at most.
    """
    model, settings = parse_member(extractor)[0], config.judge_settings
    # Members that wrote the same are read once in each wave.
    calls = waves[0], most
    instructions = prompt_length("extract_system", "extract") + SCHEMA_CHARACTERS
    yield judge_calls(model, "extractor", calls, calls, instructions, settings=settings)
    # After each wave it says which readings mean the same, if there are two that differ.
    comparing = 0, waves[1] - (len(config.in_waves()[0]) == 1)
    instructions = prompt_length("same_meaning_system", "same_meaning") + READING_CHARACTERS * most + SCHEMA_CHARACTERS
    if comparing[1]:
        yield judge_calls(model, "extractor", comparing, (0, 0), instructions, settings=settings)


def _until_settled(config: VoteConfig, waves: Sequence[Sequence[Member]]) -> int:
    """How many waves are asked when all members agree."""
    asked: list[Member] = []
    for number, wave in enumerate(waves, 1):
        asked += wave
        if len(asked) >= (config.quorum or 1) and _settled(config, _decide(config, asked, [""] * len(asked))):
            return number
    return len(waves)


def waves(config: VoteConfig) -> tuple[int, int]:
    """Return how often a run waits for calls that depend on those before, at least and at most."""
    reads = config.pairwise_judge or config.extractor
    read = takes(config, named(reads)) if reads else (0, 0)
    asked = (
        [config.panel()] if config.pairwise_judge else [wave for wave in (*config.in_waves(), config.behind()) if wave]
    )
    each = [takes(config, [member.name for member in wave]) for wave in asked]
    sure = 1 if config.pairwise_judge else _until_settled(config, config.in_waves())
    if isinstance(config.saved_panel, SavedPanel):
        each.append(waves_of(config.saved_panel))
    return sum(least + read[0] for least, _ in each[:sure]), sum(most + read[1] for _, most in each)
