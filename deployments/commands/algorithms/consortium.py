"""`consensus consortium`, and `consensus "PROMPT"` for short."""

from typing import Annotated, Any

from cyclopts import Parameter

from blocks.consortium import Consortium, ConsortiumConfig
from deployments.commands.settings.saved import find, save_block
from deployments.kinds import MAIN, module_of
from deployments.options import OUTPUT, ConsortiumOptions, configured
from deployments.run import OutputOptions, run_flow
from deployments.terminal import Exit, read_prompt
from flows.consortium import consortium

REQUIRED = {"members": "-m provider/model, as often as you like", "arbiter": "--arbiter provider/model"}


def run_command(
    prompt: str | None = None,
    *,
    name: Annotated[str | None, Parameter(group=OUTPUT)] = None,
    panel: ConsortiumOptions | None = None,
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
    panel, out = panel or ConsortiumOptions(), out or OutputOptions()
    text = read_prompt(prompt, stdin)
    if name is None and panel.member is None and panel.config is None:
        name = "default"
    found = find(name) if name else None
    if found and found.kind != MAIN:
        return module_of(found.kind).run_saved(text, found.values, out)  # type: ignore[no-any-return]
    saved = found.values if found else None
    return _run(text, configure(panel, saved), out)


def run_saved(prompt: str, values: dict[str, Any], out: OutputOptions) -> Exit:
    """Run a saved configuration."""
    return _run(prompt, ConsortiumConfig.model_validate(values), out)


def save(name: str, *, panel: ConsortiumOptions | None = None) -> Exit:
    """Save the configuration of a consortium; `consensus "PROMPT" --name NAME` uses it, and `default` without.

    Args:
        name: Lower-case letters, digits and dashes.
        panel: Who is asked and who judges.
    """
    config = configure(panel or ConsortiumOptions(), None)
    return save_block(name, Consortium(config=config), config.models())


def configure(panel: ConsortiumOptions, under: dict[str, Any] | None) -> ConsortiumConfig:
    """Make the configuration of options that lie over others."""
    return configured(ConsortiumConfig, panel, under, **REQUIRED)


def _run(prompt: str, config: ConsortiumConfig, out: OutputOptions) -> Exit:
    return run_flow(
        lambda: consortium(prompt, config, conversation=out.turns()), [str(member) for member in config.panel()], out
    )
