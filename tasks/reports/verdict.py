"""What came of a run or of a batch: the name of its final state and one sentence, for lists, filters, logs and notifications.

Prefect shows a state's name and message everywhere. A run that a person should look at has a name of its own.
"""

from collections.abc import Callable, Coroutine, Iterable
from functools import wraps
from typing import Any, Literal, NamedTuple, ParamSpec, TypeAlias, TypeVar

from prefect.states import Completed, Failed

from consensus_flows.tasks.errors import ConfigurationError, ConsensusError
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import Record, Response, bill_of
from consensus_flows.tasks.reports.markdown import cell, percent
from consensus_flows.tasks.watch import emit

Outcome = Literal[
    "Completed",
    "LowConfidence",
    "Degraded",
    "BudgetEnded",
    "Waiting",
    "Tie",
    "AccuracyFell",
    "WinRateFell",
    "JudgeRefused",
    "Failed",
]
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
            await emit("began", None)
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
        lead += _unconvinced(record)
    if failed := [f"{one.member} ({one.error.kind})" for one in responses(record) if one.error is not None]:
        lead += f" without {listed(failed)}"
    return Verdict(name, f"{lead}{_answer(record)} · {_cost(record)}")


def responses(record: Record) -> list[Response]:
    """The responses of the round whose answer is returned; of a round that only asks judges, those before it."""
    shown = record.answering()
    return shown.responses if shown else []


def _lead(record: Record) -> str:
    """Say how sure the answer is, in the terms of its algorithm."""
    made = record.iterations[(record.best_iteration or 1) - 1].synthesis if record.iterations else None
    if record.tally and made and made.method == "cascade":
        return f"{cell(made.arbiter or '')} decided"
    if record.fields:
        split = [one.field for one in record.fields if one.split]
        agreed = f"{plural(len(record.fields), 'field')}, agreement {percent(record.agreement)}"
        return f"{agreed}, split: {listed(split)}" if split else agreed
    if record.tally and record.confidence is not None:
        return f"probability {percent(record.confidence)}"
    if record.tally:
        cast = sum(option.votes for option in record.tally)
        return f"{record.tally[0].votes:g} of {cast:g} votes"
    if record.confidence is not None:
        return f"{'confident' if record.status == 'confident' else 'confidence'} {percent(record.confidence)}"
    if record.parts:
        return f"{sum(part.error is None for part in record.parts)} of {len(record.parts)} parts answered"
    if _side_by_side(record):
        asked = responses(record)
        return f"{sum(one.answered for one in asked)} of {len(asked)} members answered"
    return "answered" if record.agreement is None else f"agreement {percent(record.agreement)}"


def _unconvinced(record: Record) -> str:
    """Say why an answer whose confidence may be high did not end the run before the last iteration."""
    count = len(record.iterations)
    best = record.best_iteration or count
    made = record.iterations[best - 1].synthesis
    reason = ", but not final" if made and made.needs_iteration else ""
    return reason + (f" after {plural(count, 'iteration')}" if best == count else f" in iteration {best} of {count}")


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
        return "from the cache"
    return bill_of(record)


def listed(names: Iterable[str]) -> str:
    """Name the first of several members or models."""
    found = list(names)
    more = len(found) - NAMED
    return ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")
