"""`consensus diff`: two outputs of batches, row by row."""

from typing import Annotated

from cyclopts import Parameter

from consensus_flows.deployments.tables import figure, put_rows
from consensus_flows.deployments.terminal import Exit, put_json, say
from consensus_flows.tasks.batches.difference import difference
from consensus_flows.tasks.batches.frames import output_rows

MOST_IDS = 10


def diff(a: str, b: str, *, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """Compare two batch outputs row by row: changed answers, agreement and cost. Rows are matched by id.

    In a pipe, one tab-separated line per changed row: id, answers before and after, agreement before and after.

    Args:
        a: Output before.
        b: Output after.
        json: Print JSON.
    """
    found = difference(output_rows(a), output_rows(b))
    if json:
        put_json(found.model_dump(mode="json"))
        return Exit.ANSWER
    if found.changes:
        put_rows(
            ["id", "before", "after", "agree before", "agree after"],
            [
                [
                    one.id,
                    f"({one.status_before})" if one.before is None else one.before,
                    f"({one.status_after})" if one.after is None else one.after,
                    figure(one.agreement_before),
                    figure(one.agreement_after),
                ]
                for one in found.changes
            ],
            wide="after",
            least=("agree before", "agree after"),
        )
    for name, ids in ((a, found.only_before), (b, found.only_after)):
        if ids:
            more = f", ... and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
            say(f"  only in {name}: {', '.join(ids[:MOST_IDS])}{more}")
    say(
        f"{found.changed} of {found.matched} answers changed · answered {found.answered_before} → {found.answered_after} · "
        f"agreement {figure(found.agreement_before)} → {figure(found.agreement_after)} · "
        f"cost {_dollars(found.cost_before_usd)} → {_dollars(found.cost_after_usd)}"
    )
    return Exit.ANSWER


def _dollars(value: float | None) -> str:
    return "unknown" if value is None else f"${value:.4f}"
