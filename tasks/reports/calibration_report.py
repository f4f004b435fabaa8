"""A calibration in words: what panel came of it, what it is worth, and which members it does without."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from consensus_flows.tasks.evaluation.calibrating import Calibrated, PlanFigures
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.reports.findings import Findings
from consensus_flows.tasks.reports.verdict import Verdict as State
from consensus_flows.tasks.reports.verdict import listed

STAGES = {
    "weights": "below 50 labeled rows votes are only weighted, because a plan chosen on so few looks better than it is",
    "gain": "below 200 labeled rows another plan is chosen only where its gain exceeds one standard error",
    "goal": "the plan was chosen by the goal",
}
HEADER = ("plan", "right", "accuracy", "gain", "calls", "USD/1,000")


class Panel(Protocol):
    """What came of a calibration."""

    @property
    def found(self) -> Calibrated:
        """The panel."""


def sentence(found: Calibrated) -> str:
    """Say what came of a calibration."""
    figures, single = found.figures, found.single
    cost = ""
    if figures.cost_usd is not None and single.cost_usd:
        cost = f" at {figures.cost_usd / single.cost_usd:.2f} times its cost"
    return f"{found.plan}: {figures.gain * 100:+.1f} points against the best single model{cost}"


def facts(found: Calibrated) -> Iterator[tuple[str, str]]:
    """Yield the figures that a person needs first, each with its name."""
    figures, single, made = found.figures, found.single, found.calibration
    low, high = made.interval
    yield "plan", found.plan
    yield "members", ", ".join(found.members)
    yield (
        "accuracy",
        f"{_share(figures.accuracy)}, 95 % interval {_share(low)} to {_share(high)}; best single {_share(single.accuracy)}",
    )
    yield "gain", f"{figures.gain * 100:+.1f} points, standard error {figures.gain_se * 100:.1f}, n = {made.rows:,}"
    yield "USD per 1,000 questions", f"{_price(figures)}, best single {_price(single)}"
    yield "calls a question", f"{figures.calls:.2f}"
    stated = ", ".join(
        f"{_share(one.stated)} stated, {_share(one.right)} right (n = {one.rows:,})"
        for one in reversed(found.reliability)
    )
    yield "probability", f"off by {found.calibration_error * 100:.1f} points on average: {stated}"
    if made.sure_accuracy is not None:
        yield "said to be 90 % sure", f"{_share(made.sure)} of the rows, {_share(made.sure_accuracy)} of these right"


def more(found: Calibrated) -> Iterator[str]:
    """Yield what else is worth knowing, a sentence each."""
    yield f"{plural(found.calibration.rows, 'labeled row')}: {STAGES[found.stage]}."
    yield "The figures are cross-fitted: each fifth of the rows is judged by what was chosen and fitted on the others, the probabilities too."
    idle = [one.member for one in found.dropped if one.right_with is None]
    if idle:
        yield f"Not asked by this plan: {listed(idle)}."
    for one in found.dropped:
        if one.right_with is not None:
            yield f"Dropped: {one.member} adds nothing ({one.right_with} rows right with it, {one.right_without} without)."


def table(found: Calibrated, most: int = 10) -> Iterator[tuple[str, ...]]:
    """Yield the best of the plans among which was chosen."""
    for one in found.tried[:most]:
        yield one.plan, str(one.right), _share(one.accuracy), f"{one.gain * 100:+.1f}", f"{one.calls:.2f}", _price(one)


def of_calibrations(panels: Sequence[Panel]) -> State:
    """Judge a calibration for the state of its run."""
    return State("Completed", sentence(panels[0].found))


def findings(category: str | None, found: Calibrated) -> Findings:
    """Describe a calibration."""
    title = sentence(found) if category is None else f"{category}: {sentence(found)}"
    return Findings(title, list(facts(found)), "Plans tried", HEADER, list(table(found)), list(more(found)))


def _share(value: float) -> str:
    return f"{value * 100:.1f} %"


def _price(one: PlanFigures) -> str:
    return "unknown" if one.cost_usd is None else f"{one.cost_usd * 1000:.4g}"
