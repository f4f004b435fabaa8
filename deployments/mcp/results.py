"""What the tools return: data, of which clients are told the schema, and the same as text for models."""

from typing import Any, Self

from pydantic import BaseModel, Field

from consensus_flows.deployments.commands.settings.saved import Saved
from consensus_flows.deployments.view import in_short
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.saved_algorithm import with_panels
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Record, Response


class Spent(BaseModel):
    """What all tools of this server have spent since it was started, and what is left of its limits."""

    calls: int = Field(description="Requests sent to models, those under way included.")
    cost_usd: float = Field(description="What is known of their cost, calls under way at their worst case.")
    max_calls: int | None = Field(None, description="The limit; null for none.")
    calls_left: int | None = None
    max_cost_usd: float | None = Field(None, description="The limit; null for none.")
    cost_usd_left: float | None = None

    def __str__(self) -> str:
        left = []
        if self.max_calls is not None:
            left.append(f"{self.calls_left} of {self.max_calls} calls")
        if self.max_cost_usd is not None:
            left.append(f"${self.cost_usd_left:.4f} of ${self.max_cost_usd:g}")
        return f"left to this server: {' and '.join(left)}" if left else f"this server has spent ${self.cost_usd:.4f}"


class CallResult(BaseModel):
    """One call of a model."""

    member: str = Field(description="provider/model#instance")
    role: str = Field(description="member or judge")
    text: str | None = Field(None, description="What it wrote; null where it failed, or texts were not asked for.")
    error: str | None = None
    error_kind: str | None = None
    latency_s: float = 0.0
    cached: bool = False
    cost_usd: float | None = None

    @classmethod
    def of(cls, call: Response, role: str, *, texts: bool) -> Self:
        """Make it of a call in a record."""
        return cls(
            member=call.member,
            role=role,
            text=call.text if texts and call.answered else None,
            error=call.error.message if call.error else None,
            error_kind=call.error.kind if call.error else None,
            latency_s=call.latency_s,
            cached=call.cached,
            cost_usd=call.cost_usd,
        )


class RunResult(BaseModel):
    """A run: its answer, how sure it is, what each model did and what it cost."""

    run_id: str | None = Field(description="For read_run, and for continue_from.")
    flow: str = Field(description="The algorithm.")
    answer: str | None
    error: str | None = Field(None, description="Why there is no answer.")
    status: str
    degraded: bool = Field(description="Whether a call failed or a stand-in answered.")
    confidence: float | None = Field(
        None, description="How sure the arbiter is, 0 to 1, in its own word; or calibrated."
    )
    agreement: float | None = Field(None, description="How alike the members' answers are, measured, 0 to 1.")
    warnings: list[str] = Field(default_factory=list)
    calls: list[CallResult] = Field(default_factory=list, description="Every call, in order.")
    cost_usd: float | None = Field(description="What the run cost; null where a price is not known.")
    known_cost_usd: float = Field(0.0, description="What is known of its cost.")
    cached_calls: int = Field(0, description="Calls answered from the cache, which cost nothing.")
    duration_s: float = 0.0
    conversation_id: str | None = None
    link: str | None = Field(None, description="The run in the Prefect UI.")
    budget: Spent

    @classmethod
    def of(cls, record: Record, spent: Spent, ui_url: str | None, *, texts: bool) -> Self:
        """Make it of a record."""
        calls = [
            CallResult.of(call, role, texts=texts)
            for iteration in record.iterations
            for role, made in (("member", iteration.responses), ("judge", iteration.judgements))
            for call in made
        ]
        return cls(
            run_id=record.run_id or record.flow_run_id,
            flow=record.flow,
            answer=record.answer,
            error=record.error,
            status=record.status,
            degraded=record.degraded,
            confidence=record.confidence,
            agreement=record.agreement,
            warnings=list(dict.fromkeys(map(str, record.warnings))),
            calls=calls,
            cost_usd=record.cost_usd,
            known_cost_usd=record.known_cost_usd,
            cached_calls=record.cached_calls,
            duration_s=record.duration_s,
            conversation_id=record.conversation_id,
            link=f"{ui_url}/runs/flow-run/{record.flow_run_id}" if ui_url and record.flow_run_id else None,
            budget=spent,
        )

    def text(self, record: Record) -> str:
        """Say it for a model: the answer, then what it rests on."""
        parts = [self.answer if self.answer is not None else f"No answer: {self.error}"]
        parts += [f"## {call.member} ({call.role})\n\n{call.text}" for call in self.calls if call.text is not None]
        facts = [in_short(record), *(f"! {warning}" for warning in self.warnings)]
        facts += [f"run {self.run_id} · {self.budget}"]
        return "\n\n".join([*parts, "---", "\n".join(facts)])


class PanelResult(BaseModel):
    """A saved panel."""

    name: str
    flow: str = Field(description="Its algorithm.")
    models: list[str] = Field(description="Every model that a run may ask, the members' first.")
    calls_least: int = Field(0, description="Calls of a question, at least.")
    calls_most: int = Field(0, description="Calls of a question, at most.")
    settings: dict[str, Any] = Field(default_factory=dict)
    fault: str = Field("", description="Why it can no longer be used; empty if it can.")

    @classmethod
    async def of(cls, saved: Saved) -> Self:
        """Make it of a saved configuration."""
        if saved.fault:
            return cls(name=saved.name, flow=saved.kind, models=[], fault=saved.fault)
        one = algorithm(saved.kind)
        try:
            config = await with_panels(one.config_class().model_validate(saved.values), (saved.name,))
        except ConfigurationError as error:  # a panel in it is gone
            return cls(name=saved.name, flow=saved.kind, models=[], fault=error.message)
        plans = one.plan(config)
        return cls(
            name=saved.name,
            flow=saved.kind,
            models=list(dict.fromkeys(map(str, config.all_models()))),
            calls_least=sum(plan.least for plan in plans),
            calls_most=sum(plan.most for plan in plans),
            settings=saved.values,
        )


class PanelList(BaseModel):
    """The saved panels."""

    panels: list[PanelResult]
    budget: Spent


class RunList(BaseModel):
    """Runs of the history, newest first."""

    runs: list[dict[str, Any]]


class BatchResult(BaseModel):
    """A batch: how far it is, or what came of it."""

    batch_id: str | None = Field(description="For watch_batch; null for a dry run.")
    state: str = Field(
        description="dry_run, running, finished, budget, stopped, failed, interrupted, or killed: start it again to resume."
    )
    rows: int = Field(0, description="Rows of the input.")
    finished: int = Field(0, description="Rows that are done, with an answer or without.")
    failed: int = Field(0, description="Rows without an answer.")
    output: str | None = Field(None, description="File of answers.")
    cost_usd: float | None = Field(None, description="What is known of its cost until now.")
    error: str | None = None
    estimate: dict[str, Any] | None = Field(None, description="What it is expected to take, where that was asked for.")
    summary: dict[str, Any] | None = Field(None, description="What came of it, once it has ended.")
    link: str | None = Field(None, description="The run in the Prefect UI.")
    budget: Spent
