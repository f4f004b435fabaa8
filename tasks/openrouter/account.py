"""OpenRouter's own addresses: what the account has left, which models there are, and which of them are free."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from consensus_flows.tasks.calls.ask import BACKOFF_S
from consensus_flows.tasks.calls.attempt import RETRY_AFTER_CAP_S
from consensus_flows.tasks.calls.clients import client_of
from consensus_flows.tasks.calls.failures import Fault, Verdict, classify, fault_of
from consensus_flows.tasks.calls.pace.pacing import pace_of
from consensus_flows.tasks.calls.providers import Endpoint, endpoint_of
from consensus_flows.tasks.calls.scrub import scrub
from consensus_flows.tasks.calls.settings import setting
from consensus_flows.tasks.errors import ConfigurationError, ModelError

PROVIDER = "openrouter"
TIMEOUT_S = 30.0
RETRIES = 2
"""How often a look-up that may succeed later is tried again."""
_ABOUT_THE_KEY = frozenset({"label", "name", "hash", "creator_user_id"})
"""What tells about the key itself: the label is the key with its middle left out."""


async def openrouter() -> Endpoint:
    """Return where OpenRouter's calls go, by the saved credentials `openrouter` or the environment.

    Raises:
        ConfigurationError: If there is no key, or the credentials are those of another kind of server.
    """
    endpoint = await endpoint_of(PROVIDER, "")
    if endpoint.wire != "openai":
        raise ConfigurationError(f"the saved credentials {PROVIDER!r} are not those of an OpenAI-compatible server")
    return endpoint


async def look_up(path: str) -> Any:
    """Return what stands under `data` at an address of OpenRouter's.

    Args:
        path: The address behind the base URL, for example `/models`.

    Raises:
        ModelError: If it could not be read, also after a second and a third try where that makes sense.
        ConfigurationError: If there is no key.
    """
    endpoint = await openrouter()
    client = await client_of(endpoint, "")
    for tried in range(RETRIES + 1):
        try:
            async with pace_of(endpoint).turn(), asyncio.timeout(TIMEOUT_S + 1):
                found = await client.get(path, cast_to=object, options={"timeout": TIMEOUT_S})
        except Exception as error:  # the SDK's, or the transport's under it; `classify` says what it means
            fault = fault_of(error)
        else:
            if isinstance(found, dict) and isinstance(found.get("data"), dict | list):
                return found["data"]
            fault = _fault_in(found)
        verdict = classify(fault)
        wait = setting("BACKOFF_S", BACKOFF_S) * 2**tried if verdict.wait_s is None else verdict.wait_s
        if not verdict.retry or tried == RETRIES or wait > setting("RETRY_AFTER_CAP_S", RETRY_AFTER_CAP_S):
            break
        if verdict.wait_s is None:
            await asyncio.sleep(wait)
        else:
            pace_of(endpoint).hold(wait)  # what the server asks for holds back every call on the key
    raise _error(path, endpoint, fault, verdict)


def _fault_in(found: Any) -> Fault:
    """Read a response of status 200 that is not what was asked for."""
    from consensus_flows.tasks.calls.adapters.openai_chat import fault_in_body

    if isinstance(found, dict) and found.get("error"):
        return fault_in_body(found["error"])
    return Fault(200, message="the response is not in OpenRouter's format", transport="malformed")


def _error(path: str, endpoint: Endpoint, fault: Fault, verdict: Verdict) -> ModelError:
    where = f"HTTP {fault.status}: " if fault.status else ""
    message = scrub(f"{PROVIDER}{path}: {verdict.kind}: {where}{fault.message}", endpoint.secrets)
    return ModelError(message, kind=verdict.kind, retryable=verdict.retry, wait_s=verdict.wait_s, status=fault.status)


async def account() -> dict[str, Any]:
    """Return what the account and the key have used and have left, in US dollars.

    Returns:
        `credits`, which OpenRouter tells only to management keys, or None; `key`, the limits of this key; and `notes`,
        which say what could not be read.

    Raises:
        ModelError: If neither can be read.
    """
    notes: list[str] = []
    credits_left: dict[str, Any] | None = None
    try:
        credits_left = dict(await look_up("/credits"))
        bought, used = credits_left.get("total_credits"), credits_left.get("total_usage")
        if isinstance(bought, int | float) and isinstance(used, int | float):
            credits_left["remaining"] = round(bought - used, 10)
    except ModelError as error:
        notes.append(error.message)
    key: dict[str, Any] | None = None
    try:
        key = {name: value for name, value in dict(await look_up("/key")).items() if name not in _ABOUT_THE_KEY}
    except ModelError as error:
        if credits_left is None:
            raise
        notes.append(error.message)
    return {"credits": credits_left, "key": key, "notes": notes}


async def list_models() -> list[dict[str, Any]]:
    """Return every model that OpenRouter offers, as it describes them.

    Raises:
        ModelError: If the list cannot be read.
    """
    found = await look_up("/models")
    return [model for model in found if isinstance(model, dict) and isinstance(model.get("id"), str)]


def free_models(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of `models` that cost nothing: every price that is given is zero, and at least one is given."""
    return [model for model in models if model.get("pricing") and _is_zero(model["pricing"])]


def _is_zero(price: Any) -> bool:
    """Tell whether a price, or every price in an object or a list, is zero; -1 stands for one that depends."""
    if isinstance(price, dict | list):
        return all(_is_zero(part) for part in (price.values() if isinstance(price, dict) else price))
    try:
        return Decimal(str(price)) == 0
    except InvalidOperation:
        return False
