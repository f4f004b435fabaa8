"""`consensus judges check`: try models out as judges before anything is judged by them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from consensus_flows.blocks.check_judges import ADVERSARIAL, CheckJudgesConfig
from consensus_flows.deployments.commands.preferences.preference_view import console, table
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.options import OUTPUT, PanelOptions, configured, overlaid
from consensus_flows.deployments.run import OutputOptions
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, checked_output, put_json, say, write_whole
from consensus_flows.flows.check_judges import LEAST, JudgeReport, check_judges, pairs_of, rows
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.labelled_pairs import read_pairs
from consensus_flows.tasks.record import bill_of
from consensus_flows.tasks.watch import Watcher, watched_by

if TYPE_CHECKING:
    from rich.console import Console

app = App(name="judges", help="Test models as judges on labeled pairs of answers.")

_OF_ALL = frozenset({"pairs", "n", "longer is better"})
"""Columns that are the same for all candidates."""


@app.command
def check(
    *,
    pairs: Annotated[str | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
    panel: PanelOptions | None = None,
    out: OutputOptions | None = None,
) -> Exit:
    """Let each model judge pairs of answers whose better one is known, in both orders, and count what it gets right.

    On adversarial pairs the worse answer looks better. A model that is right on fewer than 60 % of them goes by length or
    tone, and is refused; the exit code is then 6.

    Args:
        pairs: File of your own pairs, with the columns question, a, b, better (a or b) and optionally kind. They replace the
            built-in natural pairs; the built-in adversarial ones are always judged.
        panel: The candidates.
        out: What is printed and written: the table on stdout, or with --json the JSON there and the table on stderr.
    """
    out = out or OutputOptions()
    config = configured(CheckJudgesConfig, overlaid(CheckJudgesConfig, _own(pairs), panel or {}))
    output = checked_output(out.output)
    warm_up(member.name.provider for member in config.panel())
    info = connect()
    quiet = out.json or out.raw
    if not quiet:
        judges, count = len(config.panel()), len(pairs_of(config))
        say(f"{judges} judge{'s' * (judges > 1)} x {count} pairs x 2 orders: {2 * judges * count} calls")
    last = LastWord(info.api_url, "done", lambda report: _report(report, out, output, info.ui_url))
    return last.run(_checked(config, [last]))


def _own(file: str | None) -> dict[str, object]:
    """Read the person's own pairs."""
    try:
        return {} if file is None else {"pairs": [pair.model_dump() for pair in read_pairs(file)]}
    except ConfigurationError as error:
        raise Stop(f"--pairs {file}: {error.reason.removeprefix('input: ')}") from None


async def _checked(config: CheckJudgesConfig, watchers: Sequence[Watcher]) -> JudgeReport:
    with watched_by(*watchers):
        try:
            return await check_judges(config)
        finally:
            await close_clients()


def _report(report: JudgeReport, out: OutputOptions, output: Path | None, ui_url: str) -> Exit:
    """Print and write what came of a run; each is done also where the other one fails."""
    document = report.model_dump(mode="json")
    try:
        if out.json:
            put_json(document)
        if not out.raw:
            _show(report, console(stderr=out.json))
        if not out.json and not out.raw and report.flow_run_id:
            say(f"The run in the UI: {ui_url}/runs/flow-run/{report.flow_run_id}")
    finally:
        if output is not None:
            write_whole(output, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    if report.budget_ended:
        return Exit.BUDGET
    return Exit.JUDGE_REFUSED if report.refused else Exit.ANSWER


def _show(report: JudgeReport, screen: "Console") -> None:
    """Print the figures, a table for each kind of pair, and what follows from them."""
    listed = rows(report)
    for kind in report.judges[0].kinds:
        own = [row for row in listed if row["pairs"] == kind]
        title = f"{kind}: {own[0]['n']} pairs, the longer is better in {own[0]['longer is better']}"
        lines = [[name, *(str(row[name]) for row in own)] for name in own[0] if name not in {*_OF_ALL, "judge"}]
        screen.print(table(title, ["", *(row["judge"] for row in own)], lines))
        screen.print()
    for judge in report.judges:
        share = judge.kinds[ADVERSARIAL].accuracy
        verdict = "no verdict, the budget ended" if report.budget_ended else "refused" if judge.refused else "accepted"
        screen.print(
            f"{judge.judge}: {verdict}: right on {share:.0%} of the adversarial pairs (at least {LEAST:.0%} are needed)",
            markup=False,
            highlight=False,
        )
    screen.print(f"{bill_of(report)} · {report.duration_s:.1f} s", markup=False, highlight=False)
