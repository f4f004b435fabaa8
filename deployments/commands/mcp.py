"""`consensus mcp`: the MCP server."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from consensus_flows.blocks.settings import Budget
from consensus_flows.deployments.terminal import Exit, Stop


def mcp(
    *,
    max_calls: Annotated[int | None, Parameter(validator=Number(gte=1), metavar="N")] = None,
    max_cost: Annotated[float | None, Parameter(validator=Number(gt=0), metavar="USD")] = None,
) -> Exit:
    """Serve panels as tools of an MCP client, such as Claude, Cursor or VS Code, over standard input and output.

    Args:
        max_calls: Maximum number of requests of all tools together.
        max_cost: Maximum cost of all tools together, in US dollars.
    """
    try:
        from consensus_flows.deployments.mcp.serving import serve_stdio
        from consensus_flows.deployments.mcp.session import Session
    except ModuleNotFoundError as error:
        if error.name != "mcp":
            raise
        raise Stop("the MCP server needs the extra mcp: pip install 'consensus-flows[mcp]'") from None
    serve_stdio(Session(Budget(max_calls=max_calls, max_cost_usd=max_cost)))
    return Exit.ANSWER
