"""The agreement of a panel's members in words: what can be said without labels, and what labels would add."""

from collections.abc import Iterator
from pathlib import Path

from consensus_flows.tasks.evaluation.agreement import Agreement
from consensus_flows.tasks.evaluation.calibrating import CHOICE_ROWS, LEARNED_ROWS
from consensus_flows.tasks.evaluation.labelled import LEAST
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.reports.charts import matrix
from consensus_flows.tasks.reports.evaluation_report import note
from consensus_flows.tasks.reports.findings import Findings
from consensus_flows.tasks.reports.page import write_page
from consensus_flows.tasks.reports.verdict import Verdict

WHY = (
    "No accuracy, no weights and no probability: without labels nothing tells who is right, because members that err together "
    "agree, too."
)
LABELS = (
    f"With labels (a column of right answers, --label COLUMN), {LEAST} rows give weights, {CHOICE_ROWS} a plan that clearly "
    f"gains, and {LEARNED_ROWS} a plan by a goal; each with its accuracy, and probabilities for its answers."
)
_LOW, _GOOD = 0.2, 0.8
"""Values of alpha up to which agreement is slight, and from which it is good (Krippendorff, 2004)."""


def sentence(made: Agreement) -> str:
    """Say how often the members agree."""
    return f"{plural(len(made.members), 'member')} give the same answer on {_share(made.unanimous.rows / made.rows)} of {plural(made.rows, 'row')}"


def facts(made: Agreement) -> Iterator[tuple[str, str]]:
    """Yield the figures that a person needs first, each with its name."""
    pairs = [share for at, row in enumerate(made.agreement) for share in row[at + 1 :]]
    yield "unanimous", f"{made.unanimous.rows} of {plural(made.rows, 'row')}, {_share(made.unanimous.rows / made.rows)}"
    yield (
        "two members agree",
        f"{_share(sum(pairs) / len(pairs))} on average, {_share(min(pairs))} to {_share(max(pairs))}",
    )
    if made.alpha is not None:
        yield "beyond chance", f"Krippendorff's alpha {made.alpha:.2f}: {_alpha_in_words(made.alpha)}"
    yield "ties", plural(made.ties.rows, "row")
    yield "USD per 1,000 questions", _price(made.cost_usd)
    yield "calls a question", f"{made.calls:.2f}"


def _alpha_in_words(alpha: float) -> str:
    if alpha >= _GOOD:
        return "they nearly always agree, so several may be worth no more than one"
    return "hardly more than by chance" if alpha <= _LOW else "more than by chance, and not always"


def table(made: Agreement) -> Iterator[tuple[str, ...]]:
    """Yield the members: with whom each agrees, how often it is alone, what it costs."""
    for at, one in enumerate(made.members):
        shares = ("" if other == at else _share(share) for other, share in enumerate(made.agreement[at]))
        price = _price(None if one.cost_usd is None else one.cost_usd / made.rows)
        yield f"{at + 1} {one.member}", *shares, _share(one.alone / made.rows), str(one.unread), price


def more(made: Agreement) -> Iterator[str]:
    """Yield what else is worth knowing, a sentence each."""
    yield WHY
    yield LABELS
    if made.ties.rows:
        won = ", ".join(f"{name} {count}" for name, count in made.ties.won_by.items())
        yield f"Ties: {plural(made.ties.rows, 'row')}; the member listed first decides ({won})."
    if made.cascade is not None:
        one, all_of_them = made.cascade, made.cost_usd or 0.0
        times = f", {one.cost_usd / all_of_them:.2f} times the price of asking all" if all_of_them else ""
        yield (
            f"The two cheapest, {' and '.join(one.ask)}, agree on {_share(one.agree / made.rows)} of the rows. A cascade that asks "
            f"{one.then} only where they differ makes {one.calls:.2f} calls a question and costs {_price(one.cost_usd)} US dollars "
            f"per 1,000{times}. Whether it is as right, only labels show."
        )
    yield from map(note, made.notes)


def findings(made: Agreement) -> Findings:
    """Describe the agreement of a panel's members."""
    numbers = tuple(str(at + 1) for at in range(len(made.members)))
    header = ("member", *numbers, "alone", "no answer", "USD/1,000")
    return Findings(sentence(made), list(facts(made)), "Members", header, list(table(made)), list(more(made)))


def of_agreement(made: Agreement) -> Verdict:
    """Judge a measurement of agreement for the state of its run."""
    return Verdict("Completed", sentence(made))


def write_agreement(path: Path, made: Agreement, *, title: str) -> None:
    """Write the agreement of a panel's members as a page.

    Args:
        path: The file.
        made: The agreement.
        title: What was asked.
    """
    shown = matrix([one.member for one in made.members], made.agreement)
    write_page(path, [(findings(made), [shown])], title=title, date=made.date)


def _share(value: float) -> str:
    return f"{value * 100:.1f} %"


def _price(cost: float | None) -> str:
    return "unknown" if cost is None else f"{cost * 1000:.4g}"
