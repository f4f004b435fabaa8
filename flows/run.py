"""One question under way: what every algorithm shares, from its configuration to its record."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Protocol, cast, get_args

from prefect.blocks.core import Block
from prefect.runtime import flow_run
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from consensus_flows.blocks.member import PANEL, Member, ModelName, named
from consensus_flows.flows.algorithms import algorithm_of
from consensus_flows.flows.grading import enough
from consensus_flows.flows.nested_panel import PanelCaller
from consensus_flows.flows.saved_algorithm import Config, resolve_config, with_panels
from consensus_flows.tasks.asking import Turns, apart, ask_members, missed_quorum
from consensus_flows.tasks.attachments import attach
from consensus_flows.tasks.attestation.attesting import attest, check_launcher
from consensus_flows.tasks.calls.ask import failing_when_cancelled
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.pricing import priced, uncovered, unpriced
from consensus_flows.tasks.calls.providers import check_attachments, check_models, conflicts, prepare
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.agreement import Likeness, nearest
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.judging.grading import take_grade
from consensus_flows.tasks.measuring import measure
from consensus_flows.tasks.record import Attachment, CallError, Iteration, NoAnswerError, Record, Response, Synthesis
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.report import Report, run_name
from consensus_flows.tasks.reports.verdict import concluded, of_run
from consensus_flows.tasks.watch import emit


class Conversing(Protocol):
    """A member's own conversation."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the member is asked next."""


Round = Literal["iteration", "round", "layer"]

FLOW: dict[str, Any] = {
    "flow_run_name": run_name,
    "persist_result": True,
    "result_serializer": "json",
    "validate_parameters": True,
}
"""How every algorithm is a Prefect flow: `@flow(name=..., **FLOW)`."""


@dataclass(frozen=True)
class Run(Generic[Config]):
    """One question under way.

    Attributes:
        prompt: The question.
        config: The settings.
        record: The record, which grows with every call.
        call: Makes the calls.
        system: Instructions of the user's own, those of the conversation included.
        conversation: Earlier turns, without instructions.
        given: Earlier turns as they were given, for who has instructions other than `system`.
        word: What an iteration is called in the UI and in warnings; None where there is only one.
    """

    prompt: str
    config: Config
    record: Record
    call: Call
    system: str | None
    conversation: tuple[Message, ...]
    given: tuple[Message, ...]
    word: Round | None

    def turns(self) -> Turns:
        """Return the conversation of a member that has not been asked yet."""
        return Turns(self.prompt, self.system, self.conversation)

    def label(self, iteration: Iteration) -> str:
        """Name an iteration for a person, for example `round 2`."""
        return f"{self.word or self.record.flow} {iteration.number}"

    def warn(self, kind: str, message: str, iteration: Iteration | None = None, member: str | None = None) -> None:
        """Add a warning to the record; where there are several iterations it says in which one."""
        number = iteration.number if iteration is not None else None
        if iteration is not None and self.word is not None:
            message = f"{self.label(iteration)}: {message}"
        self.record.warn(kind, message, member=member, iteration=number)

    @asynccontextmanager
    async def iteration(self) -> AsyncIterator[Iteration]:
        """Begin the next iteration; at its end it is timed and shown."""
        iteration = Iteration(number=len(self.record.iterations) + 1)
        self.record.iterations.append(iteration)
        await emit("iterating", iteration)
        began = time.monotonic()
        yield iteration
        iteration.duration_s = round(time.monotonic() - began, 4)
        await emit("iterated", iteration)

    async def ask(
        self,
        iteration: Iteration,
        members: Sequence[Member],
        conversations: Sequence[Conversing] | None = None,
        *,
        quorum: int,
        label: str | None = None,
        call: Call | None = None,
    ) -> None:
        """Ask members; their responses are added to the iteration.

        Args:
            iteration: The iteration.
            members: Who is asked.
            conversations: For each its own conversation; by default all are asked the question.
            quorum: How many answers are needed before stragglers may be canceled.
            label: What the round is called in the UI.
            call: Makes the calls in place of the run's own.
        """
        given = conversations if conversations is not None else [self.turns()] * len(members)
        iteration.responses += await ask_members(
            members,
            [turns.messages for turns in given],
            self.config,
            call or self.call,
            quorum=quorum,
            label=label or self.label(iteration),
        )

    async def measure(self, iteration: Iteration, label: str | None = None) -> Likeness:
        """Measure how far the answers of an iteration agree, and return the measure."""
        return await measure(iteration, self.record, self.config, self.call, label or self.label(iteration))

    def stop_short(
        self,
        iteration: Iteration,
        quorum: int,
        likeness: Likeness,
        unparsed: Mapping[str, CallError] | None = None,
    ) -> bool:
        """Tell whether an iteration missed its quorum, so that the run ends with it; an earlier answer then stands."""
        record, cause = self.record, missed_quorum(iteration.responses, quorum, unparsed)
        if cause is None:
            return False
        record.error = cause
        earlier = any(one.synthesis for one in record.iterations)
        if earlier:
            record.warn("unfinished", f"{self.label(iteration)} was not finished: {cause}", iteration=iteration.number)
        elif iteration.answered() and any(response.refused_by_budget for response in iteration.responses):
            # The members did not fail, they were not asked: the best answer that the budget paid for is one.
            iteration.synthesis = nearest(iteration.answered(), "stand-in", likeness)
        if not (earlier or iteration.synthesis):
            record.status = "failed"
        return True

    async def stand_in(
        self,
        iteration: Iteration,
        model: str | None,
        likeness: Likeness,
        cause: str,
        answers: Sequence[Response] | None = None,
    ) -> None:
        """Answer in place of a judge, marked degraded: with the answer of `model`, else with the one nearest to the others.

        Args:
            iteration: The iteration, whose synthesis this becomes.
            model: Who answers: a member's answer is taken as it is, another model is asked the question.
            likeness: How nearness is measured.
            cause: Why no judge did.
            answers: The members' answers; by default those of the iteration.
        """
        given = iteration.answered() if answers is None else answers
        made = None
        for name in named(model):
            own = [one for one in iteration.responses or given if (one.provider, one.model) == tuple(name)]
            if not own:
                label = f"stand-in · {self.label(iteration)}"
                own = await ask_members(
                    [Member(name, 1)], [self.turns().messages], self.config, self.call, quorum=1, label=label
                )
                iteration.judgements += own
            made = next((one for one in own if one.answered), None)
        iteration.synthesis = (
            nearest(given, "stand-in", likeness)
            if made is None
            else Synthesis(text=made.text or "", chosen=made.member, method="stand-in")
        )
        whose = "nearest to the others" if made is None else f"of {made.member}"
        self.warn("stand_in", f"{cause}: the answer {whose} stands in", iteration if self.word else None)
        self.record.degraded = True

    def answer_with(self, iteration: Iteration) -> None:
        """Return the answer of this iteration."""
        record, synthesis = self.record, iteration.synthesis
        assert synthesis is not None
        record.answer, record.confidence = synthesis.text, synthesis.confidence
        record.agreement, record.agreement_measure = iteration.agreement, iteration.agreement_measure
        record.best_iteration = iteration.number

    def note_fallbacks(self, first: ModelName, did: str) -> None:
        """Warn of every iteration in which another model than the `first` one did what that one was asked to do.

        Args:
            first: The model.
            did: What it could not do, for example `judge`.
        """
        for one in self.record.iterations:
            by = one.synthesis.arbiter if one.synthesis else None
            if by not in {None, str(first)} and one.judgements[-1].answered:
                self.warn("fallback", f"{first} could not {did}; {by} did", one, member=str(first))
                self.record.degraded = True

    def finish(self) -> None:
        """Note every failed call, and add up."""
        record = self.record
        for one in record.iterations:
            record.degraded |= len(one.answered()) < len(one.responses)
            record.degraded |= any(call.panel is not None and call.panel.degraded for call in one.calls_made())
            for call in (*one.responses, *one.judgements):
                if call.error is not None and not call.warnings:
                    self.warn(call.error.kind, f"{call.member}: {call.error.kind}", one, member=call.member)
                record.add_warnings(call.warnings, one.number)
        record.end_by_budget()
        record.add_up()


@asynccontextmanager
async def begin(
    flow: str,
    prompt: str,
    config: Config,
    call: Call | None,
    *,
    conversation: Sequence[Message],
    word: Round | None = None,
) -> AsyncIterator[Run[Config]]:
    """Begin a run; at the end of the block its record is complete.

    Args:
        flow: Name of the algorithm.
        prompt: The question.
        config: The settings.
        call: Makes the calls; None for the `ask` task.
        conversation: Earlier turns.
        word: What an iteration is called.

    Raises:
        ConfigurationError: Before any call, if the prompt is empty or a model cannot be asked.
    """
    if not prompt.strip():
        raise ConfigurationError("prompt is empty: write a question")
    if config.attestation.attest:
        check_launcher()
    config = await with_panels(config)
    system, turns = apart(config.system, conversation)
    endpoints = await check_models(config.all_models(), config.embedding())
    await prepare(endpoints)
    files = [one for message in turns for one in message.attachments]
    await check_attachments({name: endpoints[name] for name in config.reached(config.readers())}, files)
    record = Record(flow=flow, flow_run_id=flow_run.id, prompt=prompt, seed=config.order_seed)
    record.attachments = list(turns[-1].attachments) if turns and turns[-1].only_attaches else []
    record.grade = take_grade()
    if record.grade is not None and record.grade.level is None:
        record.warn("not_graded", str(record.grade), member=record.grade.model)
    run = Run(
        prompt,
        config,
        record,
        PanelCaller(call or Caller.of(config), config),
        system,
        turns,
        tuple(conversation),
        word,
    )
    started = time.monotonic()
    await emit("started", record)
    for text in conflicts(endpoints.values()):
        record.warn("base_url", text)
    with spending(config.budget), priced(config.price_table()):
        if config.budget.max_cost_usd is not None and (names := await unpriced(endpoints)):
            record.warn("unpriced", uncovered(names))
        yield run
    run.finish()
    if config.attestation.attest and record.answer is not None:
        await attest(record, config, conversation, {str(name): one.address for name, one in endpoints.items()})
    record.duration_s = round(time.monotonic() - started, 4)
    await emit("ended", record)


Attachments = list[str | Attachment] | None
"""A flow's parameter: paths or URLs of files that the question is about."""


def attaching(sources: Sequence[str | Attachment] | None = None) -> list[Message]:
    """Return the turn that gives files to the question after it, which so reaches all who see the conversation: members and judges.

    Raises:
        ConfigurationError: If a file cannot be read or sent.
    """
    return [Message(role="user", content="", attachments=attach(sources))] if sources else []


@concluded(of_run)
async def run_as_flow(
    run: Callable[..., Awaitable[Record]],
    block: type[Block],
    report: Callable[[Config], Report],
    prompt: str,
    config: Config | str | None,
    *,
    conversation: Sequence[Message] | None = None,
    attachments: Attachments = None,
    in_conversation: bool = True,
    **options: Any,
) -> Record:
    """Run an algorithm inside its Prefect flow: recorded in the history, shown in the UI.

    Args:
        run: The algorithm.
        block: The block in which its configurations are saved.
        report: Makes what is shown in the UI.
        prompt: The question.
        config: The settings, or the name of a saved configuration; None for the one called `default`.
        conversation: Earlier turns.
        attachments: Files that the question is about.
        in_conversation: Whether the run is a turn of a conversation.
        options: Further arguments of the algorithm.

    Raises:
        NoAnswerError: If no answer came of it; it holds the record.
    """
    settings: Config = await resolve_config(block, config)
    turns = (*(conversation or ()), *await asyncio.to_thread(attaching, attachments))
    # It may be the run of a panel that is a member of another one, and is cut as a straggler.
    with failing_when_cancelled(f"{PANEL} {flow_run.name}"):
        async with enough(prompt, settings, conversation=turns) as chosen:
            if chosen is not settings:  # a model answers alone
                one = algorithm_of(chosen)
                run, report, options = one.run(), one.report, {}
            shown = report(cast("Config", chosen))
            async with record_runs(shown, conversation=turns, in_conversation=in_conversation):
                record = await run(prompt, chosen, conversation=turns, **options)
    if record.answer is None:
        raise NoAnswerError(record.error or "no member gave an answer", record)
    return record


class _NamesFields:
    """Reports what is wrong in settings by their fields alone; pydantic names the union's members, too, and each one's failure."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        config_class = get_args(source)[0]
        return core_schema.no_info_before_validator_function(
            lambda value: config_class.model_validate(value) if isinstance(value, dict) else value, handler(source)
        )


ConfigOrName = Annotated[Config | str | None, _NamesFields]
"""A flow's parameter: the settings, or the name of a saved configuration; None or empty for the one called `default`."""
