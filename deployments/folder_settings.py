"""Sets what Prefect reads when it is imported, and keeps it from taking settings from whatever folder a command is run in.

Prefect reads `.env`, `prefect.toml` and `pyproject.toml` of the working folder. A folder from elsewhere could send prompts and keys to
another server (`PREFECT_API_URL`) or run code (`PREFECT_LOGGING_SETTINGS_PATH`). Those of this project's own checkout are trusted as its
code is. Anywhere else, settings come from the environment and from your Prefect profile alone.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]


def quiet_prefect() -> None:
    """Set what Prefect reads when it is imported."""
    # It would report its first import and its commands: `prefect.toml` says so too, but is read in this folder alone.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Its log goes to the server and to the UI as ever, but on the terminal the view speaks.
    if not os.environ.get("PREFECT_LOGGING_LEVEL") and "--verbose" not in sys.argv:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def ignore_folder_settings(say: Callable[[str], None]) -> None:
    """Call this before Prefect is imported; `say` is told which files of the working folder are ignored."""
    if not (ignored := files_with_settings()) or Path.cwd() == PROJECT:
        return
    say(
        f"consensus: Prefect's settings in {' and '.join(ignored)} of this folder are ignored. Set them in the environment, or "
        "with `prefect config set`."
    )
    spec = importlib.util.find_spec("prefect")
    assert spec is not None
    assert spec.origin is not None
    trusted = Path(spec.origin).parents[1]
    # Where profiles are is looked for in the same files.
    if "PREFECT_PROFILES_PATH" not in os.environ:
        home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser().absolute()
        os.environ["PREFECT_PROFILES_PATH"] = str(home / "profiles.toml")
    with contextlib.chdir(trusted):
        from prefect.settings.base import PrefectBaseSettings

    build = PrefectBaseSettings.__init__

    def build_elsewhere(self: PrefectBaseSettings, **values: Any) -> None:
        with contextlib.chdir(trusted):
            build(self, **values)

    PrefectBaseSettings.__init__ = build_elsewhere  # type: ignore[assignment]


def files_with_settings() -> list[str]:
    """Name the files of the working folder from which Prefect would take settings."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # It has been deleted.
        return []
    return [name for name, holds in _FILES.items() if holds(folder / name)]


def _names_prefect(path: Path) -> bool:
    try:
        return "PREFECT_" in path.read_text(encoding="utf-8", errors="replace").upper()
    except OSError:
        return False


def _has_prefect_table(path: Path) -> bool:
    import tomllib  # here, because most folders have no such file

    try:
        return "prefect" in tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except OSError:
        return False
    except ValueError:  # Prefect would not get past it.
        return True


_FILES: dict[str, Callable[[Path], bool]] = {
    ".env": _names_prefect,
    "prefect.toml": Path.is_file,
    "pyproject.toml": _has_prefect_table,
}
