"""The tier in which a vendor serves a call: `flex` costs half where a vendor has it, answers slower, and may be refused.

OpenAI and Google have it for chat (`service_tier`), and OpenRouter passes it on to them; each bills the tier that it says
it has served. Anthropic's parameter of that name chooses between reserved and standard capacity and is no discount. Groq
sells more calls under that name, at the full price. Other servers may answer an unknown parameter with an error, so
nothing is sent to them.
"""

from urllib.parse import urlsplit

from consensus_flows.blocks.credentials import OpenAICredentials
from consensus_flows.tasks.calls.providers import Endpoint

FLEX_FACTOR = 0.5
"""What flex costs of the standard price where the price table does not say; OpenAI and Google name 50 %."""
_OPENROUTER = "openrouter"


def tier_at(endpoint: Endpoint, tier: str | None) -> str | None:
    """Return the tier that may be asked for at an endpoint: `tier`, or None where its vendor does not have it."""
    return tier if tier is not None and _has_tiers(endpoint) else None


def _has_tiers(endpoint: Endpoint) -> bool:
    if endpoint.wire == "google":
        return True
    if endpoint.wire != "openai" or endpoint.credentials is None:
        return False
    host = urlsplit(endpoint.address).hostname or ""
    return (
        isinstance(endpoint.credentials, OpenAICredentials)
        or endpoint.provider == _OPENROUTER
        or host == "openrouter.ai"
        or host.endswith(".openrouter.ai")
    )
