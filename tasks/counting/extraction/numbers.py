"""Reads numbers as people and models write them, exactly. What could be read in two ways is not read.

A number that is only part of something (a power, a range, a list, a time, a sum) is not that thing, so it is not read at
all: an abstention costs one vote, but a wrong reading gives it to another answer.
"""

import re
from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

from consensus_flows.tasks.counting.extraction.denials import denied
from consensus_flows.tasks.counting.extraction.marks import bare

Exact = Decimal | Fraction
"""Decimals and fractions of one value are equal and have one hash; floats would merge integers above 2 to the 53rd."""


class Number(NamedTuple):
    """A number that was read."""

    value: Exact
    text: str
    """As it is written in the text."""
    sign: str = ""
    """The currency sign or the percent sign that belongs to it."""


_TIMES_TEN = ("braced", "raised", "power", "power_braced")
"""Groups of a power of ten."""
_SEPARATORS = re.compile(r"[,\s]")
_MAX_EXPONENT_DIGITS = 6
_MAX_FRACTION_DIGITS = 1000
"""Digits of both parts of a fraction; Python takes the square of them to compare two."""

_BLANK = r"[^\S\n]"
_GAP = r"(?:[^\S\n]|\\[,;!: ]|\\(?:text|mathrm|mathbf|textbf|mbox)\{|[~*_])*+"
"""What may be between a number and its unit, in Markdown and in LaTeX."""
_POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALES = "|".join(_POWERS)
_PLAIN = (
    # Thousands in groups of three: by commas, by the spaces that typesetters use or by plain ones.
    r"(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?:[\u00a0\u202f\u2009 ]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)
_TOKEN = re.compile(
    # A minus is one only where no word or number stands right before it: in `10-5` and `GPT-4` it is a hyphen.
    r"(?P<minus>(?<![\w)])-)?(?:\\?(?P<currency>[$€£¥₹])\s?(?P<inner>-)?)?"
    # Not within a word, as in H2O, nor within a list without blanks.
    r"(?<![A-Za-z\d.])(?<!\d,)(?:"
    r"\\[dt]?frac\s*\{\s*(?P<top>-?\d+(?:\.\d+)?)\s*\}\s*\{\s*(?P<bottom>-?\d+(?:\.\d+)?)\s*\}"
    r"|(?P<ten>10)\s*\^\s*(?:\{\s*(?P<braced>[+-]?\d+)\s*\}|(?P<raised>[+-]?\d+))"
    rf"|(?P<number>{_PLAIN})(?:[eE](?P<exponent>[+-]?\d+))?(?:{_BLANK}?/{_BLANK}?(?P<below>\d+(?:\.\d+)?))?"
    rf"(?:{_BLANK}?(?:[\u00d7·*x]|\\times|\\cdot){_BLANK}?10\^(?:\{{(?P<power_braced>[+-]?\d+)\}}|(?P<power>[+-]?\d+)))?"
    r")"
    rf"(?:{_GAP}(?P<scale>{_SCALES})s?\b\}}?)?"
    r"(?:(?P<percent>\s?\\?%|\s?per\s?cent\b)|\s?(?P<after>[€£¥₹]))?",
    re.IGNORECASE,
)
_ABOUT = r"(?:(?:about|approximately|approx\.?|around|roughly|nearly|almost|exactly|only|just|total)\b|[~\u2248]|\\approx)\s*"
_STATEMENT = 300
"""Characters after `answer is` in which the answer is looked for."""
_MARKER = re.compile(
    r"\\boxed\s*\{(?P<boxed>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
    r"|####\s*(?P<hashes>[^\n]*)"
    r"|\"answer\\?\"\s*:\s*(?:\\?\")?(?P<field>[^\"\n]*)"
    rf"|\banswer\b[*_\s]*(?:\bis\b|:|=)[*_:\s]*(?=(?P<answer>[^\n]{{0,{_STATEMENT}}}))",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?;](?:\s|$)")
_DASHES = str.maketrans({"\u2212": "-", "\u2013": "-", "\uff0d": "-"})
_ASSIGNED = re.compile(r"(?<![\w\\])[A-Za-z]\w*\s*=(?!=)")
_EXPLAINS = re.compile(r"\b(?:because|since|as|when|after|given|if|from)\b|[(=]", re.IGNORECASE)
"""After this, a number in the same sentence is no second answer."""
_IN_WORDS = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|seventy"
    rf"|eighty|ninety|{_SCALES}|none|nothing|unknown|undefined|infinite|infinity|impossible|not|cannot)\b",
    re.IGNORECASE,
)
_UNDECIDED = re.compile(
    r"\b(?:not|cannot|impossible|unable|unknown|undetermined|undefined|insufficient)\b|n['\u2019]t\b", re.IGNORECASE
)

_SECOND_BOX = re.compile(r"\}\$?\s*(?:,|or|and)\s*\$?\Z")
_MARKERS = 8
"""Markers that are looked at, the last ones."""
_NEAR = 80
"""Characters before a number that are looked at."""
_OPENS = " \t*_`\"'\u201c("
_GOES_ON = re.compile(
    "|".join(
        [
            r"[.,]\d|\.\.|\u2026|_\d|[^\w\s.$]{1,4}\d|\(\d",  # 1.000.000, 3.33..., 1'000, 10:30, 3-5, 2(3)
            r"[+!\u2030\u2031]",
            # Raised and lowered signs, and fractions: 10², 5½.
            r"\s?[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u215f\u2189]",
            r"[A-Za-z\u00b5\u03c0\u221a](?![A-Za-z])|[A-Za-z]+\d",  # 5x, 5k, 0x1F
            r"-[^\W\d]",  # 5-year-old
            r"[十百千万萬亿億兆만억천]",
            rf"{_BLANK}+[\d\u221a\u03c0]",  # 3 1/3, 555 1234
            r"\s*\^(?!\s*\{?\s*\\circ)",
            r"\s*\\(?!text|math|mbox|quad|[,;!: )\]%$n])[A-Za-z]+",  # 2\sqrt{3}, 5\pi
            rf"{_GAP}(?i:k|m|b|t|bn|mn|mio|mrd|dozens?|lakhs?|crores?|(?:{_SCALES})(?:s|ths?)?|halves|pi|sqrt|and{_BLANK}+a{_BLANK}+half)\b",
            rf"{_BLANK}*(?:[-+\u00d7÷·*/:;,|&±<>≤≥]|\b(?i:x|to|or|nor|and|through|out{_BLANK}+of|of|in|per|by|over|vs|mod|plus|minus|times)\b){_BLANK}*[$€£(*]*\d",
            rf"{_BLANK}*(?:[+\u00d7÷]{_BLANK}*\w|[-*/]{_BLANK}*[A-Za-z](?![A-Za-z]))",  # 5 + x
            # 5 hours and 30 minutes, 4 blue, 6 red
            rf"{_BLANK}+(?!because|since|as|when|after|if|from)[A-Za-z]+(?:,|{_BLANK}+(?:and|or|to|plus))?{_BLANK}+[$€£]?\d",
        ]
    )
)
"""What follows a number that is only part of something."""
_PART_OF = re.compile(
    r"(?:"
    + "|".join(
        [
            r"[+/^\u221a≤≥≠±\u00d7÷·|%@<]\s?|(?<![-=])>\s?|[<>!≠]=\s?",
            r"\d\s?(?<!\*)\*\s?|\)\s?(?<!\*)\*\s?|\w\*|\d\*\*|\w\s\*\s",
            r"\d[^\w\s=$€£¥₹]{1,4}|(?<!\\)\[|[A-Za-z]\(",
            rf"\w-|\)-|[^\s-]{_BLANK}*-{_BLANK}+|\d{_BLANK}+|\d{_BLANK}?(?!is\b|are\b|was\b|equals\b|gives\b|makes\b)[A-Za-z]+{_BLANK}+",
            r"\\(?!text|math|boxed|mbox|quad|[dt]?frac)[A-Za-z]+\s*[\[{(]?|\\[dt]?frac\{[^{}]*\}?\{?",
            r"(?i:\b(?:not|never|cannot|neither|nor|isn't|without)\b|n['\u2019]t\b)\W+(?:\w+\W+){0,2}",
            r"(?i:\b(?:than|least|most|up\s+to|over|under|above|below|between|beyond|exceeds?|minus|negative|plus|times|root\s+of|log|ln|sqrt|sin|cos|tan|either|except)\b)\s*[$€£(]*",
            r"(?i:\b(?:(?:can\s?not|can['\u2019]t)\s+be|impossible|not\s+possible|unable|insufficient|not\s+enough|unknown)\b)[^.!?\n]*",
            rf"\d\S*(?:{_BLANK}+[A-Za-z]+)?,?{_BLANK}+(?i:or|and|to|nor|by|of|through){_BLANK}+(?:[A-Za-z]\w*{_BLANK}*={_BLANK}*)?",
            rf"\d\S*(?:{_BLANK}+[A-Za-z]+)?{_BLANK}*[,;/|]{_BLANK}*(?:(?:and|or){_BLANK}+)?(?:[A-Za-z]\w*{_BLANK}*={_BLANK}*)?",
        ]
    )
    + r")\Z"
)
"""What stands before a number that is only part of something, or is not the answer."""
_NAMED = re.compile(
    r"\b(?!(?:About|Approximately|Around|Roughly|Nearly|Almost|Exactly|Only|Just|Total|Answer|Is|USD|EUR|GBP|Rs)\b)[A-Z][\w.]*\s\Z"
    r"|\b(?:in|since|until|by|year)\s\Z"
)
"""What stands before a number that is part of a name, as in `Apollo 11`, or is a year."""
_IS_SENTENCE = re.compile(r"[\s\"'*_`\u201c]*[A-Z]\S*(?:\s+\S+){3,}(?<=[.!])[\s\"'*_`\u201d]*")
_DELIMITERS = 4
"""Delimiters of LaTeX in each other that are looked through."""
_DELIMITED = re.compile(
    r"\$(?P<dollars>[^$]+)\$|\\\((?P<inline>.+)\\\)|\\\[(?P<display>.+)\\\]|\\boxed\s*\{(?P<boxed>.+)\}|\\text\{(?P<text>.+)\}",
    re.DOTALL,
)
_EQUALS = re.compile(
    rf"(?:(?<![=<>!])=(?![=>])|\banswer\s*:|####|\b(?:is|are|was|were|be|equals)(?=\s)|\A)\s*(?:{_ABOUT})?",
    re.IGNORECASE,
)
"""What stands before the number that a text is, or that it ends with."""
_NO_UNIT = (
    r"and|or|nor|but|to|plus|minus|times|over|than|not|if|pi|sqrt|sin|cos|tan|log|am|pm|AM|PM|BC|AD|BCE|CE"
    rf"|bn|mn|mio|mrd|dozens?|lakhs?|crores?|half|halves|(?:{_SCALES})s?"
)
_UNIT_WORD = rf"(?!(?:{_NO_UNIT})\b)(?:[A-Za-z]+(?:/[A-Za-z]+)+|[a-z]{{2,}}(?:-[a-z]+)*|[A-Z]{{2,4}}|[a-z]+[A-Z][A-Za-z]*|[ghsl])"
_UNIT = re.compile(
    r"\$?(?:\""
    rf"|{_BLANK}?(?:\^\s*\{{?\s*\\circ\s*\}}?|\u00b0)(?:{_BLANK}?[CF])?"
    r"|(?:[km]?gs?|lbs?|oz|[kcm]m|ft|in|h|hrs?|mins?|secs?|m?s|m?[lL]|mph|k?Wh?|mAh|[kMG]?Hz|[KMGT]B|st|nd|rd|th)"
    rf"|{_BLANK}?/{_BLANK}?(?!(?:{_NO_UNIT})\b)[a-z]{{2,}}"
    rf"|(?:{_BLANK}|\\[,;:! ]|\\(?:text|mathrm|mathbf|textbf|mbox)\{{{_BLANK}*)+{_UNIT_WORD}(?:{_BLANK}+{_UNIT_WORD}){{0,5}}"
    r"(?:\^\{?[23]\}?|[\u00b2\u00b3])?\}?(?:\^\{?[23]\}?)?"
    r")?"
)
"""What may follow a number in a field that is that number: a unit, or what is counted; in lower case, because `5 May` and `10
Downing Street` are names."""


def stated_number(text: str) -> Number | None:
    r"""Return the number that a text in prose gives as its answer, or None where none can be told.

    It is the number after the last `\boxed`, `####`, `answer is`, `answer:` or `"answer":`, and after an equals sign
    there; without any of these, the last number of the text.
    """
    plain = text.translate(_DASHES)
    marked = deque(_MARKER.finditer(plain), maxlen=_MARKERS)
    held = [found for found in marked if found["answer"] is None or not denied(plain, found.start())]
    fields = [found for found in held if found["field"] is not None]
    with_digits = [found for found in held if _has_digit(_said(found))]
    if not with_digits:
        # What follows the statement is not an answer, whatever numbers are in it.
        said_otherwise = any(_has_digit(found[0]) or _IN_WORDS.match(_said(found)) for found in held)
        if fields or len(held) < len(marked) or said_otherwise:
            return None
        last = deque(_TOKEN.finditer(plain), maxlen=1)
        return _as_number(text, _whole(plain, last[0])) if last else None
    # What is said last holds, also where it is said in words.
    if any(later.start() > with_digits[-1].start() and _IN_WORDS.match(_said(later)) for later in held):
        return None
    # Where it is a sentence that cannot be read, the field of an object before it can.
    numbers = (_marked_number(text, plain, found) for found in [with_digits[-1], *fields[-1:]])
    return next((number for number in numbers if number is not None), None)


def field_number(text: str) -> Number | None:
    """Return the number that all of a short text is, with or without its unit, or that it ends with after `=` or `is`.

    `18 dollars`, `about 1/2`, `x = 18` and `3 * 6 = 18 eggs` are numbers. `86, 42`, `10:30`, `Apollo 11`, `00123` and `p - 2`
    are not. Of a whole sentence it is the one number in it, unless that is a year: `Ann has 18 eggs.`
    """
    text = text.translate(_DASHES).replace(r"\\", "\\")
    whole = _undelimited(bare(text))
    if len(list(islice(_ASSIGNED.finditer(whole), 2))) > 1:
        return None
    equals = deque(_EQUALS.finditer(whole), maxlen=1)[0]
    end = _undelimited(whole[equals.end() :])
    found = _TOKEN.match(end)
    if found and _UNIT.fullmatch(end, found.end()):
        return None if _leading_zero(found) or denied(whole, equals.start()) else _as_number(end, found)
    if not is_sentence(text):
        return None
    found = _only(text, 0, len(text))
    before = "" if found is None else text[: found.start()]
    return None if _NAMED.search(before) or _UNDECIDED.search(before) else _as_number(text, found)


def is_sentence(text: str) -> bool:
    """Tell whether a text is a sentence, or several: no two members write the same one, though they mean the same."""
    return _IS_SENTENCE.fullmatch(text) is not None


def undecided(text: str) -> bool:
    """Tell whether a text says that there is no answer."""
    return _UNDECIDED.search(text) is not None


def _undelimited(text: str) -> str:
    """Return a formula without the delimiters of LaTeX."""
    for _ in range(_DELIMITERS):
        inner = _DELIMITED.fullmatch(text)
        if inner is None:
            break
        text = bare(inner[inner.lastgroup or 0])
    return text


def whole_number(text: str) -> Number | None:
    """Return the number that all of `text` is, in plain digits; None for anything else.

    An identifier such as `00123` is not a number, nor is `1/2`, which may be a date.
    """
    found = _TOKEN.fullmatch(text.translate(_DASHES))
    if found is None or found["number"] is None or _leading_zero(found) or re.search(r"\s", found["number"]):
        return None
    return None if any(found[name] for name in ("exponent", "below", *_TIMES_TEN)) else _as_number(text, found)


def signs_differ(numbers: Iterable[Number]) -> bool:
    """Tell whether numbers must be compared with their signs.

    So it is where members wrote different signs, as `$5` and `5%`, and where a percentage stands beside a number up to 1,
    which may be a share: `50%` is `50`, but whether `0.5` is either cannot be told.
    """
    listed = list(numbers)
    signs = {number.sign for number in listed if number.sign}
    return len(signs) > 1 or (signs == {"%"} and any(not number.sign and -1 <= number.value <= 1 for number in listed))


def _marked_number(text: str, plain: str, found: "re.Match[str]") -> Number | None:
    start, end = found.span(found.lastgroup or 0)
    if found["field"] is not None and (number := field_number(found["field"])):
        return number
    if found["boxed"] is not None:
        if _SECOND_BOX.search(plain[max(0, found.start() - _NEAR) : found.start()]):
            return None
    elif stop := _SENTENCE.search(plain, start, end):
        end = stop.start()
    return _as_number(text, _only(plain, start, end))


def _said(found: "re.Match[str]") -> str:
    return _SENTENCE.split(found[found.lastgroup or 0], maxsplit=1)[0]


def _has_digit(text: str) -> bool:
    return re.search(r"\d", text) is not None


def _only(text: str, start: int, end: int) -> "re.Match[str] | None":
    """Find the one number of a part of `text`: the one after the last equals sign, if there is one after it."""
    if len(list(islice(_ASSIGNED.finditer(text, start, end), 2))) > 1:
        return None
    equals = text.rfind("=", start, end)
    found = list(islice(_TOKEN.finditer(text, equals + 1, end), 2)) if equals >= 0 else []
    found = found or list(islice(_TOKEN.finditer(text, start, end), 2))
    if not found or (len(found) > 1 and not _EXPLAINS.search(text, found[0].end(), found[1].start())):
        return None
    return _whole(text, found[0])


def _whole(text: str, found: "re.Match[str]") -> "re.Match[str] | None":
    """Return what was found, unless it is only part of something."""
    before = text[max(0, found.start() - _NEAR) : found.start()]
    part = _GOES_ON.match(text, found.end()) or _PART_OF.search(before) or _PART_OF.search(f"{before.rstrip(_OPENS)} ")
    return None if part else found


def _as_number(text: str, found: "re.Match[str] | None") -> Number | None:
    if found is None:
        return None
    minus = "-" if found["minus"] or found["inner"] else ""
    ten = _POWERS[found["scale"].lower()] if found["scale"] else 0
    exponents = [found[name] for name in ("exponent", *_TIMES_TEN) if found[name]]
    below = found["bottom"] or found["below"]
    value: Exact
    if below:
        above = found["top"] or _SEPARATORS.sub("", found["number"])
        if len(above) + len(below) > _MAX_FRACTION_DIGITS or exponents or not Decimal(below):
            return None
        value = Fraction(Decimal(above)) / Fraction(Decimal(below)) * (-1 if minus else 1) * 10**ten
    else:
        if any(len(exponent) > _MAX_EXPONENT_DIGITS for exponent in exponents):
            return None
        digits = "1" if found["ten"] else _SEPARATORS.sub("", found["number"])
        # From its text, because arithmetic rounds to the 28 digits of the context.
        value = Decimal(f"{minus}{digits}E{ten + sum(map(int, exponents))}")
    latex = found["currency"] == "$" and text[found.end() : found.end() + 1] == "$"  # as in `$5$`
    sign = "%" if found["percent"] else found["after"] or ("" if latex else found["currency"] or "")
    written = text[found.end("currency") if latex else found.start() : found.end()]
    return Number(value, " ".join(written.split()), sign)


def _leading_zero(found: "re.Match[str]") -> bool:
    number = found["number"] or ""
    return number[:1] == "0" and number[1:2].isdigit()
