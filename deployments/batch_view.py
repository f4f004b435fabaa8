"""What a person sees on stderr while a batch goes on: a live table in a terminal, a line now and then elsewhere."""

import time
from typing import TYPE_CHECKING, Any

from consensus_flows.deployments.terminal import say
from consensus_flows.tasks.batches.summary import BatchSummary, Progress, fewer_unanimous, how_sure
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import bill, bill_of

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

EVERY_S = 10.0
"""Seconds between two lines where there is no terminal."""


class BatchCounts:
    """The calls of a batch that goes on, beside the rows that the batch itself counts."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.sent = self.stored = 0
        self.known_usd = 0.0
        self.unpriced = self.possibly_billed = 0
        self.models: dict[str, list[float]] = {}
        """For each model its calls, the failed ones, and the seconds that all took together."""
        self._started = time.monotonic()

    def note(self, event: str, value: Any) -> None:
        """Count an event of the batch."""
        if event == "batch_started":
            self.progress, self._started = value, time.monotonic()
        elif event == "shard":  # the sums over the rows of one
            self.sent, self.stored = self.sent + value["sent_calls"], self.stored + value["cached_calls"]
            self._pay(value["known_cost_usd"], value["possibly_billed"], value["unpriced_calls"])
        elif event in {"answered", "answered_within"} and value.panel is None:
            self._call(value)

    def line(self) -> str:
        """Say it in one line."""
        took = max(time.monotonic() - self._started, 1e-9)
        price = bill(None if self.unpriced else self.known_usd, self.possibly_billed, self.known_usd, self.unpriced)
        rows = self.progress
        # Where recorded answers are judged there are no rows to ask.
        far = f"{rows.finished} of {rows.wanted} rows · {rows.failed} failed, {rows.degraded} degraded · "
        return f"{far * (rows.wanted > 0)}{plural(self.sent, 'call')} sent, {self.stored} from the cache · {price} · {(self.sent + self.stored) / took:.1f} calls/s"

    def _call(self, response: Any) -> None:
        if not response.attempts:
            self.stored += response.error is None
            return
        self.sent += 1
        model = self.models.setdefault(f"{response.provider}/{response.model}", [0, 0, 0.0])
        model[0] += 1
        model[1] += response.error is not None
        model[2] += response.latency_s
        self._pay(response.cost_usd or 0.0, response.possibly_billed, response.cost_usd is None and not response.lost)

    def _pay(self, known_usd: float, possibly_billed: int, unpriced: int) -> None:
        self.known_usd += known_usd
        self.possibly_billed += possibly_billed
        self.unpriced += unpriced


class BatchLines:
    """Tells in plain lines how far a batch is."""

    def __init__(self) -> None:
        self._counts = BatchCounts()
        self._told = time.monotonic()

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event."""
        self._counts.note(event, value)
        if event == "batch_started" and value.resumed:
            say(f"{value.resumed} of {value.wanted} rows were finished by an earlier run")
        elif event == "notice":
            say(f"  ! {value}")
        elif event == "shard" or (
            event in {"row", "answered", "answered_within"} and time.monotonic() - self._told > EVERY_S
        ):
            self._told = time.monotonic()
            say(self._counts.line())

    def close(self) -> None:
        """Nothing is left on the screen."""


class BatchTable:
    """Shows a bar, and below it a table of the models."""

    def __init__(self) -> None:
        self._counts = BatchCounts()
        self._live: Live | None = None
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._notice = ""

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event, and bring the view up to date."""
        self._counts.note(event, value)
        if event == "batch_started":
            self._open(value)
        elif event in {"row", "shard"} and self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._counts.progress.finished)
            self._notice = ""
        elif event == "notice" and self._live is None:
            say(f"  ! {value}")  # before it begins: the next row would take it away
        elif event == "notice":
            self._notice = value
        elif event == "batch_ended":
            self.close()

    def close(self) -> None:
        """Take the view away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _open(self, plan: Progress) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task(plan.algorithm, total=plan.wanted, completed=plan.resumed)
        self._live = Live(
            get_renderable=self._shown, console=Console(stderr=True), transient=True, refresh_per_second=4
        )
        self._live.start()

    def _shown(self) -> "Group":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        assert self._bar is not None
        table = Table(box=None, header_style="dim")
        for name in ("model", "calls", "failed", "mean s"):
            table.add_column(name, justify="left" if name == "model" else "right")
        for name, (calls, failed, seconds) in sorted(self._counts.models.items()):
            table.add_row(Text(name), f"{calls:.0f}", f"{failed:.0f}", f"{seconds / calls:.2f}")
        parts: list[Any] = [self._bar, Text(self._counts.line(), style="dim")]
        if self._counts.models:
            parts.append(table)
        if self._notice:
            parts.append(Text(f"! {self._notice}", style="yellow"))
        return Group(*parts)


def batch_summary(summary: BatchSummary, ui_url: str | None) -> None:
    """Say on stderr what a batch came to."""
    for model in summary.models:
        took = "" if model.p50_s is None else f", p50 {model.p50_s:.2f} s, p95 {model.p95_s:.2f} s"
        errors = "".join(f", {count} {kind}" for kind, count in model.errors.items())
        stored = f", {model.stored} from the cache" if model.stored else ""
        kept = (
            f", {model.cached_input_tokens:,} of {model.input_tokens:,} input tokens from the vendor's prompt cache"
            if model.cached_input_tokens
            else ""
        )
        say(f"  {model.model}: {plural(model.calls, 'call')} sent{took}{errors}{stored}{kept}")
    for name in summary.never_answered:
        say(f"  ! {name} never answered")
    for out in summary.taken_out:
        say(f"  ! {str(out).rstrip('.')}. The next run asks it again")
    if summary.bad:
        say(f"  ! {plural(summary.bad, 'invalid row')} skipped:")
        for text in summary.bad_rows:
            say(f"    {text}")
    if summary.failed:
        say(f"  ! {plural(summary.failed, 'row')} without an answer:")
        for text in summary.failures:
            say(f"    {text}")
        if summary.failed > len(summary.failures):
            say(f"    ... and {summary.failed - len(summary.failures)} more")
        say("    run the same command again to retry them")
    if summary.abstained:
        say(f"  ! {plural(summary.abstained, 'row')} without an answer because too few members agree")
    if summary.ties:
        say(f"  ! {plural(summary.ties, 'tie')}: the status of such a row is tie")
    if (changed := fewer_unanimous(summary)) is not None:
        say(f"  ! {changed}")
    if (sure := how_sure(summary)) is not None:
        say(f"  {sure}")
    if summary.to_review:
        where = f"see {summary.review_file}" if summary.review_file else "--review review.csv lists them"
        say(f"  ! {summary.to_review} of {summary.rows} rows need review: {where}")
    if summary.error:
        say(f"  ! {summary.error}")
    if summary.not_started:
        more = ", given a larger budget or a new deadline" if summary.status == "budget" else ""
        more = " when the vendors have answered" if summary.status == "waiting" else more
        say(f"  ! {plural(summary.not_started, 'row')} not started: the same command continues with them{more}")
    say(batch_in_short(summary))
    if ui_url and summary.flow_run_id:
        say(f"The run in the UI: {ui_url}/runs/flow-run/{summary.flow_run_id}")


def batch_in_short(summary: BatchSummary) -> str:
    """Say in a line how a batch ended, and what it took."""
    price = bill_of(summary)
    abstained = f"{summary.abstained} abstained, " if summary.abstained else ""
    spared = f", {summary.calls_not_made} not needed" if summary.calls_not_made else ""
    return (
        f"{summary.status} · {plural(summary.rows, 'row')}: {summary.done} answered ({summary.degraded} degraded), {summary.failed} "
        f"failed, {abstained}{summary.not_started} not started · {plural(summary.sent_calls, 'call')} sent in {plural(summary.requests, 'request')}, {summary.cached_calls} from the cache{spared} · {price} "
        f"· {summary.duration_s:.1f} s, {summary.calls_per_s:g} calls/s"
    )
