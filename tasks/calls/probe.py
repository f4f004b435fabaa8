"""Finds models that cannot answer before a question is put to them: by the vendors' lists, and by a test call where these do not say."""

import asyncio
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.tasks.calls.attempt import CallLog, attempt, call_log
from consensus_flows.tasks.calls.providers import BACKOFF_S, Endpoint, client_of, setting
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.errors import ErrorKind, ModelError
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import bill

PATIENCE_S = 15.0
"""Seconds that a vendor has to answer."""
TRIES = 3
"""How often an address that cannot be reached is tried: a batch that starts at night is not lost over one bad second."""
TEST_TOKENS = 16
"""Output limit of a test call."""
PASSING: frozenset[ErrorKind] = frozenset({"timeout", "server", "overloaded", "rate_limit"})
"""Failures of a list that say nothing of a model."""
FINAL: frozenset[ErrorKind] = frozenset({"auth", "quota", "not_found", "connection"})
"""Failures of a test call after which a model cannot answer."""


class Probed(NamedTuple):
    """What was found.

    Attributes:
        problems: For each model that cannot answer, why.
        tested: The models that a test call was sent to.
        cost_usd: What these calls cost; None where that is not known.
    """

    problems: dict[ModelName, str]
    tested: list[ModelName]
    cost_usd: float | None

    def describe(self) -> str:
        """Say which test calls were made."""
        names = ", ".join(map(str, self.tested))
        return f"sent {plural(len(self.tested), 'test call')} beside all others ({bill(self.cost_usd)}): no vendor lists {names}"


async def offered(endpoint: Endpoint, model: str = "") -> list[str]:
    """Return the names of the models at an endpoint, none where it has no list.

    Raises:
        ModelError: If the vendor does not answer, or not with a list.
    """
    vendor = endpoint.vendor
    try:
        async with asyncio.timeout(PATIENCE_S):
            client = await client_of(endpoint, model) if endpoint.credentials else None
            return await vendor.list_models(client, PATIENCE_S)
    except Exception as error:  # every SDK has its own
        fault = vendor.fault_of(error)
        verdict = vendor.classify(fault)
        message = redact(f"{verdict.kind}: {fault.message}", endpoint.secrets)
        raise ModelError(message, kind=verdict.kind, retryable=verdict.retry, status=fault.status) from None


async def probe(endpoints: Mapping[ModelName, Endpoint], embedding: ModelName | None = None) -> Probed:
    """Find the models that cannot answer.

    A model that stands in its vendor's list can. One that does not, or whose vendor has no list, gets a test call of a few
    tokens. A vendor that is busy or slow proves nothing.

    Args:
        endpoints: Where the calls of each model go.
        embedding: The model among them that embeds texts.
    """
    places = {endpoint.provider: endpoint for endpoint in endpoints.values() if endpoint.credentials is not None}
    lists = dict(zip(places, await asyncio.gather(*map(_listed, places.values())), strict=True))
    problems: dict[ModelName, str] = {}
    unlisted: list[ModelName] = []
    for name, endpoint in endpoints.items():
        found = lists.get(endpoint.provider)
        if isinstance(found, ModelError):
            if found.kind == "connection":
                problems[name] = f"{name}: {endpoint.address} cannot be reached: {found.message}"
            elif found.kind not in PASSING:
                unlisted.append(name)
        elif found is not None and not _is_listed(name.model, found):
            unlisted.append(name)
    log = CallLog()
    token = call_log.set(log)
    try:
        calls = [_tested(name, endpoints[name], is_embedding=name == embedding) for name in unlisted]
        errors = await asyncio.gather(*calls)
    finally:
        call_log.reset(token)
    for name, error in zip(unlisted, errors, strict=True):
        if error is not None:
            known = lists[name.provider]
            near = did_you_mean(name.model, known) if isinstance(known, list) and error.kind == "not_found" else ""
            at = "" if error.kind == "connection" else f" (at {endpoints[name].address})"
            problems[name] = f"{error.message}{at}{near}"
    costs = [one.cost_usd for one in log.attempts]
    known_costs = [cost for cost in costs if cost is not None]
    return Probed(problems, unlisted, sum(known_costs) if len(known_costs) == len(costs) else None)


async def _listed(endpoint: Endpoint) -> list[str] | ModelError:
    for number in range(TRIES):
        try:
            return await offered(endpoint)
        except ModelError as error:
            last = error
        if last.kind != "connection":
            break
        if number < TRIES - 1:
            await asyncio.sleep(setting("BACKOFF_S", BACKOFF_S) * 2**number)
    return last


def _is_listed(model: str, names: list[str]) -> bool:
    """Tell whether a list has a model: a gateway's may have patterns, and a router's models have variants behind a colon."""
    return any(fnmatchcase(one, name) for name in names for one in (model, model.partition(":")[0]))


async def _tested(name: ModelName, endpoint: Endpoint, *, is_embedding: bool) -> ModelError | None:
    """Ask a model for a few tokens, and return what shows that it cannot answer."""
    request = Request(
        provider=name.provider,
        model=name.model,
        messages=(Message(role="user", content="Say OK."),),
        sampling=Sampling(max_output_tokens=TEST_TOKENS),
        kind="embedding" if is_embedding else "chat",
        timeout=PATIENCE_S,
    )
    try:
        await attempt(request, endpoint)
    except ModelError as error:
        return error if error.kind in FINAL else None
    return None
