"""`consensus moa check-proposer` and `check-aggregator`: try models out for a role before they are given it."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from consensus_flows.blocks.check_models import CheckModelsConfig, CheckRole
from consensus_flows.deployments.batch_view import BatchLines
from consensus_flows.deployments.commands.preferences.preference_view import table
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.options import FILE, JUDGING, OUTPUT, PanelOptions, configured, overlaid
from consensus_flows.deployments.run import OutputOptions
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, checked_output, put_json, read_text, say, write_whole
from consensus_flows.flows.check_models import check_models, rows
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.check_cases import CheckReport, read_cases
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.record import bill
from consensus_flows.tasks.watch import Watcher, watched_by


@Parameter(name="*")
@dataclass(kw_only=True)
class CheckOptions:
    """What the candidates are given."""

    prompts: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None
    """File of prompts that replaces the built-in ones: one a line, or JSON (see docs/mixture_of_agents.md)."""
    instruction: Annotated[Path | None, Parameter(group=JUDGING, metavar="FILE")] = None
    """File of instructions for the role; default: built in."""


def check_proposer(
    *, check: CheckOptions | None = None, panel: PanelOptions | None = None, out: OutputOptions | None = None
) -> Exit:
    """Ask every model every prompt as in the first layer, and write {prompt: {model: answer}}.

    Args:
        check: What the candidates are given.
        panel: The candidates.
        out: What is printed and written: the table on stdout, or with --json the JSON there and the table on stderr.
    """
    return _run("proposer", check or CheckOptions(), panel or {}, out or OutputOptions())


def check_aggregator(
    *, check: CheckOptions | None = None, panel: PanelOptions | None = None, out: OutputOptions | None = None
) -> Exit:
    """Let every model aggregate prepared answers, and write {prompt: {model: answer}}.

    Args:
        check: What the candidates are given; --prompts is JSON of prompts with `answers`.
        panel: The candidates.
        out: What is printed and written: the table on stdout, or with --json the JSON there and the table on stderr.
    """
    return _run("aggregator", check or CheckOptions(), panel or {}, out or OutputOptions())


def _run(role: CheckRole, check: CheckOptions, panel: PanelOptions, out: OutputOptions) -> Exit:
    config = _configured(role, check, panel)
    output = checked_output(out.output)
    warm_up(member.name.provider for member in config.panel())
    info = connect()
    quiet = out.json or out.raw
    last = LastWord(info.api_url, "done", lambda report: _report(report, out, output, info.ui_url))
    return last.run(_checked(config, [*([] if quiet else [BatchLines()]), last]))


def _report(report: CheckReport, out: OutputOptions, output: Path | None, ui_url: str) -> Exit:
    """Print and write what came of a run; each is done also where the other one fails."""
    document = report.answers()
    try:
        if out.json:
            put_json(document)
        if not out.raw:
            _show(report, Console(file=sys.stderr if out.json else sys.stdout))
        if not out.json and not out.raw and report.flow_run_id:
            say(f"The run in the UI: {ui_url}/runs/flow-run/{report.flow_run_id}")
    finally:
        if output is not None:
            write_whole(output, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    calls = [response for responses in report.responses for response in responses]
    if any(call.error is not None and call.error.kind == "budget" for call in calls):
        return Exit.BUDGET
    return Exit.ANSWER if any(call.answered for call in calls) else Exit.NO_ANSWER


def _configured(role: CheckRole, check: CheckOptions, panel: PanelOptions) -> CheckModelsConfig:
    over: dict[str, Any] = {}
    if check.prompts is not None:
        try:
            cases = read_cases(read_text(check.prompts, "--prompts"))
        except ConfigurationError as error:
            raise Stop(f"--prompts {check.prompts}: {error.reason}") from None
        over["cases"] = [case.model_dump() for case in cases]
    if check.instruction is not None:
        field = "initial" if role == "proposer" else "final"
        over["prompts"] = {field: read_text(check.instruction, "--instruction")}
    config = configured(CheckModelsConfig, overlaid(CheckModelsConfig, over, panel), {"role": role})
    if config.role != role:
        raise Stop(f"--config {panel[FILE]} is for the role of {config.role}: use check-{config.role}")
    return config


async def _checked(config: CheckModelsConfig, watchers: Sequence[Watcher]) -> CheckReport:
    with watched_by(*watchers):
        try:
            return await check_models(config)
        except QuorumError as error:
            report: Any = getattr(error, "report", None)
            if report is None:
                raise
            return CheckReport.model_validate(report)
        finally:
            await close_clients()


def _show(report: CheckReport, console: Console) -> None:
    """Print what each candidate made of each prompt, and how many prompts it could answer."""
    made = rows(report)
    shown = [
        [
            row["prompt"][:60],
            row["model"],
            f"failed: {row['error']}" if row["error"] else row["answer"],
            row["as expected"],
            f"{row['latency s']:.1f}",
        ]
        for row in made
    ]
    console.print(table(f"Candidates as {report.role}s", ["prompt", "model", "answer", "as expected", "s"], shown))
    totals = []
    for label in report.labels():
        own = [row for row in made if row["model"] == label]
        asked = [row for row in own if row["as expected"] != "-"]
        right = f"{sum(row['as expected'] == 'yes' for row in asked)} of {len(asked)}"
        answered = [row for row in own if not row["error"]]
        mean = sum(row["latency s"] for row in answered) / len(answered) if answered else 0.0
        totals.append([label, f"{len(answered)} of {len(own)}", right, f"{mean:.1f}"])
    console.print(table("Totals", ["model", "answered", "as expected", "mean s"], totals))
    console.print(f"{bill(report.cost_usd)} · {report.duration_s:.1f} s", markup=False, highlight=False)
