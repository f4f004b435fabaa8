"""`consensus mcp`: the MCP server."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from consensus_flows.blocks.settings import Budget
from consensus_flows.deployments.gateway.listening import hosts_of, listen, token_of, url_of
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, say


def mcp(
    *,
    max_calls: Annotated[int | None, Parameter(validator=Number(gte=1), metavar="N")] = None,
    max_cost: Annotated[float | None, Parameter(validator=Number(gt=0), metavar="USD")] = None,
    http: Annotated[bool, Parameter(negative="")] = False,
    host: Annotated[str, Parameter(metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, Parameter(metavar="N")] = 8001,
    token_block: Annotated[str | None, Parameter(metavar="NAME")] = None,
    allow_host: Annotated[list[str] | None, Parameter(negative="", metavar="HOST")] = None,
) -> Exit:
    """Serve panels as tools of an MCP client, such as Claude, Cursor or VS Code, over standard input and output.

    Each run is one in the Prefect UI and in the history. When the client leaves, runs and batches under way are canceled; every
    answer that was paid for is cached.

    Args:
        max_calls: Maximum number of requests of all tools together, until the server ends.
        max_cost: Maximum cost of all tools together, in US dollars, until the server ends.
        http: Serve over HTTP instead, at /mcp, until Ctrl-C.
        host: Address to listen on. Any but a loopback address requires a token.
        port: Port to listen on.
        token_block: Secret block with the bearer token that clients must send; default: consensus-gateway, and no token on a
            loopback address.
        allow_host: Host name under which clients reach the server. May be repeated.
    """
    try:
        from consensus_flows.deployments.mcp.serving import make_app, serve_stdio
        from consensus_flows.deployments.mcp.session import CANCEL_S, Session
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        raise Stop("the MCP server needs the extra mcp: pip install 'consensus-flows[mcp]'") from None
    session = Session(Budget(max_calls=max_calls, max_cost_usd=max_cost))
    if not http:
        serve_stdio(session)
        return Exit.ANSWER
    from consensus_flows.deployments.gateway.serving import serve_until_told

    hosts = hosts_of(host, allow_host)
    with listen(host, port) as listener:
        connect()
        app = make_app(session, hosts=hosts, token=token_of(host, token_block))
        say(f"consensus: serving tools at {url_of(listener, host)}/mcp")
        serve_until_told(app, listener, CANCEL_S)
    return Exit.ANSWER
