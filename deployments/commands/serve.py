"""`consensus serve`: the gateway."""

import asyncio
import socket
from typing import Annotated, Any

from cyclopts import Parameter

from consensus_flows.blocks.member import parse_member
from consensus_flows.deployments.commands.settings.keys import GATEWAY_BLOCK
from consensus_flows.deployments.prefect_server import ANY_ADDRESS
from consensus_flows.deployments.proxies import LOOPBACK
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, say


def serve(
    *,
    host: Annotated[str, Parameter(metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, Parameter(metavar="N")] = 8000,
    token_block: Annotated[str | None, Parameter(metavar="NAME")] = None,
    allow_host: Annotated[list[str] | None, Parameter(negative="", metavar="HOST")] = None,
    allow_origin: Annotated[list[str] | None, Parameter(negative="", metavar="URL")] = None,
    title_model: Annotated[str | None, Parameter(metavar="MODEL")] = None,
    progress: bool = True,
    grace: Annotated[float, Parameter(metavar="SECONDS")] = 60.0,
) -> Exit:
    """Serve the saved configurations as models of an OpenAI-compatible API.

    Each request is a run in the Prefect UI and a turn in the history. Ctrl-C lets runs under way end.

    Args:
        host: Address to listen on. Any but a loopback address requires a token.
        port: Port to listen on.
        token_block: Secret block with the token that clients must send as their API key; default: consensus-gateway, and no
            token on a loopback address.
        allow_host: Host name under which clients reach the gateway. May be repeated.
        allow_origin: Origin of web pages that may use the gateway, for example https://chat.example.com. May be repeated.
        title_model: Model that answers as NAME:title, as provider/model; default: the first model of the configuration.
        progress: Stream the progress of the members as reasoning.
        grace: Seconds that runs under way may take to end when the gateway is stopped.
    """
    if title_model is not None:
        try:
            parse_member(title_model)
        except ValueError as error:
            raise Stop(f"--title-model: {error}") from None
    hosts = list(allow_host or [])
    if host not in LOOPBACK:
        if host in ANY_ADDRESS and not hosts:
            raise Stop(
                "--allow-host: name the host under which clients reach the gateway, for example --allow-host my-server"
            )
        hosts += [] if host in ANY_ADDRESS else [host]
    # Imported only now, because it imports FastAPI.
    from consensus_flows.deployments.gateway.app import Options, make_app
    from consensus_flows.deployments.gateway.serving import serve_until_told

    listener = _listen(host, port)
    with listener:
        server = connect()
        block = token_block or (None if host in LOOPBACK else GATEWAY_BLOCK)
        token = None if block is None else asyncio.run(_token(block))
        options = Options(server, token, hosts, allow_origin or [], progress, title_model, grace)
        app = make_app(options)
        port = listener.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        say(f"consensus: serving the saved configurations at {address}/v1, with documentation at {address}/docs")
        serve_until_told(app, listener, grace)
    return Exit.ANSWER


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise Stop(f"--port {port}: {host} cannot be listened on: {error.strerror}") from None


async def _token(block: str) -> str:
    from prefect.blocks.system import Secret

    try:
        secret: Any = await Secret.aload(block)
    except ValueError:
        raise Stop(
            f"clients must send a token, and none is saved: `openssl rand -hex 32 | consensus keys token --block {block}`"
        ) from None
    return str(secret.get())
