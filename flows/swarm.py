"""A swarm of sub-tasks: an orchestrator splits a task into parts, members answer them at the same time, an aggregator joins the answers.

Plan first, then solve, as in plan-and-solve prompting (Wang et al., arXiv:2305.04091), with the parts in parallel as in
Skeleton-of-Thought (Ning et al., arXiv:2307.15337). A task is split once; a member that is a saved panel may be a swarm of its own.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field, create_model

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.swarm import Swarm, SwarmConfig
from consensus_flows.flows.run import FLOW, Attachments, ConfigOrName, Run, begin, run_as_flow
from consensus_flows.tasks.asking import Turns
from consensus_flows.tasks.batches.planning import SCHEMA_CHARACTERS, Planned, judge_calls, member_calls, prompt_length
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.counting.agreement import LEXICAL
from consensus_flows.tasks.judging.judge import TEXT, Asked, JudgeRequest, ask_for_text, ask_judge, first_of
from consensus_flows.tasks.judging.judgements import Judgement
from consensus_flows.tasks.prompting.fence import fenced
from consensus_flows.tasks.prompts import fill
from consensus_flows.tasks.prompts import prompt as prompt_text
from consensus_flows.tasks.readers import reader
from consensus_flows.tasks.record import Iteration, Part, Record, Response, RunWarning, Synthesis
from consensus_flows.tasks.reports.markdown import cell, prose
from consensus_flows.tasks.reports.report import Artifact, Report, calls_artifact, iteration_page
from consensus_flows.tasks.watch import emit

SwarmRun = Run[SwarmConfig]


class SubTask(BaseModel):
    """A part of a task, as the orchestrator writes it."""

    model_config = ConfigDict(frozen=True, str_strip_whitespace=True)

    title: str = Field(min_length=1)
    task: str = Field(min_length=1)


class Split(Judgement):
    """How an orchestrator splits a task; no parts where it is better done as a whole."""

    reader: ClassVar[str] = "split"

    parts: list[SubTask]


@cache
def split(most: int) -> type[Split]:
    """Return what an orchestrator writes that may make so many parts."""
    parts: Any = (Annotated[list[SubTask], Field(max_length=most)], ...)
    made = create_model("Split", __base__=Split, parts=parts)
    made.reader = f"{Split.reader}:{most}"
    return made


reader(Split.reader)(lambda text, most: split(most).read(text))


async def run_swarm(
    prompt: str,
    config: SwarmConfig,
    call: Call | None = None,
    *,
    conversation: tuple[Message, ...] = (),
) -> Record:
    """Split a task, let the members answer its parts, and join the answers.

    Args:
        prompt: The task.
        config: Who splits, who answers, who joins.
        call: Makes the calls; by default the `ask` task.
        conversation: Earlier turns, which everybody sees.

    Returns:
        The record of the run: an iteration that splits, one that answers, and one that joins. A task that is not split has
        the first two. Below the quorum of parts the status is `failed` and `error` says why.

    Raises:
        ConfigurationError: Before any call, if the prompt is empty or a model cannot be asked.
    """
    async with begin("swarm", prompt, config, call, conversation=conversation, word="iteration") as run:
        parts = await _split(run)
        if len(parts) < 2:
            await _do_whole(run)
        elif await _do(run, parts):
            await _join(run)
    return run.record


def _request(run: SwarmRun, iteration: Iteration) -> JudgeRequest:
    return JudgeRequest(
        question=run.prompt,
        system=run.system,
        conversation=run.conversation,
        sampling=run.config.orchestrator_settings,
        timeout=run.config.timeout_s(),
        seed=f"{run.config.order_seed}:{iteration.number}",
        label=run.label(iteration),
    )


async def _split(run: SwarmRun) -> Sequence[SubTask]:
    """Let the orchestrator split the task; none where it need not or cannot be split."""
    model, most = run.config.orchestrator_model(), run.config.max_parts
    async with run.iteration() as iteration:
        await emit("asking", [str(model)])
        label = f"orchestrator {model} · {run.label(iteration)}"
        request = _request(run, iteration).request(model, "split", split(most), label, count=most)
        made, iteration.judgements = await ask_judge(request, run.call, split(most).read, member=str(model))
        if made is None:
            run.record.degraded = True
            run.warn("not_split", f"{model} could not split the task: it is done as a whole", iteration, str(model))
    return made.parts if made else []


async def _do_whole(run: SwarmRun) -> None:
    """Ask the first member for the whole task, as it would be asked alone."""
    async with run.iteration() as iteration:
        members = run.config.turns(1)
        await emit("asking", [str(member) for member in members])
        await run.ask(iteration, members, quorum=1)
        if not run.stop_short(iteration, 1, LEXICAL):
            (response,) = iteration.responses
            iteration.synthesis = Synthesis(text=response.text or "", chosen=response.member, method="whole")
            run.answer_with(iteration)


async def _do(run: SwarmRun, parts: Sequence[SubTask]) -> bool:
    """Ask the members for the parts, all at once, and tell whether there is something to join."""
    record, members, needed = run.record, run.config.turns(len(parts)), run.config.needed_of(len(parts))
    titles = "\n".join(f"{number}. {part.title}" for number, part in enumerate(parts, 1))
    async with run.iteration() as iteration:
        await emit("asking", [str(member) for member in members])
        asked = [
            fill(
                "part",
                question=run.prompt,
                count=len(parts),
                parts=titles,
                number=number,
                title=part.title,
                task=part.task,
            )
            for number, part in enumerate(parts, 1)
        ]
        turns = [Turns(text, run.system, run.conversation) for text in asked]
        await run.ask(iteration, members, turns, quorum=needed)
        for number, (part, response) in enumerate(zip(parts, iteration.responses, strict=True), 1):
            record.parts.append(_part(number, part, response))
        done = len(iteration.answered())
        if done >= needed:
            return True
        causes = "; ".join(
            f"{part}: {response.error.message}"
            for part, response in zip(record.parts, iteration.responses, strict=True)
            if response.error
        )
        record.error = f"{done} of {len(parts)} parts have an answer, and the quorum is {needed}. {causes}"
        if done and iteration.cut_by_budget:
            # The members did not fail, they were not asked: what the budget paid for is an answer.
            iteration.synthesis = _side_by_side(record, iteration)
            run.answer_with(iteration)
        else:
            record.status = "failed"
        return False


def _part(number: int, part: SubTask, response: Response) -> Part:
    """Return a part with who was asked for it; why it has no answer is a warning of the run, too."""
    made = Part(number=number, title=part.title, task=part.task, member=response.member)
    if response.error is not None:
        made.error = kind = response.error.kind
        message = f"{response.member}: {kind}: {made} has no answer"
        response.warnings.append(RunWarning(kind=kind, message=message, member=response.member))
    return made


async def _join(run: SwarmRun) -> None:
    """Let the aggregator join the answers; where none can, they stand one after the other."""
    record, config, before = run.record, run.config, run.record.iterations[-1]
    missing = [
        f"- {' '.join(part.title.split())}: {' '.join(part.task.split())}" for part in record.parts if part.error
    ]
    async with run.iteration() as iteration:
        answers = {
            str(part.number): f"{part.title}\n\n{response.text or ''}"
            for part, response in zip(record.parts, before.responses, strict=True)
            if response.answered
        }
        asked = _request(run, iteration)
        text = asked.fill(
            "join", count=len(record.parts), answers=fenced(answers, asked.seed), missing="\n".join(missing)
        )

        async def ask(model: ModelName) -> Asked[Synthesis]:
            await emit("asking", [str(model)])
            request = Request(
                provider=model.provider,
                model=model.model,
                messages=(
                    Message(role="system", content=prompt_text("join_system")),
                    *run.conversation,
                    Message(role="user", content=text),
                ),
                sampling=config.aggregator_settings,
                reader=TEXT,
                label=f"aggregator {model} · {run.label(iteration)}",
                timeout=config.timeout_s(),
                answer_in="",
            )
            joined, calls = await ask_for_text(request, run.call, member=str(model))
            names = {str(part.number): part.member for part in record.parts if not part.error}
            made = None if joined is None else Synthesis(text=joined, arbiter=str(model), labels=names, method="joined")
            return made, calls

        iteration.synthesis, iteration.judgements = await first_of(config.aggregators(), ask)
        if iteration.synthesis is None:
            iteration.synthesis = _side_by_side(record, before)
            record.degraded = True
            run.warn("stand_in", "no aggregator could join the parts: they stand one after the other", iteration)
    run.note_fallbacks(config.aggregators()[0], "join the parts")
    run.answer_with(iteration)


def _side_by_side(record: Record, iteration: Iteration) -> Synthesis:
    """Return the answers of the parts one after the other, each under its title."""
    sections = [
        f"## {' '.join(part.title.split())}\n\n{response.text or ''}"
        for part, response in zip(record.parts, iteration.responses, strict=True)
        if response.answered
    ]
    return Synthesis(text="\n\n".join(sections), method="stand-in")


def report(_config: SwarmConfig | None = None) -> Report:
    """Show the parts with who was asked for each, and the answers."""
    return Report(_artifacts)


def _artifacts(record: Record, iteration: Iteration) -> Iterator[Artifact]:
    title = "Split" if iteration.number == 1 else "Answers" if iteration.responses else "Joined"
    if iteration.responses and record.parts:
        yield Artifact("swarm-parts", "Parts", parts_table(record))
    made = iteration.synthesis
    yield Artifact("swarm-iteration", title, iteration_page(title, iteration, [prose(made.text)] if made else []))
    yield calls_artifact(record, iteration, title.lower())


def parts_table(record: Record) -> list[dict[str, object]]:
    """List the parts: what was to be done, who was asked, and why there is no answer where there is none."""
    return [
        {
            "part": part.number,
            "title": cell(part.title),
            "task": cell(part.task),
            "member": cell(part.member),
            "error": part.error or "",
        }
        for part in record.parts
    ]


@flow(name="swarm", **FLOW)
async def swarm(
    prompt: str,
    config: ConfigOrName[SwarmConfig] = None,
    conversation: list[Message] | None = None,
    attachments: Attachments = None,
) -> Record:
    """Split a task into parts that models or panels answer at the same time, and join the answers.

    Args:
        prompt: The task.
        config: Who splits, who answers, who joins; or the name of a saved configuration (a Swarm block). Empty: the one
            called default.
        conversation: Earlier turns of the conversation that this task continues.
        attachments: Images, PDFs and text files that the task is about: paths or URLs.
    """
    return await run_as_flow(
        run_swarm, Swarm, report, prompt, config, conversation=conversation, attachments=attachments
    )


def plan(config: SwarmConfig) -> Iterator[Planned]:
    """Plan the calls of a run as long as every model answers: of a task that is not split, and of one in all its parts."""
    own = len(config.system or "")
    splits = prompt_length("split_system", "split") + SCHEMA_CHARACTERS + own
    yield judge_calls(
        config.orchestrator_model(), "orchestrator", (1, 1), (0, 0), splits, settings=config.orchestrator_settings
    )
    first, *others = config.turns(config.max_parts)
    instructions = prompt_length("part")
    yield from member_calls(config, [first], (1, 1), instructions=instructions, compared=False)
    yield from member_calls(config, others, (0, 1), instructions=instructions, compared=False)
    joins, read = prompt_length("join_system", "join") + own, (0, config.max_parts)
    yield judge_calls(config.aggregators()[0], "aggregator", (0, 1), read, joins, settings=config.aggregator_settings)


def waves(config: SwarmConfig) -> tuple[int, int]:  # noqa: ARG001  # as for all
    """Return how often a run waits for calls that depend on those before, at least and at most."""
    return 2, 3
