"""Where the gateway and the MCP server listen, and the token that their clients must send."""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

from consensus_flows.deployments.commands.settings.keys import GATEWAY_BLOCK
from consensus_flows.deployments.prefect_server import ANY_ADDRESS
from consensus_flows.deployments.proxies import LOOPBACK
from consensus_flows.deployments.terminal import Stop


def hosts_of(host: str, allowed: Iterable[str] | None) -> list[str]:
    """Return the names, beside those of loopback, under which clients reach what listens on `host`.

    Raises:
        Stop: If none is known.
    """
    hosts = list(allowed or [])
    if host in LOOPBACK:
        return hosts
    if host in ANY_ADDRESS:
        if not hosts:
            raise Stop(
                "--allow-host: name the host under which clients reach this server, for example --allow-host my-server"
            )
        return hosts
    return [*hosts, host]


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        Stop: If nothing can listen there.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise Stop(f"--port {port}: {host} cannot be listened on: {error.strerror}") from None


def url_of(listener: socket.socket, host: str) -> str:
    """Return the URL of what listens."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def token_of(host: str, block: str | None) -> str | None:
    """Return the token that clients must send; None for none, which is so on a loopback address unless a block is named.

    Raises:
        Stop: If none is saved.
    """
    block = block or (None if host in LOOPBACK else GATEWAY_BLOCK)
    return None if block is None else asyncio.run(_read(block))


async def _read(block: str) -> str:
    from prefect.blocks.system import Secret

    try:
        secret: Any = await Secret.aload(block)
    except ValueError:
        raise Stop(
            f"clients must send a token, and none is saved: `openssl rand -hex 32 | consensus keys token --block {block}`"
        ) from None
    return str(secret.get())
