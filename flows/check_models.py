"""The capability check: try models out for a role in a mixture of agents before they are given it.

After the probes of LLM-Mixture-of-Agents (github.com/Hujaifa-Git/LLM-Mixture-of-Agents). Unlike there a candidate gets
exactly what the flow would send it in that role, and a failure is told apart from an answer.
"""

import asyncio
import time
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.logging import get_logger
from prefect.runtime import flow_run

from consensus_flows.blocks.check_models import CheckCase, CheckModelsConfig
from consensus_flows.tasks.asking import ask_members
from consensus_flows.tasks.calls import providers
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.check_cases import CheckReport, as_expected, shipped_cases
from consensus_flows.tasks.errors import QuorumError
from consensus_flows.tasks.judging.mixture import Task, in_order
from consensus_flows.tasks.judging.text_hearing import READER
from consensus_flows.tasks.record import Response
from consensus_flows.tasks.reports.report import cell
from consensus_flows.tasks.watch import tell, watched_by

CASES_AT_ONCE = 4
"""Prompts that are under way at the same time."""


async def run_check_models(config: CheckModelsConfig, call: Call | None = None) -> CheckReport:
    """Give every prompt to every candidate.

    Args:
        config: Who is tried out, for which role and on what.
        call: Makes the calls; by default the `ask` task.

    Raises:
        ConfigurationError: Before any call, if a model cannot be asked.
    """
    members = config.panel()
    await providers.check_models([member.name for member in members])
    cases = config.cases or list(shipped_cases(config.role))
    report = CheckReport(role=config.role, flow_run_id=flow_run.id, cases=cases)
    asking = call or Caller(config.fresh, config.service_tier)
    turns = asyncio.Semaphore(CASES_AT_ONCE)

    async def one(number: int, case: CheckCase) -> list[Response]:
        async with turns:
            messages = _task(config, case).messages(
                [
                    response.text or ""
                    for response in in_order(_prepared(config, case), f"{config.order_seed}:{number}")
                ],
                f"{config.order_seed}:{number}",
            )
            responses = await ask_members(
                members,
                [messages] * len(members),
                config,
                _reading(asking) if config.role == "aggregator" else asking,
                quorum=config.needed(),
                label=f"{config.role} check {number}",
            )
        await tell("checked", case)
        return responses

    started = time.monotonic()
    with spending(config.budget):
        report.responses = await asyncio.gather(*(one(number, case) for number, case in enumerate(cases, 1)))
    report.add_up()
    report.duration_s = round(time.monotonic() - started, 4)
    return report


def _task(config: CheckModelsConfig, case: CheckCase) -> Task:
    if config.role == "proposer":
        return Task(case.prompt, "initial", config.prompts.initial, config.system)
    return Task(case.prompt, "final", config.prompts.final, config.system)


def _prepared(config: CheckModelsConfig, case: CheckCase) -> list[Response]:
    answers = case.answers if config.role == "aggregator" else ()
    return [Response(member=str(number), provider="", model="", text=text) for number, text in enumerate(answers)]


def _reading(call: Call) -> Call:
    """Return `call` with the demand that the flow makes of an aggregator: it must not repeat what it was shown."""

    async def read(request: Request, **options: Any) -> Response:
        return await call(request.model_copy(update={"reader": READER}), **options)

    return read


class _Progress:
    """Shows how many of the prompts are done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._artifact: Any = None
        self._turn = asyncio.Lock()

    async def told(self, event: str, value: Any) -> None:  # noqa: ARG002  # a watcher's form
        """Take note of a prompt that every candidate has been given."""
        if event != "checked":
            return
        self._done += 1
        async with self._turn:  # one after the other, so that it never goes back
            done = round(100 * self._done / self._total, 1)
            if self._artifact is None:
                self._artifact = await acreate_progress_artifact(
                    done, "check-models-progress", f"Of {self._total} prompts"
                )
            else:
                await aupdate_progress_artifact(self._artifact, done)


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
async def check_models(config: CheckModelsConfig) -> CheckReport:
    """Try models out as proposers or as aggregators of a mixture of agents.

    Args:
        config: Who is tried out, for which role and on what.
    """
    with watched_by(_Progress(len(config.cases or shipped_cases(config.role)))):
        report = await run_check_models(config)
    await tell("done", report)
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
            "as expected": found[None if response.error else as_expected(response.text, case.expected)],
            "latency s": round(response.latency_s, 2),
            "error": cell(response.error.message) if response.error else "",
        }
        for case, responses in zip(report.cases, report.responses, strict=True)
        for label, response in zip(report.labels(), responses, strict=True)
    ]
