"""Whether a record is the one that an image computed in Google's Confidential Space. Pure, given the keys.

The claims are those of Google's reference (Confidential Space token claims); `docs/attestation.md` says what it proves.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from consensus_flows.tasks.attestation.digest import AUDIENCE, digest_of, nonce_of, recorded_parts
from consensus_flows.tasks.attestation.failures import Failure, Kind
from consensus_flows.tasks.attestation.signature import (
    ALGORITHM,
    ISSUER,
    KeySet,
    Token,
    check_by_keys,
    check_by_root,
    read_token,
)
from consensus_flows.tasks.record import Attestation, Record

Trust = KeySet | str | Failure
"""The issuer's keys; or the SHA-256 of the root certificate; or why neither could be had."""
LEEWAY_S = 60
"""Seconds by which clocks may differ."""
HARDWARE = ("GCP_AMD_SEV", "GCP_AMD_SEV_ES", "GCP_AMD_SEV_SNP", "GCP_INTEL_TDX")
"""Machines whose memory is encrypted; a shielded VM is none."""


@dataclass(frozen=True)
class Expected:
    """What a record must be.

    Attributes:
        image: Digest of the container image, `sha256:...`.
        at: At what time it is verified.
        challenge: The text that the caller gave; None where the token may repeat any, or none.
        audience: For whom the token was made.
        hardware: Models of hardware that are accepted.
        environment: Names of environment variables that the operator may have set.
        configuration: SHA-256 of the settings; None for any.
    """

    image: str
    at: datetime
    challenge: str | None = None
    audience: str = AUDIENCE
    hardware: tuple[str, ...] = HARDWARE
    environment: tuple[str, ...] = ()
    configuration: str | None = None


@dataclass(frozen=True)
class Verification:
    """What came of it: the failures, in order, and the token, where it could be read."""

    failures: list[Failure] = field(default_factory=list)
    token: Token | None = None


def verify(record: Record, expected: Expected, trust: Trust) -> Verification:
    """Verify a record.

    Args:
        record: The record.
        expected: What it must be.
        trust: By what the signature is checked.
    """
    attested = record.attestation
    if attested is None:
        return Verification([Failure(Kind.NOT_ATTESTED)])
    try:
        token = read_token(attested.token)
    except ValueError as error:
        return Verification([Failure(Kind.MALFORMED_TOKEN, str(error)), *_check_record(record, attested)])
    failures = [
        *_check_signature(token, trust, expected.at),
        *_check_token(token.claims, expected),
        *_check_record(record, attested),
        *_check_nonces(token.claims, attested, expected),
        *_check_machine(token.claims, expected),
        *_check_container(token.claims, expected),
    ]
    if expected.configuration not in {None, attested.parts.configuration}:
        failures.append(Failure(Kind.OTHER_CONFIGURATION, attested.parts.configuration, expected.configuration or ""))
    return Verification(failures, token)


def _check_signature(token: Token, trust: Trust, at: datetime) -> Iterator[Failure]:
    if token.header.get("alg") != ALGORITHM:
        yield Failure(Kind.WRONG_ALGORITHM, str(token.header.get("alg")), ALGORITHM)
    if isinstance(trust, Failure):
        yield trust
    elif isinstance(trust, str):
        yield from check_by_root(token, trust, at)
    else:
        yield from check_by_keys(token, trust)


def _check_token(claims: Mapping[str, Any], expected: Expected) -> Iterator[Failure]:
    """Check by whom and for whom the token was made, and when."""
    if claims.get("iss") != ISSUER:
        yield Failure(Kind.OTHER_ISSUER, str(claims.get("iss")), ISSUER)
    if _texts(claims.get("aud")) != [expected.audience]:
        yield Failure(Kind.OTHER_AUDIENCE, ", ".join(_texts(claims.get("aud"))), expected.audience)
    given = [claims.get(name) for name in ("exp", "iat", "nbf")]
    times = [one for one in given if isinstance(one, int | float) and math.isfinite(one)]
    if len(times) < len(given):
        yield Failure(Kind.MALFORMED_CLAIMS, "exp, iat or nbf is no time")
        return
    expires, *begins = times
    now = expected.at.timestamp()
    if now >= expires + LEEWAY_S:
        yield Failure(Kind.EXPIRED, _utc(expires), _utc(now))
    if now < max(begins) - LEEWAY_S:
        yield Failure(Kind.NOT_YET_VALID, _utc(max(begins)), _utc(now))


def _check_record(record: Record, attested: Attestation) -> Iterator[Failure]:
    """Check that the record is what its parts say, and that they have the digest that is given."""
    parts = attested.parts.model_dump(mode="json")
    for name, value in recorded_parts(record).items():
        if value != parts[name]:
            yield Failure(Kind.RECORD_CHANGED, name)
    if digest_of(attested.parts) != attested.digest:
        yield Failure(Kind.DIGEST_CHANGED, attested.digest, digest_of(attested.parts))


def _check_nonces(claims: Mapping[str, Any], attested: Attestation, expected: Expected) -> Iterator[Failure]:
    """Check that the token repeats the digest of these parts, the challenge, and nothing else."""
    nonces = _texts(claims.get("eat_nonce"))
    digest = nonce_of(digest_of(attested.parts))
    if digest not in nonces:
        yield Failure(Kind.OTHER_RECORD, ", ".join(nonces), digest)
    others = [one for one in nonces if one != digest]
    challenge = expected.challenge if expected.challenge is not None else attested.challenge
    if challenge is not None and challenge not in others:
        yield Failure(Kind.OTHER_CHALLENGE, ", ".join(others), challenge)
    if len(others) > (challenge is not None):
        yield Failure(Kind.OTHER_NONCES, ", ".join(one for one in others if one != challenge))


def _check_machine(claims: Mapping[str, Any], expected: Expected) -> Iterator[Failure]:
    """Check that it is a production image of Confidential Space on hardware that encrypts its memory."""
    if claims.get("swname") != "CONFIDENTIAL_SPACE":
        yield Failure(Kind.OTHER_SOFTWARE, str(claims.get("swname")), "CONFIDENTIAL_SPACE")
    if claims.get("dbgstat") != "disabled-since-boot":
        yield Failure(Kind.DEBUG_IMAGE, str(claims.get("dbgstat")), "disabled-since-boot")
    attributes = _texts(_module(claims, "confidential_space").get("support_attributes"))
    if "STABLE" not in attributes:
        yield Failure(Kind.UNSUPPORTED_IMAGE, ", ".join(attributes) or "none", "STABLE")
    if claims.get("secboot") is not True:
        yield Failure(Kind.NO_SECURE_BOOT, str(claims.get("secboot")))
    if claims.get("hwmodel") not in expected.hardware:
        yield Failure(Kind.OTHER_HARDWARE, str(claims.get("hwmodel")), ", ".join(expected.hardware))


def _check_container(claims: Mapping[str, Any], expected: Expected) -> Iterator[Failure]:
    """Check which image ran, and that its operator changed nothing about it."""
    container = _module(claims, "container")
    if container.get("image_digest") != expected.image:
        yield Failure(Kind.OTHER_IMAGE, str(container.get("image_digest")), expected.image)
    environment = container.get("env_override") or {}
    names = sorted(environment) if isinstance(environment, dict) else [str(environment)]
    if others := [name for name in names if name not in expected.environment]:
        yield Failure(Kind.ENVIRONMENT_CHANGED, ", ".join(others), ", ".join(expected.environment))
    if command := container.get("cmd_override"):
        yield Failure(Kind.COMMAND_CHANGED, " ".join(_texts(command)))


def _module(claims: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    modules = claims.get("submods")
    found = modules.get(name) if isinstance(modules, dict) else None
    return found if isinstance(found, dict) else {}


def _texts(value: Any) -> list[str]:
    """Return a claim that is a text or several as several."""
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _utc(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return str(seconds)
