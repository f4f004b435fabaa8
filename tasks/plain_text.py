"""Text of a model as a judge or a person is shown it: what cannot be seen, or reorders what is seen, is spelt out.

Bidirectional controls can show one text and mean another ("Trojan Source", arXiv:2111.00169), characters without a shape
can carry a message past a reader, and control characters steer a terminal. What is stored stays as it was written.

Joiners and variation selectors stay where a script or an emoji needs them: one, behind a character that takes it. Some
hundred ideographs with a selector each can still carry a message.
"""

import re
from string import ascii_uppercase

FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,6}\U000e007f"
"""The flag of a part of a country, England's for one: the one honest use of tag characters."""
DIRECTION = "\u202a-\u202e\u2066-\u2069"
"""Embeddings, overrides and isolates of the bidirectional algorithm (UAX 9)."""
INVISIBLE = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u206a-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Characters without a shape: Unicode's Default_Ignorable_Code_Point but for those of direction, and U+FFF9 to U+FFFB."""
CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
"""Control characters but for tab and line breaks."""

_MARKS = dict.fromkeys(map(ord, "\u200e\u200f\u061c"))
"""Marks of direction beside a letter: Hebrew and Arabic typists use them, and a reader misses nothing without them."""
_HYPHEN = re.compile("(?<=[^\\W\\d_])\u00ad(?=[^\\W\\d_])")
"""A place within a word where it may be divided."""
_SCRIPTS = "\u0600-\u061b\u061d-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u17b3\u17b6-\u17ff\u1820-\u18aa\ufb50-\ufdff\ufe70-\ufefc"
"""Scripts whose letters are joined and parted by characters without a shape: from Arabic to Mongolian."""
_EMOJI = "\u00a9\u00ae\u203c-\u205f\u20a0-\u2fff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_ONE = f"[{_EMOJI}](?:[\ufe0e\ufe0f]|[\U0001f3fb-\U0001f3ff])?"
_STAYS = re.compile(
    f"({FLAG}|{_ONE}(?:\u200d{_ONE})+|[{_EMOJI}][\ufe0e\ufe0f]|[0-9#*]\ufe0f\u20e3"
    f"|[\u2200-\u22ff]\ufe00|[\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af][\ufe00-\ufe02\U000e0100-\U000e01ef]"
    f"|[\u1800-\u180a\u1820-\u18aa][\u180b-\u180d\u180f]|(?<=[{_SCRIPTS}])[\u200c\u200d](?=[{_SCRIPTS}]))"
)
_RETURN = re.compile("\r(?!\n)")
_HIDDEN = re.compile(f"[{INVISIBLE}]")
_SPELT = {
    code: f"<U+{code:04X}>"
    for first, last in re.findall("(.)(?:-(.))?", f"{DIRECTION}{INVISIBLE}{CONTROL}", re.DOTALL)
    for code in range(ord(first), ord(last or first) + 1)
}
"""How each is spelt. A table, because a function called for each of a megabyte of them takes more than a second."""


def visible(text: str) -> str:
    """Return `text` with every character spelt out, as `<U+202E>`, that would not be seen or reorders what is seen."""
    shown = "".join(part if number % 2 else part.translate(_SPELT) for number, part in enumerate(_parts(text)))
    return _RETURN.sub("<U+000D>", shown)


def hides(text: str) -> bool:
    """Tell whether there are characters in `text` that cannot be seen, and that nothing in it needs."""
    return _HIDDEN.search(text) is not None and any(_HIDDEN.search(part) for part in _parts(text)[::2])


def _parts(text: str) -> list[str]:
    """Divide `text`: every second part is a sequence in which a character without a shape has its place."""
    return [text] if text.isascii() else _STAYS.split(_HYPHEN.sub("", text.translate(_MARKS)))


def labels(count: int) -> list[str]:
    """Return `count` labels: A to Z, then AA, AB and so on."""
    found: list[str] = []
    for number in range(count):
        label, rest = "", number
        while rest >= 0:
            label = ascii_uppercase[rest % 26] + label
            rest = rest // 26 - 1
        found.append(label)
    return found


def plural(count: int, noun: str, form: str = "s") -> str:
    """Return `1 row`, or `2 rows`.

    Args:
        count: How many.
        noun: The noun in the singular.
        form: The ending of the plural.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{form}"


def code_fence(text: str) -> str:
    """Return a fence of backticks that is longer than any in `text`."""
    return "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
