"""Whether the answer of a run is attested, and what its token says."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from consensus_flows.blocks.settings import Settings

NONCE_BYTES = range(8, 89)
"""How long a text may be that Google's tokens repeat."""
AUDIENCE_BYTES = 512


class AttestationSettings(Settings):
    """A token of Google's Confidential Space that is bound to the record of the run."""

    attest: bool = Field(
        False,
        description="Prove which image computed the answer, by a token of Confidential Space; `consensus verify` checks it.",
    )
    challenge: str | None = Field(
        None,
        description="Text that the token repeats, 8 to 88 bytes: a new random one shows that the record is new.",
    )
    audience: str | None = Field(
        None,
        min_length=1,
        description="For whom the token is made. Default: consensus-flows.",
    )
    token_type: Literal["OIDC", "PKI"] = Field(
        "OIDC",
        description="OIDC is verified by keys that Google publishes and changes, PKI by its root certificate.",
    )

    @field_validator("challenge")
    @classmethod
    def _check_challenge(cls, value: str | None) -> str | None:
        if value is not None and len(value.encode()) not in NONCE_BYTES:
            raise ValueError(f"a challenge has 8 to 88 bytes, this one {len(value.encode())}")
        if value is not None and value.startswith("consensus:"):
            raise ValueError("a challenge must not begin with consensus:, which marks the digest of a record")
        return value

    @field_validator("audience")
    @classmethod
    def _check_audience(cls, value: str | None) -> str | None:
        if value is not None and len(value.encode()) > AUDIENCE_BYTES:
            raise ValueError(f"an audience has at most {AUDIENCE_BYTES} bytes, this one {len(value.encode())}")
        return value

    @model_validator(mode="after")
    def _check_attest(self) -> Self:
        for name in ("challenge", "audience", "token_type"):
            if not self.attest and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: requires attest")
        return self
