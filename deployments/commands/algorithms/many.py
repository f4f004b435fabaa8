"""Commands that are a batch under another name: `consensus prefer --prompts DIR` and `consensus moa --queries FILE`."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.deployments.commands.algorithms.batch import exit_code, run_batch_flow
from consensus_flows.deployments.commands.algorithms.layer_view import totals
from consensus_flows.deployments.commands.algorithms.questions import folder
from consensus_flows.deployments.commands.preferences.preference_view import console, table
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.terminal import Exit, Stop, checked_output, put, put_json, say, write_whole
from consensus_flows.tasks.batches.output import record_name
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import Record, bill
from consensus_flows.tasks.reports.preference_report import number_text
from consensus_flows.tasks.reports.recorded import Recorded, recorded_for

ANSWERS = "answers.jsonl"
"""The batch's output, beside the records."""
AGAIN = "answers are cached, and the same command does not pay for them again"


def run_folder(prompts: Path, config: PreferConfig, out: TurnOptions, at_once: int) -> Exit:
    """Run prefer on every prompt of a folder.

    Returns:
        ANSWER if every prompt has one, BUDGET if the budget ended the run, else NO_ANSWER.

    Raises:
        Stop: If there is no folder to read, or none to write into.
    """
    out.refuse("a folder of prompts")
    if out.output is None:
        raise Stop("--prompts needs --output DIR: the folder that gets a record of each prompt")
    if at_once < 1:
        raise Stop(f"--at-once is {at_once}: it must be at least 1")
    if not prompts.is_dir():
        raise Stop(f"--prompts: no such folder: {prompts}")
    output = folder(out.output, "--output").resolve()
    quiet = out.json or out.raw

    def report(summary: BatchSummary, ui_url: str) -> Exit:
        rows = [json.loads(line) for line in (output / ANSWERS).read_text(encoding="utf-8").splitlines()]
        found = [_outcome(output / record_name(row["id"]), row) for row in rows]
        if out.json:
            put_json({"flow_run_id": summary.flow_run_id, "outcomes": found})
        else:
            _show(found)
        if not quiet:
            say(f"The records are in {output}: aggregate them with `consensus tally {output}`")
            if summary.flow_run_id:
                say(f"The run in the UI: {ui_url}/runs/flow-run/{summary.flow_run_id}")
        return exit_code(summary)

    return run_batch_flow(
        str(prompts.resolve()),
        str(output / ANSWERS),
        "prefer",
        config.model_copy(update={"budget": Budget()}),
        report,
        view=None if quiet else _Done(lambda record: f"best {_winner(record) or 'unknown, no judge ranked'}"),
        interrupted="finished prompts are kept, and the same command continues with the others",
        budget=config.budget,
        concurrency=at_once,
        overwrite=True,
        records=str(output),
    )


def _winner(record: Record) -> str | None:
    return record.scores.winner if record.scores else None


def _outcome(file: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Describe what came of a prompt: its row of the output, and what its record says beside that."""
    record = Record.model_validate_json(file.read_bytes()) if file.exists() else None
    scores = record.scores if record else None
    return {
        "prompt": row["id"],
        "file": str(file),
        "status": record.status if record else row["status"],
        "winner": scores.winner if scores else None,
        "condorcet_winner": scores.condorcet_winner if scores else None,
        "kendall_w": scores.kendall_w if scores else None,
        **{name: row[name] for name in ("degraded", "cost_usd", "calls", "cached_calls", "error")},
    }


def _show(found: Sequence[dict[str, Any]]) -> None:
    """Print a row for each prompt on stdout."""
    rows = [
        [
            one["prompt"],
            one["status"] + (", degraded" if one["degraded"] else ""),
            one["winner"] or "-",
            one["condorcet_winner"] or "-",
            number_text(one["kendall_w"]),
            f"{one['calls']} ({one['cached_calls']} cached)",
            bill(one["cost_usd"]),
        ]
        for one in found
    ]
    header = ["prompt", "status", "best by Borda", "Condorcet", "Kendall's W", "calls", "cost"]
    console().print(table("Prompts", header, rows))


def run_list(
    queries: Sequence[str], config: MixtureOfAgentsConfig, recorded: Sequence[Recorded], out: TurnOptions
) -> Exit:
    """Run a mixture of agents on every query, and print the answers in their order.

    Returns:
        ANSWER if each has an answer, BUDGET if the budget ended one of them, else NO_ANSWER.
    """
    out.refuse("a list of questions")
    output = checked_output(out.output)
    references = recorded_for(queries, recorded)
    quiet = out.json or out.raw
    with tempfile.TemporaryDirectory(prefix="consensus-queries-") as name:
        source, records = Path(name, "queries.jsonl"), Path(name, "records")
        rows: list[dict[str, Any]] = [
            {"id": str(number), "prompt": prompt, "answers": found.answers if found else None}
            for number, (prompt, found) in enumerate(zip(queries, references, strict=True), 1)
        ]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        def report(summary: BatchSummary, ui_url: str) -> Exit:
            documents = [_document(records / record_name(row["id"]), row["prompt"], summary) for row in rows]
            try:
                if out.json:
                    put_json(documents)
                else:
                    for one in documents:
                        heading = "" if out.raw else f"## {' '.join(one['prompt'].split())}\n\n"
                        put(f"{heading}{one['answer'] or ''}\n")
            finally:
                if output is not None:
                    write_whole(output, json.dumps(documents, indent=2, ensure_ascii=False) + "\n")
            if not quiet and summary.flow_run_id:
                say(f"The run in the UI: {ui_url}/runs/flow-run/{summary.flow_run_id}")
            return exit_code(summary)

        return run_batch_flow(
            str(source),
            str(Path(name, ANSWERS)),
            "mixture-of-agents",
            config.model_copy(update={"budget": Budget()}),
            report,
            view=None if quiet else _Done(totals),
            interrupted=AGAIN,
            budget=config.budget,
            overwrite=True,
            records=str(records),
            reference_column="answers" if recorded else None,
        )


def _document(file: Path, prompt: str, summary: BatchSummary) -> dict[str, Any]:
    """Return the record of a query; of one that was not started, one that says why."""
    if file.exists():
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return document
    status = "budget" if summary.status == "budget" else "failed"
    return Record(
        flow="mixture-of-agents", flow_run_id=summary.flow_run_id, prompt=prompt, status=status, error=summary.error
    ).model_dump(mode="json")


class _Done:
    """Says of each question when it is done."""

    def __init__(self, words: Callable[[Record], str]) -> None:
        self._words = words
        self._count = self._wanted = 0

    async def on_event(self, event: str, value: Any) -> None:
        """Print the end of a question's run."""
        if event == "batch_started":
            self._wanted, self._count = value.wanted, value.resumed
            say(
                f"{plural(value.wanted, 'question')}"
                + (f", {value.resumed} finished by an earlier run" * bool(value.resumed))
            )
        elif event == "notice":
            say(f"  ! {value}")
        elif event == "ended":
            self._count += 1
            words = " ".join(value.prompt.split())
            shown = words if len(words) <= 60 else f"{words[:59]}…"
            mark, said = ("✗", value.error) if value.answer is None else ("✓", self._words(value))
            say(f"  {mark} {self._count}/{self._wanted} {shown}: {said}")
            for warning in dict.fromkeys(value.warnings):
                say(f"    ! {warning}")
