"""The prompts, as text files that a person edits."""

from functools import cache
from pathlib import Path
from string import Template

_FOLDER = Path(__file__).parent


@cache
def prompt(name: str) -> str:
    """Return the text of the prompt file `name`."""
    return (_FOLDER / f"{name}.md").read_text(encoding="utf-8").strip()


def fill(name: str, **values: object) -> str:
    """Return the prompt file `name` with each `$word` in it replaced by the value of that name."""
    return Template(prompt(name)).substitute({key: str(value) for key, value in values.items()})
