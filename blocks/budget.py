"""What a run may spend at most."""

from pydantic import Field

from consensus_flows.blocks.settings import Settings


class Budget(Settings):
    """Limits of a run. Each is checked before a call by reserving the call's worst case."""

    max_calls: int | None = Field(None, ge=1, description="Maximum number of requests, retries included.")
    max_tokens: int | None = Field(None, ge=1, description="Maximum number of tokens, input and output together.")
    max_cost_usd: float | None = Field(None, gt=0, description="Maximum cost in US dollars.")
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds after which no call starts, and those under way are cut.",
    )
