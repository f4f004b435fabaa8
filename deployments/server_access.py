"""Who may use the Prefect server that `consensus` starts: its password, its other locks, and the files beside it."""

import contextlib
import os
import secrets
from pathlib import Path

from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    get_current_settings,
    load_profiles,
    save_profiles,
)

from tasks.atomic_write import atomic_write

PROFILE = "consensus"
"""The Prefect profile that always names the server started last: `prefect --profile consensus ...`."""

SIGN_IN_PATH = "/consensus/sign-in"
"""The page of our server that signs a browser in, with the password in the URL's fragment."""


def access_settings(port: int, auth_string: str) -> dict[str, str]:
    """Return the settings that close the server to everyone else, as environment variables; those you set yourself win."""
    host = get_current_settings().server.api.host
    origins = (f"http://{name}:{port}" for name in dict.fromkeys(["127.0.0.1", "localhost", host]))
    wanted = {
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    }
    # The port is where the server looks for the address it gives to the UI's pages.
    ours = {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_SERVER_API_AUTH_STRING": auth_string}
    return {name: value for name, value in wanted.items() if name not in os.environ} | ours


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
    """Return the password of our server, and make it if there is none yet."""
    if known := read_auth_string():
        return known
    made = f"consensus:{secrets.token_urlsafe(32)}"  # Prefect wants user:password.
    with atomic_write(auth_file(), mode=0o600) as file:
        file.write_text(made, encoding="utf-8")
    return made


def close_files_to_others() -> None:
    """Make what is secret in PREFECT_HOME readable by its owner alone, also where an open folder was there before."""
    home = get_current_settings().home
    for path in (*home.glob("prefect.db*"), *home.glob("consensus-*"), home / "profiles.toml"):
        with contextlib.suppress(OSError):  # It may belong to somebody else, or be gone again.
            if path.is_file() and path.stat().st_mode & 0o077:
                path.chmod(0o600)


def write_profile(api_url: str, auth_string: str) -> None:
    """Let `prefect --profile consensus ...` reach the server."""
    path = get_current_settings().profiles_path
    assert path is not None, "Prefect always has one"
    profiles = load_profiles()
    profiles.update_profile(PROFILE, {PREFECT_API_URL: api_url, PREFECT_API_AUTH_STRING: auth_string}, source=path)
    path.touch(mode=0o600)
    path.chmod(0o600)
    save_profiles(profiles)
