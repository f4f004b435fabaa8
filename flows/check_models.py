"""The capability check: try models out for a role in a mixture of agents before they are given it. It is a batch of prompts.

After the probes of LLM-Mixture-of-Agents (github.com/Hujaifa-Git/LLM-Mixture-of-Agents). Unlike there a candidate gets
exactly what the flow would send it in that role, and a failure is told apart from an answer.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.logging import get_logger
from prefect.runtime import flow_run

from consensus_flows.blocks.check_models import CheckCase, CheckModelsConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.flows.batching import Batch, run_batch
from consensus_flows.flows.run import begin
from consensus_flows.tasks.asking import ask_members
from consensus_flows.tasks.batches.output import record_name
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.check_cases import CheckReport, as_expected, shipped_cases
from consensus_flows.tasks.errors import QuorumError
from consensus_flows.tasks.judging.aggregator import LayerPrompt, in_order
from consensus_flows.tasks.judging.judge import TEXT
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import CallError, Record, Response
from consensus_flows.tasks.reports.batch_report import BatchReport
from consensus_flows.tasks.reports.markdown import cell
from consensus_flows.tasks.reports.recorded import Recorded
from consensus_flows.tasks.reports.verdict import Verdict, concluded
from consensus_flows.tasks.watch import emit, watched_by

CASES_AT_ONCE = 4
"""Prompts that are worked on at once."""


async def run_check(prompt: str, config: CheckModelsConfig, call: Call, *, reference: Recorded | None = None) -> Record:
    """Give one prompt to every candidate, for an aggregator with prepared answers to it."""
    members = config.panel()
    role: Literal["initial", "final"] = "initial" if config.role == "proposer" else "final"
    task = LayerPrompt(prompt, role, getattr(config.prompts, role), config.system)
    seed = f"{config.order_seed}:{prompt}"
    prepared = reference.responses() if reference and config.role == "aggregator" else []
    messages = task.messages([response.text or "" for response in in_order(prepared, seed)], seed)
    async with begin("check-models", prompt, config, call, conversation=()) as run, run.iteration() as iteration:
        iteration.responses = await ask_members(
            members,
            [messages] * len(members),
            config,
            _reading(call) if config.role == "aggregator" else call,
            quorum=config.needed(),
            label=f"{config.role} check",
        )
        run.record.answer = next((response.text for response in iteration.answered()), None)
        if run.record.answer is None:
            failures = [one.error.message for one in iteration.responses if one.error]
            run.record.status, run.record.error = "failed", "; ".join(failures)
    return run.record


def _reading(call: Call) -> Call:
    """Return `call` with the demand that the flow makes of an aggregator: it must not repeat what it was shown."""

    async def read(request: Request, **options: Any) -> Response:
        return await call(request.model_copy(update={"reader": TEXT}), **options)

    return read


async def run_check_models(config: CheckModelsConfig, call: Call | None = None) -> CheckReport:
    """Give every prompt to every candidate.

    Args:
        config: Who is tried out, for which role and on what.
        call: Makes the calls; by default the `ask` task.

    Raises:
        ConfigurationError: Before any call, if a model cannot be asked.
    """
    cases = config.cases or list(shipped_cases(config.role))
    report = CheckReport(role=config.role, flow_run_id=flow_run.id, cases=cases)
    with tempfile.TemporaryDirectory(prefix="consensus-check-") as folder:
        summary = await run_batch(
            Batch(
                source=_source(Path(folder, "prompts.jsonl"), cases),
                output=str(Path(folder, "answers.jsonl")),
                algorithm="check-models",
                config=config.model_copy(update={"budget": Budget()}),
                concurrency=CASES_AT_ONCE,
                budget=config.budget,
                records=folder,
                reference_column="answers",
                function=run_check,
            ),
            call,
        )
        report.responses = [
            _responses(Path(folder, record_name(str(number))), config, summary) for number in range(1, len(cases) + 1)
        ]
    report.add_up()
    report.duration_s = summary.duration_s
    return report


def _source(file: Path, cases: Sequence[CheckCase]) -> Source:
    """Write prompts as the input of a batch."""
    rows = [{"prompt": case.prompt, "answers": list(case.answers) or None} for case in cases]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Source(str(file))


def _responses(file: Path, config: CheckModelsConfig, summary: BatchSummary) -> list[Response]:
    """Return what the candidates made of a prompt; of one that was not started, that they were not asked."""
    if file.exists():
        return Record.model_validate_json(file.read_bytes()).iterations[0].responses
    why = summary.error or "the check ended before"
    return [
        Response(
            member=str(member),
            provider=member.name.provider,
            model=member.name.model,
            instance=member.instance,
            error=CallError(kind="budget", message=f"{member}: budget: {why}"),
        )
        for member in config.panel()
    ]


def _concluded(report: CheckReport) -> Verdict:
    """Judge a check for the state of its run."""
    calls = [response for responses in report.responses for response in responses]
    if any(call.error is not None and call.error.kind == "budget" for call in calls):
        return Verdict("BudgetEnded", "the budget ended before every candidate was asked")
    found = [
        as_expected(one.text, case)
        for case, said in zip(report.cases, report.responses, strict=True)
        for one in said
        if one.answered
    ]
    told = [one for one in found if one is not None]
    expected = f"; {sum(told)} of {len(told)} as expected" if told else ""
    return Verdict("Completed", f"{len(found)} of {plural(len(calls), 'call')} answered{expected}")


def run_name() -> str:
    """Name a flow run after the role and the candidates."""
    config = flow_run.parameters.get("config") or {}
    values = config if isinstance(config, dict) else config.model_dump()
    return f"{values.get('role', 'proposer')}: {', '.join(values.get('members', []))}"[:100]


@flow(
    name="check-models",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
@concluded(_concluded)
async def check_models(config: CheckModelsConfig) -> CheckReport:
    """Try models out as proposers or as aggregators of a mixture of agents.

    Args:
        config: Who is tried out, for which role and on what.
    """
    with watched_by(BatchReport()):
        report = await run_check_models(config)
    await emit("done", report)
    try:
        await acreate_table_artifact(rows(report), "check-models", f"Candidates as {config.role}s")
    except Exception as error:  # a run that is paid for does not end because its table cannot be shown
        get_logger("consensus").warning("An artifact could not be written: %r", error)
    calls = [response for responses in report.responses for response in responses]
    if not any(call.answered for call in calls):
        causes = dict.fromkeys(call.error.message for call in calls if call.error)
        failure = QuorumError("no candidate has answered. " + "; ".join(causes))
        failure.report = report  # type: ignore[attr-defined]
        raise failure
    return report


def rows(report: CheckReport) -> list[dict[str, Any]]:
    """List what each candidate made of each prompt."""
    found = {True: "yes", False: "no", None: "-"}
    return [
        {
            "prompt": cell(case.prompt),
            "model": label,
            "answer": "" if response.error else cell(response.text or ""),
            "as expected": found[None if response.error else as_expected(response.text, case)],
            "latency s": round(response.latency_s, 2),
            "error": cell(response.error.message) if response.error else "",
        }
        for case, responses in zip(report.cases, report.responses, strict=True)
        for label, response in zip(report.labels(), responses, strict=True)
    ]
