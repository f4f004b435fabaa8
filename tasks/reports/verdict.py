"""What came of a run or of a batch: the name of its final state and one sentence, for lists, filters, logs and notifications.

Prefect shows a state's name and message everywhere. A run that a person should look at has a name of its own.
"""

from collections.abc import Callable, Coroutine, Iterable
from functools import wraps
from typing import Any, Literal, NamedTuple, ParamSpec, TypeAlias, TypeVar

from prefect.states import Completed, Failed

from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.errors import ConfigurationError, ConsensusError
from consensus_flows.tasks.record import Record, Response, bill_of
from consensus_flows.tasks.reports.markdown import cell, percent
from consensus_flows.tasks.watch import emit

Outcome = Literal["Completed", "LowConfidence", "Degraded", "BudgetEnded", "Tie", "Failed"]
"""Names of final states. All but `Failed` are of Prefect's type COMPLETED."""
ANSWER = 100
"""Characters of the answer in a message."""
NAMED = 3
"""Members or models that a message names."""

Data = TypeVar("Data")
Parameters = ParamSpec("Parameters")
Flow: TypeAlias = Callable[Parameters, Coroutine[Any, Any, Data]]


class Verdict(NamedTuple):
    """What came of a run or of a batch.

    Attributes:
        name: Name of the final state.
        message: What a person reads.
    """

    name: Outcome
    message: str

    def state(self, data: object) -> Any:
        """Return the final state of a flow, for the flow to return; Prefect hands on its data, or raises it if it is an error."""
        made = Failed if self.name == "Failed" else Completed
        return made(data=data, name=self.name, message=self.message)


def concluded(judge: Callable[[Data], Verdict]) -> Callable[[Flow[Parameters, Data]], Flow[Parameters, Data]]:
    """Make a flow's function end its run in a state that says what came of it.

    An error of ours is returned as the data of a failed state. Prefect raises it for whoever awaits the flow, and writes no
    traceback into the log of the run.

    Args:
        judge: Judges what the function returns.
    """

    def decorate(function: Flow[Parameters, Data]) -> Flow[Parameters, Data]:
        @wraps(function)
        async def ending(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Data:
            try:
                data = await function(*args, **kwargs)
            except ConsensusError as error:
                if isinstance(error, ConfigurationError):
                    await emit("refused", error)
                failed: Data = Verdict("Failed", str(error)).state(error)
                return failed
            ended: Data = judge(data).state(data)
            return ended

        return ending

    return decorate


def of_run(record: Record) -> Verdict:
    """Judge a run that ended with an answer or without one."""
    if record.answer is None:
        return Verdict("Failed", record.error or "no member gave an answer")
    name: Outcome = "Completed"
    if record.tie:
        name = "Tie"
    elif record.status == "budget":
        name = "BudgetEnded"
    elif record.degraded:
        name = "Degraded"
    elif record.status == "max_iterations":
        name = "LowConfidence"
    lead = _lead(record)
    if record.tie:
        lead = f"tie, {lead}"
    if record.status == "budget":
        lead = f"budget ended, {lead}"
    if record.status == "max_iterations":
        count = len(record.iterations)
        lead += f" after {count} iteration{'s' if count > 1 else ''}"
    if failed := [f"{one.member} ({one.error.kind})" for one in responses(record) if one.error is not None]:
        lead += f" without {_listed(failed)}"
    return Verdict(name, f"{lead}{_answer(record)} · {_cost(record)}")


def of_batch(summary: BatchSummary) -> Verdict:
    """Judge a batch."""
    started = summary.rows - summary.not_started
    words = {
        "failed": summary.failed,
        "degraded": summary.degraded,
        "tied": summary.ties,
        "abstained": summary.abstained,
    }
    counts = [f"{count} {word}" for word, count in words.items() if count]
    name: Outcome = "Completed"
    if summary.status == "stopped" or (summary.failed and not summary.done):
        name = "Failed"
    elif summary.status == "budget":
        name, counts = "BudgetEnded", ["budget ended", *counts]
    elif summary.failed or summary.degraded:
        name = "Degraded"
    elif summary.ties:
        name = "Tie"
    rows = f"{summary.rows} rows" if not summary.not_started else f"{started} of {summary.rows} rows"
    lead = ", ".join([rows, *counts]) if counts else f"{rows} answered"
    causes = [cell(summary.error)] if summary.status == "stopped" and summary.error else []
    causes += [_listed(_sick_models(summary))] if counts and _sick_models(summary) else []
    if name == "Failed" and not causes and summary.failures:
        causes = [cell(summary.failures[0])]
    because = f": {'; '.join(causes)}" if causes else ""
    paid = "from the store" if not summary.sent_calls else bill_of(summary)
    return Verdict(name, f"{lead}{because} · {paid}")


def _sick_models(summary: BatchSummary) -> list[str]:
    """Name the models that failed, those that never answered first."""
    failed = sorted((one for one in summary.models if one.failed), key=lambda one: -one.failed / one.calls)
    return [
        f"{cell(one.model)} never answered"
        if one.never_answered
        else f"{cell(one.model)} failed {one.failed} of {one.calls + one.stored} calls"
        for one in failed
    ]


def responses(record: Record) -> list[Response]:
    """The responses of the round whose answer is returned; of a round that only asks judges, those before it."""
    rounds = record.iterations[: record.best_iteration]
    return next((one.responses for one in reversed(rounds) if one.responses), [])


def _lead(record: Record) -> str:
    """Say how sure the answer is, in the terms of its algorithm."""
    if record.tally:
        cast = sum(option.votes for option in record.tally)
        return f"{record.tally[0].votes:g} of {cast:g} votes"
    if record.confidence is not None:
        return f"{'confident' if record.status == 'confident' else 'confidence'} {percent(record.confidence)}"
    if _side_by_side(record):
        asked = responses(record)
        return f"{sum(one.answered for one in asked)} of {len(asked)} members answered"
    return "answered" if record.agreement is None else f"agreement {percent(record.agreement)}"


def _side_by_side(record: Record) -> bool:
    """Tell whether the answer is the members' answers, one after the other."""
    return len(responses(record)) > 1 and not any(one.synthesis for one in record.iterations)


def _answer(record: Record) -> str:
    if _side_by_side(record):
        return ""
    lines = (cell(line.lstrip("#").replace("**", "")) for line in (record.answer or "").splitlines())
    shown = next(filter(None, lines), "")
    return f": {shown if len(shown) <= ANSWER else shown[: ANSWER - 1] + '…'}"


def _cost(record: Record) -> str:
    if record.calls and record.calls == record.cached_calls:
        return "from the store"
    return bill_of(record)


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = len(found) - NAMED
    return ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")
