"""Numbers in JSON that the parser of arrays would die of, so that it can read on and the row alone is refused.

A whole number of more digits than Python converts (4,300) and an exponent beyond those of `Decimal` end `ijson` with errors
that are not its own; NaN and Infinity, which Python and others write, are no JSON to it. Each is replaced on the way to
the parser by a number that stands for it.
"""

import re
from decimal import Decimal
from typing import BinaryIO

MOST_DIGITS = 4300
"""Of a whole number: what Python converts."""
MOST_CHARACTERS = 1_000_000
"""Of any number: what is held of one that goes on and on."""
MOST_EXPONENT_DIGITS = 9
"""Of an exponent; far fewer than those of `Decimal`, far more than those of a float."""
TOO_LARGE, NOT_A_NUMBER = b"1e999999", b"1e999998"
"""What stands for a number that no float can hold, and for NaN."""

_CHUNK = 1 << 16
_WORD = re.compile(rb"[-+.\w]+")
_OF_WORDS = b"-+._0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_CONSTANTS = {b"NaN": NOT_A_NUMBER, b"Infinity": TOO_LARGE, b"-Infinity": b"-" + TOO_LARGE}


class Numbers:
    """A file of JSON as `ijson` reads it, with no number in it that it cannot take.

    Args:
        file: Open in binary mode.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = b""
        """The beginning of what the next piece goes on with: of a number, or of an escape in a text."""
        self._in_text = False
        self._skipping = False
        """Whether the number that goes on was replaced already."""

    def read(self, size: int = -1) -> bytes:
        """Return the next piece, of about 64 kB whatever the size; nothing at the end."""
        if size == 0:  # ijson looks what kind of file it is
            return b""
        while True:
            piece = self._file.read(_CHUNK)
            made = self._replaced(self._left + piece, last=not piece)
            if made or not piece:
                return made

    def _replaced(self, data: bytes, *, last: bool) -> bytes:
        parts: list[bytes] = []
        at, self._left = 0, b""
        while at < len(data):
            if self._in_text:
                end = _STRING.match(data, at).end()  # type: ignore[union-attr]  # it matches nothing, too
                if end < len(data) and data[end : end + 1] == b'"':
                    self._in_text = False
                    end += 1
                elif not last:
                    self._left = data[end:]  # a backslash whose second half is to come
                    parts.append(data[at:end])
                    break
                else:
                    end = len(data)
            else:
                quote = data.find(b'"', at)
                end = len(data) if quote < 0 else quote
                parts.append(self._outside(data[at:end], open_ended=quote < 0 and not last))
                if quote < 0:
                    break
                self._in_text = True
                at, end = end, end + 1
            parts.append(data[at:end])
            at = end
        return b"".join(parts)

    def _outside(self, data: bytes, *, open_ended: bool) -> bytes:
        """Replace numbers in what is outside of texts; one that may go on in the next piece is held back."""
        if self._skipping:
            rest = data.lstrip(b"0123456789+-.eE")
            self._skipping = not rest and open_ended
            data = rest
        if open_ended:
            whole = data.rstrip(_OF_WORDS)
            word, data = data[len(whole) :], whole
            if _too_long(word) or len(word) > MOST_CHARACTERS:
                self._skipping = True
                return _WORD.sub(_number, data) + (b"-" if word.startswith(b"-") else b"") + TOO_LARGE
            self._left = word
        return _WORD.sub(_number, data)


def _too_long(word: bytes) -> bool:
    digits = word.removeprefix(b"-")
    return len(digits) > MOST_DIGITS and digits.isdigit()


def _large(exponent: bytes) -> bool:
    digits = exponent[1:] if exponent[:1] in {b"-", b"+"} else exponent
    return digits.isdigit() and len(digits.lstrip(b"0")) > MOST_EXPONENT_DIGITS


def _number(found: "re.Match[bytes]") -> bytes:
    word = found[0]
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if word[:1] not in b"-0123456789":
        return word
    sign = b"-" if word.startswith(b"-") else b""
    exponent = word.lower().partition(b"e")[2]
    if len(exponent) > MOST_EXPONENT_DIGITS and _large(exponent):
        return b"0.0" if exponent.startswith(b"-") else sign + TOO_LARGE
    if _too_long(word):
        return sign + TOO_LARGE
    return word


def plain_number(value: Decimal) -> float:
    """Return a number of the parser as a float; one that is out of its range is infinite."""
    return float("nan") if value == Decimal(NOT_A_NUMBER.decode()) else float(value)
