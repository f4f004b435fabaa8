"""Who signed a token: Google's key of that id (OIDC), or a chain of certificates to Google's root (PKI).

As Google's documents of Confidential Space have it: RS256 only; an OIDC token names its key, which is in the key set of the
issuer; a PKI token carries its chain of certificates (`x5c`: leaf, intermediate, root) and names no key.
"""

import base64
import binascii
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import InvalidTokenError, PyJWK, PyJWS, PyJWTError
from pydantic import BaseModel, TypeAdapter

from consensus_flows.tasks.attestation.failures import Failure, Kind

ISSUER = "https://confidentialcomputing.googleapis.com"
ALGORITHM = "RS256"
TIMEOUT_S = 20.0


class KeySet(BaseModel):
    """A JSON web key set."""

    keys: list[dict[str, Any]]


_CLAIMS = TypeAdapter(dict[str, Any])


class Token(NamedTuple):
    """A token as it was read; nothing in it is verified."""

    text: str
    header: dict[str, Any]
    claims: dict[str, Any]

    @property
    def type(self) -> str:
        """The type that it was asked for as."""
        return "PKI" if "x5c" in self.header else "OIDC"


def read_token(text: str) -> Token:
    """Read a token without verifying it.

    Raises:
        ValueError: If it is none.
    """
    try:
        found = PyJWS().decode_complete(text, options={"verify_signature": False})
        return Token(text, found["header"], _CLAIMS.validate_json(found["payload"]))
    except InvalidTokenError as error:
        raise ValueError(str(error)) from None


def fetch_keys(issuer: str = ISSUER) -> KeySet:
    """Fetch the key set that the issuer publishes.

    Raises:
        httpx.HTTPError: If it cannot be fetched.
        ValueError: If what was fetched is no key set.
    """
    with httpx.Client(timeout=TIMEOUT_S) as client:
        found = client.get(f"{issuer}/.well-known/openid-configuration").raise_for_status().json()
        address = found.get("jwks_uri") if isinstance(found, dict) else None
        if not isinstance(address, str) or not address.startswith("https://"):
            raise ValueError("the issuer names no key set at an https address")
        return KeySet.model_validate_json(client.get(address).raise_for_status().content)


def check_by_keys(token: Token, keys: KeySet) -> Iterator[Failure]:
    """Check the signature of an OIDC token by the issuer's keys."""
    if token.type != "OIDC":
        yield Failure(Kind.WRONG_TYPE, token.type, "OIDC")
        return
    key_id = token.header.get("kid")
    if not key_id:
        yield Failure(Kind.MISSING_KEY_ID)
        return
    named = [one for one in keys.keys if one.get("kid") == key_id]
    if not named:
        known = ", ".join(str(one.get("kid")) for one in keys.keys)
        yield Failure(Kind.UNKNOWN_KEY_ID, str(key_id), known)
        return
    try:
        key = PyJWK.from_dict(named[0], algorithm=ALGORITHM).key
    except PyJWTError as error:
        yield Failure(Kind.BAD_SIGNATURE, f"the key {key_id} cannot be used: {error}")
        return
    yield from _check_signed(token, key)


def check_by_root(token: Token, root: str, at: datetime) -> Iterator[Failure]:
    """Check the signature of a PKI token by its chain of certificates, which must end with the one whose SHA-256 is `root`."""
    if token.type != "PKI":
        yield Failure(Kind.WRONG_TYPE, token.type, "PKI")
        return
    if "kid" in token.header:
        yield Failure(Kind.UNEXPECTED_KEY_ID, str(token.header["kid"]))
    try:
        chain = [x509.load_der_x509_certificate(base64.b64decode(one, validate=True)) for one in token.header["x5c"]]
    except (ValueError, TypeError, binascii.Error) as error:
        yield Failure(Kind.BROKEN_CHAIN, f"x5c cannot be read: {error}")
        return
    if not chain:
        yield Failure(Kind.BROKEN_CHAIN, "x5c is empty")
        return
    if fingerprint(chain[-1]) != root:
        yield Failure(Kind.OTHER_ROOT, fingerprint(chain[-1]), root)
    for one in chain:
        if not one.not_valid_before_utc <= at <= one.not_valid_after_utc:
            dates = f"{one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}"
            yield Failure(
                Kind.CERTIFICATE_DATES, f"{one.subject.rfc4514_string()}: {dates}", f"{at:%Y-%m-%d %H:%M} UTC"
            )
    yield from _check_issued(chain)
    key = chain[0].public_key()
    if not isinstance(key, RSAPublicKey):
        yield Failure(Kind.BAD_SIGNATURE, "the key of the leaf certificate is not RSA")
        return
    yield from _check_signed(token, key)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate as it is usually pinned: over its DER form."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _check_issued(chain: list[x509.Certificate]) -> Iterator[Failure]:
    """Check that each certificate was issued by the next, which must be allowed to."""
    for one, above in pairwise(chain):
        name = one.subject.rfc4514_string()
        try:
            one.verify_directly_issued_by(above)
            if not above.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                yield Failure(Kind.BROKEN_CHAIN, f"{above.subject.rfc4514_string()} may not issue certificates")
        except (InvalidSignature, TypeError, ValueError):
            yield Failure(Kind.BROKEN_CHAIN, f"{name} was not issued by {above.subject.rfc4514_string()}")
        except x509.ExtensionNotFound:
            yield Failure(Kind.BROKEN_CHAIN, f"{above.subject.rfc4514_string()} may not issue certificates")


def _check_signed(token: Token, key: RSAPublicKey) -> Iterator[Failure]:
    if token.header.get("alg") != ALGORITHM:  # which is reported on its own
        return
    try:
        PyJWS().decode(token.text, key, algorithms=[ALGORITHM])
    except PyJWTError as error:
        yield Failure(Kind.BAD_SIGNATURE, str(error))
