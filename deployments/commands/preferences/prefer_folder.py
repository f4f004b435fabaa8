"""`consensus prefer --prompts DIR`: all prompts of a folder in one run, with a record of each."""

from pathlib import Path
from typing import Any

from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.deployments.commands.algorithms.questions import folder
from consensus_flows.deployments.commands.preferences.preference_view import console, table
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, put_json, say
from consensus_flows.deployments.view import cost
from consensus_flows.flows.prefer_prompts import Outcomes, prefer_prompts
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.reports.preference_report import number_text
from consensus_flows.tasks.reports.record_files import read_prompts
from consensus_flows.tasks.watch import watched_by


def run_folder(prompts: Path, config: PreferConfig, out: TurnOptions, at_once: int) -> Exit:
    """Run prefer on every prompt of a folder.

    Returns:
        ANSWER if every prompt has one, BUDGET if the budget ended the run, else NO_ANSWER.

    Raises:
        Stop: If there is no folder to write into.
    """
    out.refuse("a folder of prompts")
    if out.output is None:
        raise Stop("--prompts needs --output DIR: the folder that gets a record of each prompt")
    if at_once < 1:
        raise Stop(f"--at-once is {at_once}: it must be at least 1")
    texts = read_prompts(prompts)
    output = folder(out.output, "--output")
    source, target = str(prompts.resolve()), str(output.resolve())
    warm_up(member.name.provider for member in config.panel())
    info = connect()
    quiet = out.json or out.raw
    if not quiet:
        say(f"{len(texts)} prompts, {len(config.panel())} members, {config.rounds} rounds of each")

    async def run() -> Outcomes:
        with watched_by(*([] if quiet else [_Done(texts)]), last):
            try:
                return await prefer_prompts(source, target, config, at_once=at_once)
            finally:
                await close_clients()

    def report(found: Outcomes) -> Exit:
        if out.json:
            put_json(found.model_dump(mode="json"))
        else:
            _show(found)
        if not quiet:
            say(f"The records are in {output}: `consensus tally {output}` puts them together")
            if found.flow_run_id:
                say(f"The run in the UI: {info.ui_url}/runs/flow-run/{found.flow_run_id}")
        statuses = {one.status for one in found.outcomes}
        if "budget" in statuses:
            return Exit.BUDGET
        return Exit.NO_ANSWER if "failed" in statuses else Exit.ANSWER

    last = LastWord(info.api_url, "done", report)
    return last.run(run())


class _Done:
    """Says of each prompt when it is done."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._names = {text: name for name, text in texts.items()}

    async def told(self, event: str, value: Any) -> None:
        """Print the end of a prompt's run."""
        if event == "ended" and isinstance(value, Record):
            winner = value.scores.winner if value.scores else None
            told = value.error if value.answer is None else f"best {winner or 'unknown, no judge ranked'}"
            say(f"  {'✗' if value.answer is None else '✓'} {self._names.get(value.prompt, '?')}: {told}")


def _show(found: Outcomes) -> None:
    """Print a row for each prompt on stdout."""
    rows = [
        [
            one.prompt,
            one.status + (", degraded" if one.degraded else ""),
            one.winner or "-",
            one.condorcet_winner or "-",
            number_text(one.kendall_w),
            f"{one.calls} ({one.cached_calls} stored)",
            cost(one.cost_usd),
        ]
        for one in found.outcomes
    ]
    header = ["prompt", "status", "best by Borda", "Condorcet", "Kendall's W", "calls", "cost"]
    console().print(table("Prompts", header, rows))
