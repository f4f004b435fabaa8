"""Quotes the answers of members for a judge, or for another member: without names, in shuffled order, between markers that no answer contains."""

import hashlib
import random
from collections.abc import Sequence

from consensus_flows.tasks.plain_text import labels, visible
from consensus_flows.tasks.record import Response

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
    answers give the same prompt and a judgement can be taken from the store.
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
