"""An evaluation in words: one sentence, the figures that a person needs, and the table of the plans."""

from collections.abc import Iterator

from consensus_flows.tasks.evaluation.evaluation import (
    SINGLE,
    SINGLE_AT_PRICE,
    Evaluation,
    PlanResult,
    Verdict,
)
from consensus_flows.tasks.evaluation.labelled import Note
from consensus_flows.tasks.evaluation.statistics import Interval
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.reports.findings import Findings
from consensus_flows.tasks.reports.verdict import Verdict as State
from consensus_flows.tasks.reports.verdict import listed

HEADER = ("plan", "right", "accuracy", "gain", "p", "calls", "USD/1,000")


def sentence(verdict: Verdict) -> str:
    """Say what the rows tell of the panel."""
    price = "" if verdict.cost_factor is None else f", at {verdict.cost_factor:.2f} times its cost"
    rows = plural(verdict.rows, "row")
    match verdict.kind:
        case "better" | "worse":
            return (
                f"{verdict.plan} is {verdict.kind} than the best single model, by {abs(verdict.difference) * 100:.1f} points"
                f"{price}."
            )
        case "as_good":
            return f"{verdict.plan} is at most 1 point worse than the best single model{price}."
    if verdict.rows_needed is None or verdict.gain is None:
        return f"{rows} cannot tell {verdict.plan} from the best single model."
    about = round(verdict.rows_needed, -1) if verdict.rows_needed > 100 else verdict.rows_needed
    points = f"{verdict.gain * 100:.1f}".removesuffix(".0")
    return f"{rows} cannot tell: about {about:,} would show {points} points{price}."


def facts(made: Evaluation) -> list[tuple[str, str]]:
    """Return the five figures that a person needs first, each with its name."""
    plan, single = made.plan(made.verdict.plan), made.plan(SINGLE)
    affordable = next((one for one in made.plans if one.plan == SINGLE_AT_PRICE), None)
    prices = [f"panel {_price(plan, made)}", f"best single {_price(single, made)}"]
    if affordable is None:
        prices.append("no single model is known to be as cheap as the panel")
    elif affordable.right != single.right or affordable.cost_usd != single.cost_usd:
        prices.append(
            f"best single at the panel's price {_price(affordable, made)}, {_share(affordable.accuracy)} right"
        )
    return [
        ("accuracy", f"panel {_share(plan.accuracy)}, best single {_share(single.accuracy)}, n = {made.test:,}"),
        ("difference", f"{_points(plan.difference)} points, 95 % interval {_interval(plan.difference_ci)}"),
        ("McNemar", f"only the panel right {plan.better}, only the single {plan.worse}, p = {plan.p_holm:.3g}"),
        ("USD per 1,000 questions", ", ".join(prices)),
        ("calls a question", f"{plan.calls / made.test:.2f}"),
    ]


def table(made: Evaluation) -> Iterator[tuple[str, ...]]:
    """Yield the plans, the most accurate first."""
    for one in sorted(made.plans, key=lambda one: -one.right):
        yield (
            one.plan,
            str(one.right),
            _share(one.accuracy),
            "" if one.plan == SINGLE else _points(one.difference),
            "" if one.plan == SINGLE else f"{one.p:.3f}",
            f"{one.calls / made.test:.2f}",
            _price(one, made),
        )


def more(made: Evaluation) -> Iterator[str]:
    """Yield what else is worth knowing, a sentence each."""
    yield f"Recommended: {made.recommended}."
    how = (
        f"Fitted on {made.calibration:,} rows and judged on the other {made.test:,}"
        if made.split == "half"
        else "Each fifth of the rows is judged by plans that are fitted on the other rows"
    )
    yield f"{how}; the best single model is chosen in the same way."
    yield (
        f"At least one member is right on {_share(made.ceiling.accuracy)} of the rows: no way of choosing exceeds that, "
        f"or {_share(made.ceiling.upper)} with 95 % confidence."
    )
    same, ties = made.unanimous, made.ties
    right = f", {same.right} of these right" if same.rows else ""
    yield f"Unanimous: {_share(same.rows / made.test)} of the rows{right}."
    if ties.rows:
        won = ", ".join(f"{name} {count}" for name, count in ties.won_by.items())
        yield f"Ties: {plural(ties.rows, 'row')}; the member listed first decides ({won}), {ties.right} of these right."
    for member in made.members:
        if member.unread:
            yield f"{member.member} has no answer on {plural(member.unread, 'row')}, which counts as wrong."
    yield from map(note, made.notes)
    if made.baseline is not None:
        one = made.baseline
        fell = "it fell by more than chance" if one.fell else "no more than chance"
        yield (
            f"Baseline: {one.plan} is right on {one.right} of {plural(one.rows, 'row')}, and was on {one.right_before}; "
            f"p = {one.p:.3g}, {fell}."
        )


def note(found: Note) -> str:
    """Say what is to be known of the rows."""
    ids = ", ".join(found.ids) + (", ..." if found.count > len(found.ids) else "")
    match found.kind:
        case "unlabelled":
            return f"{plural(found.count, 'row')} without a label left out: {ids}."
        case "duplicates":
            return f"{plural(found.count, 'row')} left out, because an earlier one asks the same: {ids}."
        case "missing":
            return f"{plural(found.count, 'row')} without an answer of {listed(found.members)}, which counts as wrong: {ids}."
        case "failed":
            return f"{plural(found.count, 'call')} failed, of {listed(found.members)}; each counts as wrong."
        case "unpriced":
            return f"The price of {listed(found.members)} is not known: give --prices or --price."
        case "calibrated":
            return f"{listed(found.members)} was calibrated on {plural(found.count, 'row')} of these: its figures are too good."
    source = "of the price table" if found.source == "table" else "of the file of prices"
    return f"Prices are those {source} on {found.date}, not of the day of the answers."


def of_evaluation(made: Evaluation) -> State:
    """Judge an evaluation for the state of its run."""
    if made.baseline is not None and made.baseline.fell:
        one = made.baseline
        return State("AccuracyFell", f"{one.plan}: {one.right} of {one.rows} right, {one.right_before} before")
    return State("Completed", sentence(made.verdict))


def findings(made: Evaluation) -> Findings:
    """Describe an evaluation."""
    return Findings(sentence(made.verdict), facts(made), "All plans", HEADER, list(table(made)), list(more(made)))


def _share(value: float) -> str:
    return f"{value * 100:.1f} %"


def _points(value: float) -> str:
    return f"{value * 100:+.1f}"


def _interval(interval: Interval) -> str:
    return f"{_points(interval[0])} to {_points(interval[1])}"


def _price(one: PlanResult, made: Evaluation) -> str:
    return "unknown" if one.cost_usd is None else f"{one.cost_usd / made.test * 1000:.4g}"
