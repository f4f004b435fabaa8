"""The tools of the MCP server, each on the functions of the command that does the same."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.deployments.batch_view import BatchCounts, batch_in_short
from consensus_flows.deployments.commands.algorithms.batch import BatchOptions, estimated
from consensus_flows.deployments.commands.batches import state_of
from consensus_flows.deployments.commands.history import from_history, wanted_runs
from consensus_flows.deployments.commands.settings.saved import saved_configurations
from consensus_flows.deployments.mcp.results import BatchResult, PanelList, PanelResult, RunList, RunResult
from consensus_flows.deployments.mcp.session import Session
from consensus_flows.deployments.run import ended
from consensus_flows.deployments.terminal import explained
from consensus_flows.deployments.view import state
from consensus_flows.flows.algorithms import Algorithm, algorithm, algorithms
from consensus_flows.flows.batch import batch
from consensus_flows.flows.run import attaching
from consensus_flows.flows.saved_algorithm import DEFAULT, load_saved, settings_of, with_panels
from consensus_flows.tasks.attachments import attached, check_size
from consensus_flows.tasks.batches.planning import calls_in_words
from consensus_flows.tasks.batches.summary import BatchSummary, Progress
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.history.reading import list_runs, named, read_run
from consensus_flows.tasks.history.writing import BATCH, Conversation, continuing
from consensus_flows.tasks.record import Attachment, Record

Result = TypeVar("Result", bound=BaseModel)

INSTRUCTIONS = (
    "Ask a panel of language models instead of one: members answer independently, and a vote or a judge makes one answer of "
    "them. list_panels tells who can be asked and how many calls a question takes. Every result says what it cost, and what is "
    "left of the budget of this server; a call that would exceed it is refused."
)
ALGORITHMS = "; ".join(f"{one.name}: {one.summary}" for one in algorithms().values())
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ASKS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)

Prompt = Annotated[str, Field(description="The question.")]
PanelName = Annotated[str, Field(description="Name of a saved panel; list_panels lists them.")]
AlgorithmName = Annotated[str, Field(description=ALGORITHMS)]
Models = Annotated[
    list[str],
    Field(
        description="The members: provider/model, or provider/model:count for several instances of one.", min_length=1
    ),
]
SettingsOf = Annotated[
    dict[str, Any],
    Field(
        description=(
            'Further settings of the algorithm, for example {"arbiter": "provider/model"} for consortium, or '
            '{"aggregator": "provider/model", "layers": [["provider/model"]]} for mixture-of-agents. A wrong one is named.'
        )
    ),
]
Files = Annotated[
    list[str],
    Field(
        description=(
            "Images, PDFs and text files that the question is about: paths on the server's machine, data: URLs, or addresses such "
            "as s3://bucket/chart.png. Other URLs only from the hosts that the server allows."
        )
    ),
]
Texts = Annotated[bool, Field(description="Return what every model wrote, too.")]
Continued = Annotated[
    str | None, Field(description="ID of a run or a conversation to continue, or the unique start of it.")
]


class _Members:
    """Tells the client of every call that has ended."""

    def __init__(self, context: Context[Any, Any], least: int, most: int) -> None:
        self._context, self._calls = context, 0
        self._total = least if least == most else None

    async def on_event(self, event: str, value: Any) -> None:
        """Report an event."""
        if event in {"answered", "answered_within"} and value.panel is None:
            self._calls += 1
            await self._context.report_progress(self._calls, self._total, f"{value.member}: {state(value)}")


class _Batch:
    """A batch of this server: how far it is, and what came of it."""

    def __init__(self) -> None:
        self.counts = BatchCounts()
        self.started: asyncio.Event = asyncio.Event()
        self.task: asyncio.Task[BatchSummary]

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event."""
        self.counts.note(event, value)
        if event == "batch_started":
            self.started.set()

    @property
    def progress(self) -> Progress:
        """The sums over the rows that have ended."""
        return self.counts.progress


def make_server(session: Session) -> MCPServer[Any]:
    """Make a server with all tools."""
    server: MCPServer[Any] = MCPServer(
        "consensus", instructions=INSTRUCTIONS, version=version("consensus-flows"), log_level="WARNING"
    )
    tools = Tools(session)
    for tool, title, kind in (
        (tools.ask, "Ask a saved panel", ASKS),
        (tools.run_algorithm, "Run an algorithm", ASKS),
        (tools.list_panels, "List saved panels", READS),
        (tools.list_runs, "List runs", READS),
        (tools.read_run, "Read a run", READS),
        (tools.start_batch, "Start a batch", ASKS),
        (tools.watch_batch, "Watch a batch", READS),
    ):
        server.add_tool(tool, title=title, annotations=kind)
    return server


class Tools:
    """The tools. Their docstrings are what models read of them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._batches: dict[str, _Batch] = {}

    async def ask(
        self,
        context: Context[Any, Any],
        *,
        prompt: Prompt,
        panel: PanelName = DEFAULT,
        attachments: Files | None = None,
        continue_from: Continued = None,
        texts: Texts = False,
    ) -> Annotated[CallToolResult, RunResult]:
        """Ask a saved panel of models, and return its one answer with agreement, warnings and cost.

        A question is as many paid calls as list_panels says; identical calls are answered from the cache and cost nothing.
        """
        with _sentences():
            await self._session.connect()
            one, config = await self._panel(panel)
            return await self._run(
                context, one, config, prompt, attachments=attachments, continue_from=continue_from, texts=texts
            )

    async def run_algorithm(
        self,
        context: Context[Any, Any],
        *,
        algorithm: AlgorithmName,
        prompt: Prompt,
        models: Models | None = None,
        settings: SettingsOf | None = None,
        attachments: Files | None = None,
        continue_from: Continued = None,
        texts: Texts = False,
    ) -> Annotated[CallToolResult, RunResult]:
        """Ask models of your choice by an algorithm of your choice; nothing needs to be saved.

        At least one paid call a model, and those of a judge where the algorithm has one. mixture-of-agents names its models in
        settings.
        """
        with _sentences():
            one, config = await _given(algorithm, models, settings)
            await self._session.connect()
            return await self._run(
                context, one, config, prompt, attachments=attachments, continue_from=continue_from, texts=texts
            )

    async def list_panels(self) -> Annotated[CallToolResult, PanelList]:
        """List the saved panels: algorithm, models, and how many calls a question takes. Calls no model."""
        with _sentences():
            await self._session.connect()
            panels = [await PanelResult.of(one) for one in await saved_configurations()]
        lines = [
            f"{one.name} ({one.flow}): cannot be used: {one.fault}"
            if one.fault
            else f"{one.name} ({one.flow}): {', '.join(one.models)} · {one.calls_least} to {one.calls_most} calls"
            for one in panels
        ]
        spent = self._session.spent()
        return _result(
            PanelList(panels=panels, budget=spent),
            "\n".join([*(lines or ["No panel is saved: run_algorithm needs none."]), str(spent)]),
        )

    async def list_runs(
        self,
        *,
        limit: Annotated[int, Field(ge=1, le=200)] = 20,
        flow: Annotated[str | None, Field(description="Only runs of this algorithm, or batch for batches.")] = None,
        status: Annotated[str | None, Field(description="Only runs that ended so, for example failed.")] = None,
        model: Annotated[str | None, Field(description="Only runs that called this model.")] = None,
        since: Annotated[
            str | None, Field(description="2026-01-31, 2026-01-31T08:00, or an age: 90m, 12h, 7d.")
        ] = None,
    ) -> Annotated[CallToolResult, RunList]:
        """List past runs and batches, newest first. Calls no model."""
        with _sentences():
            wanted = wanted_runs(
                flow=flow, status=status, since=since, until=None, model=model, rows=flow not in {None, BATCH}
            )
            found = await asyncio.to_thread(from_history, lambda connection: list_runs(connection, wanted, limit))
        lines = [
            f"{run['id']} · {run['started_at']} · {run['flow']} · {run['status']} · {' '.join(run['prompt'].split())[:200]}"
            for run in found
        ]
        return _result(RunList(runs=found), "\n".join(lines) or "No such run.")

    async def read_run(
        self, id: Annotated[str, Field(description="ID of a run, or the unique start of it.")], texts: Texts = True
    ) -> Annotated[CallToolResult, RunResult]:
        """Read a past run: the answer, and what every model wrote. Calls no model."""
        with _sentences():
            row, document = await asyncio.to_thread(from_history, lambda connection: read_run(connection, id))
            if row["flow"] == BATCH:
                raise ConfigurationError(f"{id!r} is a batch: watch_batch reads it", field="id")
        record = Record.model_validate(document)
        result = RunResult.of(record, self._session.spent(), None, texts=texts)
        return _result(result, f"{record.prompt}\n\n---\n\n{result.text(record)}")

    async def start_batch(
        self,
        context: Context[Any, Any],
        *,
        input: Annotated[
            str,
            Field(
                description="File of prompts on the server's machine (.csv, .jsonl, .parquet, .txt), or s3:// and the like."
            ),
        ],
        output: Annotated[str, Field(description="File of answers (.jsonl, .csv, .parquet), likewise.")],
        panel: PanelName = DEFAULT,
        algorithm: Annotated[
            str | None,
            Field(description="Algorithm of models and settings that are given here in place of a saved panel."),
        ] = None,
        models: Models | None = None,
        settings: SettingsOf | None = None,
        prompt_column: Annotated[
            str | None, Field(description="Column of the prompt; default: prompt or question.")
        ] = None,
        prompt_template: Annotated[str | None, Field(description="Prompt with {column} placeholders, instead.")] = None,
        id_column: Annotated[str | None, Field(description="Column that identifies a row; default: id.")] = None,
        attach_column: Annotated[
            str | None, Field(description="Column of images, PDFs and text files that the prompt is about.")
        ] = None,
        attachments: Files | None = None,
        limit: Annotated[int | None, Field(ge=1, description="Run only the first rows, to try.")] = None,
        concurrency: Annotated[int, Field(ge=1, le=1000, description="Rows to work on concurrently.")] = 8,
        skip_bad: Annotated[bool, Field(description="Skip invalid rows.")] = False,
        max_calls: Annotated[int | None, Field(ge=1, description="Maximum number of requests of the batch.")] = None,
        max_cost_usd: Annotated[
            float | None, Field(gt=0, description="Maximum cost of the batch in US dollars.")
        ] = None,
        dry_run: Annotated[bool, Field(description="Return only the number of calls and the expected cost.")] = False,
    ) -> Annotated[CallToolResult, BatchResult]:
        """Start an algorithm on every row of a file, and return as soon as it runs; watch_batch tells how far it is.

        It ends with this server; started again with the same arguments it resumes, and pays for no answer twice. Try dry_run
        first: it calls no model.
        """
        with _sentences():
            await self._session.connect()
            one, config = await (_given(algorithm, models, settings) if algorithm else self._panel(panel))
            await asyncio.to_thread(_kept, attachments)
            options = BatchOptions(
                output=output,
                prompt_column=prompt_column,
                prompt_template=prompt_template,
                id_column=id_column,
                attach_column=attach_column,
                attach=attachments,
                limit=limit,
                concurrency=concurrency,
                skip_bad=skip_bad,
            )
            found = await estimated(input, options, one, config)
            if dry_run:
                result = BatchResult(
                    batch_id=None,
                    state="dry_run",
                    rows=found.rows,
                    output=output,
                    cost_usd=0.0,
                    estimate=found.model_dump(mode="json"),
                    budget=self._session.spent(),
                )
                cost = (
                    "cost unknown"
                    if found.cost_usd_most is None
                    else f"${found.cost_usd_least:.4f} to ${found.cost_usd_most:.4f}"
                )
                return _result(
                    result,
                    f"{found.rows} rows: {found.calls_least} to {found.calls_most} calls, {cost} · {result.budget}",
                )
            self._session.check_estimate(found, f"this batch of {found.rows} rows")
            made = _Batch()
            made.task = self._session.start(
                lambda: batch(
                    input,
                    output,
                    flow=one.name,
                    config=config.model_dump(mode="json", exclude_defaults=True),
                    budget=Budget(max_calls=max_calls, max_cost_usd=max_cost_usd),
                    **options.parameters(),
                ),
                made,
            )
            began = asyncio.create_task(made.started.wait())
            await asyncio.wait({began, made.task}, return_when=asyncio.FIRST_COMPLETED)
            began.cancel()
            if not made.started.is_set():
                await made.task  # it raises why
            self._batches[str(made.progress.flow_run_id)] = made
            return await self._progress(context, str(made.progress.flow_run_id), 0)

    async def watch_batch(
        self,
        context: Context[Any, Any],
        id: Annotated[str, Field(description="ID of a batch, or the unique start of it.")],
        wait_s: Annotated[float, Field(ge=0, le=600, description="Seconds to wait at most for its end.")] = 30,
    ) -> Annotated[CallToolResult, BatchResult]:
        """Tell how far a batch is, or what came of it; waits for its end. Batches of other commands are found, too. Calls no model."""
        with _sentences():
            if known := next((name for name in self._batches if name.startswith(id)), None):
                return await self._progress(context, known, wait_s)
            row, summary = await asyncio.to_thread(from_history, lambda connection: read_run(connection, id))
            if row["flow"] != BATCH:
                raise ConfigurationError(f"{id!r} is a run of {row['flow']}: read_run reads it", field="id")
            sums = (Progress if "wanted" in summary else BatchSummary).model_validate(summary)
            result = BatchResult(
                batch_id=row["id"],
                state=state_of(row),
                rows=sums.wanted if isinstance(sums, Progress) else sums.rows,
                finished=sums.done + sums.failed + sums.abstained,
                failed=sums.failed,
                output=row["answer"],
                cost_usd=row["cost_usd"],
                error=row["error"],
                summary=summary,
                budget=self._session.spent(),
            )
        line = batch_in_short(sums) if isinstance(sums, BatchSummary) else f"{result.state}: {sums.wanted} rows"
        return _result(result, f"{line}\noutput: {result.output}")

    async def _panel(self, name: str) -> tuple[Algorithm, RunConfig]:
        try:
            flow, config = await load_saved(name)
        except ConfigurationError as error:
            names = [one.name for one in await saved_configurations()]
            saved = f"; saved are {', '.join(names)}" if names else ""
            raise ConfigurationError(error.message.removeprefix("config: ") + saved, field="panel") from None
        return algorithm(flow), config

    async def _run(
        self,
        context: Context[Any, Any],
        one: Algorithm,
        config: RunConfig,
        prompt: str,
        *,
        attachments: list[str] | None,
        continue_from: str | None,
        texts: bool,
    ) -> CallToolResult:
        config = await with_panels(config)
        files = await asyncio.to_thread(_kept, attachments)
        await self._session.check(one, config, prompt, files)
        conversation = Conversation()
        if continue_from is not None:
            conversation = await asyncio.to_thread(from_history, lambda connection: named(connection, continue_from))
        plans = one.plan(config)
        await context.report_progress(0, None, calls_in_words(plans))
        watcher = _Members(context, sum(plan.least for plan in plans), sum(plan.most for plan in plans))

        async def work() -> Record:
            with continuing(conversation):
                turns = [*conversation.messages, *attaching(files)]
                return await ended(one.flow()(prompt, config, conversation=turns))

        record = await self._session.run(work, watcher)
        info = await self._session.connect()
        result = RunResult.of(record, self._session.spent(), info.ui_url, texts=texts)
        return _result(result, result.text(record), failed=record.answer is None)

    async def _progress(self, context: Context[Any, Any], id: str, wait_s: float) -> CallToolResult:
        """Wait for the end of a batch of this server, telling how far it is, and return where it is then."""
        made, told = self._batches[id], -1
        end = asyncio.get_running_loop().time() + wait_s
        while (left := end - asyncio.get_running_loop().time()) > 0 and not made.task.done():
            if made.progress.finished > told:
                told = made.progress.finished
                await context.report_progress(told, made.progress.wanted, made.counts.line())
            await asyncio.wait({made.task}, timeout=min(left, 1.0))
        summary, error, progress = None, None, made.progress
        if made.task.done():
            try:
                summary = made.task.result()
            except QuorumError as failed:
                summary = getattr(failed, "record", None)
                error = failed.message
            except Exception as failed:
                error = str(failed)
        result = BatchResult(
            batch_id=id,
            state="running" if not made.task.done() else "failed" if summary is None else summary.status,
            rows=progress.wanted if summary is None else summary.rows,
            finished=progress.finished if summary is None else summary.done + summary.failed + summary.abstained,
            failed=progress.failed if summary is None else summary.failed,
            output=progress.output,
            cost_usd=made.counts.known_usd if summary is None else summary.cost_usd,
            error=error or (summary.error if summary else None),
            summary=None if summary is None else summary.model_dump(mode="json"),
            link=f"{(await self._session.connect()).ui_url}/runs/flow-run/{id}",
            budget=self._session.spent(),
        )
        line = made.counts.line() if summary is None else batch_in_short(summary)
        wrong = f"\n! {result.error}" if result.error else ""
        return _result(
            result,
            f"{result.state}: {line}{wrong}\nbatch {id} · output: {result.output} · {result.budget}",
            failed=bool(wrong),
        )


async def _given(name: str, models: list[str] | None, settings: dict[str, Any] | None) -> tuple[Algorithm, RunConfig]:
    """Make the configuration of models and settings that a tool was given.

    Raises:
        ConfigurationError: Naming each setting that is missing or wrong.
    """
    values = {**(settings or {}), **({"members": models} if models else {})}
    try:
        one = algorithm(name)
        _, config = await settings_of(one.name, values)
    except ConfigurationError as error:
        told = error.message.replace("config.members", "models").replace("config.", "settings.")
        raise ConfigurationError(told.replace("flow:", "algorithm:", 1)) from None
    return one, config


def _kept(files: list[str] | None) -> list[Attachment]:
    """Read the files that a tool was given. A model names them, which must not reach what only this machine can.

    Raises:
        ConfigurationError: If one cannot be read or sent.
    """
    found = [attached(one, "attachments", anywhere=False) for one in files or ()]
    check_size(sum(one.size for one in found))
    return found


@contextmanager
def _sentences() -> Iterator[None]:
    """Say expected errors in a sentence that the model can act on."""
    try:
        yield
    except Exception as error:
        if (stop := explained(error)) is None:
            raise
        raise ToolError(stop.message) from error


def _result(result: Result, text: str, *, failed: bool = False) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=result.model_dump(mode="json"),
        is_error=failed,
    )
