"""`consensus serve`: the gateway."""

from typing import Annotated

from cyclopts import Parameter

from consensus_flows.blocks.member import parse_member
from consensus_flows.deployments.gateway.listening import hosts_of, listen, token_of, url_of
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
    attest: Annotated[bool, Parameter(negative="")] = False,
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
        attest: Have every answer attested in Google's Confidential Space; `consensus.record` of an answer can be verified.
    """
    if title_model is not None:
        try:
            parse_member(title_model)
        except ValueError as error:
            raise Stop(f"--title-model: {error}") from None
    if attest:
        from consensus_flows.tasks.attestation.attesting import check_launcher

        check_launcher()
    hosts = hosts_of(host, allow_host)
    # Imported only now, because it imports FastAPI.
    from consensus_flows.deployments.gateway.app import Options, make_app
    from consensus_flows.deployments.gateway.serving import serve_until_told
    from consensus_flows.deployments.resident import resident

    listener = listen(host, port)
    with listener, resident():  # before the environment is changed
        server = connect()
        options = Options(server, token_of(host, token_block), hosts, allow_origin or [], progress, title_model, attest)
        app = make_app(options)
        address = url_of(listener, host)
        say(f"consensus: serving the saved configurations at {address}/v1, with documentation at {address}/docs")
        serve_until_told(app, listener, grace)
    return Exit.ANSWER
