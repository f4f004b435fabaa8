"""An evaluation of free text in words: one sentence, the figures that a person needs, and the tables."""

from collections.abc import Iterator

from consensus_flows.tasks.evaluation.free_text import FreeTextEvaluation
from consensus_flows.tasks.evaluation.statistics import Interval
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import bill_of
from consensus_flows.tasks.reports.findings import Findings
from consensus_flows.tasks.reports.verdict import Verdict

HEADER = ("panel against", "questions", "won", "tied", "lost", "win rate", "at equal length", "longer", "USD/1,000")


def sentence(made: FreeTextEvaluation) -> str:
    """Say what the questions tell of the panel: how it does against the member that is hardest to beat."""
    if made.budget_ended:
        return "The budget ended before all pairs were judged."
    if made.refused:
        return f"The judges are refused: they are right on {made.adversarial:.0%} of the adversarial pairs."
    if not made.members:
        return "No verdict could be read."
    one = min(made.members, key=lambda one: one.length_controlled)
    low, high = one.length_controlled_interval
    rate = _share(one.length_controlled, one.length_controlled_interval)
    price = ""
    if made.usd_per_1000 and one.usd_per_1000:
        price = f", at {made.usd_per_1000 / one.usd_per_1000:.2f} times its price"
    if low <= 0.5 <= high:
        return f"{plural(one.n, 'question')} cannot tell the panel from {one.member}: it wins {rate} at equal length{price}."
    verb = "beats" if low > 0.5 else "loses to"
    return f"The panel {verb} {one.member}: it wins {rate} at equal length{price}."


def facts(made: FreeTextEvaluation) -> Iterator[tuple[str, str]]:
    """Yield the figures beside the win rates, each with its name."""
    left_out = f", {made.left_out} left out for want of an answer" if made.left_out else ""
    unread = f", {plural(made.unread, 'pair')} unread" if made.unread else ""
    yield "questions", f"{made.rows:,}{left_out}{unread}"
    yield "answering", f"panel {dollars(made.usd_per_1000)} for 1,000 questions, when the answers were made"
    yield "judging", f"{bill_of(made)} for {plural(made.calls, 'call')}"
    yield "adversarial pairs", f"the judges together are right on {made.adversarial:.0%}"
    if made.strong_judge and made.judges:
        yield "strong judge", f"{made.strong_judge} decided {plural(made.decided_by_strong_judge, 'pair')}"
    for judge in made.judges:
        unread = f", {judge.unread} unread" if judge.unread else ""
        yield (
            judge.judge,
            (
                f"consistent on {judge.consistent} of {plural(judge.n, 'pair')}; {plural(judge.flips, 'flip')}, "
                f"{judge.flips_to_the_one_shown_first} to the answer shown first{unread}"
            ),
        )


def more(made: FreeTextEvaluation) -> Iterator[str]:
    """Yield what else is worth knowing, a sentence each."""
    if made.baseline is not None:
        one = made.baseline
        said = "it fell by more than chance" if one.fell else "no more than chance"
        yield (
            f"Baseline: the panel wins {one.win_rate:.1%} of {plural(one.rows, 'question')}, and won {one.win_rate_before:.1%}; "
            f"p = {one.p:.3g}, {said}."
        )


def table(made: FreeTextEvaluation) -> Iterator[tuple[str, ...]]:
    """Yield how the panel does against each member."""
    for one in made.members:
        yield (
            one.member,
            *map(str, (one.n, one.wins, one.ties, one.losses)),
            _share(one.win_rate, one.interval),
            _share(one.length_controlled, one.length_controlled_interval),
            f"{one.longer:.0%}",
            dollars(one.usd_per_1000),
        )


def findings(made: FreeTextEvaluation) -> Findings:
    """Describe what a panel's free text is worth."""
    title = "The panel's answer beside each member's"
    return Findings(sentence(made), list(facts(made)), title, HEADER, list(table(made)), list(more(made)))


def of_free_text(made: FreeTextEvaluation) -> Verdict:
    """Judge an evaluation for the state of its run."""
    if made.budget_ended:
        return Verdict("BudgetEnded", sentence(made))
    if made.refused:
        return Verdict("JudgeRefused", sentence(made))
    if made.baseline is not None and made.baseline.fell:
        one = made.baseline
        return Verdict(
            "WinRateFell",
            f"wins {one.win_rate:.1%} of {plural(one.rows, 'question')}, {one.win_rate_before:.1%} before",
        )
    return Verdict("Completed", sentence(made))


def _share(value: float, interval: Interval) -> str:
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def dollars(value: float | None) -> str:
    """Say a price; that of a model that is not in the price table is not known."""
    return "unknown" if value is None else f"${value:.4g}"
