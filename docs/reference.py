"""Generated pages of the documentation site, and links that lead out of it. A hook of MkDocs, see mkdocs.yml."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import griffe
from cyclopts import App
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic_core import PydanticUndefined

from consensus_flows.deployments.cli import app
from consensus_flows.deployments.commands.algorithms.batch import command as batch
from consensus_flows.flows.algorithms import MAIN, algorithm, algorithms
from consensus_flows.tasks.batches.results import output_columns

ROOT = Path(__file__).parent.parent


def commands() -> str:
    """Every command with its options; `batch` and `save` take those of the flow, so the consortium's are shown."""
    shown = App(name=app.name, help=app.help, version_flags=[])
    for name in app:
        if not name.startswith("-") and name not in {"batch", "save"}:
            shown.command(app[name], name=name)
    whole = App(name="consensus batch", help="Run a flow on every row of a file.", version_flags=[])
    whole.default(batch(algorithm(MAIN).name))
    text = f"{shown.generate_docs()}\n{whole.generate_docs(heading_level=2)}".replace(
        "# consensus\n", "# Commands\n", 1
    )
    return re.sub(r"## Table of Contents\n.*?(?=\*\*Commands)", "", text, flags=re.DOTALL)  # The theme has one.


def settings() -> str:
    """The settings of each algorithm, as in a saved configuration or a `--config` file."""
    page = [
        "# Settings",
        "The fields of a saved configuration, a `--config` file, the form in the Prefect UI and a configuration in Python.",
    ]
    for one in algorithms().values():
        module, _, name = one.block.partition(":")
        fields = getattr(import_module(module), f"{name}Config").model_fields
        page += [f"## {one.name}", one.summary, "| field | default | meaning |\n|---|---|---|"]
        page[-1] += "".join(
            f"\n| `{field}` | {_default(info)} | {_cell(info.description)} |" for field, info in fields.items()
        )
    return "\n\n".join(page)


def record() -> str:
    """The fields of the record, from the docstrings of its classes."""
    classes = griffe.load("consensus_flows.tasks.record").classes
    order = ["Record", *(name for name in classes if name != "Record" and "BaseModel" in map(str, classes[name].bases))]
    head = "# Record\n\nWhat `--json` prints, `--output FILE` writes and a flow returns. Fields are only ever added."
    return "\n\n".join([head, *(f"## {name}\n\n{_fields(classes[name])}" for name in order)])


def columns() -> str:
    """The columns of a batch's output."""
    head = "# Output columns\n\nWhat a [batch](../batch.md) writes for each row, in this order, before the row's own columns."
    rows = "".join(f"\n| `{column.name}` | {_cell(column.meaning)} |" for column in output_columns())
    return f"{head}\n\n| column | meaning |\n|---|---|{rows}"


def _fields(one: griffe.Class) -> str:
    rows = "".join(
        f"\n| `{name}` | `{str(field.annotation).replace(' | ', ' or ')}` | {_cell(field.docstring.value if field.docstring else '')} |"
        for name, field in one.attributes.items()
        if field.annotation is not None and "property" not in field.labels
    )
    return f"{one.docstring.value if one.docstring else ''}\n\n| field | type | meaning |\n|---|---|---|{rows}"


def _default(info: Any) -> str:
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    return "" if value is None or hasattr(value, "model_fields") else f"`{value!r}`"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    environment = (ROOT / ".env.example").read_text(encoding="utf-8")
    for name, text in {
        "reference/commands.md": commands(),
        "reference/settings.md": settings(),
        "reference/record.md": record(),
        "reference/columns.md": columns(),
        "reference/environment.md": f"# Environment variables\n\n```sh\n{environment}```\n",
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "]("),
    }.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Name files of the repository where a page of it would link to them."""
    del config, files
    if "/" in page.file.src_uri:
        return markdown
    return re.sub(r"\[([^\]]+)\]\(\.\./(?!README)([^)]+)\)", r"`\2`", markdown)
