"""Has a record attested: asks the launcher of Confidential Space for a token that repeats its digest.

The launcher is Google's, the process that starts the image. It listens on a Unix socket inside the container:
`POST http://localhost/v1/token` with `audience`, `token_type` and `nonces` answers with the token as text.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE

from consensus_flows.blocks.panel import RunConfig
from consensus_flows.tasks.attestation.digest import AUDIENCE, digest_of, nonce_of, parts_of
from consensus_flows.tasks.calls.providers import BACKOFF_S, setting
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError, ConsensusError
from consensus_flows.tasks.record import Attestation, Record

SOCKET = "/run/container_launcher/teeserver.sock"
TIMEOUT_S = 30.0
RETRIES = 3


class AttestationError(ConsensusError):
    """The launcher gave no token."""


def launcher_socket() -> Path:
    """Return where the launcher listens; `CONSENSUS_TEE_SOCKET` names another place."""
    return Path(os.environ.get("CONSENSUS_TEE_SOCKET") or SOCKET)


def check_launcher() -> None:
    """Check that this process runs in Confidential Space.

    Raises:
        ConfigurationError: If not.
    """
    socket = launcher_socket()
    try:
        found = stat.S_ISSOCK(socket.stat().st_mode)
    except OSError:
        found = False
    if not found:
        raise ConfigurationError(
            f"requires Google's Confidential Space, and there is no launcher at {socket}: run the image of "
            "deployments/confidential-space there, or ask without --attest",
            field="attest",
        )


async def attest(
    record: Record, config: RunConfig, conversation: Sequence[Message], endpoints: Mapping[str, str]
) -> None:
    """Have a record attested, which is complete. The answer is paid for: without a token it stands, with a warning.

    Args:
        record: The record.
        config: The settings of the run.
        conversation: The earlier messages.
        endpoints: For each model the base URL of its provider.
    """
    wanted = config.attestation
    parts = parts_of(
        record,
        configuration=config,
        conversation=[message.model_dump(mode="json") for message in conversation],
        endpoints=endpoints,
        time=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    digest, audience = digest_of(parts), wanted.audience or AUDIENCE
    nonces = [*([wanted.challenge] if wanted.challenge else []), nonce_of(digest)]
    asked = request_token.with_options(retries=RETRIES, retry_delay_seconds=setting("BACKOFF_S", BACKOFF_S))
    try:
        token = await asked({"audience": audience, "token_type": wanted.token_type, "nonces": nonces})
    except AttestationError as error:
        record.warn("not_attested", f"the answer is not attested: {error}")
        record.degraded = True
    else:
        record.attestation = Attestation(
            parts=parts, digest=digest, challenge=wanted.challenge, audience=audience, token=token
        )


@task(name="attest", task_run_name="attest", cache_policy=NO_CACHE, persist_result=False)
async def request_token(wanted: dict[str, str | list[str]]) -> str:
    """Ask the launcher for a token.

    Args:
        wanted: Audience, type and nonces of the token.

    Raises:
        AttestationError: If it gives none.
    """
    socket = launcher_socket()
    try:
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(socket)), timeout=TIMEOUT_S) as client:
            response = await client.post("http://localhost/v1/token", json=wanted)
    except httpx.HTTPError as error:
        raise AttestationError(f"the launcher at {socket} does not answer: {type(error).__name__} {error}") from None
    token = response.text.strip()
    if response.status_code != HTTPStatus.OK or not token:
        raise AttestationError(f"the launcher gave no token: HTTP {response.status_code} {token[:300]}")
    return token
