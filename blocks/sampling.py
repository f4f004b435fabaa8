"""How a model is asked to sample: the settings that vendors share, and what is passed through untouched."""

from typing import Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator

from consensus_flows.blocks.passed_through import refusal
from consensus_flows.blocks.settings import Settings

ServiceTier = Literal["flex"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Sampling(Settings):
    """Sampling settings of one call. A setting left empty is not sent, so the vendor's default holds."""

    model_config = ConfigDict(frozen=True)

    temperature: float | None = Field(None, ge=0, le=2, description="Randomness, 0 to 2.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling: share of probability kept.")
    top_k: int | None = Field(None, ge=1, description="Sample from so many most likely tokens.")
    max_output_tokens: int | None = Field(
        None, ge=1, description="Maximum number of tokens in an answer, reasoning included."
    )
    stop: tuple[str, ...] = Field((), description="Texts at which the answer ends.")
    seed: int | None = Field(None, description="Seed, where the vendor takes one.")
    reasoning_effort: ReasoningEffort | None = Field(None, description="How long a reasoning model may think.")
    extra: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Further settings of the vendor's request body, passed through untouched; no address, key, model, "
        "prompt, tool, count or limit.",
    )

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if (why := refusal(extra)) is not None:
            raise ValueError(why)
        return extra

    def over(self, base: "Sampling") -> "Sampling":
        """Return these settings merged over `base`: what is set here wins, `extra` is merged key by key.

        An empty setting is not set: a saved configuration comes back with every field named, the empty ones too.
        """
        changed = {name: value for name in Sampling.model_fields if (value := getattr(self, name)) not in (None, ())}
        return base.model_copy(update=changed | {"extra": {**base.extra, **self.extra}})
