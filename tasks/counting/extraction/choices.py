"""Reads which of several answers a text has chosen: a letter, or one of given labels.

What names several, or none clearly, is not read. `A` may be the article and `I` the pronoun, so these two count only
where a bracket or a full stop follows, or nothing that they could belong to.
"""

import re
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from consensus_flows.tasks.counting.extraction.denials import denied
from consensus_flows.tasks.counting.extraction.marks import plain

# Possessive: two runs that share marks and could give each other some back take the square of a run's length.
_OPEN = r"(?:[*_`\"'“\[({$]|\\[(\[]\s*+|\\(?:text|textbf|mathbf|mathrm)\s*\{)*+"
_CLOSE = r"[*_`\"'”\])}]*+"
_CLOSE_IN_PART = r"[*_`\"'”\])}]*"
"""Gives back a bracket that what follows it wants."""
_ENDS = rf"{_CLOSE}(?=\s*(?:$|[\n.,;:!?(\u2014\u2013]|-\s|because\b|since\b|as\b))"
_LETTER = rf"{_OPEN}(?:(?P<letter>[B-HJ-Z])(?![\w'\u2019])|(?P<article>[AI])(?:{_ENDS}|[*_]*(?=[).])|(?=[\]}}]))|(?<=\()(?P<small>[a-z])\))"
_KIND = r"(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer)"

_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{\s*)?\(?(?P<letter>[A-Za-z])\)?\s*\}")
_ALONE = re.compile(rf"\A\s*{_OPEN}(?P<letter>[A-Za-z]){_CLOSE_IN_PART}[.):]?{_CLOSE}\s*\Z")
_STATED = re.compile(
    rf"\b(?i:answer|choice|option)\b{_CLOSE}\s*(?:is|would be|must be|should be|[:=]){_CLOSE}:?\s*(?:{_KIND}\s+)?{_LETTER}"
)
_PREFERRED = re.compile(
    rf"(?<!not )(?<!n't )(?<!n\u2019t )\b(?i:choose|chose|pick|select|go with)\s+(?:{_KIND}\s+)?{_LETTER}"
    rf"|(?:\b{_KIND}\s+|^[ \t]*){_OPEN}(?P<right>[A-Z]){_CLOSE}\s+is\s+(?!not\b)(?:\w+\s+){{0,2}}(?:correct|right|best)\b",
    re.MULTILINE,
)
_ANOTHER = re.compile(
    rf"{_CLOSE}\s*(?:,|/|&|\+|\bor\b|\band\b)\s*(?:or\s+|and\s+)?{_OPEN}[A-Z](?![\w'\u2019])(?!\s+[a-z])"
)
"""Another letter beside a chosen one: `A or B`."""
_LISTED = re.compile(
    rf"^[ \t]*(?:[-*][ \t]+)?{_OPEN}(?P<letter>[A-HJ-Z])(?:{_CLOSE_IN_PART}[.):](?=[\s*]|$)|{_CLOSE}\s*$)", re.MULTILINE
)

_SHORT = 80
"""Characters of a line that may be an answer alone, and before a label that decide what is said of it."""
_MENTIONS = 1000
"""Mentions of labels that are looked at; who goes on about them for longer has chosen none."""
_MARKS = " \t\r\n*_`\"'“”.,:;!()[]{}"
"""What may be around a label; no `#`, which may be a part of one."""
_STATES = re.compile(
    r"\b(?:answer|verdict|label|classification|category|decision|conclusion)\b\W*(?:is\b|:|=)\W*\Z", re.IGNORECASE
)
_DENIES = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|cannot|hardly|without|if|whether|unless)|n['\u2019]t)\W+(?:\w+\W+){0,2}\Z",
    re.IGNORECASE,
)
_OR = re.compile(r"\W*\bor\b", re.IGNORECASE)
_DETERMINES = re.compile(r"\s+(?!because\b|since\b|as\b|and\b|but\b|or\b|if\b|it\b|to\b|in\b|for\b)\w", re.IGNORECASE)
"""A word behind `no` that it belongs to: `I have no idea`."""
_REFUSES = re.compile(r"(?:\b(?:not|never|wrong|incorrect|false|eliminated|excluded)\b|n['\u2019]t\b)", re.IGNORECASE)


def chosen_letter(text: str, letters: Collection[str] | None = None) -> str | None:
    """Return the letter that `text` chooses, as a capital, or None where none can be told.

    Args:
        text: What a model wrote, for example `**(B)**`, `The answer is B.` or a line `B) Paris`.
        letters: Capitals that there are to choose from; others are not read. None for all.
    """

    def read(matches: Iterable[re.Match[str]]) -> list[str]:
        found = [next(part for part in match.groups() if part).upper() for match in matches]
        return [letter for letter in found if letters is None or letter in letters]

    # What is said last holds: a model that thinks aloud corrects itself.
    for said in (read(_BOXED.finditer(text)), read(_ALONE.finditer(_last_line(text)))):
        if said:
            return said[-1]
    stated = deque((match for match in _STATED.finditer(text) if read([match])), maxlen=_MENTIONS)
    last = next((match for match in reversed(stated) if not denied(text, match.start())), None)
    if last is not None:
        return None if _ANOTHER.match(text, last.end()) else read([last])[0]
    if stated:
        return None
    for pattern in (_PREFERRED, _LISTED):
        found = list(islice(pattern.finditer(text), _MENTIONS))
        mentioned = set(read(match for match in found if not _refused(text, match)))
        if mentioned:
            return mentioned.pop() if len(mentioned) == 1 and len(found) < _MENTIONS else None
    return None


def chosen_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that `text` chooses, spelt as in `labels`, or None where none can be told.

    It is the label that is all of the text or of its last line, the one after `answer:` or the like, the one that the
    text begins with, or the only one that it mentions, unless that is denied.
    """
    if all(len(label) == 1 and label.isalpha() for label in labels):
        letter = chosen_letter(text, {label.upper() for label in labels})
        return next((label for label in labels if label.upper() == letter), None)
    known = {_plain(label): label for label in labels}
    for whole in (text, _last_line(text)):
        # As it is written first: of `C` and `C#`, or `n` and `n!`, one is within the other.
        for name in (_plain(whole), plain(whole), _plain(whole.strip(_MARKS))):
            if name in known:
                return known[name]
    # The longest first, so that `not safe` is not taken for `safe`.
    names = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in sorted(known, key=len, reverse=True))
    mentions = list(re.finditer(rf"(?<![\w-])(?:{names})(?![\w+#-])", text, re.IGNORECASE))
    stated = [(match, how) for match in mentions[-_MENTIONS:] if (how := _STATES.search(_before(text, match)))]
    held = [match for match, stating in stated if not denied(text, max(0, match.start() - _SHORT) + stating.start())]
    if held:
        return None if _OR.match(text, held[-1].end()) else known[_plain(held[-1][0])]
    if stated:
        return None
    if (
        mentions
        and not text[: mentions[0].start()].strip(_MARKS)
        and re.match(r"\W*[.,:;!\n\u2014\u2013]", text[mentions[0].end() :])
    ):
        listed = len(mentions) > 1 and not re.search(r"\w", text[mentions[0].end() : mentions[1].start()])
        return None if listed else known[_plain(mentions[0][0])]
    if len(mentions) > _MENTIONS or any(_doubted(text, match) for match in mentions):
        return None
    names_found = {known[_plain(match[0])] for match in mentions}
    return names_found.pop() if len(names_found) == 1 else None


def _refused(text: str, match: re.Match[str]) -> bool:
    """Tell whether a letter is mentioned to be ruled out, as in `B) is wrong`."""
    line = text[match.end() : match.end() + _SHORT].partition("\n")[0]
    return denied(text, match.start()) or _REFUSES.search(line) is not None


def _doubted(text: str, match: re.Match[str]) -> bool:
    if denied(text, match.start()) or _DENIES.search(_before(text, match)):
        return True
    if re.match(r"\W{0,3}\?", text[match.end() : match.end() + 4]):
        return True
    return match[0].casefold() == "no" and _DETERMINES.match(text, match.end()) is not None


def _last_line(text: str) -> str:
    """Return the last line that is not empty, if it is short enough to be an answer and nothing else."""
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return line if len(line) <= _SHORT else ""


def _before(text: str, match: re.Match[str]) -> str:
    return text[max(0, match.start() - _SHORT) : match.start()]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
