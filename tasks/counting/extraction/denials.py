"""Tells whether a text denies, doubts or only supposes what it mentions."""

import re

_NEAR = 120
"""Characters before a mention that are looked at."""
_DENIES = re.compile(
    r"(?:\b(?:not|never|cannot|hardly|neither|nor|doubt|doubtful|deny|false|wrong|incorrect|untrue|if|whether|unless|suppose|assume"
    r"|assuming)\b|n['\u2019]t\b)[^.,!?;:\n]*\Z",
    re.IGNORECASE,
)


def denied(text: str, at: int) -> bool:
    """Tell whether what is mentioned at `at` is denied in the same clause, as in `I do not think the answer is no`."""
    return _DENIES.search(text[max(0, at - _NEAR) : at]) is not None
