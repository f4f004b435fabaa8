"""Folders of prompts and of records: one file each, named alike."""

from pathlib import Path

from pydantic import ValidationError

from consensus_flows.tasks.atomic_write import atomic_write
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Record

PROMPTS = (".md", ".txt")


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the text of every prompt file in `folder` by its name without the ending, in the order of the names.

    Raises:
        ConfigurationError: Naming what is wrong: no such folder, no prompt in it, an empty file, two of one name.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"prompts: there is no folder {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PROMPTS and path.is_file())
    prompts: dict[str, str] = {}
    for path in paths:
        if path.name.startswith("."):
            continue
        if path.stem in prompts:
            raise ConfigurationError(f"prompts: two files in {folder} are called {path.stem!r}: rename one")
        try:
            prompts[path.stem] = path.read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            raise ConfigurationError(f"prompts: {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"prompts: {path} is no text in UTF-8") from None
        if not prompts[path.stem]:
            raise ConfigurationError(f"prompts: {path} is empty")
    if not prompts:
        raise ConfigurationError(f"prompts: there is no {' or '.join(PROMPTS)} file in {folder}")
    return prompts


def record_folder(folder: Path) -> Path:
    """Return the folder for records, which is made if only it itself is missing.

    Raises:
        ConfigurationError: If it cannot be made, or is a file.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"output: the folder {folder} cannot be made: {error.strerror}") from None
    return folder


def write_record(folder: Path, name: str, record: Record) -> Path:
    """Write a record as `name.json` into `folder`; the file is never seen half-written."""
    path = folder / f"{name}.json"
    with atomic_write(path) as file:
        file.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8", errors="replace")
    return path


def read_preferences(folder: Path) -> tuple[dict[str, Record], dict[str, str]]:
    """Return the recorded preferences of `folder` by name, and for each other JSON file what is wrong with it.

    Raises:
        ConfigurationError: If there is no such folder, or no JSON file in it.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder}")
    paths = [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]
    if not paths:
        raise ConfigurationError(f"there is no .json file in {folder}")
    good: dict[str, Record] = {}
    bad: dict[str, str] = {}
    for path in paths:
        try:
            record = Record.model_validate_json(path.read_bytes())
        except OSError as error:
            bad[path.name] = f"cannot be read: {error.strerror}"
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            bad[path.name] = f"is no record of a run: {where + ': ' if where else ''}{first['msg']}"
        else:
            problem = _problem(record)
            if problem:
                bad[path.name] = problem
            else:
                good[path.stem] = record
    return good, bad


def _problem(record: Record) -> str:
    """Say why no preferences can be read from a record, or nothing."""
    if record.flow != "prefer":
        return f"is the record of a {record.flow} run, not of prefer"
    if not record.rankings:
        return "holds no rankings"
    for entry in record.rankings:
        ranked = [member for group in entry.ranking for member in group]
        if len(set(ranked)) < len(ranked) or not set(ranked) <= set(entry.order):
            return f"round {entry.round}: {entry.judge} ranks what it was not shown, or one answer twice"
    return ""
