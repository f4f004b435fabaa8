"""Folders of records, of which `consensus tally` reads the preferences."""

from pathlib import Path

from pydantic import ValidationError

from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Record


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


def read_preferences(folder: Path) -> tuple[dict[str, Record], dict[str, str]]:
    """Return the recorded preferences of `folder` by name, and for each other JSON file what is wrong with it.

    Raises:
        ConfigurationError: If there is no such folder, or no JSON file in it.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"no such folder: {folder}")
    paths = [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]
    if not paths:
        raise ConfigurationError(f"no .json files in {folder}")
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
            bad[path.name] = f"is not a record of a run: {where + ': ' if where else ''}{first['msg']}"
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
