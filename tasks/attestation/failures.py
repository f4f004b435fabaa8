"""Why an attested record is refused: a kind, which is the exit code too, and what was expected and found."""

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """Kinds of failures, in the order in which they are checked; each is an exit code of its own."""

    NOT_ATTESTED = 10
    MALFORMED_TOKEN = 11
    WRONG_ALGORITHM = 12
    WRONG_TYPE = 13
    """An OIDC token where a root certificate was given, or a PKI token where keys were."""
    MISSING_KEY_ID = 14
    UNKNOWN_KEY_ID = 15
    KEYS_UNAVAILABLE = 16
    UNEXPECTED_KEY_ID = 17
    """A PKI token that names a key, too."""
    BROKEN_CHAIN = 18
    OTHER_ROOT = 19
    CERTIFICATE_DATES = 20
    BAD_SIGNATURE = 21
    MALFORMED_CLAIMS = 22
    OTHER_ISSUER = 23
    OTHER_AUDIENCE = 24
    EXPIRED = 25
    NOT_YET_VALID = 26
    RECORD_CHANGED = 27
    DIGEST_CHANGED = 28
    """The parts do not have the digest that is written beside them."""
    OTHER_RECORD = 29
    """The token repeats another digest."""
    OTHER_CHALLENGE = 30
    OTHER_NONCES = 31
    """The token repeats something else, too."""
    OTHER_SOFTWARE = 32
    DEBUG_IMAGE = 33
    UNSUPPORTED_IMAGE = 34
    NO_SECURE_BOOT = 35
    OTHER_HARDWARE = 36
    OTHER_IMAGE = 37
    ENVIRONMENT_CHANGED = 38
    COMMAND_CHANGED = 39
    OTHER_CONFIGURATION = 40

    @property
    def slug(self) -> str:
        """The kind as it is written in JSON."""
        return self.name.lower()


class Failure(NamedTuple):
    """One check that failed."""

    kind: Kind
    found: str = ""
    expected: str = ""
