"""Lets requests to a Prefect server on SQLite wait for one another instead of failing with 503.

Prefect starts most of its transactions with BEGIN DEFERRED: such a transaction takes the write lock when it first writes. If
another connection has written since it first read, SQLite refuses at once with SQLITE_BUSY_SNAPSHOT; the busy timeout does not
apply. A batch makes the server write many times a second, so most requests beside it would fail. A transaction that starts with
BEGIN IMMEDIATE takes the lock first, and the busy timeout (60 seconds in Prefect) applies.

Prefect has no setting for this. SQLAlchemy has plugins, which the URL of a database names: `sqlite+aiosqlite:///...?plugin=NAME`.
"""

from importlib.metadata import entry_points
from typing import Any

from prefect.settings import get_current_settings
from sqlalchemy import event
from sqlalchemy.engine import URL, CreateEnginePlugin, Engine, make_url

PLUGIN = "consensus_begin_immediate"
"""Its entry point in pyproject.toml."""


class BeginImmediate(CreateEnginePlugin):
    """Starts transactions with BEGIN IMMEDIATE where Prefect asks for BEGIN DEFERRED."""

    def update_url(self, url: URL) -> URL:
        """Return the URL as it is: SQLAlchemy has removed the plugin's name from it."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Change the statement on its way to the driver."""
        event.listen(engine, "before_cursor_execute", _immediate, retval=True)


def _immediate(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    return ("BEGIN IMMEDIATE" if statement == "BEGIN DEFERRED" else statement), parameters


def database_environment() -> dict[str, str]:
    """Return the environment variable that gives the server its database with the plugin; empty unless that is SQLite."""
    if PLUGIN not in entry_points(group="sqlalchemy.plugins").names:
        return {}  # After a `git pull` without `make setup`: the server would not start.
    configured = get_current_settings().server.database.connection_url
    url = make_url(configured.get_secret_value()) if configured else None
    if url is None or url.get_backend_name() != "sqlite" or "plugin" in url.query:
        return {}
    url = url.update_query_dict({"plugin": PLUGIN})
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url.render_as_string(hide_password=False)}
