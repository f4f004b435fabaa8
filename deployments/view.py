"""What a person sees on stderr while a run goes on: a live table in a terminal, plain lines elsewhere."""

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, get_args

from consensus_flows.deployments.terminal import say
from consensus_flows.tasks.errors import ErrorKind
from consensus_flows.tasks.plain_text import plural, visible
from consensus_flows.tasks.record import CALIBRATED, Iteration, Record, Response, bill_of
from consensus_flows.tasks.reports.markdown import percent

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table


def state(response: Response) -> str:
    """Describe in a few words how a call ended."""
    if response.error is not None:
        return response.error.message
    source = "from the cache" if response.cached else f"{response.latency_s:.1f} s"
    tokens = plural(response.usage.output_tokens, "token")
    retried = f", {response.attempts} attempts" if response.attempts > 1 else ""
    if response.panel is not None:
        retried = f", {plural(response.panel.calls, 'call')}{', degraded' if response.panel.degraded else ''}"
    return f"{source}, {tokens}{retried}"


def line_of(event: str, value: Any) -> str | None:
    """Describe an event in a line; None for one that a person need not know."""
    if event == "answered":
        # Why it failed is said in the end.
        return f"  ✗ {value.member}: {value.error.kind}" if value.error else f"  ✓ {value.member}: {state(value)}"
    if event == "notice":
        return f"  ! {value}"
    return _heading(value) if event == "iterated" else None


class Lines:
    """Tells what happens in plain lines."""

    async def on_event(self, event: str, value: Any) -> None:
        """Print an event."""
        if line := line_of(event, value):
            say(line)


class LiveTable:
    """Shows a table of the calls under way, brought up to date as they end, and the end of the answer while it is written."""

    def __init__(self, members: Sequence[str]) -> None:
        self._members = list(members)
        self._done: dict[str, Response] = {}
        self._number: int | None = None
        self._started = time.monotonic()
        self._live: Live | None = None
        self._text = ""
        """The answer until now; it is printed when it is known whether it stays."""

    async def on_event(self, event: str, value: Any) -> None:
        """Bring the table up to date."""
        from rich.console import Console
        from rich.live import Live

        if event == "started":
            if value.grade is not None and value.grade.answered_by is not None:
                self._members = []
            self._live = Live(
                get_renderable=self._shown, console=Console(stderr=True), transient=True, refresh_per_second=8
            )
            self._live.start()
        elif event == "notice":
            say(f"  ! {value}")
        elif event == "answered":
            self._done[value.member] = value
        elif event == "iterating":
            self._done, self._number, self._started, self._text = {}, value.number, time.monotonic(), ""
        elif event == "asking":  # not all members, or others
            self._members, self._done, self._started = list(value), {}, time.monotonic()
        elif event == "wrote":
            self._text = value.after(self._text)
        elif event == "iterated" and self._live:
            self._number, self._text = None, ""
            self._live.console.print(_heading(value), markup=False, highlight=False)
        elif event == "ended":
            self.close()

    def close(self) -> None:
        """Take the table away."""
        if self._live:
            self._live.stop()
            self._live = None

    def _shown(self) -> "Group":
        """Draw the table, and as many of the last lines of the answer as fit below it."""
        from rich.console import Group
        from rich.text import Text

        table = self._table()
        if self._live is None or not self._text:
            return Group(table)
        console = self._live.console
        room = max(console.height - table.row_count - 3, 1)
        lines = Text(visible(self._text)).wrap(console, console.width)
        return Group(table, "", *lines[-room:])

    def _table(self) -> "Table":
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        if self._number is None:  # nobody is asked now, and perhaps nobody will be
            return Table(box=None)
        table = Table(title=f"Iteration {self._number}", title_justify="left", box=None, show_header=False)
        for member in [*self._members, *(name for name in self._done if name not in self._members)]:
            response = self._done.get(member)
            if response is None:
                waited = time.monotonic() - self._started
                table.add_row(Spinner("dots"), Text(member), Text(f"{waited:.0f} s", style="dim"))
            else:
                mark = Text("✗", style="red") if response.error else Text("✓", style="green")
                table.add_row(mark, Text(member), Text(state(response), style="dim"))
        if self._members and all(member in self._done for member in self._members):
            table.add_row(Spinner("dots"), Text("putting the answers together", style="dim"), Text(""))
        return table


def _heading(iteration: Iteration) -> str:
    synthesis, parts = iteration.synthesis, []
    if synthesis and synthesis.confidence is not None:
        parts.append(f"confidence {percent(synthesis.confidence)}")
    if iteration.agreement is not None:
        parts.append(f"agreement {percent(iteration.agreement)}")
    elif iteration.responses:  # they are not compared
        parts.append(f"{len(iteration.answered())} of {len(iteration.responses)} answered")
    return f"Iteration {iteration.number}" + (f": {', '.join(parts)}" if parts else "")


def _confidence(value: float | None, end: str, measure: str = "confidence") -> str:
    """Say how confident a judge is, or how probable the answer, where that is known."""
    return "" if value is None else f"{measure} {percent(value)}{end}"


def summary(record: Record, ui_url: str | None) -> None:
    """Say on stderr who said what, what it cost, and where the run can be seen."""
    iteration, parts = record.answering(), {part.member: f"{part}, " for part in record.parts}
    if iteration is not None and record.answer is not None:
        say("\nWho said what:")
        for response in iteration.responses:
            text = " ".join((response.text or "").split())
            shown = text if len(text) <= 160 else f"{text[:159]}…"
            who = f"{parts.get(response.member, '')}{response.member}"
            say(f"  {who} ({state(response)})" + (f": {shown}" if response.error is None else ""))
        made = record.iterations[(record.best_iteration or 0) - 1].synthesis
        if made and made.dissent.strip():
            say(f"Dissent: {' '.join(made.dissent.split())}")
    if record.citations:
        say("Sources that were named (nobody has looked them up):")
        for citation in record.citations:
            say(f"  {' '.join(citation.source.split())} ({', '.join(citation.members)})")
    say("")
    # Why members failed stands beside their names, or in the error where there is no answer.
    outcome(record, {call.member for call in iteration.responses if call.error} if iteration else set())
    if ui_url and record.flow_run_id:
        say(f"The run in the UI: {ui_url}/runs/flow-run/{record.flow_run_id}")


def outcome(record: Record, told: Collection[str] = ()) -> None:
    """Say on stderr how the run ended, and what was not as it should be; of the failures of members that were not told yet."""
    say_warnings(record, told)
    say(in_short(record))


def say_warnings(record: Record, told: Collection[str]) -> None:
    """Say what was not as it should be, but not that the members failed whose failures are told elsewhere."""
    for warning in dict.fromkeys(record.warnings):
        if warning.member not in told or warning.kind not in get_args(ErrorKind):
            say(f"  ! {warning}")


def in_short(record: Record) -> str:
    """Say in a line how a run ended, and what it took."""
    measure = "probability" if record.confidence_measure == CALIBRATED else "confidence"
    spared = f", {len(record.not_asked)} not needed" if record.not_asked else ""
    return (
        f"{record.status}{', degraded' if record.degraded else ''} · {_confidence(record.confidence, ' · ', measure)}"
        f"agreement {percent(record.agreement)} · {plural(record.calls, 'call')}, {record.cached_calls} from the cache{spared} · "
        f"{bill_of(record)} · {record.duration_s:.1f} s"
    )
