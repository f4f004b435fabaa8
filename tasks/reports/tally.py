"""Many recorded preferences put together: which judge prefers whom on which prompt, and where they disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consensus_flows.tasks.counting.preference import comparing, score, without_own
from consensus_flows.tasks.counting.ranking import mean_rank, places
from consensus_flows.tasks.record import JudgeRanking, Record, Scores
from consensus_flows.tasks.reports.preference_report import number_text

DISAGREE = "disagree"
ABSTAINED = "abstained"


@dataclass(frozen=True)
class Row:
    """One round of one prompt.

    Attributes:
        prompt: Name of the prompt.
        round: The round.
        favourites: For each judge the members that it puts first, none if it abstained.
        agreed: The members that every judge who saw them puts first, two judges at least; none if they disagree.
    """

    prompt: str
    round: int
    favourites: Mapping[str, Sequence[str]]
    agreed: Sequence[str]


@dataclass(frozen=True)
class Tally:
    """Everything that a folder of preferences says."""

    rows: Sequence[Row]
    judges: Sequence[str]
    members: Sequence[str]
    scores: Scores
    condorcet_wins: Mapping[str, int]
    """On how many prompts each member is the Condorcet winner."""
    answers: Mapping[str, int]
    """On how many prompts each member has the highest Borda count."""
    matrix: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """For each judge the mean rank that it gives each member."""

    @property
    def disagreements(self) -> int:
        """In how many rows the judges disagree."""
        return sum(not row.agreed for row in self.rows)


def tally(records: Mapping[str, Record]) -> Tally:
    """Put recorded preferences together.

    Args:
        records: Records of prefer runs by the names of their prompts.
    """
    entries = _apart(records)
    members = list(dict.fromkeys(name for record in records.values() for name in _members(record)))
    judges = list(dict.fromkeys(entry.judge for entry in entries))
    own = {name: score(record.rankings, members) for name, record in records.items()}
    return Tally(
        rows=[row for name, record in records.items() for row in _rows(name, record.rankings)],
        judges=sorted(judges, key=lambda judge: members.index(judge) if judge in members else len(members)),
        members=members,
        scores=score(entries, members),
        condorcet_wins={name: sum(one.condorcet_winner == name for one in own.values()) for name in members},
        answers={name: sum(one.winner == name for one in own.values()) for name in members},
        matrix={
            judge: mean_rank([e.ranking for e in comparing(entries) if e.judge == judge], members) for judge in judges
        },
    )


def _apart(records: Mapping[str, Record]) -> list[JudgeRanking]:
    """Return all entries, with a round number of its own for each round of each prompt."""
    numbers = {
        key: number
        for number, key in enumerate(
            dict.fromkeys((name, entry.round) for name, record in records.items() for entry in record.rankings), 1
        )
    }
    return [
        entry.model_copy(update={"round": numbers[name, entry.round]})
        for name, record in records.items()
        for entry in record.rankings
    ]


def _members(record: Record) -> list[str]:
    named = [response.member for one in record.iterations for response in one.responses]
    judges = [entry.judge for entry in record.rankings]
    return [*named, *judges, *(member for entry in record.rankings for member in entry.order)]


def _rows(name: str, entries: Sequence[JudgeRanking]) -> list[Row]:
    rows = []
    for number in sorted({entry.round for entry in entries}):
        own = [entry for entry in entries if entry.round == number]
        favourites = {entry.judge: entry.ranking[0] if entry.ranking else [] for entry in own}
        rows.append(Row(name, number, favourites, agreed(own)))
    return rows


def agreed(entries: Sequence[JudgeRanking]) -> list[str]:
    """Return the members that every judge who ranked them puts first, alone or tied; two judges at least.

    A judge's place for its own answer is left out: nobody has to vote against itself for the others to agree.
    """
    seen: dict[str, list[bool]] = {}
    for entry in entries:
        for place, group in enumerate(without_own(entry)):
            for member in group:
                seen.setdefault(member, []).append(place == 0)
    return [member for member, first in seen.items() if len(first) > 1 and all(first)]


def table_rows(found: Tally) -> list[list[str]]:
    """Return the table prompt by judge, its header first and its totals last.

    The totals say for each member how often each judge puts it first and how often they agree on it, and at last in how
    many rows they disagree.
    """
    rows = [["", "prompt", "round", *found.judges, "agreed"]]
    for row in found.rows:
        cells = [_favourite(row, judge) for judge in found.judges]
        rows.append(["prompt", row.prompt, str(row.round), *cells, " = ".join(row.agreed) or DISAGREE])
    for member in found.members:
        counts = [sum(member in row.favourites.get(judge, ()) for row in found.rows) for judge in found.judges]
        agreements = sum(member in row.agreed for row in found.rows)
        rows.append(["total", member, "", *map(str, counts), str(agreements)])
    rows.append(["total", DISAGREE, "", *[""] * len(found.judges), str(found.disagreements)])
    return rows


def _favourite(row: Row, judge: str) -> str:
    if judge not in row.favourites:
        return ""
    return " = ".join(row.favourites[judge]) or ABSTAINED


def rank_rows(records: Mapping[str, Record]) -> list[list[str]]:
    """Return one row for each answer that a judge saw, its header first: what a statistician wants."""
    rows = [["prompt", "round", "judge", "member", "position", "place"]]
    for name, record in records.items():
        for entry in record.rankings:
            place = places(entry.ranking)
            for position, member in enumerate(entry.order, 1):
                found = number_text(place[member], 1) if member in place else ""
                rows.append([name, str(entry.round), entry.judge, member, str(position), found])
    return rows
