"""What a failed call means: one pure function from a fault to a verdict.

The rows follow the vendors' error references and the retry rules of their own SDKs; `tests/calls/test_failures.py` holds the
table, and `tests/calls/test_failure_rows.py` shows the same rows over real sockets with the real SDKs.
"""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

from consensus_flows.tasks.calls.request import FinishReason
from consensus_flows.tasks.errors import ErrorKind

Transport = Literal["", "timeout", "connection", "malformed", "credentials"]


@dataclass(frozen=True)
class Fault:
    """What is known of a failure, whichever SDK reported it.

    What the server said is not in its `repr`, which a traceback with variables shows: it may repeat the key.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Any = field(default=None, repr=False)
    message: str = field(default="", repr=False)
    transport: Transport = ""
    unsent: bool = False
    """The request never reached the vendor."""
    begun: bool = False
    """The vendor had begun to write."""

    @property
    def unbilled(self) -> bool:
        """Whether nobody can bill for it: it was not sent, or the vendor answered with an error."""
        return self.unsent or (not self.transport and not self.begun and (self.status or 0) >= 300)


class Verdict(NamedTuple):
    """What a fault means for the call.

    Attributes:
        kind: Kind of the failure.
        retry: Whether the same request may succeed later.
        wait_s: Seconds that the provider asked to wait.
        max_attempts: After so many attempts another is pointless; None for no such bound.
    """

    kind: ErrorKind
    retry: bool = False
    wait_s: float | None = None
    max_attempts: int | None = None


_MONEY_CODES = re.compile(
    r"insufficient_quota|credit_balance_exhausted|spend_limit|usage_limit_exceeded|billing|payment_required"
)
_MONEY_TEXT = re.compile(
    r"specified api usage limits|credit balance is too low|insufficient credits|key limit exceeded", re.IGNORECASE
)
_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|context window|context length|prompt is too long|"
    r"input token count .{0,200}exceeds|context is too long|context size|too many tokens|too large to process|"
    r"input is too long",
    re.IGNORECASE,
)
_FILTER_CODES = re.compile(r"content_filter|content_policy|invalid_prompt|moderation|cyber_policy")
_FILTER_TEXT = re.compile(r"flagged|content management policy|moderation", re.IGNORECASE)
_MODEL_TEXT = re.compile(r"model_not_found|not a valid model|model identifier is invalid", re.IGNORECASE)
_NOT_THE_FORMAT = "the response is not in the vendor's format"
_UNSENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ConnectionRefusedError", "ClientConnectorError"}


def classify(fault: Fault) -> Verdict:
    """Return what `fault` means. Pure: the same fault always gives the same verdict."""
    verdict = _classify(fault)
    if fault.begun and verdict.max_attempts is None:
        # Likewise what was written before generation broke.
        return verdict._replace(max_attempts=2)
    return verdict


def _classify(fault: Fault) -> Verdict:
    if fault.transport == "timeout":
        # The vendor may have billed the lost answer: one more try, not five.
        return Verdict("timeout", retry=True, max_attempts=2)
    if fault.transport == "connection":
        # Likewise, once something was sent; what never left costs nothing.
        return Verdict("connection", retry=True, max_attempts=None if fault.unsent else 2)
    if fault.transport == "malformed":
        return Verdict("malformed", retry=True, max_attempts=2)
    if fault.transport == "credentials":
        return Verdict("auth")
    if fault.status is None:
        return Verdict("unknown")
    verdict = _by_status(fault.status, " ".join(_codes(fault.body)), fault)
    should = fault.headers.get("x-should-retry")
    if should == "false":
        return verdict._replace(retry=False)
    if should == "true" and verdict.kind == "bad_request" and fault.status not in {400, 422}:
        # Only where the status says nothing by itself: what costs money or needs a person is not asked again.
        return Verdict("server", retry=True, wait_s=retry_after(fault.headers, fault.body))
    return verdict


def _by_status(status: int, codes: str, fault: Fault) -> Verdict:
    wait = retry_after(fault.headers, fault.body)
    said = f"{codes} {fault.message}"
    money = bool(_MONEY_CODES.search(codes) or _MONEY_TEXT.search(fault.message))
    if status == 402 and "in_flight_budget" in codes:
        return Verdict("rate_limit", retry=True, wait_s=wait)
    if status == 402 or (money and status in {400, 403, 429}) or (status == 429 and "perday" in codes):
        return Verdict("quota")
    if status == 429:
        return Verdict("rate_limit", retry=True, wait_s=wait)
    if status == 401 or "api_key_invalid" in codes:
        return Verdict("auth")
    if status == 413 or (status in {400, 422, 500} and _CONTEXT.search(said)):
        return Verdict("context_length")
    if status in {400, 403, 422} and (
        _FILTER_CODES.search(codes) or (status == 403 and (_FILTER_TEXT.search(said) or _flagged(fault.body)))
    ):
        return Verdict("content_filter")
    if status == 403:
        return Verdict("auth")
    if status == 404 or (status == 400 and _MODEL_TEXT.search(said)):
        return Verdict("not_found")
    if status in {503, 529, 498} or "overloaded" in codes:
        return Verdict("overloaded", retry=True, wait_s=wait)
    if status == 408:
        return Verdict("timeout", retry=True, wait_s=wait)
    if status == 409 or status >= 499:
        return Verdict("server", retry=True, wait_s=wait)
    return Verdict("bad_request")


def judge_answer(text: str | None, finish: FinishReason) -> Verdict | None:
    """Return why a response is no complete answer, or None when it is one."""
    if finish == "content_filter":
        return Verdict("content_filter")
    if finish == "length":
        return Verdict("truncated")
    if not (text or "").strip():
        return Verdict("empty", retry=True, max_attempts=2)
    if finish == "tool_calls":
        # What stands before a tool call that nobody offered is a preamble, not an answer.
        return Verdict("malformed", retry=True, max_attempts=2)
    return None


def fault_of(error: BaseException) -> Fault:
    """Read a fault from an exception of an SDK or of the HTTP library under it, without importing either."""
    names = {cls.__name__ for cls in type(error).__mro__}
    cause = error.__cause__ or error
    causes = {cls.__name__ for cls in type(cause).__mro__}
    unsent = bool(_UNSENT & causes)
    if "ResponseTooLargeError" in causes:
        return Fault(message=str(cause), transport="malformed")
    # The names that begin with API are those of SDKs generated by Stainless.
    if isinstance(error, TimeoutError) or names & {"APITimeoutError", "TimeoutException"}:
        return Fault(message="no response within the timeout", transport="timeout", unsent=unsent)
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        found = status_fault(error, status, getattr(error, "body", None))
        unreadable = "APIResponseValidationError" in names
        return replace(found, message=_NOT_THE_FORMAT, transport="malformed") if unreadable else found
    if names & {"DecodingError"} or isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return Fault(message="the response is not valid JSON", transport="malformed")
    if isinstance(error, OSError) or names & {"APIConnectionError", "TransportError", "ClientError"}:
        # The type alone where nothing more is said; never a local protocol error's text, which quotes headers.
        said = "" if "LocalProtocolError" in causes else str(cause)
        message = f"{type(cause).__name__}: {said}".rstrip(": ")
        return Fault(message=message, transport="connection", unsent=unsent)
    return Fault(message=f"{type(error).__name__}: {error}")


def status_fault(error: BaseException, status: int, body: Any) -> Fault:
    """Read a fault from an exception that has the HTTP status of the response; a `body` that is missing is read from it."""
    response = getattr(error, "response", None)
    headers = {str(k).lower(): str(v) for k, v in dict(getattr(response, "headers", None) or {}).items()}
    if body is None and response is not None and hasattr(response, "json"):
        with suppress(ValueError, RecursionError):
            body = response.json()
    if status < 300:
        return Fault(status, headers, body, _NOT_THE_FORMAT, transport="malformed")
    said = _message(body) or _plain(status, headers, body if isinstance(body, str) else error)
    return Fault(status, headers, body, said)


def _plain(status: int, headers: Mapping[str, str], said: object) -> str:
    """Words for a response without an error object: a proxy's page, a redirect."""
    if 300 <= status < 400:
        return f"redirected to {headers.get('location', 'nowhere')}; a key is not sent on, so correct the base URL"
    # No tag within a tag, or a page of nothing but `<` takes the square of its length.
    return " ".join(re.sub(r"<[^<>]*>", " ", str(said)).split())


def _flagged(body: Any) -> bool:
    """Tell whether a router says that its moderation flagged the input."""
    metadata = _error_object(body).get("metadata")
    return isinstance(metadata, Mapping) and ("flagged_input" in metadata or bool(metadata.get("reasons")))


def _error_object(body: Any) -> Mapping[str, Any]:
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error", body) if isinstance(body, Mapping) else None
    return error if isinstance(error, Mapping) else {}


def _message(body: Any) -> str:
    error = _error_object(body)
    # An SDK may put an HTML page under the same name.
    message = error.get("message") or _details(error.get("detail"))
    return message if isinstance(message, str) and not message.lstrip().startswith("<") else ""


def _details(detail: Any) -> Any:
    """Return in words what a server on FastAPI finds wrong, as vLLM is one: each field with what is wrong with it."""
    if not isinstance(detail, list):
        return detail
    wrong = [one for one in detail if isinstance(one, Mapping) and isinstance(one.get("loc"), list)]
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one.get('msg')}" for one in wrong)


def _codes(body: Any, deepest: int = 8) -> Iterator[str]:
    """List every short code word in an error body: codes, types, states, reasons, quota names.

    Args:
        body: The decoded body.
        deepest: Details within details that are looked into; a server may nest them without end.
    """
    error = _error_object(body)
    for key in ("code", "type", "status", "reason", "error_code", "limit_source", "quotaId"):
        if isinstance(value := error.get(key), str | int):
            yield str(value).lower()
    details = error.get("details")
    nested = [details, error.get("metadata"), *(details if isinstance(details, list) else [])]
    for item in nested if deepest else []:
        if isinstance(item, Mapping):
            yield from _codes(item, deepest - 1)
            violations = item.get("violations")
            for violation in violations if isinstance(violations, list) else []:
                yield from _codes(violation, deepest - 1)


_REFUSES = re.compile(
    r"unsupported|not support|unrecognized|unknown (?:name|field|parameter|argument)|extra inputs|not permitted|"
    r"not enabled|deprecated|does not accept|invalid parameter|cannot both|only the default|invalid schema|"
    r"unexpected field",
    re.IGNORECASE,
)


def refusal_of(fault: Fault) -> tuple[str, bool]:
    """Return the parameter that an error body names, if any, and whether the error refuses a parameter at all."""
    error = _error_object(fault.body)
    named = str(error.get("param") or "").partition(".")[0]
    codes = " ".join(_codes(fault.body))
    return named, bool(_REFUSES.search(f"{codes} {fault.message}".replace("_", " ")))


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
