"""Keeps keys out of every text that is shown, logged or stored."""

import re
from collections.abc import Iterable

from consensus_flows.tasks.calls.secret_forms import STRUCK, strike

_KEY = re.compile(
    r"\b(?:sk|pk|rk|hf|gsk|xai|or)[-_][A-Za-z0-9_\-*.]{6,}|\bAIza[0-9A-Za-z_\-]{10,}|(?i:\bbearer\s+)[A-Za-z0-9._\-*+/=]{6,}"
)


def scrub(text: str, secrets: Iterable[str] = (), limit: int = 500) -> str:
    """Return `text` without the given secrets and without anything that looks like a key, cut at `limit` characters.

    The secrets are struck out in every form that `strike` knows; of others only what looks like a key.
    """
    text = _KEY.sub(STRUCK, strike(text, secrets))
    return text if len(text) <= limit else text[: limit - 1] + "…"
