"""What a batch sees of its rows' runs: every call that is sent, under the row's name, and why a row has no answer."""

from typing import Any

from consensus_flows.tasks.batches.journal import Journal
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.errors import OutputError
from consensus_flows.tasks.record import Record, Response

LABEL = 80
"""Characters of a row's id in the name of a task run."""


def _kinds(record: Record) -> set[str]:
    return {call.error.kind for call in record.calls_made() if call.error is not None}


def was_cut(record: Record) -> bool:
    """Tell whether a row would be another one if the budget went on."""
    return record.status in {"budget", "failed"} or "budget" in _kinds(record)


def failed_of_its_own(record: Record) -> bool:
    """Tell whether a row has failed because of what is in it, which says nothing of the rows that follow."""
    kinds = _kinds(record)
    return bool(kinds) and kinds <= {"content_filter", "context_length"}


class Labelled:
    """Names in every call the row that it is made for."""

    def __init__(self, call: Call, row: str) -> None:
        self._call = call
        self._row = row if len(row) <= LABEL else f"{row[: LABEL - 1]}…"

    async def __call__(self, request: Request, **options: Any) -> Response:
        """Make the call."""
        return await self._call(request.model_copy(update={"label": f"{self._row} · {request.title}"}), **options)


class CallsSeen:
    """Enters in the journal every request before it goes out, and every call for which something was sent."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.error: OutputError | None = None
        """Why a call could not be entered; who tells watchers takes no notice of what befalls them."""

    async def told(self, event: str, value: Any) -> None:
        """Take note of an event of a run."""
        try:
            self._note(event, value)
        except OutputError as error:
            self.error = error
            raise

    def sent(self, model: str, tokens: int, cost_usd: float | None) -> int:
        """Enter a request at its worst case.

        Raises:
            OutputError: If it cannot be entered: it must not go out, and the batch ends.
        """
        try:
            return self._journal.add_sent(model, tokens, cost_usd)
        except OutputError as error:
            self.error = error
            raise

    def settled(self, number: int, tokens: int | None, cost_usd: float | None, *, lost: bool) -> None:
        """Enter what a request took. The answer is paid for: what cannot be entered ends the batch after its row."""
        try:
            self._journal.add_settled(number, tokens, cost_usd, lost=lost)
        except OutputError as error:
            self.error = error

    def _note(self, event: str, value: Any) -> None:
        if event == "answered" and value.attempts:
            self._journal.add_call(
                f"{value.provider}/{value.model}",
                latency_s=value.latency_s,
                cost_usd=value.cost_usd,
                requests=value.attempts,
                tokens=value.spent.input_tokens + value.spent.output_tokens,
                error=value.error.kind if value.error else None,
                possibly_billed=value.possibly_billed,
                entries=value.entries,
            )
