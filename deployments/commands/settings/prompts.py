"""`consensus prompts`: the prompt sets that members can be prompted with."""

from typing import Annotated

from cyclopts import App, Parameter

from consensus_flows.deployments.terminal import Exit, put, put_json, say
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.prompting.prompt_sets import path_of, prompt_set, prompt_sets

app = App(name="prompts", help="Manage prompt sets: few-shot, chain of thought, citations. `--prompt-set` uses one.")


@app.command(name="list")
def list_sets(*, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """List the prompt sets, yours and the built-in ones.

    Args:
        json: Print JSON.
    """
    rows, good = [], True
    for name, path in prompt_sets().items():
        try:
            description = prompt_set(str(path)).description
        except ConfigurationError as error:
            good, description = False, ""
            say(f"consensus: {error.message}")
        rows.append({"name": name, "description": description, "path": str(path)})
    if json:
        put_json(rows)
    for row in [] if json else rows:
        put(f"{row['name']}\t{row['description']}\t{row['path']}")
    return Exit.ANSWER if good else Exit.BAD_INPUT


@app.command
def show(name: str) -> Exit:
    """Print the file of a prompt set, to copy and edit it: `consensus prompts show few-shot > mine.toml`.

    Args:
        name: Name or file of the set.
    """
    prompt_set(name)
    put(path_of(name).read_text(encoding="utf-8-sig").rstrip())
    return Exit.ANSWER
