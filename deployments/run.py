"""Runs a flow for the command line: finds the server, shows the run, prints the answer, chooses the exit code."""

import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from consensus_flows.deployments.commands.algorithms.conversations import ConversationOptions
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.options import OUTPUT
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, checked_output, put, put_json, say, write_whole
from consensus_flows.deployments.view import Lines, LiveTable, outcome, summary
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.history.writing import Conversation, continuing
from consensus_flows.tasks.record import NoAnswerError, Record
from consensus_flows.tasks.watch import Watcher, watched_by


@Parameter(name="*")
@dataclass(kw_only=True)
class OutputOptions:
    """What is printed and written."""

    output: Annotated[Path | None, Parameter(name=["--output", "-o"], group=OUTPUT, metavar="FILE")] = None
    """File for the whole record as JSON."""
    json: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Print the whole record as JSON on stdout, and nothing else."""
    raw: Annotated[bool, Parameter(group=OUTPUT)] = False
    """Print only the answer: no progress, no summary."""

    brief = False
    """Whether a line will do for a summary; for commands that run many flows, and no option."""


@Parameter(name="*")
@dataclass(kw_only=True)
class TurnOptions(ConversationOptions, OutputOptions):
    """What is printed and written, and which conversation is continued."""


def run_flow(
    start: Callable[[], Awaitable[Record]],
    members: Sequence[str],
    options: OutputOptions,
    *,
    view: Watcher | None = None,
    show: Callable[[Record, str], None] | None = None,
    shape: Callable[[Record], dict[str, Any]] | None = None,
    ends_command: bool = False,
) -> Exit:
    """Run a flow and report on it.

    Args:
        start: Starts the flow, with `options.turns()` for its conversation if it can go on with one.
        members: Names of those who are asked, for the live view.
        options: What is printed and written.
        view: Looks on in place of the live view.
        show: Shows the record, given the address of the UI, in place of the answer and its summary.
        shape: Makes the document that is printed and written as JSON, in place of the whole record.
        ends_command: Whether nothing is printed after the report, so that the shell can go on.
    """
    output = checked_output(options.output)
    conversation = options.conversation if isinstance(options, ConversationOptions) else Conversation()
    warm_up(member.partition("/")[0] for member in members)
    info = connect()
    quiet = options.raw or options.json
    view = None if quiet else view or _view(members)
    last = LastWord(
        info.api_url,
        "recorded",
        lambda record: _report(record, options, ui_url=info.ui_url, output=output, show=show, shape=shape),
        ends_command=ends_command,
    )
    try:
        with continuing(conversation):
            pieces = isinstance(view, LiveTable) and sys.stdout.isatty()
            return last.run(_run(start, [*([view] if view else []), last], pieces=pieces))
    finally:
        if isinstance(view, LiveTable):
            view.close()


def _report(
    record: Record,
    options: OutputOptions,
    *,
    ui_url: str,
    output: Path | None,
    show: Callable[[Record, str], None] | None,
    shape: Callable[[Record], dict[str, Any]] | None,
) -> Exit:
    """Print and write what came of a run; each is done also where the other one fails."""
    document = shape(record) if shape else record.model_dump(mode="json")
    try:
        _show(record, document, options, ui_url=ui_url, show=show)
    finally:
        if output is not None:
            write_whole(output, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    if record.answer is None:
        say(f"consensus: no answer: {record.error}")
        return Exit.NO_ANSWER
    if any(warning.kind == "not_attested" for warning in record.warnings):
        return Exit.NOT_ATTESTED
    return Exit.BUDGET if record.status == "budget" else Exit.ANSWER


def _show(
    record: Record,
    document: dict[str, Any],
    options: OutputOptions,
    *,
    ui_url: str,
    show: Callable[[Record, str], None] | None,
) -> None:
    quiet = options.raw or options.json
    if record.grade is not None:
        if not quiet:
            say(str(record.grade))
        if record.flow != record.grade.flow:  # the panel was not asked
            show = None
    if options.json:
        put_json(document)
    elif show and not quiet:
        show(record, ui_url)
    elif record.answer is not None:
        put(record.answer)
    if options.brief and not quiet:
        if not show:
            outcome(record)
    elif not quiet:
        if not show:
            summary(record, ui_url)
        if record.conversation_id:
            say(
                f"The conversation: {record.conversation_id} (continue it with the same panel and -c, or --cid {record.conversation_id[:8]})"
            )
    else:
        for warning in record.warnings:
            if warning.kind in {"not_recorded", "not_stored", "rejected", "not_attested"}:
                say(f"consensus: {warning.message}")


async def _run(start: Callable[[], Awaitable[Record]], watchers: Sequence[Watcher], *, pieces: bool) -> Record:
    with watched_by(*watchers, pieces=pieces):
        return await record_of(start())


async def record_of(run: Awaitable[Record]) -> Record:
    """Wait for a flow run, close the connections, and return its record, also where there is no answer.

    Raises:
        ConsensusError: If it failed before there was a record.
    """
    try:
        return await ended(run)
    finally:
        await close_clients()


async def ended(run: Awaitable[Record]) -> Record:
    """Wait for a flow run and return its record, also where there is no answer.

    Raises:
        ConsensusError: If it failed before there was a record.
    """
    try:
        return await run
    except NoAnswerError as error:
        if error.record is None:
            raise
        return error.record


def _view(members: Sequence[str]) -> "Lines | LiveTable":
    return LiveTable(members) if sys.stderr.isatty() else Lines()
