"""Text of a model as a judge or a person is shown it: what cannot be seen, or reorders what is seen, is spelt out.

Bidirectional controls can show one text and mean another ("Trojan Source", arXiv:2111.00169), characters without a shape
can carry a message past a reader, and control characters steer a terminal. What is stored stays as it was written.
"""

import re

FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,6}\U000e007f"
"""The flag of a part of a country, England's for one: the one honest use of tag characters."""
DIRECTION = "\u202a-\u202e\u2066-\u2069"
"""Embeddings, overrides and isolates of the bidirectional algorithm (UAX 9)."""
INVISIBLE = "\u200b\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef"
"""Characters without a shape; joiners and variation selectors that scripts and emoji need are not among them."""
CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
"""Control characters but for tab and line breaks."""
_MARKS = dict.fromkeys(map(ord, "\u200e\u200f\u061c"))
"""Marks of direction beside a letter: Hebrew and Arabic typists use them, and a reader misses nothing without them."""
_SPELT = re.compile(f"(?P<flag>{FLAG})|[{DIRECTION}{INVISIBLE}{CONTROL}]|\r(?!\n)")


def visible(text: str) -> str:
    """Return `text` with every character spelt out, as `<U+202E>`, that would not be seen or reorders what is seen."""
    return _SPELT.sub(lambda found: found["flag"] or f"<U+{ord(found[0]):04X}>", text.translate(_MARKS))
