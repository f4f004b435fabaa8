"""`consensus consortium`, and `consensus "PROMPT"` for short."""

from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import ValidationError

from blocks.consortium import ConsortiumConfig
from deployments.options import FIELD_NAMES, OUTPUT, PanelOptions, settings
from deployments.run import OutputOptions, run_flow, server
from deployments.terminal import Exit, Stop, explain, read_prompt
from flows.consortium import consortium, load_saved


def config_of(panel: PanelOptions, saved: dict[str, Any] | None) -> ConsortiumConfig:
    """Make the configuration of a run.

    Raises:
        Stop: Naming each option that is wrong.
    """
    values = settings(panel, saved)
    if not values.get("members"):
        raise Stop("no member is given: -m provider/model, as often as you like")
    if not values.get("arbiter"):
        raise Stop("no arbiter is given: --arbiter provider/model")
    try:
        return ConsortiumConfig.model_validate(values)
    except ValidationError as error:
        raise Stop(explain(error, FIELD_NAMES)) from None


def run_command(
    prompt: str | None = None,
    *,
    name: Annotated[str | None, Parameter(group=OUTPUT)] = None,
    panel: PanelOptions | None = None,
    out: OutputOptions | None = None,
    stdin: Annotated[bool | None, Parameter(group=OUTPUT)] = None,
) -> Exit:
    """Ask a panel of models; an arbiter makes one answer of theirs, round after round, until it is confident.

    Args:
        prompt: The question; - reads it from standard input.
        name: Name of a saved configuration.
        panel: Who is asked and who judges.
        out: What is printed and written.
        stdin: Append standard input to the prompt.
    """
    panel, out = panel or PanelOptions(), out or OutputOptions()
    text = read_prompt(prompt, stdin)
    if name is None and panel.member is None and panel.config is None:
        name = "default"
    saved = _saved(name) if name else None
    config = config_of(panel, saved)
    return run_flow(lambda: consortium(text, config), [str(member) for member in config.panel()], out)


def _saved(name: str) -> dict[str, Any]:
    import asyncio

    server()
    return asyncio.run(load_saved(name)).model_dump(exclude_unset=True)
