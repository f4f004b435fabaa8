"""Keeps keys out of every text that is shown, logged or stored."""

import re
from collections.abc import Iterable

_KEY = re.compile(
    r"\b(?:sk|pk|rk|hf|gsk|xai|or)[-_][A-Za-z0-9_\-*.]{6,}|\bAIza[0-9A-Za-z_\-]{10,}|(?i:\bbearer\s+)[A-Za-z0-9._\-*+/=]{6,}"
)


def scrub(text: str, secrets: Iterable[str] = (), limit: int = 500) -> str:
    """Return `text` without the given secrets and without anything that looks like a key, cut at `limit` characters."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[key]")
    text = _KEY.sub("[key]", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
