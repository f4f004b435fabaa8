"""What a call costs: by the price that was given, else by the price table of `genai-prices`."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

from consensus_flows.blocks.member import ModelName, parse_price
from consensus_flows.tasks.calls.providers import Endpoint, built_in, is_self_hosted
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Usage

FLEX_FACTOR = 0.5
"""What the flex tier costs of the standard price where the price table does not say; vendors that have it name 50 %."""
BATCH = "batch"
"""The tier of what a vendor's batch API has answered."""
BATCH_FACTOR = 0.5
"""What it costs of the standard price: the same with OpenAI, Anthropic and Google."""
_loaded: Any = None


async def price_table() -> Any:
    """Return the module of the price table once it is whole: `sys.modules` has it while another thread still imports it."""
    global _loaded  # noqa: PLW0603 - filled once.
    if _loaded is None:
        # It takes 0.3 s to import; a thread keeps the other calls going.
        await asyncio.to_thread(import_module, "genai_prices.data")
        _loaded = import_module("genai_prices")
    return _loaded


_given: ContextVar[Mapping[str, tuple[float, float]]] = ContextVar("prices", default=MappingProxyType({}))


@contextmanager
def priced(prices: Mapping[str, tuple[float, float]]) -> Iterator[None]:
    """Let these prices hold in the block, by provider/model: US dollars per million input and output tokens."""
    token = _given.set({**_given.get(), **prices})
    try:
        yield
    finally:
        _given.reset(token)


def _given_price(endpoint: Endpoint, model: str) -> tuple[float, float] | None:
    """Return the price that a person has given, for this run or beside the key."""
    own = endpoint.credentials.prices if endpoint.credentials else []
    saved = {name: (read, written) for name, read, written in map(parse_price, own)}
    return _given.get().get(f"{endpoint.provider}/{model}") or saved.get(model)


async def unpriced(endpoints: Mapping[ModelName, Endpoint]) -> list[str]:
    """Name the models whose price is not known.

    Raises:
        ConfigurationError: If that is none of them: a budget in US dollars would hold for nothing.
    """
    one = Usage(input_tokens=1, output_tokens=1)
    found = [str(name) for name, at in endpoints.items() if await price(at, name.model, one) is None]
    if found and len(found) == len(endpoints):
        raise ConfigurationError(
            f"budget.max_cost_usd (--max-cost): no price is known of {', '.join(found)}: give one with --price MODEL=IN/OUT, US "
            "dollars per million tokens, or limit calls or tokens instead"
        )
    return found


def uncovered(names: Sequence[str]) -> str:
    """Say which models a budget in US dollars does not cover."""
    return f"--max-cost does not cover {', '.join(names)}, whose price is not known: give it with --price MODEL=IN/OUT"


async def price(endpoint: Endpoint, model: str, usage: Usage, service_tier: str | None = None) -> float | None:
    """Return the price in US dollars of `usage` at `endpoint`, or None when it is not known.

    A price that was given comes first. A model that people run themselves costs nothing without one. The provider is recognised by its address, or by its built-in name when the address is a gateway of one's own.

    Args:
        endpoint: Where the call goes.
        model: The model.
        usage: Its tokens.
        service_tier: The tier that served the call, as the vendor names it; None for the standard one.
    """
    if own := _given_price(endpoint, model):
        cost = (own[0] * usage.input_tokens + own[1] * usage.output_tokens) / 1_000_000
        return cost * _factor(endpoint, service_tier)
    if endpoint.is_free:
        return 0.0
    prices = await price_table()
    wanted = prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    places: list[dict[str, Any]] = [{"provider_api_url": endpoint.address}]
    known = built_in().get(endpoint.provider)
    if known is not None and known.price_id is not None:
        places.append({"provider_id": known.price_id})
    for place in places:
        if not _is_listed(model, **place):
            continue
        try:
            standard = float(prices.calc_price(wanted, model_ref=model, **place).total_price)
            if service_tier is None:
                return standard
            context = {"service_tier": service_tier}
            listed = float(prices.calc_price(wanted, model_ref=model, price_context=context, **place).total_price)
        except (LookupError, ValueError):
            continue
        # A tier that the table does not have comes at its standard price.
        return standard * _factor(endpoint, service_tier) if listed == standard else listed
    return None


@lru_cache(maxsize=1024)
def _is_listed(model: str, **place: str) -> bool:
    """Tell whether the table may have the price of a model there. It remembers what it has, and looks for the rest in vain each time."""
    prices = import_module("genai_prices")
    try:
        prices.calc_price(prices.Usage(), model_ref=model, **place)
    except LookupError:
        return False
    except ValueError:
        return True
    return True


def _factor(endpoint: Endpoint, service_tier: str | None) -> float:
    """Return what a tier costs of the standard price."""
    if service_tier == BATCH:
        return BATCH_FACTOR
    return FLEX_FACTOR if service_tier and endpoint.tier(service_tier) == "flex" else 1.0


def list_price(name: str, usage: Usage) -> float | None:
    """Return the price of tokens that a model of a built-in provider has used, by the price table; None if it is not known.

    Args:
        name: The model, as provider/model.
        usage: The tokens.
    """
    provider, _, model = name.partition("/")
    if is_self_hosted(provider):
        return 0.0
    known = built_in().get(provider)
    if known is None or known.price_id is None:
        return None
    prices = import_module("genai_prices")
    wanted = prices.Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    try:
        return float(prices.calc_price(wanted, model_ref=model, provider_id=known.price_id).total_price)
    except (LookupError, ValueError):
        return None
