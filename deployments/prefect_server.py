"""The Prefect server that `consensus` starts: Prefect's own application, closed to everyone but its owner.

`python -m consensus_flows.deployments.prefect_server FD` serves on a listening socket that is already open. The command binds it before it starts
this process, so no other program can take the port in between and be handed the password.

What keeps strangers out: the auth string (requests and websockets), CORS and CSRF protection, all three Prefect's own settings, and
a check of the `Host` header, which Prefect lacks and which stops DNS rebinding. The sign-in page lets `consensus ui` open the
Prefect UI without anyone typing the password.

On SQLite, transactions wait for one another instead of failing with 503.
"""

import socket
import sys
from typing import Any

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from sqlalchemy import Engine, event
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from consensus_flows.deployments.server_access import SIGN_IN_PATH

LOOPBACK_HOSTS = ("127.0.0.1", "localhost")
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on.

# The password comes in the URL's fragment, which browsers send to no server. Prefect's UI looks for it in local storage. Nothing is
# stored unless the API accepts it, so that a link from elsewhere cannot sign anyone out.
_SIGN_IN_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Prefect UI</title><meta name="color-scheme" content="light dark">
<p id="status">Signing in ...</p>
<script>
const token = btoa(decodeURIComponent(location.hash.slice(1)));
history.replaceState(null, "", location.pathname);
fetch("API_PATH/admin/version", {headers: {Authorization: `Basic ${token}`}}).then(answer => {
  if (!answer.ok) throw new Error();
  localStorage.setItem("prefect-password", token);
  location.replace("/");
}).catch(() => {
  document.getElementById("status").textContent = "This link is no longer valid. Run `consensus ui` again.";
});
</script></html>
"""


def begin_immediate(engine: Engine | type[Engine]) -> None:
    """Start transactions with BEGIN IMMEDIATE where Prefect asks for BEGIN DEFERRED.

    A deferred transaction takes SQLite's write lock when it first writes. If another connection has written since it first read,
    SQLite refuses at once (SQLITE_BUSY_SNAPSHOT), whatever the busy timeout is, and Prefect answers 503. Beside a batch, which
    makes the server write many times a second, most requests would fail. An immediate transaction waits for the lock.
    """
    event.listen(engine, "before_cursor_execute", _immediate, retval=True)


def _immediate(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    return ("BEGIN IMMEDIATE" if statement == "BEGIN DEFERRED" else statement), parameters


def serve(listener: socket.socket) -> None:
    """Serve until the process is told to end."""
    begin_immediate(Engine)
    settings = get_current_settings().server
    app = create_app(final=True)
    page = _SIGN_IN_PAGE.replace("API_PATH", settings.api.base_path or "/api")

    async def sign_in(_: Request) -> HTMLResponse:
        # No other site may show this page in a frame, and nothing it loads can come from elsewhere.
        policy = "default-src 'none'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})

    app.router.routes.insert(0, Route(SIGN_IN_PATH, sign_in))
    served: Any = app
    if settings.api.host not in ANY_ADDRESS:
        # Around the application and not in it: its own services, such as automations, call it as host `prefect-in-memory`.
        served = TrustedHostMiddleware(app, allowed_hosts=[*LOOPBACK_HOSTS, settings.api.host])
    config = uvicorn.Config(
        served,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        ws_per_message_deflate=False,  # Mostly events from this machine, compressed and unpacked one by one.
        log_level=settings.logging_level.lower(),
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
