"""Reads numbers as people and models write them. What could be read in two ways is not read."""

import math
import re
from collections import deque

_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
_PLAIN = re.compile(
    # A minus is one only where no word or number stands right before it: in `10-5` and `GPT-4` it is a hyphen.
    rf"(?P<sign>(?<!\w)-)?(?P<number>{_NUMBER})(?:\s*/\s*(?P<below>-?{_NUMBER})(?!\s*/|\d))?"
)
_PROSE = re.compile(
    r"(?P<sign>(?<![\w)])-)?(?:[$€£¥]\s?(?P<inner>-)?)?(?<![A-Za-z\d.])"
    # Not within a word, as in H2O. Thousands in groups of three, by commas, by the spaces that typesetters use or by plain ones.
    r"(?P<number>\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d{1,3}(?:[\u00a0\u202f\u2009 ]\d{3})+(?!\d)(?:\.\d+)?"
    rf"|{_NUMBER})"
    r"(?P<more>(?:[.,]\d+)+)?(?:\s*/\s*(?P<below>\d+(?:\.\d+)?)(?!\s*/|\d))?"
)
_MARKER = re.compile(
    r"\\boxed\s*\{(?P<boxed>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
    r"|####\s*(?P<hashes>[^\n]*)"
    r"|\banswer\b[*_\s]*(?:\bis\b|:|=)[*_:\s]*(?P<answer>[^\n]*)",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_SENTENCE = re.compile(r"[.!?;](?:\s|$)")
_DASHES = str.maketrans({"\u2212": "-", "\u2013": "-", "\uff0d": "-"})


def first_number(text: str) -> float | None:
    """Return the first number of a short text after `,` and `$` are dropped, `a/b` evaluated; None if there is none.

    That is how the published tables of ZeroEval read the field of an answer.
    """
    found = _PLAIN.search(text.translate(_DASHES).replace(",", "").replace("$", ""))
    return None if found is None else _value(found["sign"], found["number"], found["below"])


def stated_number(text: str) -> float | None:
    r"""Return the number that a text in prose gives as its answer, or None where none can be told.

    It is the number after the last `\boxed`, `####`, `answer is` or `answer:`, and after an equals sign there; without
    any of these, the last number of the text.
    """
    text = _FRACTION.sub(r"\1/\2", text.translate(_DASHES))
    marked = [match for match in _MARKER.finditer(text) if any(char.isdigit() for char in match[0])]
    if marked:
        said = next(part for part in marked[-1].groups() if part is not None)
        said = said if marked[-1]["boxed"] is not None else _SENTENCE.split(said)[0]
        return _prose(_PROSE.search(said.rpartition("=")[2]) or _PROSE.search(said))
    return _prose(next(iter(deque(_PROSE.finditer(text), maxlen=1)), None))


def show_number(value: float) -> str:
    """Write a number without a needless fraction or exponent."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)


def _prose(found: "re.Match[str] | None") -> float | None:
    if found is None or found["more"]:  # `3,5` is three and a half, or a pair; `1.000.000` a million, or a version
        return None
    number = re.sub(r"[,\s]", "", found["number"])
    return _value(found["sign"] or found["inner"], number, found["below"])


def _value(sign: str | None, number: str, below: str | None) -> float | None:
    try:
        value = float(number) / float(below) if below else float(number)
    except ZeroDivisionError:
        return None
    # Minus nothing is nothing.
    value = (-value if sign else value) + 0.0
    return value if math.isfinite(value) else None
