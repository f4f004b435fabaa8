"""How long a provider asks to wait, read from the headers or the body of its response."""

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d+)?)s\Z")


def retry_after(headers: Mapping[str, str], body: Any = None, now: float | None = None) -> float | None:
    """Return the seconds to wait, or None when the response does not say so in a way that can be read.

    Reads `retry-after-ms` (milliseconds), `retry-after` (seconds or an HTTP date, RFC 9110 section 10.2.3) and
    `google.rpc.RetryInfo` in an error body.

    Args:
        headers: Response headers with lower-case names.
        body: Decoded error body.
        now: Seconds since the epoch; for tests.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is not None:
        seconds = _number(value)
        if seconds is None:
            seconds = _until(value, time.time() if now is None else now)
        if seconds is not None:
            return seconds
    return _retry_info(body)


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _until(value: str, now: float) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        # HTTP dates are in Greenwich time; one that does not say so would be taken for local time.
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def _retry_info(body: Any) -> float | None:
    error = body.get("error", body) if isinstance(body, Mapping) else None
    details = error.get("details") if isinstance(error, Mapping) else None
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            found = _DURATION.match(str(detail.get("retryDelay", "")))
            return float(found[1]) if found else None
    return None
