"""Consensus learning: many models answer, their answers are aggregated, and the aggregate comes back to each of them.

The algorithm is that of Flare's AI Consensus (github.com/flare-research/flare-ai-consensus), with its failures mended:
the aggregator sees the question, answers are labelled and fenced, one failing model does not fail the round, and a model
sees its own earlier answer. The decentralized approach is the consensus phase of arXiv:2402.16157.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prefect import flow

from consensus_flows.blocks.consensus_learning import ConsensusLearning, ConsensusLearningConfig, PromptType
from consensus_flows.flows.algorithms import takes
from consensus_flows.flows.run import FLOW, Attachments, ConfigOrName, Run, begin, run_as_flow
from consensus_flows.tasks.batches.planning import Planned, judge_calls, member_calls, prompt_length
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.agreement import LEXICAL, Likeness, nearest
from consensus_flows.tasks.counting.consensus import decentralized, held_texts, majority, stable, tied
from consensus_flows.tasks.judging.aggregator import aggregate
from consensus_flows.tasks.judging.judge import JudgeRequest
from consensus_flows.tasks.measuring import likeness_of
from consensus_flows.tasks.prompting.fence import fenced
from consensus_flows.tasks.prompts import fill, prompt
from consensus_flows.tasks.record import Iteration, Record, Settlement
from consensus_flows.tasks.reports.markdown import cell, prose, quoted
from consensus_flows.tasks.reports.report import Artifact, Report, agreement_note, calls_artifact, iteration_page


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
    async with begin("consensus-learning", prompt, config, call, conversation=conversation, word="round") as run:
        if any(member.name in config.aggregators() for member in config.panel()):
            run.warn("self_preference", "the aggregator is also a member: it may prefer its own answer")
        back = Feedback(config.aggregated_prompt_type, config.improvement_prompt, str(config.order_seed))
        learners = [Learner(prompt, back, run.system, run.conversation) for _ in config.panel()]
        for _ in range(config.iterations + 1):
            async with run.iteration() as iteration:
                done = await _round(run, iteration, learners)
            if done:
                break
            _tell_members(learners, iteration)
        if config.aggregators():
            run.note_fallbacks(config.aggregators()[0], "aggregate")
        _conclude(run)
    return run.record


async def _round(run: Run[ConsensusLearningConfig], iteration: Iteration, learners: "list[Learner]") -> bool:
    """Run one round, and tell whether it was the last one."""
    config, record = run.config, run.record
    await run.ask(iteration, config.panel(), learners, quorum=config.needed())
    likeness = await run.measure(iteration)
    if run.stop_short(iteration, config.needed(), likeness):
        return True
    await _put_together(run, iteration, likeness)
    if iteration.synthesis is None:
        cause = "no aggregator gave an aggregate" if config.aggregators() else "no member's answer could be read"
        await run.stand_in(iteration, config.stand_in, likeness, cause)
        return iteration.cut_by_budget
    settled = iteration.settlement is not None and iteration.settlement.settled
    if settled or (config.stop_when_stable and await _is_stable(run)):
        record.status = "agreed"
        return True
    return iteration.cut_by_budget


async def _put_together(run: Run[ConsensusLearningConfig], iteration: Iteration, likeness: Likeness) -> None:
    """Make one answer of all by the approach that was chosen; leaves no synthesis where that fails."""
    config, seed, answered = run.config, f"{run.config.order_seed}:{iteration.number}", iteration.answered()
    match config.approach:
        case "majority":
            iteration.synthesis = majority(answered, config, likeness)
            others = tied(iteration.synthesis) if iteration.synthesis else []
            if iteration.synthesis and others:
                tie = f"a tie of {iteration.synthesis.value} with {', '.join(others)}"
                run.warn("tie", f"{tie}: the one whose first voter is listed first is taken", iteration)
        case "medoid":
            iteration.synthesis = nearest(answered, likeness=likeness)
        case "decentralized":
            iteration.synthesis, iteration.settlement = decentralized(answered, config, seed, likeness)
        case "centralized_llm":
            asked = JudgeRequest(
                question=run.prompt,
                system=run.system,
                conversation=run.conversation,
                timeout=config.timeout_s(),
                seed=seed,
                label=run.label(iteration),
                history=[one.synthesis.text for one in run.record.iterations[:-1] if one.synthesis],
                final=iteration.number > config.iterations,
            )
            iteration.synthesis, iteration.judgements = await aggregate(asked, answered, config, run.call)


async def _is_stable(run: Run[ConsensusLearningConfig]) -> bool:
    record, config = run.record, run.config
    if len(record.iterations) < 2:
        return False
    before, now = record.iterations[-2:]
    if before.synthesis is None or now.synthesis is None or before.synthesis.method != config.approach:
        return False
    likeness = LEXICAL
    if now.synthesis.value is None:
        named = {one.synthesis.text: f"the answer of round {one.number}" for one in (before, now) if one.synthesis}
        likeness = await likeness_of(named, now, record, config, run.call, label=run.label(now))
    return stable(before, now, config.stability_threshold, likeness)


def _tell_members(learners: "list[Learner]", iteration: Iteration) -> None:
    """Tell every member what the round came to; without a central aggregator, what it holds itself."""
    assert iteration.synthesis is not None
    held = held_texts(iteration.answered(), iteration.settlement) if iteration.settlement else {}
    for learner, response in zip(learners, iteration.responses, strict=True):
        consensus = held.get(response.member, iteration.synthesis.text)
        learner.continue_after(response.text if response.answered else None, consensus)


@dataclass(frozen=True)
class Feedback:
    """How the consensus of a round goes back to the members in consensus learning.

    Attributes:
        role: In whose turn it stands. `system` joins the leading system message, because none may follow a user's turn.
        improvement: What the member is asked to do with it; empty for the built-in text.
        seed: Decides the tag that fences the consensus.
    """

    role: PromptType
    improvement: str
    seed: str


class Learner:
    """The conversation of one member."""

    def __init__(
        self, question: str, back: Feedback, system: str | None = None, conversation: Sequence[Message] = ()
    ) -> None:
        self._system = system
        self._settled = tuple(conversation)
        self._question = question
        self._back = back
        self._consensus: str | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the member is asked next."""
        system = "\n\n".join(text for text in (self._system, self._consensus_for("system")) if text)
        first = (Message(role="system", content=system),) if system else ()
        return (*first, *self._settled, *self._asked())

    def continue_after(self, answer: str | None, consensus: str) -> None:
        """Continue after `answer` with the `consensus`; a member that gave none is asked the same, with the consensus."""
        if answer is not None:
            self._settled = (*self._settled, *self._asked(), Message(role="assistant", content=answer))
            self._question = ""
        self._consensus = consensus

    def _asked(self) -> tuple[Message, ...]:
        """The turns that have not been answered; they begin and end with the user's."""
        if self._consensus is None:
            return (Message(role="user", content=self._question),)
        improvement = self._back.improvement.strip() or prompt("improve")
        if self._back.role == "assistant":
            return (
                Message(role="user", content=self._question or prompt("consensus_asked")),
                Message(role="assistant", content=self._consensus_for("assistant")),
                Message(role="user", content=improvement),
            )
        parts = (self._question, self._consensus_for("user"), improvement)
        return (Message(role="user", content="\n\n".join(part for part in parts if part)),)

    def _consensus_for(self, role: PromptType) -> str:
        """Return the quoted consensus if it goes into the turn of `role`; empty otherwise."""
        if self._consensus is None or self._back.role != role:
            return ""
        # It is another member's answer word for word, or made of several: whatever the turn, these are not our words.
        return fill(
            "consensus", consensus=fenced({"of all participants": self._consensus}, self._back.seed, "consensus")
        )


def _conclude(run: Run[ConsensusLearningConfig]) -> None:
    """Return the last aggregate."""
    finished = [(one, one.synthesis) for one in run.record.iterations if one.synthesis is not None]
    # An answer that stands in for an aggregate does not displace one.
    made = [(one, synthesis) for one, synthesis in finished if synthesis.method != "stand-in"] or finished
    if not made:
        return
    last, _ = made[-1]
    run.answer_with(last)
    if last.settlement is not None and not last.settlement.settled:
        rounds = last.settlement.rounds
        run.warn(
            "unsettled", f"the members did not settle on one value in {rounds} rounds: the most common one is returned"
        )


def report(config: ConsensusLearningConfig) -> Report:
    """Show each round's aggregate, answers and calls, and how many of the rounds are done."""
    rounds = config.iterations + 1

    def artifacts(record: Record, iteration: Iteration) -> Iterator[Artifact]:
        number = iteration.number
        done = round(number / rounds * 100, 1)
        yield Artifact("consensus-learning-round", f"Round {number}", page(iteration))
        yield calls_artifact(record, iteration, f"round {number}")
        yield Artifact("consensus-learning-progress", f"Round {number} of at most {rounds}", done)

    return Report(artifacts)


def page(iteration: Iteration) -> str:
    """Describe a round for a person."""
    title, synthesis = f"Round {iteration.number}", iteration.synthesis
    if synthesis is None:
        return iteration_page(title, iteration, ["Too few members answered."])
    if synthesis.arbiter:
        by = f"by `{cell(synthesis.arbiter)}`"
    elif synthesis.method == "stand-in":
        by = f"no aggregate could be made; the answer of `{cell(synthesis.chosen or '')}` stands in for one"
    else:
        by = f"by {synthesis.method}: the answer of `{cell(synthesis.chosen or '')}`"
    sections = [f"**Aggregate** {by} · {agreement_note(iteration)}", prose(synthesis.text)]
    if synthesis.votes:
        votes = [f"{value}: {', '.join(members)}" for value, members in synthesis.votes.items()]
        sections += ["## Votes", quoted("\n".join(votes))]
    if iteration.settlement:
        sections += ["## Settlement", _settlement(iteration.settlement)]
    return iteration_page(title, iteration, sections)


def _settlement(settlement: Settlement) -> str:
    outcome = "settled on one value" if settlement.settled else "did not settle on one value"
    lines = [f"{member} holds {value}" for member, value in settlement.held.items()]
    lines += [
        f"round {one.round}: {one.member} adopted {one.value} from {one.peer} (answer of {one.author})"
        for one in settlement.adopted
    ]
    return f"The members {outcome} in {settlement.rounds} rounds without a model.\n\n{quoted(chr(10).join(lines))}"


@flow(name="consensus-learning", **FLOW)
async def consensus_learning(
    prompt: str,
    config: ConfigOrName[ConsensusLearningConfig] = None,
    conversation: list[Message] | None = None,
    attachments: Attachments = None,
) -> Record:
    """Ask a panel of models, aggregate their answers, and let each improve its own with the aggregate in mind.

    Args:
        prompt: The question.
        config: Who is asked, how answers are aggregated, and how often they are improved; or the name of a saved
            configuration (a Consensus Learning block). Empty: the one called default.
        conversation: Earlier turns of the conversation that this question continues.
        attachments: Images, PDFs and text files that the question is about: paths or URLs.
    """
    return await run_as_flow(
        run_consensus_learning,
        ConsensusLearning,
        report,
        prompt,
        config,
        conversation=conversation,
        attachments=attachments,
    )


def plan(config: ConsensusLearningConfig) -> Iterator[Planned]:
    """Plan the calls of a run as long as every model answers."""
    members = config.panel()
    most = config.iterations + 1
    least = 1 if config.approach == "decentralized" else min(2, most) if config.stop_when_stable else most
    rounds = least, most
    yield from member_calls(config, members, rounds, guidance=config.improvement_prompt or prompt("improve"))
    for model in config.aggregators()[:1]:
        own = sum(len(turn.content) for turn in (*config.aggregator_context, *config.aggregator_prompt))
        yield judge_calls(
            model,
            "aggregator",
            rounds,
            [count * len(members) for count in rounds],
            prompt_length("aggregator_system", "aggregate", "aggregate_task") + own + len(config.system or ""),
            settings=config.aggregator_settings,
        )


def waves(config: ConsensusLearningConfig) -> tuple[int, int]:
    """Return how often a run waits for calls that depend on those before, at least and at most."""
    calls = [*plan(config)]
    each = [takes(config, [one.model for one in calls if one.role == "member"])]
    each += [takes(config, [one.model]) for one in calls if one.task == "aggregator"]
    rounds = min(one.least for one in calls if one.role == "member")
    return rounds * sum(least for least, _ in each), (config.iterations + 1) * sum(most for _, most in each)
