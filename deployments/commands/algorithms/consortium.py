"""`consensus consortium`, and `consensus "PROMPT"` for short."""

from typing import Annotated, Any

from cyclopts import Parameter

from consensus_flows.blocks.consortium import Consortium, ConsortiumConfig
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions
from consensus_flows.deployments.commands.settings.saved import panel_of, save_block
from consensus_flows.deployments.kinds import MAIN
from consensus_flows.deployments.options import OUTPUT, ConsortiumOptions, configured
from consensus_flows.deployments.run import TurnOptions, run_flow
from consensus_flows.deployments.terminal import Exit
from consensus_flows.flows.algorithms import Name
from consensus_flows.flows.consortium import consortium

REQUIRED = {"members": "-m provider/model, as often as you like", "arbiter": "--arbiter provider/model"}


def run_command(
    prompt: Prompt = None,
    *,
    source: QuestionOptions | None = None,
    name: Annotated[str | None, Parameter(group=OUTPUT)] = None,
    panel: ConsortiumOptions | None = None,
    out: TurnOptions | None = None,
) -> Exit:
    """Ask a panel of models; an arbiter makes one answer of theirs, round after round, until it is confident.

    Args:
        prompt: The question; - reads it from standard input.
        source: Where else it is read.
        name: Name of a saved configuration, of any flow; options given here are laid over it.
        panel: Who is asked and who judges.
        out: What is printed and written.
    """
    panel, out = panel or ConsortiumOptions(), out or TurnOptions()
    text = (source or QuestionOptions()).question(prompt)
    return panel_of(name, panel)(text, out)


def save_command(
    name: str, *, flow: Annotated[Name, Parameter(group=OUTPUT)] = MAIN, panel: ConsortiumOptions | None = None
) -> Exit:
    """Save a configuration; `consensus "PROMPT" --name NAME` uses it, and the one called `default` without.

    Args:
        name: Lower-case letters, digits and dashes.
        flow: The kind of flow, with its own options, which `consensus save --flow vote --help` shows.
        panel: Who is asked and who judges.
    """
    assert flow == MAIN, "the command line has turned another kind into a command of its own"
    return save(name, panel=panel)


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


def run_config(prompt: str, config: ConsortiumConfig, out: TurnOptions) -> Exit:
    """Run a configuration."""
    return run_flow(
        lambda: consortium(prompt, config, conversation=out.turns()), [str(member) for member in config.panel()], out
    )
