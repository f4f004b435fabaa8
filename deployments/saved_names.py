"""The names of the saved configurations, read without Prefect: its import and the start of its server take seconds."""

import base64
import json
import logging
import os
import sqlite3
import tomllib
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from consensus_flows.flows.algorithms import algorithms

TIMEOUT_S = 1.0
"""Seconds that a server has to answer; `llm` asks at each start."""
OWN = "consensus"
"""The Prefect profile of the server that `consensus` starts."""


def saved_names() -> list[str]:
    """Return the names of the saved configurations, of the database on this machine or of the server that is configured.

    No server is started. Where none can be read there are none, and a warning says why.
    """
    settings = _profile() | os.environ
    kinds = [one.name for one in algorithms().values()]  # the slugs of their blocks
    note = _read(_home() / "consensus-server.json")
    url, database = settings.get("PREFECT_API_URL"), _database(settings)
    try:
        if url and url != note.get("api_url"):
            return _of_server(url, settings, kinds)
        if database is not None:
            return _of_database(database, kinds)
        if note:
            auth = (_home() / "consensus-server-auth").read_text(encoding="utf-8").strip()
            return _of_server(note["api_url"], {"PREFECT_API_AUTH_STRING": auth} | settings, kinds)
    except (OSError, sqlite3.Error, ValueError, KeyError) as error:
        where = url or database or note.get("api_url")
        logging.getLogger(__name__).warning("consensus: the saved panels cannot be read from %s: %s", where, error)
    return []


def _of_database(path: Path, kinds: Sequence[str]) -> list[str]:
    if not path.exists():
        return []
    query = (
        "SELECT document.name, block_type.slug FROM block_document AS document "
        "JOIN block_type ON block_type.id = document.block_type_id WHERE NOT document.is_anonymous ORDER BY document.name"
    )
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=TIMEOUT_S)) as database:
        return [name for name, kind in database.execute(query) if kind in kinds]


def _of_server(url: str, settings: dict[str, str], kinds: Sequence[str]) -> list[str]:
    headers = {"Content-Type": "application/json"}
    if auth := settings.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    elif key := settings.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    body = json.dumps({"block_types": {"slug": {"any_": list(kinds)}}}).encode()
    asked = Request(f"{url.rstrip('/')}/block_documents/filter", body, headers)  # noqa: S310 - as it is configured
    with urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return sorted(document["name"] for document in json.load(answer))


def _home() -> Path:
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()


def _profile() -> dict[str, str]:
    """Return the settings of the active profile of Prefect."""
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or _home() / "profiles.toml").expanduser()
    with suppress(OSError, ValueError):
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        name = os.environ.get("PREFECT_PROFILE") or found.get("active")
        return {} if name == OWN else dict(found.get("profiles", {}).get(name, {}))
    return {}


def _database(settings: dict[str, str]) -> Path | None:
    """Return the file of the database; None if it is none of this machine."""
    url = settings.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or settings.get("PREFECT_API_DATABASE_CONNECTION_URL")
    if url is None:
        return _home() / "prefect.db"
    scheme, _, path = url.partition(":///")
    return Path(path) if scheme.startswith("sqlite") else None


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}
