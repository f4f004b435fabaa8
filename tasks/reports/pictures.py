"""Pictures in plain SVG, drawn without a library: a tally of preferences."""

import re
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape, quoteattr

from consensus_flows.tasks.counting.preference import model_of
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import MemberScore
from consensus_flows.tasks.reports.preference_report import number_text
from consensus_flows.tasks.reports.tally import Tally

WIDTH = 900
NAMES = 250
"""Width that is kept for names, in pixels."""
ROW = 30
_PLOT = WIDTH - NAMES - 90
_LONGEST = 34
_BLUE, _ORANGE, _GREY = "#4477aa", "#ee7733", "#bbbbbb"  # told apart by the colour-blind (Tol 2021)
_INVALID = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def picture(tally: Tally) -> str:
    """Draw a tally.

    Returns:
        An SVG document: on top the mean rank of each member, by the others and by its own model; below
        the mean rank that each judge gives each member, its own model's in a frame.
    """
    members = list(tally.scores.members)
    longest = max([len(members), 2])
    parts = [
        _text(20, 32, "What the judges prefer", size=20, bold=True),
        _text(20, 54, _subtitle(tally), size=13, fill="#555555"),
    ]
    top = 115
    parts += _ranks(tally.scores.members, longest, top)
    top += ROW * len(members) + 110
    parts += _matrix(tally, members, longest, top)
    height = top + ROW * len(tally.judges) + 150
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _svg(WIDTH, height, parts)


def _svg(width: int, height: int, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _subtitle(tally: Tally) -> str:
    prompts = len({row.prompt for row in tally.rows})
    return (
        f"{plural(prompts, 'prompt')}, {plural(tally.scores.rankings, 'ranking')}, {plural(tally.scores.abstentions, 'abstention')}; "
        f"the judges disagree in {tally.disagreements} of {len(tally.rows)} rounds; "
        f"Kendall's W {number_text(tally.scores.kendall_w)}"
    )


def _ranks(scores: Mapping[str, MemberScore], longest: int, top: int) -> Iterable[str]:
    """Draw for each member the rank that others give it, beside the one that its own model does.

    Both are among all the answers shown. `mean_rank` is not: there judges' own answers are left out of the places.
    """

    def x(rank: float) -> float:
        return NAMES + (rank - 1) / (longest - 1) * _PLOT

    yield _text(20, top - 22, "Mean rank", size=15, bold=True)
    bottom = top + ROW * len(scores)
    for place in range(1, longest + 1):
        yield f'<line x1="{x(place):.1f}" y1="{top}" x2="{x(place):.1f}" y2="{bottom}" stroke="#e5e5e5"/>'
        yield _text(x(place), bottom + 18, f"{place}{' (best)' if place == 1 else ''}", anchor="middle")
    for number, (member, one) in enumerate(scores.items()):
        y = top + ROW * number + ROW / 2
        yield _name(NAMES - 14, y + 4, member, anchor="end")
        if one.rank_by_self is None and one.rank_by_others is None:
            yield _text(NAMES + 6, y + 4, "not ranked", fill="#777777")
            continue
        marks = [(one.rank_by_others, _BLUE, False), (one.rank_by_self, _ORANGE, True)]
        found = [(rank, colour, hollow) for rank, colour, hollow in marks if rank is not None]
        ends = [x(rank) for rank, _, _ in found] if len(found) > 1 else [x(1), x(found[0][0])]
        yield f'<line x1="{ends[0]:.1f}" y1="{y}" x2="{ends[1]:.1f}" y2="{y}" stroke="{_GREY}" stroke-width="3"/>'
        for rank, colour, hollow in reversed(found):
            yield _dot(x(rank), y, colour, f"{member}: {rank:.2f}", hollow=hollow)
        yield _text(
            max(x(rank) for rank, _, _ in found) + 12, y + 4, " / ".join(f"{rank:.2f}" for rank, _, _ in found), size=11
        )
    keys = [("by the others", _BLUE, False)]
    if any(one.rank_by_self is not None for one in scores.values()):
        keys.append(("by its own model", _ORANGE, True))
    for number, (key, colour, hollow) in enumerate(keys):
        yield _dot(NAMES + 150 * number + 8, bottom + 40, colour, key, hollow=hollow)
        yield _text(NAMES + 150 * number + 22, bottom + 44, key)


def _matrix(tally: Tally, members: list[str], longest: int, top: int) -> Iterable[str]:
    """Draw for each judge a row of the mean ranks that it gives, the better the darker."""
    yield _text(20, top - 22, "Mean rank by judge", size=15, bold=True)
    width = _PLOT / max(len(members), 1)
    for row, judge in enumerate(tally.judges):
        y = top + ROW * row
        yield _name(NAMES - 14, y + ROW / 2 + 4, judge, anchor="end")
        for column, member in enumerate(members):
            rank = tally.matrix.get(judge, {}).get(member)
            share = 0.0 if rank is None else 1 - (rank - 1) / (longest - 1)
            own = model_of(judge) == model_of(member)
            frame = f'stroke="{_ORANGE}" stroke-width="2.5"' if own else 'stroke="white"'
            cell = f'x="{NAMES + width * column + 2:.1f}" y="{y + 2}" width="{width - 4:.1f}" height="{ROW - 4}"'
            colour = f'fill="{_BLUE}" fill-opacity="{0.1 + 0.9 * share:.2f}"' if rank is not None else 'fill="#f4f4f4"'
            yield f"<rect {cell} {colour} {frame}>{_title(f'{judge} ranks {member}: {number_text(rank)}')}</rect>"
            middle = NAMES + width * (column + 0.5)
            shade = "white" if share > 0.5 else "#222222"
            yield _text(middle, y + ROW / 2 + 4, number_text(rank, 1), anchor="middle", fill=shade)
    bottom = top + ROW * len(tally.judges)
    for column, member in enumerate(members):
        x, y = NAMES + width * (column + 0.5), bottom + 16
        yield _name(x, y, member, anchor="end", turn=f"rotate(-30 {x:.1f} {y:.1f})")


def _name(x: float, y: float, name: str, *, anchor: str, turn: str = "") -> str:
    shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 + 1 :]}"
    return _text(x, y, shown, anchor=anchor, turn=turn, title=name)


def _dot(x: float, y: float, colour: str, title: str, *, hollow: bool = False) -> str:
    fill = "white" if hollow else colour
    shape = f'cx="{x:.1f}" cy="{y:.1f}" r="{5 if hollow else 6}"'
    return f'<circle {shape} fill="{fill}" stroke="{colour}" stroke-width="2">{_title(title)}</circle>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 13,
    fill: str = "#222222",
    bold: bool = False,
    turn: str = "",
    title: str = "",
) -> str:
    more = ' font-weight="bold"' if bold else ""
    more += f" transform={quoteattr(turn)}" if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{more}>'
        f"{_plain(text)}{_title(title) if title else ''}</text>"
    )


def _title(text: str) -> str:
    return f"<title>{_plain(text)}</title>"


def _plain(text: str) -> str:
    return escape(_INVALID.sub(" ", text))
