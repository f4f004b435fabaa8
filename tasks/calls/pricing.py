"""What a call costs, by the price table of `genai-prices`."""

import asyncio
from importlib import import_module
from typing import Any

from consensus_flows.tasks.calls.providers import Endpoint, built_in
from consensus_flows.tasks.record import Usage

FLEX_FACTOR = 0.5
"""What the flex tier costs of the standard price where the price table does not say; vendors that have it name 50 %."""
_loaded: Any = None


async def _table() -> Any:
    """Return the module of the price table once it is whole: `sys.modules` has it while another thread still imports it."""
    global _loaded  # noqa: PLW0603 - filled once.
    if _loaded is None:
        # It takes 0.3 s to import; a thread keeps the other calls going.
        _loaded = await asyncio.to_thread(import_module, "genai_prices")
    return _loaded


async def price(endpoint: Endpoint, model: str, usage: Usage, service_tier: str | None = None) -> float | None:
    """Return the price in US dollars of `usage` at `endpoint`, or None when it is not in the table.

    The provider is recognised by its address, or by its built-in name when the address is a gateway of one's own.

    Args:
        endpoint: Where the call goes.
        model: The model.
        usage: Its tokens.
        service_tier: The tier that served the call, as the vendor names it; None for the standard one.
    """
    if endpoint.credentials is None:
        return None
    prices = await _table()
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
        try:
            standard = float(prices.calc_price(wanted, model_ref=model, **place).total_price)
            if service_tier is None:
                return standard
            context = {"service_tier": service_tier}
            listed = float(prices.calc_price(wanted, model_ref=model, price_context=context, **place).total_price)
        except (LookupError, ValueError):
            continue
        # A tier that the table does not have comes at its standard price.
        if listed == standard and endpoint.tier(service_tier) == "flex":
            return standard * FLEX_FACTOR
        return listed
    return None
