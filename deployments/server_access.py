"""Who may use the Prefect server that `consensus` starts: its password, its other locks, and the files beside it."""

import contextlib
import os
import secrets
import stat
from pathlib import Path
from urllib.parse import urlsplit

from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    get_current_settings,
    load_profiles,
    save_profiles,
)

from consensus_flows.tasks.files import atomic_write

PROFILE = "consensus"
"""The Prefect profile that always names the server started last: `prefect --profile consensus ...`."""

SIGN_IN_PATH = "/consensus/sign-in"
"""The page of our server that signs a browser in, with the password in the URL's fragment."""


class ServerUnavailable(RuntimeError):  # noqa: N818 - it names a state of affairs, as asyncio.QueueFull does.
    """No server to talk to: what was tried and what to do."""


def access_settings(api_url: str, auth_string: str) -> dict[str, str]:
    """Return the settings that close the server to everyone else, as environment variables; variables of your own win."""
    host, port = get_current_settings().server.api.host, urlsplit(api_url).port
    origins = (f"http://{name}:{port}" for name in dict.fromkeys(["127.0.0.1", "localhost", host]))
    wanted = {
        "CORS_ALLOWED_ORIGINS": ",".join(origins),
        "CSRF_PROTECTION_ENABLED": "true",
    }
    given = {
        f"PREFECT_SERVER_API_{name}": value
        for name, value in wanted.items()
        if not {f"PREFECT_SERVER_API_{name}", f"PREFECT_SERVER_{name}"} & os.environ.keys()
    }
    # Where the UI sends the password to: by default that is `api.url`, which an active profile may set to another server.
    if not {"PREFECT_SERVER_UI_API_URL", "PREFECT_UI_API_URL"} & os.environ.keys():
        given["PREFECT_SERVER_UI_API_URL"] = api_url
    return given | {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_SERVER_API_AUTH_STRING": auth_string}


def auth_file() -> Path:
    """Where the password is kept."""
    return get_current_settings().home / "consensus-server-auth"


def read_auth_string() -> str | None:
    """Return the password of our server: yours if you set one, else the one made for this PREFECT_HOME; None if there is none yet."""
    if yours := get_current_settings().server.api.auth_string:
        return yours.get_secret_value()
    try:
        return auth_file().read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def make_auth_string() -> str:
    """Return the password of our server, and make it if there is none: `consensus down` forgets it.

    A server that has crashed is started again with the same one, so that workers and batches that go on can reach it.
    """
    if known := read_auth_string():
        return known
    made = f"consensus:{secrets.token_urlsafe(32)}"  # Prefect wants user:password.
    with atomic_write(auth_file(), mode=0o600, follow=False) as file:
        file.write_text(made, encoding="utf-8")
    return made


def close_files_to_others() -> None:
    """Make what is secret in PREFECT_HOME readable by its owner alone, also where an open folder was there before."""
    home = get_current_settings().home
    for path in (home, *home.glob("prefect.db*"), *home.glob("consensus-*"), home / "profiles.toml"):
        with contextlib.suppress(OSError):  # It may belong to somebody else, or be gone again.
            mode = path.lstat().st_mode
            if path == home and mode & 0o022:
                path.chmod(
                    stat.S_IMODE(mode) & ~0o022
                )  # Whoever may write there may put another file in place of the secret.
            elif stat.S_ISREG(mode) and mode & 0o077:
                path.chmod(0o600)


def write_profile(api_url: str, auth_string: str) -> None:
    """Let `prefect --profile consensus ...` reach the server.

    Raises:
        OSError: If your profiles cannot be written.
    """
    path = get_current_settings().profiles_path
    assert path is not None, "Prefect always has one"
    profiles = load_profiles()
    wanted = {PREFECT_API_URL: api_url, PREFECT_API_AUTH_STRING: auth_string}
    if PROFILE in profiles.names and profiles[PROFILE].settings == wanted:
        return
    profiles.update_profile(PROFILE, wanted, source=path)
    path.touch(mode=0o600)
    path.chmod(0o600)
    save_profiles(profiles)
