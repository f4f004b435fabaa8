"""`consensus stats`: how each model did, over the runs of the history."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.deployments.commands.algorithms.rows import figure, put_rows
from consensus_flows.deployments.commands.history.runs import from_history, wanted_runs
from consensus_flows.deployments.terminal import Exit, put_json, say


def stats(
    *,
    flow: str | None = None,
    since: str | None = None,
    until: str | None = None,
    model: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """Say how each model did: calls, failures, latency, cost, wins, agreement with the final answer.

    In a pipe, a line a model with tabs between: model, runs, calls, failures, calls answered from the store, median and
    95th percentile of the seconds an answer took, US dollars, wins, agreement. A win is a run whose answer is that of the
    model word for word. Agreement is 0 to 1, the mean over its answers as a member.

    Args:
        flow: Only runs of this flow, for example consortium or moa.
        since: Only runs that began since then: 2026-01-31, 2026-01-31T08:00, or 90m, 12h, 7d, 4w ago.
        until: Only runs that began before then, written like --since.
        model: Only this model: provider/model, or model.
        json: As JSON.
    """
    from consensus_flows.tasks.history.reading import model_stats

    wanted = wanted_runs(flow, since, model, until=until)
    found = from_history(lambda connection: model_stats(connection, wanted))
    if json:
        put_json([asdict(one) for one in found])
        return Exit.ANSWER
    put_rows(
        ["model", "runs", "calls", "failed", "stored", "p50 s", "p95 s", "USD", "wins", "agree"],
        [
            [
                one.model,
                str(one.runs),
                str(one.calls),
                str(one.failures),
                str(one.cached),
                figure(one.p50_s),
                figure(one.p95_s),
                figure(one.cost_usd, 4),
                str(one.wins),
                figure(one.agreement),
            ]
            for one in found
        ],
        wide="model",
    )
    if not found:
        say("no such call is in the history")
    return Exit.ANSWER
