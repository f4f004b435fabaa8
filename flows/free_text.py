"""The evaluation of free text: a panel's answers beside those of each of its members, judged in pairs.

Free text has no right answer that could be compared. So judges that are no members look at the panel's answer and a member's in both
orders; where they differ, or a verdict depends on the order, a stronger judge decides. Judges that fall for answers that only look
better are refused first: what they say of a panel's long answers would be worth nothing.
"""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain

from consensus_flows.blocks.check_judges import ADVERSARIAL, FreeTextConfig
from consensus_flows.blocks.member import ModelName, named
from consensus_flows.flows.check_judges import LEAST, PAIRS_AT_ONCE, judge_pair
from consensus_flows.flows.run import Run, begin
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.counting.judges import consistency
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.free_text import (
    Bout,
    FreeTextEvaluation,
    FreeTextRow,
    JudgeOfText,
    WinRate,
    majority,
    outcome,
    settled,
    win_rate,
)
from consensus_flows.tasks.labelled_pairs import shipped_pairs
from consensus_flows.tasks.record import Comparison, Iteration, Outcome, Record

_PANEL_WINS = {"first": 1.0, "tie": 0.5, "second": 0.0}


async def compare_free_text(
    rows: Sequence[FreeTextRow],
    config: FreeTextConfig,
    call: Call | None = None,
    *,
    anyway: bool = False,
) -> FreeTextEvaluation:
    """Judge a panel's answers beside each of its members'.

    Args:
        rows: Questions with the answers.
        config: Who judges.
        call: Makes the calls; by default the `ask` task.
        anyway: Whether to judge although the judges fail the adversarial pairs.

    Returns:
        The win rates; none where the judges are refused, or the budget has ended.

    Raises:
        ConfigurationError: Before any call, if there is nothing to compare, or a judge is a member.
    """
    members = list(dict.fromkeys(chain.from_iterable(row.members for row in rows)))
    if not members:
        raise ConfigurationError("input: no row has an answer of the panel and one of a member")
    models = {member.partition("#")[0] for member in members}
    if own := [str(judge) for judge in config.models() if str(judge) in models]:
        raise ConfigurationError(
            f"{', '.join(own)} is a member, and would judge its own answers: name another model", field="judge"
        )
    pairs = [(row, member) for row in rows for member in row.members]
    async with (
        begin("free-text", f"{len(pairs)} pairs", config, call, conversation=()) as run,
        run.iteration() as iteration,
    ):
        court = _Judges(run, iteration)
        adversarial = await court.adversarial()
        refused = adversarial < LEAST and not anyway
        court.said.clear()
        court.decided = 0
        found = (
            []
            if refused
            else await asyncio.gather(
                *(court.decide(row.question, row.panel, row.members[member]) for row, member in pairs)
            )
        )
    record = run.record
    names = set(FreeTextEvaluation.model_fields) & set(Record.model_fields)
    made = FreeTextEvaluation(
        rows=len(rows),
        refused=refused,
        adversarial=adversarial,
        budget_ended=record.status == "budget",
        strong_judge=config.strong_judge,
        decided_by_strong_judge=court.decided,
        judges=[
            JudgeOfText(judge=str(judge), **consistency([one.said for one in said]).model_dump())
            for judge, said in court.said.items()
        ],
        **{name: getattr(record, name) for name in names},
    )
    if not (refused or made.budget_ended):
        made.unread = found.count(None)
        made.members = list(_win_rates(members, pairs, found))
    return made


def _win_rates(
    members: Sequence[str], pairs: Sequence[tuple[FreeTextRow, str]], found: Sequence[Outcome | None]
) -> Iterator[WinRate]:
    for name in members:
        bouts = [
            Bout(_PANEL_WINS[result], len(row.panel), len(row.members[member]))
            for (row, member), result in zip(pairs, found, strict=True)
            if member == name and result is not None
        ]
        if bouts:
            yield win_rate(name, bouts)


class _Judges:
    """The judges of a comparison, and what each has said."""

    def __init__(self, run: Run[FreeTextConfig], iteration: Iteration) -> None:
        self._run = run
        self._iteration = iteration
        self._at_once = asyncio.Semaphore(PAIRS_AT_ONCE)
        self._first = [member.name for member in run.config.panel()]
        self._strong = named(run.config.strong_judge)
        self.said: dict[ModelName, list[Comparison]] = {}
        self.decided = 0

    async def adversarial(self) -> float:
        """Return the share of the adversarial pairs that they get right together, ties half."""
        pairs = [pair for pair in shipped_pairs() if pair.kind == ADVERSARIAL]
        found = await asyncio.gather(*(self.decide(pair.question, pair.a, pair.b) for pair in pairs))
        right = [
            0.5 if result in {None, "tie"} else float((result == "first") == (pair.better == "a"))
            for pair, result in zip(pairs, found, strict=True)
        ]
        return sum(right) / len(right)

    async def decide(self, question: str, one: str, other: str) -> Outcome | None:
        """Return which of two answers is better; None if no judge whose word counts could be read."""
        if one == other:
            return "tie"
        async with self._at_once:
            said = await asyncio.gather(*(self._ask(question, (one, other), judge) for judge in self._first))
            found = [outcome(comparison) for comparison in said]
            if settled(found):
                return found[0]
            for judge in self._strong:
                self.decided += 1
                said = [await self._ask(question, (one, other), judge)]
            return majority(map(outcome, said)) if any(None not in one.said for one in said) else None

    async def _ask(self, question: str, pair: tuple[str, str], judge: ModelName) -> Comparison:
        comparison, calls = await judge_pair(question, pair, judge, self._run.config, self._run.call)
        self._iteration.judgements += calls
        self.said.setdefault(judge, []).append(comparison)
        return comparison
