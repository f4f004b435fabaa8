"""`consensus verify`: whether a record is the one that an image computed in Google's Confidential Space."""

import re
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
from cryptography import x509
from cyclopts import Group, Parameter
from pydantic import ValidationError

from consensus_flows.deployments.terminal import Exit, Stop, explain, put, put_json, read_stdin, read_text
from consensus_flows.tasks.attestation.digest import AUDIENCE, configuration_digest
from consensus_flows.tasks.attestation.failures import Failure, Kind
from consensus_flows.tasks.attestation.signature import ISSUER, KeySet, fetch_keys, fingerprint
from consensus_flows.tasks.attestation.verifying import HARDWARE, Expected, Trust, Verification
from consensus_flows.tasks.attestation.verifying import verify as verified
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import Record

KEYS = Group("Keys", sort_key=1)
EXPECTED = Group("What is expected", sort_key=2)
IMAGE = re.compile(r"(?:[^\s@]+@)?(sha256:[0-9a-f]{64})")
HEX = re.compile(r"[0-9a-f]{64}")

SENTENCES = {
    Kind.NOT_ATTESTED: "the record holds no attestation: ask with --attest inside Confidential Space",
    Kind.MALFORMED_TOKEN: "the token cannot be read: {found}",
    Kind.WRONG_ALGORITHM: "the token is signed with {found}, not {expected}",
    Kind.WRONG_TYPE: "this is a token of type {found}, and what was given verifies one of type {expected}",
    Kind.MISSING_KEY_ID: "the token does not name its key (kid)",
    Kind.UNKNOWN_KEY_ID: "the token's key {found} is not among the keys {expected}: fetch newer ones, or those of its time",
    Kind.KEYS_UNAVAILABLE: "the issuer's keys cannot be fetched ({found}): try again, or give saved ones with --jwks",
    Kind.UNEXPECTED_KEY_ID: "the token has a chain of certificates, and names a key {found} beside it (kid)",
    Kind.BROKEN_CHAIN: "the chain of certificates is broken: {found}",
    Kind.OTHER_ROOT: "the root certificate is {found}, not {expected}",
    Kind.CERTIFICATE_DATES: "a certificate is not valid at {expected}: {found}",
    Kind.BAD_SIGNATURE: "the signature is wrong: {found}",
    Kind.MALFORMED_CLAIMS: "the token's claims cannot be read: {found}",
    Kind.OTHER_ISSUER: "the token was issued by {found}, not by {expected}",
    Kind.OTHER_AUDIENCE: "the token was made for {found}, not for {expected}",
    Kind.EXPIRED: "the token expired at {found}, and it is {expected}: --at TIME verifies it as of an earlier time",
    Kind.NOT_YET_VALID: "the token is valid from {found}, and it is {expected}",
    Kind.RECORD_CHANGED: "the record was changed: its {found} is not what was attested",
    Kind.DIGEST_CHANGED: "the record was changed: its digest is {expected}, not {found}",
    Kind.OTHER_RECORD: "the token is that of another record: it repeats {found}, not {expected}",
    Kind.OTHER_CHALLENGE: "the token does not repeat the challenge {expected}",
    Kind.OTHER_NONCES: "the token repeats a text that is neither the record's digest nor the challenge: {found}",
    Kind.OTHER_SOFTWARE: "the machine ran {found}, not {expected}",
    Kind.DEBUG_IMAGE: "the machine could be debugged (dbgstat is {found}, not {expected}): its operator could change anything",
    Kind.UNSUPPORTED_IMAGE: "the machine's image is not a supported production image (support_attributes: {found}, not {expected})",
    Kind.NO_SECURE_BOOT: "the machine was started without secure boot (secboot is {found})",
    Kind.OTHER_HARDWARE: "the hardware is {found}, not one of {expected}",
    Kind.OTHER_IMAGE: "the container image is {found}, not {expected}",
    Kind.ENVIRONMENT_CHANGED: "the operator set environment variables: {found}; --allow-env NAME accepts one",
    Kind.COMMAND_CHANGED: "the operator replaced the image's command: {found}",
    Kind.OTHER_CONFIGURATION: "the settings are not those of --config (digest {found}, not {expected})",
}


def verify(
    record: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    image: Annotated[str, Parameter(group=EXPECTED, metavar="sha256:...")],
    jwks: Annotated[Path | None, Parameter(group=KEYS, metavar="FILE")] = None,
    pki_root: Annotated[Path | None, Parameter(group=KEYS, metavar="FILE")] = None,
    pki_root_sha256: Annotated[str | None, Parameter(group=KEYS, metavar="HEX")] = None,
    challenge: Annotated[str | None, Parameter(group=EXPECTED, metavar="TEXT", allow_leading_hyphen=True)] = None,
    audience: Annotated[str, Parameter(group=EXPECTED, metavar="TEXT")] = AUDIENCE,
    at: Annotated[datetime | None, Parameter(group=EXPECTED, metavar="TIME")] = None,
    hardware: Annotated[list[str] | None, Parameter(group=EXPECTED, metavar="MODEL", negative="")] = None,
    allow_env: Annotated[list[str] | None, Parameter(group=EXPECTED, metavar="NAME", negative="")] = None,
    config: Annotated[Path | None, Parameter(group=EXPECTED, metavar="FILE")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> IntEnum:
    """Verify that a container image computed a record in Google's Confidential Space.

    Exit 0 if it did. Every reason to refuse a record has an exit code of its own, from 10 on; that of the first is returned,
    and all are listed. An OIDC token is verified by the issuer's keys, which are fetched unless `--jwks` is given; a PKI
    token needs `--pki-root` or `--pki-root-sha256`. Given these, nothing is fetched.

    Args:
        record: File of the record, as `--output` and `--json` write it; - reads standard input.
        image: Digest of the container image that you trust.
        jwks: The issuer's keys (JWKS), saved.
        pki_root: Google's root certificate, as PEM or DER.
        pki_root_sha256: SHA-256 of Google's root certificate (DER), in place of the file or to check it.
        challenge: The challenge that you gave.
        audience: For whom the token was made.
        at: Time as of which it is verified, UTC unless it says otherwise; default: now. Tokens are valid for an hour.
        hardware: Accepted hardware, for example GCP_INTEL_TDX; default: all that encrypts its memory. May be repeated.
        allow_env: Environment variable that the operator may have set. May be repeated.
        config: File of the settings that you expect, as `consensus show NAME` prints them.
        json: Print JSON.
    """
    found = _read_record(record)
    if not (digest := IMAGE.fullmatch(image)):
        raise Stop(f"--image {image}: give the image's digest, sha256: and 64 hexadecimal digits")
    moment = at or datetime.now(UTC)
    expected = Expected(
        digest[1],
        moment if moment.tzinfo else moment.replace(tzinfo=UTC),
        challenge,
        audience,
        tuple(hardware or HARDWARE),
        tuple(allow_env or ()),
        _configuration(found, config) if config else None,
    )
    result = verified(found, expected, _trust(found, jwks, _root(pki_root, pki_root_sha256)))
    if json:
        put_json(_document(found, expected, result))
    else:
        put(_text(found, expected, result))
    return result.failures[0].kind if result.failures else Exit.ANSWER


def _read_record(name: str) -> Record:
    text = read_stdin() if name == "-" else read_text(Path(name), "record")
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        raise Stop(f"{name} is not the record of a run: {explain(error).splitlines()[0]}") from None


def _root(file: Path | None, sha256: str | None) -> str | None:
    """Return the SHA-256 of the root certificate that is trusted, if one is."""
    given = sha256.replace(":", "").lower() if sha256 else None
    if given and not HEX.fullmatch(given):
        raise Stop(f"--pki-root-sha256 {sha256}: give 64 hexadecimal digits")
    if file is None:
        return given
    try:
        data = file.read_bytes()
        load = x509.load_pem_x509_certificate if b"-----BEGIN" in data else x509.load_der_x509_certificate
        own = fingerprint(load(data))
    except OSError as error:
        raise Stop(f"--pki-root {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Stop(f"--pki-root {file} is not a certificate: {error}") from None
    if given not in {None, own}:
        raise Stop(f"--pki-root {file}: its SHA-256 is {own}, not {given}")
    return own


def _trust(record: Record, jwks: Path | None, root: str | None) -> Trust:
    """Return by what the signature is checked."""
    if root and jwks:
        raise Stop("--jwks verifies OIDC tokens and --pki-root PKI tokens: give one of them")
    if root:
        return root
    if jwks:
        try:
            return KeySet.model_validate_json(read_text(jwks, "--jwks"))
        except ValidationError as error:
            raise Stop(f"--jwks {jwks} is not a JSON web key set: {explain(error).splitlines()[0]}") from None
    if record.attestation is None:
        return Failure(Kind.NOT_ATTESTED)
    try:
        return fetch_keys()
    except (httpx.HTTPError, ValueError) as error:
        return Failure(Kind.KEYS_UNAVAILABLE, f"{ISSUER}: {error}")


def _configuration(record: Record, file: Path) -> str:
    # Imported only now, because configurations are Prefect's blocks, and take seconds.
    from consensus_flows.deployments.options import FILE, configured
    from consensus_flows.flows.algorithms import algorithm

    return configuration_digest(configured(algorithm(record.flow).config_class(), {FILE: file}))


def _sentence(failure: Failure) -> str:
    return SENTENCES[failure.kind].format(found=failure.found or "nothing", expected=failure.expected or "nothing")


def _document(record: Record, expected: Expected, result: Verification) -> dict[str, Any]:
    good = not result.failures
    return {
        "verified": good,
        "failures": [
            {
                "kind": one.kind.slug,
                "exit_code": int(one.kind),
                "found": one.found,
                "expected": one.expected,
                "message": _sentence(one),
            }
            for one in result.failures
        ],
        "proved": _proved(record, expected, result) if good else [],
        "not_proved": _not_proved(record, expected) if good else [],
        "claims": result.token.claims if result.token else None,
    }


def _text(record: Record, expected: Expected, result: Verification) -> str:
    if result.failures:
        lines = [f"  {one.kind.slug} ({int(one.kind)}): {_sentence(one)}" for one in result.failures]
        return "\n".join([f"refused: {plural(len(lines), 'check')} failed", *lines])
    return "\n".join(
        [
            "verified",
            "Proved:",
            *(f"  - {one}" for one in _proved(record, expected, result)),
            "Not proved:",
            *(f"  - {one}" for one in _not_proved(record, expected)),
        ]
    )


def _proved(record: Record, expected: Expected, result: Verification) -> list[str]:
    assert record.attestation is not None
    assert result.token is not None
    parts, claims = record.attestation.parts, result.token.claims
    environment = sorted(claims["submods"]["container"].get("env_override") or {})
    changed = f"set only {', '.join(environment)}" if environment else "changed neither its command nor its environment"
    calls = plural(len(record.calls_made()), "call")
    proved = [
        f"The image {expected.image} computed this record at {parts.time}: prompt, answer, models, and what its {calls} gave.",
        f"It ran on {claims['hwmodel']} with secure boot, in a production image of Confidential Space, and its operator {changed}.",
    ]
    if hosts := sorted({parts.endpoints[model] for model in parts.models if model in parts.endpoints}):
        proved.append(f"It called {', '.join(hosts)}.")
    if expected.challenge:
        proved.append("The token repeats your challenge: the record is newer than it.")
    if expected.configuration:
        proved.append("The settings are those of --config.")
    return proved


def _not_proved(record: Record, expected: Expected) -> list[str]:
    assert record.attestation is not None
    open_ = [
        "That the models said what the record holds: the image says so. The vendors' connections end in it, and they sign nothing.",
        "What the image does: read its source, build it again, and compare the digest.",
    ]
    if not expected.challenge:
        open_.append("That the record is new: no --challenge was given.")
    if not expected.configuration:
        open_.append("With which settings it was asked: no --config was given.")
    calls = record.calls_made()
    if cached := sum(call.cached for call in calls):
        open_.append(f"When {cached} of its {plural(len(calls), 'call')} were answered: from the cache.")
    if recorded := sum(call.recorded for call in calls):
        open_.append(
            f"Where {recorded} of its {plural(len(calls), 'answer')} come from: they were recorded, and given to the run."
        )
    if record.attestation.parts.conversation:
        open_.append("What was said before: the record does not hold the conversation.")
    return open_
