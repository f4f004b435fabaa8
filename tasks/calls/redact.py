"""Keeps keys out of every text that is shown, logged or stored.

A known secret is found in whatever form a server may repeat it: as it is, escaped, encoded, or cut by a line break.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from html.entities import html5

REDACTED = "[key]"
"""What stands in the place of a secret."""

_FILLING = r"(?:\s|\\{1,4}[rnt]|</?[a-zA-Z]{1,10}>|[\u00ad\u200b-\u200f\u2060\ufeff]){0,8}"
"""What may stand between two characters of a secret: a line break or its escape, a tag, a sign of no width."""
_KEY = re.compile(
    r"\b(?:sk|pk|rk|hf|gsk|xai|or)[-_][A-Za-z0-9_\-*.]{6,}|\bAIza[0-9A-Za-z_\-]{10,}|(?i:\bbearer\s+)[A-Za-z0-9._\-*+/=]{6,}"
)
_SHORTEST = 4
"""Characters of a secret; a shorter one is in every text."""
_HINT = 12
"""Characters of a form by which is seen whether a text may hold it at all."""
_START = 8
"""Characters of a form by which is seen that it may begin."""
_ENTITIES: dict[str, list[str]] = {}
for _name, _sign in html5.items():
    if len(_sign) == 1 and ord(_sign) < 128 and _name.endswith(";"):
        _ENTITIES.setdefault(_sign, []).append(re.escape(_name))


def redact(text: str, secrets: Iterable[str] = (), limit: int = 500) -> str:
    """Return `text` without the given secrets and without anything that looks like a key, cut at `limit` characters.

    The secrets are replaced in every form that `redact_secrets` knows; of others only what looks like a key.
    """
    text = _KEY.sub(REDACTED, redact_secrets(text, secrets))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def redact_secrets(text: str, secrets: Iterable[str]) -> str:
    r"""Return `text` with each of the secrets replaced, in any of these forms.

    As it is; with some or all characters escaped as in an address (`%2B`), in JSON (`\/`, `\u002b`), in Python
    (`\x2b`) or in HTML (`&#43;`); as base64, alone or with other text before and after it, as in basic authentication;
    as hexadecimal digits; and each of these cut by line breaks or blanks.
    """
    for secret in secrets:
        # Few texts hold a secret, and to compile the whole of a long one takes a third of a second.
        if len(secret) >= _SHORTEST and any(hint.search(text) for hint in _forms(secret, _HINT)):
            for form in _forms(secret):
                text = form.sub(REDACTED, text)
    return text


def before_secret(text: str, secrets: Iterable[str]) -> str:
    """Return the beginning of a text that is not complete yet, up to where one of the secrets may begin."""
    starts = [
        found.start()
        for secret in secrets
        for form in _forms(secret, _START, first=True)
        if (found := form.search(text))
    ]
    return text[: min(starts, default=None)]


def is_distinctive(secret: str) -> bool:
    """Tell whether a text that holds `secret` must have it from there.

    Servers on one's own machine are given placeholders for a key, as `ollama`, `token-abc123` or `sk-no-key-required`:
    an answer may have these in its own right, and numbers too. Keys are long, and of letters and digits.
    """
    mixed = any(sign.isdigit() for sign in secret) and any(sign.isalpha() for sign in secret)
    return len(secret) >= (16 if mixed else 32)


@lru_cache(maxsize=256)
def _forms(secret: str, most: int | None = None, *, first: bool = False) -> tuple[re.Pattern[str], ...]:
    """Return what matches each form of a secret, or with `most` the last or the first characters of each form."""
    part = slice(most) if first else slice(-most if most else None, None)
    patterns = [_FILLING.join(map(_sign_pattern, secret[part]))]
    rest = "" if most else "[A-Za-z0-9+/_-]?={0,2}"
    patterns += [_FILLING.join(map(re.escape, core[part])) + rest for core in sorted(_base64(secret))]
    patterns.append("".join(map(_digit_pattern, secret.encode().hex()[part])))
    return tuple(re.compile(pattern) for pattern in patterns)


def _digit_pattern(digit: str) -> str:
    return f"[{digit}{digit.upper()}]" if digit.isalpha() else digit


def _sign_pattern(sign: str) -> str:
    """Match one character, whether escaped or not. Every choice begins with a plain character, by which `re` is fast."""
    code = "".join(map(_digit_pattern, f"{ord(sign):02x}"))
    choices = [
        re.escape(sign),
        f"%(?:25){{0,3}}{code}",
        rf"\\\\{{0,3}}(?:u00|x|u\{{0{{0,4}}){code}\}}?",
        f"&(?:amp;){{0,2}}#(?:0{{0,6}}{ord(sign)}|[xX]0{{0,6}}{code});?",
    ]
    if not sign.isalnum():
        choices.append(rf"\\\\{{0,3}}{re.escape(sign)}")
    if names := _ENTITIES.get(sign):
        choices.append(f"&(?:amp;){{0,2}}(?:{'|'.join(names)})")
    return f"(?:{'|'.join(choices)})"


def _base64(secret: str) -> Iterator[str]:
    """Yield what every base64 text that has the secret in it has in common, by where in a group of three it begins."""
    data = secret.encode()
    found = set()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        # What the bytes before and after it have a share in is another character in another text.
        whole = encoded[(0, 2, 3)[before] : None if (before + len(data)) % 3 == 0 else -1]
        found |= {whole, whole.translate({ord("+"): "-", ord("/"): "_"})}
    yield from (core for core in found if len(core) >= _SHORTEST)
