"""How a model is asked to sample: the settings that vendors share, and what is passed through untouched."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

ServiceTier = Literal["flex"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


_ELSEWHERE = frozenset(
    {"api_base", "api_key", "api_version", "base_url", "extra_body", "extra_headers", "extra_query", "headers"}
    | {"http_options", "httpOptions", "organization", "user_config"}
)
"""Where a call goes and on whose account: proxies such as LiteLLM take it from the body, key and all (CVE-2024-6587)."""
_DECIDED = {
    "model": "members",
    "messages": "the prompt",
    "contents": "the prompt",
    "prompt": "the prompt",
    "system": "system",
    "systemInstruction": "system",
    "system_instruction": "system",
    "n": "a count, as in provider/model:3",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "max_output_tokens": "max_output_tokens",
    "maxOutputTokens": "max_output_tokens",
    "candidateCount": "a count, as in provider/model:3",
    "candidate_count": "a count, as in provider/model:3",
}
"""What has a place of its own, by which price and budget are reckoned and the record tells who was asked."""
_NEVER = frozenset({"stream", "stream_options"})
"""What makes something else of a call than one answer to wait for."""


class Sampling(BaseModel):
    """Sampling settings of one call. A setting left empty is not sent, so the vendor's default holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float | None = Field(
        None, ge=0, le=2, description="Randomness, 0 to 2.", json_schema_extra={"position": 1}
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Nucleus sampling: share of probability kept.", json_schema_extra={"position": 2}
    )
    top_k: int | None = Field(
        None, ge=1, description="Sample from so many most likely tokens.", json_schema_extra={"position": 3}
    )
    max_output_tokens: int | None = Field(
        None, ge=1, description="Most tokens in an answer, reasoning included.", json_schema_extra={"position": 4}
    )
    stop: tuple[str, ...] = Field((), description="Texts at which the answer ends.", json_schema_extra={"position": 5})
    seed: int | None = Field(None, description="Seed, where the vendor takes one.", json_schema_extra={"position": 6})
    reasoning_effort: ReasoningEffort | None = Field(
        None, description="How long a reasoning model may think.", json_schema_extra={"position": 7}
    )
    extra: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Further fields of the vendor's request body, passed through untouched.",
        json_schema_extra={"position": 8},
    )

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        google = extra.get("generationConfig", extra.get("generation_config"))
        for name in (*extra, *(google if isinstance(google, dict) else ())):
            if name in _ELSEWHERE:
                raise ValueError(
                    f"{name!r} must not be set here: the address and the key belong to the provider's credentials, see "
                    "`consensus keys set`"
                )
            if name in _DECIDED:
                raise ValueError(f"{name!r} must not be set here: write it as {_DECIDED[name]}")
            if name in _NEVER:
                raise ValueError(f"{name!r} must not be set here: a call is one request and its whole answer")
        return extra

    def over(self, base: "Sampling") -> "Sampling":
        """Return these settings laid over `base`: what is set here wins, `extra` is merged key by key.

        An empty setting is not set: a saved configuration comes back with every field named, the empty ones too.
        """
        changed = {name: value for name in Sampling.model_fields if (value := getattr(self, name)) not in (None, ())}
        return base.model_copy(update=changed | {"extra": {**base.extra, **self.extra}})
