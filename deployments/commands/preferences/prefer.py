"""`consensus prefer`: models answer, then rank each other's answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from consensus_flows.blocks.prefer import Prefer, PreferConfig
from consensus_flows.deployments.commands.algorithms.many import run_folder
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions
from consensus_flows.deployments.commands.preferences.preference_view import show_record
from consensus_flows.deployments.commands.settings.saved import load, save_block
from consensus_flows.deployments.options import JUDGING, OUTPUT, PanelOptions, configured
from consensus_flows.deployments.run import TurnOptions, run_flow
from consensus_flows.deployments.terminal import Exit, Stop
from consensus_flows.flows.prefer import prefer

REQUIRED = {"members": "-m provider/model, three times or more"}


@Parameter(name="*")
@dataclass(kw_only=True)
class PreferOptions(PanelOptions):
    """Who answers and ranks, and how often."""

    rounds: Annotated[int | None, Parameter(group=JUDGING)] = None
    """How often all is done, each time with new samples and new orders; default 1."""
    include_self: Annotated[bool | None, Parameter(group=JUDGING)] = None
    """Show judges their own answers too, to measure how much they prefer them; it does not count for the best."""
    criteria: Annotated[str | None, Parameter(group=JUDGING)] = None
    """What the answers are ranked by; default: truth first, then completeness, then clarity."""


def run_command(
    prompt: Prompt = None,
    *,
    source: QuestionOptions | None = None,
    prompts: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    at_once: Annotated[int, Parameter(group=OUTPUT)] = 4,
    name: Annotated[str | None, Parameter(group=OUTPUT)] = None,
    panel: PreferOptions | None = None,
    out: TurnOptions | None = None,
) -> Exit:
    """Ask many models; then every one of them ranks the answers of the others. The best one by Borda is the answer.

    With --prompts, every *.md and *.txt file of a folder is a prompt, and --output a folder that gets a record of each.

    Args:
        prompt: The question; - reads it from standard input.
        source: Where else it is read.
        prompts: Folder of questions, to run them all.
        at_once: With --prompts, how many questions are worked on at once.
        name: Name of a saved configuration.
        panel: Who answers and ranks.
        out: What is printed and written.
    """
    out, source = out or TurnOptions(), source or QuestionOptions()
    if prompts is not None and (prompt is not None or source.given()):
        raise Stop("there are two prompts: give --prompts alone, without --prompt, --prompt-file and --stdin")
    text = "" if prompts else source.question(prompt)
    saved = load(name, "prefer") if name else None
    config = configure(panel or PreferOptions(), saved)
    return run_config(text, config, out) if prompts is None else run_folder(prompts, config, out, at_once)


def save(name: str, *, panel: PreferOptions | None = None) -> Exit:
    """Save a panel for `consensus prefer --name NAME`.

    Args:
        name: Lower-case letters, digits and dashes.
        panel: Who answers and ranks.
    """
    config = configure(panel or PreferOptions(), None)
    return save_block(name, Prefer(config=config), config.models())


def configure(panel: PreferOptions, under: dict[str, Any] | None) -> PreferConfig:
    """Make the configuration of options that lie over others."""
    return configured(PreferConfig, panel, under, **REQUIRED)


def run_config(prompt: str, config: PreferConfig, out: TurnOptions) -> Exit:
    """Run a configuration."""
    members = [str(member) for member in config.panel()]
    return run_flow(lambda: prefer(prompt, config, conversation=out.turns()), members, out, show=show_record)
