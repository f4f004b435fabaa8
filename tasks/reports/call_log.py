"""The log of a model call in the Prefect UI: what was asked and what was said."""

import logging

from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

from consensus_flows.tasks.calls.call import Exchange
from consensus_flows.tasks.plain_text import plural, visible
from consensus_flows.tasks.record import bill

LIMIT = 8_000
"""Characters of a message that a log shows; the whole text is in the record."""

_LOG = logging.getLogger("consensus.calls")
_LOG.addHandler(APILogHandler())
_LOG.propagate = False  # for the UI alone: a terminal has the view of the run
_LOG.setLevel(logging.INFO)


def log_call(exchange: Exchange) -> None:
    """Log a call for the page of its task run; where there is no flow run, nothing happens."""
    if flow_run.id is None or exchange.task_run_id is None:
        return
    request, response = exchange.request, exchange.response
    parts = [_part(message.role, message.content) for message in request.messages]
    if response.error is not None:
        parts.append(_part("failed", response.error.message))
    if response.text:
        source = "from the cache" if response.cached else f"{response.latency_s:.1f} s"
        facts = f"{source}, {plural(response.usage.output_tokens, 'token')}, {bill(response.cost_usd, response.possibly_billed)}"
        parts.append(_part(f"{response.member} ({facts})", response.text))
    level = logging.INFO if response.answered else logging.ERROR
    # Prefect's handler finds the page by these.
    run = {"flow_run_id": flow_run.id, "task_run_id": str(exchange.task_run_id)}
    _LOG.log(level, "%s", "\n\n".join(parts), extra=run)


def _part(title: str, text: str) -> str:
    shown = text if len(text) <= LIMIT else f"{text[:LIMIT]}\n… ({len(text)} characters in all)"
    return f"── {title} ──\n{visible(shown)}"
