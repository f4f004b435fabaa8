"""What a call costs, by the price table of `genai-prices`."""

import asyncio
from importlib import import_module
from typing import Any

from tasks.calls.providers import BUILT_IN, Endpoint
from tasks.calls.request import Usage

_OUR_NAMES = {"openai": "openai", "anthropic": "anthropic", "google": "google", "openrouter": "openrouter"}


async def price(endpoint: Endpoint, model: str, usage: Usage) -> float | None:
    """Return the price in US dollars of `usage` at `endpoint`, or None when it is not in the table.

    The provider is recognised by its address, or by its built-in name when the address is a gateway of one's own.
    """
    if endpoint.credentials is None:
        return None
    # The table takes 0.3 s to import; a thread keeps the other calls going.
    prices = await asyncio.to_thread(import_module, "genai_prices")
    wanted = prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    places: list[dict[str, Any]] = [{"provider_api_url": endpoint.address}]
    if endpoint.provider in BUILT_IN and endpoint.provider in _OUR_NAMES:
        places.append({"provider_id": _OUR_NAMES[endpoint.provider]})
    for place in places:
        try:
            return float(prices.calc_price(wanted, model_ref=model, **place).total_price)
        except (LookupError, ValueError):
            continue
    return None
