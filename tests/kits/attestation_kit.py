"""An authority of the tests' own, whose tokens look like Google's, and a stand-in for the launcher of Confidential Space."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from consensus_flows.tasks.attestation.digest import AUDIENCE
from consensus_flows.tasks.attestation.signature import ISSUER

IMAGE = f"sha256:{'a1' * 32}"
KEY_ID = "key-1"
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
MISSING: Any = object()
"""In place of a value: leave the claim out."""


@cache
def key(name: str) -> rsa.RSAPrivateKey:
    """A key of this name; it is made once, because that takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwks(*, name: str = "oidc", key_id: str = KEY_ID) -> dict[str, Any]:
    """The key set that the authority publishes."""
    own = jwt.algorithms.RSAAlgorithm.to_jwk(key(name).public_key(), as_dict=True)
    return {"keys": [own | {"kid": key_id, "alg": "RS256", "use": "sig"}]}


def certificate(
    subject: str, issuer: str, *, ca: bool, signed_by: str | None = None, ends: datetime = NOW + timedelta(days=36500)
) -> x509.Certificate:
    """A certificate for the key called `subject`."""
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key(subject).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=365))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    return made.sign(key(signed_by or issuer), hashes.SHA256())


@cache
def chain() -> tuple[x509.Certificate, ...]:
    """Leaf, intermediate and root."""
    return (
        certificate("leaf", "intermediate", ca=False),
        certificate("intermediate", "root", ca=True),
        certificate("root", "root", ca=True),
    )


def x5c(*certificates: x509.Certificate) -> list[str]:
    """Certificates as they stand in the header of a token."""
    return [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in certificates]


def claims(nonces: list[str], *, at: datetime = NOW, audience: str = AUDIENCE, **changes: Any) -> dict[str, Any]:
    """The claims of a good token; a change is given by its path, as `submods__container__image_digest`."""
    issued = int(at.timestamp())
    made: dict[str, Any] = {
        "iss": ISSUER,
        "aud": audience,
        "iat": issued,
        "nbf": issued,
        "exp": issued + 3600,
        "sub": "https://www.googleapis.com/compute/v1/projects/some-project/zones/us-west1-b/instances/vm",
        "eat_nonce": nonces[0] if len(nonces) == 1 else nonces,
        "secboot": True,
        "oemid": 11129,
        "hwmodel": "GCP_AMD_SEV",
        "swname": "CONFIDENTIAL_SPACE",
        "swversion": ["260300"],
        "dbgstat": "disabled-since-boot",
        "submods": {
            "confidential_space": {"support_attributes": ["LATEST", "STABLE", "USABLE"]},
            "container": {
                "image_reference": f"us-docker.pkg.dev/some-project/images/consensus@{IMAGE}",
                "image_digest": IMAGE,
                "restart_policy": "Never",
                "image_id": f"sha256:{'b2' * 32}",
                "env_override": None,
                "cmd_override": None,
                "env": {"PATH": "/opt/venv/bin"},
                "args": ["tini", "-g", "--"],
            },
            "gce": {"project_id": "some-project", "zone": "us-west1-b"},
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        where = made
        for name in parents:
            where = where[name]
        where[last] = value
        if value is MISSING:
            del where[last]
    return made


def sign_oidc(payload: dict[str, Any], *, by: str = "oidc", **header: Any) -> str:
    """Sign claims as the authority does with a key of its set; a header that is None is left out."""
    return jwt.encode(payload, key(by), algorithm="RS256", headers={"kid": KEY_ID} | header)


def sign_pki(payload: dict[str, Any], *, by: str = "leaf", certificates: Any = None, **header: Any) -> str:
    """Sign claims as the authority does with the key of a certificate."""
    return jwt.encode(payload, key(by), algorithm="RS256", headers={"x5c": x5c(*(certificates or chain()))} | header)


class _UnixServer(ThreadingUnixStreamServer):
    daemon_threads = True
    requests: list[dict[str, Any]]
    answers: list[tuple[int, str]]

    def token(self, wanted: dict[str, Any]) -> str:
        sign = sign_pki if wanted["token_type"] == "PKI" else sign_oidc
        return sign(claims(wanted["nonces"], at=datetime.now(UTC), audience=wanted["audience"]))


class _Handler(BaseHTTPRequestHandler):
    server: _UnixServer

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, **wanted})
        status, text = self.server.answers.pop(0) if self.server.answers else (200, "")
        if self.path != "/v1/token" or not {"audience", "nonces", "token_type"} >= set(wanted):
            status, text = 400, "failed to parse POST body as TokenOptions"
        if not all(8 <= len(one.encode()) <= 88 for one in wanted["nonces"]):
            status, text = 400, "invalid nonce"
        data = (text or self.server.token(wanted)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def launcher(socket: Path, *answers: tuple[int, str]) -> Iterator[list[dict[str, Any]]]:
    """Serve tokens on a Unix socket as the launcher does; gives the requests, as they come.

    Args:
        socket: Where it listens.
        answers: Statuses and texts of the first answers, in place of tokens.
    """
    with _UnixServer(str(socket), _Handler) as server:
        server.requests, server.answers = [], list(answers)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.requests
        finally:
            server.shutdown()
            thread.join()
