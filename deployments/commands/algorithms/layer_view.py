"""What a person sees on stderr of a run in layers."""

import sys
from typing import Any

from consensus_flows.deployments.terminal import put, say
from consensus_flows.deployments.view import Lines, LiveTable, state
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import Iteration, Record, Response, bill_of
from consensus_flows.tasks.reports.markdown import percent


class LayerLines(Lines):
    """Tells in plain lines what happens in each layer."""

    async def on_event(self, event: str, value: Any) -> None:
        """Print an event."""
        if event == "iterated":
            say(heading(value))
        else:
            await super().on_event(event, value)


class LayerTable(LiveTable):
    """Shows a table of the models of the layer that is asked."""

    async def on_event(self, event: str, value: Any) -> None:
        """Bring the table up to date."""
        if event == "iterated" and self._live:
            self._live.console.print(heading(value), markup=False, highlight=False)
            self._members, self._done, self._number = [], {}, None
        else:
            await super().on_event(event, value)


def layer_view() -> LayerLines | LayerTable:
    """Return the live view that fits the terminal."""
    return LayerTable([]) if sys.stderr.isatty() else LayerLines()


def heading(iteration: Iteration) -> str:
    """Say in a line what came of a layer."""
    responses = iteration.responses
    if not responses:
        made = iteration.synthesis if iteration.judgements and iteration.judgements[-1].answered else None
        by = made and made.arbiter
        return f"Layer {iteration.number}: " + (f"answer by {by}" if by else "no aggregator could answer")
    answered = sum(response.answered for response in responses)
    recorded = ", recorded earlier" if any(response.recorded for response in responses) else ""
    return (
        f"Layer {iteration.number}: {answered} of {len(responses)} answered{recorded}, "
        f"agreement {percent(iteration.agreement)}"
    )


def show_layers(record: Record, ui_url: str) -> None:
    """Print the answer on stdout, and on stderr who said what in each layer, what it cost, and where it can be seen."""
    if record.answer is not None:
        put(record.answer)
    say("\nWho said what:")
    for one in record.iterations:
        say(f"  {heading(one)}")
        for response in one.responses:
            say(f"    {response.member} ({_state(response)})" + _shown(response))
    for warning in dict.fromkeys(record.warnings):
        say(f"  ! {warning}")
    say(f"\n{totals(record)}")
    if ui_url and record.flow_run_id:
        say(f"The run in the UI: {ui_url}/runs/flow-run/{record.flow_run_id}")


def totals(record: Record) -> str:
    """Say in a line how a run ended and what it took."""
    return (
        f"{record.status}{', degraded' if record.degraded else ''} · agreement {percent(record.agreement)} · "
        f"{plural(record.calls, 'call')}, {record.cached_calls} from the cache · {bill_of(record)} · {record.duration_s:.1f} s"
    )


def _state(response: Response) -> str:
    return "from the file" if response.recorded and response.answered else state(response)


def _shown(response: Response) -> str:
    if response.error is not None:
        return ""
    text = " ".join((response.text or "").split())
    return f": {text if len(text) <= 160 else f'{text[:159]}…'}"
