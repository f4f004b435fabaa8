"""What a run may spend at most."""

from pydantic import BaseModel, ConfigDict, Field


class Budget(BaseModel):
    """Limits of a run. Each is checked before a call by reserving the call's worst case."""

    model_config = ConfigDict(extra="forbid")

    max_calls: int | None = Field(
        None, ge=1, description="Most requests sent, retries included.", json_schema_extra={"position": 1}
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Most tokens, input and output together.", json_schema_extra={"position": 2}
    )
    max_cost_usd: float | None = Field(
        None, gt=0, description="Most US dollars spent.", json_schema_extra={"position": 3}
    )
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds after which no call starts, and those under way are cut.",
        json_schema_extra={"position": 4},
    )
