"""Takes off a short answer what is around it and not part of it, so that two writings of one answer are one.

What may be part of an answer stays: the `#` of `C#`, the `!` of `n!`, the dot of `.NET`, the brackets of `O(n log n)` and
of `[1, 2]`. Two answers that differ must not be counted as one; one answer in two unusual writings may be two.
"""

import re
import unicodedata

_LAYERS = 8
"""Marks around marks that are looked through; nobody means more, and each costs a look at the whole text."""
_SHORT = 2000
"""Characters of a text that may be an answer in brackets; in a longer one nobody counts them."""
_PAIRS = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "\u201e": "\u201c"}
_EMPHASIS = ("***", "**", "*", "___", "__", "_", "``", "`")
_STOPS = " .,:;\u3002"
"""What ends a sentence, and is no part of an answer where it stands last; `!` may be a factorial."""
_PLACED = re.compile(
    "([\u00aa\u00b2\u00b3\u00b9\u00ba\u00bc-\u00be\u02b0-\u02b8\u02e0-\u02e4\u10fc\u1d2c-\u1d6a\u1d78\u1d9b-\u1dbf"
    "\u2070-\u209c\u2120\u2122\u2150-\u215f\u2189\u2c7c\u2c7d\u2d6f\u3192-\u319f\ua69c\ua69d\ua770\ua7f1-\ua7f4"
    "\ua7f8\ua7f9\uab5c-\uab5f\uab69]+)"
)
"""Raised and lowered signs, and fractions: what they are depends on their place."""


def shown(text: str) -> str:
    """Return `text` in one line, without the code fence, quotes or emphasis that are around all of it."""
    text = " ".join(_unfenced(text.strip()).split())
    for _ in range(_LAYERS):
        inner = _unquoted(text)
        if inner == text:
            break
        text = inner
    return text


def exact(text: str) -> str:
    """Return `text` as it is, but for a code fence and one pair of quotes around all of it."""
    inner = _unfenced(text.strip())
    text = text if inner == text.strip() else inner.removesuffix("\n")
    closing = _PAIRS.get(text[:1])
    if len(text) < 2 or text[-1] != closing:
        return text
    content = text[1:-1]
    # Quotes within would be those of `'a' + 'b'`; but in `'{'a': 1}'` the outer ones are around a whole list or object.
    return content if not {text[0], closing} & set(content) or _is_one_literal(content) else text


def _is_one_literal(text: str) -> bool:
    """Tell whether the bracket that `text` begins with is closed at its end."""
    if not text.startswith(("[", "{", "(")):
        return False
    depth = 0
    for found in re.finditer(r"[][(){}]", text):
        depth += 1 if found[0] in "[({" else -1
        if depth == 0:
            return found.end() == len(text)
    return False


def plain(text: str) -> str:
    """Return what two writings of one answer have in common; not empty where `text` holds anything but blanks.

    It is the `bare` text without regard to case.
    """
    return bare(text).casefold()


def bare(text: str) -> str:
    """Return `text` without what is around it and says nothing.

    Blanks, widths of letters, quotes, emphasis, a last full stop, comma, colon or semicolon, and brackets around
    all of it say nothing: `(42).` is `42`. Brackets are part of the answer where there is a comma in them, as in the
    pair `(0, 1)`; square and curly ones always are.
    """
    text = whole = _composed(shown(text))
    for _ in range(_LAYERS):
        inner = _unbracketed(_unquoted(text.rstrip(_STOPS))) or text
        if inner == text:
            break
        text = inner
    return text or whole


def _unfenced(text: str) -> str:
    """Return what is in a code fence, where that is all of the text."""
    if not (text.startswith("```") and text.endswith("```")):
        return text
    head, line_break, rest = text.partition("\n")
    inner = rest[:-3]
    return inner if line_break and "`" not in head[3:] and "```" not in inner and inner.strip() else text


def _unquoted(text: str) -> str:
    """Return `text` without one pair of quotes or of emphasis around all of it, where there is such a pair."""
    closing = _PAIRS.get(text[:1])
    if closing is not None and text.endswith(closing):
        inner = text[1:-1].strip()
        return inner if inner and closing not in inner and text[0] not in inner else text
    for mark in _EMPHASIS:
        if text.startswith(mark) and text.endswith(mark):
            inner = text[len(mark) : -len(mark)]
            # `** a **` is no emphasis in Markdown either, and two underscores around one word are a name in Python.
            if not inner or inner != inner.strip() or mark[0] in inner or (mark == "__" and inner.isidentifier()):
                return text
            return inner
    return text


def _unbracketed(text: str) -> str:
    """Return `text` without the round brackets around all of it, where they say nothing."""
    if not (text.startswith("(") and text.endswith(")")) or "," in text or len(text) > _SHORT:
        return text
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return text[1:-1].strip() or text if found.end() == len(text) else text
    return text


def _composed(text: str) -> str:
    """Return `text` in Unicode's compatibility form, but for what is raised, lowered or a fraction: `10²` is not `102`."""
    if text.isascii():
        return text
    return "".join(
        part if number % 2 else unicodedata.normalize("NFKC", part) for number, part in enumerate(_PLACED.split(text))
    )
