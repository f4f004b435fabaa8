"""Quotes what members wrote for a judge, or for another member, and says what in it looks like an attack.

Answers are quoted without names, in shuffled order, between markers that no answer contains. What looks like an attack on
a judge, or on the person who reads it, is a hint for people, not a boundary: whoever knows these patterns writes around
them (arXiv:2510.09023). What holds is that members are quoted between tags they cannot know, that a judgement is read from
the judge's answer alone, and that nothing a model wrote is rendered.
"""

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from consensus_flows.tasks.plain_text import CONTROL, DIRECTION, hides, labels, visible
from consensus_flows.tasks.record import Response, RunWarning

LONGEST = 100_000
"""Characters of one text that a judge is shown: some 25,000 tokens. One member's flood must not drown the others."""
_LONGEST_SPELT = len("<U+E0100>")
"""Characters that one character becomes where it is spelt out, at most."""


def shuffled(responses: Sequence[Response], seed: str) -> dict[str, Response]:
    """Return `responses` under anonymous labels, in an order that `seed` decides."""
    order = list(responses)
    random.Random(seed).shuffle(order)
    return dict(zip(labels(len(order)), order, strict=True))


def fence_tag(texts: Sequence[str], seed: str) -> str:
    """Return a tag that none of `texts` contains.

    It depends on all the texts, so that no member can guess it, and on nothing else but the seed, so that the same
    answers give the same prompt and a judgement can be taken from the cache.
    """
    digest = hashlib.sha256("\0".join((seed, *texts)).encode("utf-8", "surrogatepass"))
    # As they are shown, too: what is taken out of a text may join what stood on both sides of it.
    quoted = [*texts, *map(_shown, texts)]
    while any(digest.hexdigest()[:12] in text for text in quoted):
        digest.update(b"again")
    return digest.hexdigest()[:12]


def fenced(quotations: dict[str, str], seed: str, kind: str = "answer", tag: str | None = None) -> str:
    """Return the labelled `quotations` between markers that carry the tag; a `tag` may be given that fits several calls."""
    tag = tag or fence_tag(list(quotations.values()), seed)
    return "\n\n".join(
        f"[{kind} {label} {tag}]\n{_shown(text)}\n[end {kind} {label} {tag}]" for label, text in quotations.items()
    )


def too_long(text: str) -> bool:
    """Tell whether `text` is cut where it is quoted; what is hidden in it counts as it is spelt out."""
    return len(text) > LONGEST or (len(text) * _LONGEST_SPELT > LONGEST and len(visible(text)) > LONGEST)


def _shown(text: str) -> str:
    """Return a text as a judge sees it: nothing hidden in it, and cut where it is too long then."""
    # Not all of a megabyte: spelt out it is hardly ever shorter.
    shown = visible(text[:LONGEST])
    if len(text) <= LONGEST and len(shown) <= LONGEST:
        return shown
    return f"{shown[:LONGEST]}\n... (cut off here; {len(text)} characters in all)"


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
