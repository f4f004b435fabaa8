"""What in a member's text looks like an attack on a judge, or on the person who reads it.

A hint for people, not a boundary: whoever knows these patterns writes around them (arXiv:2510.09023). What holds is that
members are quoted between tags they cannot know, that a judgement is read from the judge's answer alone, and that nothing
a model wrote is rendered. Here is only said what was met on the way.
"""

import re
from collections.abc import Callable
from typing import Literal, get_args

from consensus_flows.tasks.plain_text import CONTROL, DIRECTION, hides
from consensus_flows.tasks.prompting.fence import LONGEST, too_long
from consensus_flows.tasks.record import Response, RunWarning

Hazard = Literal[
    "fence", "judgement", "instruction", "direction", "invisible", "control", "script", "remote image", "length"
]

_FENCE = re.compile(
    r"\[(?:end +)?(?:answer|round|text|consensus)\b[^\]\n]{0,60} [0-9a-f]{6,}\]|\[end +answer\b", re.IGNORECASE
)
_CONFIDENCE = re.compile(r"""["']confidence["']\s*:""")
_VERDICT = re.compile(r"""["'](?:synthesis|ranking)["']\s*:""")
_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,60}?"
    r"\b(?:(?:answers?|responses?|candidates?|instructions?|prompts?|messages?|rules|rubric)\b)"
    r"|\b(?:rank|rate|score|choose|pick|prefer)\s+(?:this|my)\s+(?:answer|response)\b"
    r"|\b(?:note|message|instructions?)\s+(?:to|for)\s+the\s+(?:judge|arbiter|aggregator|evaluator|grader)\b",
    re.IGNORECASE,
)
# No two runs of white space side by side, or the time to see that there is no match grows with the square of their length.
# Nor does what begins a match stand within one: it begins one of its own, and is looked at once.
_SCRIPT = re.compile(
    r"<\s*(?:/\s*)?(?:script|iframe|object|embed|svg|img|video|audio|link|meta|base|form|style)\b"
    r"|\bjavascript\s*:|<[a-z](?:(?!<[a-z])[^>]){0,200}\son[a-z]+\s*=",
    re.IGNORECASE,
)
_REMOTE = re.compile(
    r"!\[(?:(?!!\[)[^\]\n]){0,300}\]\(\s*(?:<\s*)?(?:https?:)?//"
    r"|<img\b(?:(?!<img\b)[^>\n]){0,300}\bsrc\s*=\s*(?:[\"']\s*)?(?:https?:)?//",
    re.IGNORECASE,
)
_DIRECTION = re.compile(f"[{DIRECTION}]")
_CONTROL = re.compile(f"[{CONTROL}]")

_FOUND_BY: dict[Hazard, Callable[[str], object]] = {
    "fence": _FENCE.search,
    "judgement": lambda text: _CONFIDENCE.search(text) and _VERDICT.search(text),
    "instruction": _INSTRUCTION.search,
    "direction": _DIRECTION.search,
    "invisible": hides,
    "control": _CONTROL.search,
    "script": _SCRIPT.search,
    "remote image": _REMOTE.search,
    "length": too_long,
}
_NEUTRALISED: dict[Hazard, str] = {
    "fence": "markers like those around a quotation (quoted under a tag that is not in them)",
    "judgement": "a judgement (read as an answer, not as a judgement)",
    "instruction": "instructions to a judge (quoted, as data)",
    "direction": "characters that reorder what is read (spelt out)",
    "invisible": "characters that cannot be seen (spelt out)",
    "length": f"more than {LONGEST:,} characters (cut there)",
}
"""What is warned of, and how another model of the run sees it. Markup and control characters are common in answers about them: these are in
the record, and no reason to warn."""


def hazards_of(text: str) -> list[Hazard]:
    """Return what in `text` looks like an attack, in the order of `Hazard`."""
    return [name for name in get_args(Hazard) if _FOUND_BY[name](text)]


def marked(response: Response) -> Response:
    """Return `response` with what its text looks like, and a warning where that is aimed at judges."""
    if not response.answered or not response.text:
        return response
    found = hazards_of(response.text)
    if not found:
        return response
    aimed = [_NEUTRALISED[name] for name in found if name in _NEUTRALISED]
    warnings = list(response.warnings)
    if aimed:
        message = f"{response.member}: its text holds {'; '.join(aimed)}; so a judge or another member sees it, where one does"
        warnings.append(RunWarning(kind="attack", message=message, member=response.member))
    return response.model_copy(update={"hazards": list(found), "warnings": warnings})
