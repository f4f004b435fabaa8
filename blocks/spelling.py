"""Names that a misspelled word may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean ...?` with the names that are nearest to a word that is none of them, or nothing."""
    near = get_close_matches(word.lower(), list(known), n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""
