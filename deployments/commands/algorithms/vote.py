"""`consensus vote`: a count of the members' answers, or a ranking of them by pairs."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from cyclopts import Parameter

from consensus_flows.blocks.vote import COUNTING, Vote, VoteConfig
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions
from consensus_flows.deployments.commands.settings.saved import load, save_block
from consensus_flows.deployments.options import JUDGING, OUTPUT, PanelOptions, configured, file_of, laid_over
from consensus_flows.deployments.run import TurnOptions, run_flow
from consensus_flows.deployments.terminal import Exit, put, say
from consensus_flows.deployments.view import summary
from consensus_flows.flows.vote import tally_lines, vote
from consensus_flows.tasks.record import Record

REQUIRED = {"members": "-m provider/model, as often as you like"}


@Parameter(name="*")
@dataclass(kw_only=True)
class VoteOptions(PanelOptions):
    """How the answer is read, what a vote counts, and who compares in pairs."""

    extract: Annotated[str | None, Parameter(group=JUDGING)] = None
    """How the answer is read: number, choice, json:FIELD, label:A,B, text, text:FIELD or llm; default text."""
    extractor: Annotated[str | None, Parameter(group=JUDGING)] = None
    """The model that reads the answers with --extract llm: provider/model."""
    stop_when: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Stop as soon as an answer has so many votes; members are then asked in order."""
    waves: Annotated[int | None, Parameter(group=JUDGING)] = None
    """With --stop-when, how many members are asked at once; default 1."""
    weights: Annotated[str | None, Parameter(group=JUDGING)] = None
    """What votes count: member=weight, separated by commas; 1 where nothing is said."""
    pairwise_judge: Annotated[str | None, Parameter(group=JUDGING)] = None
    """The model that compares the answers in pairs, instead of a count: provider/model."""
    comparisons: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Sort by at most so many compared pairs; default: compare all pairs."""
    fuse: Annotated[str | None, Parameter(group=JUDGING)] = None
    """The model that writes one answer of the best ones: provider/model."""
    fuse_top: Annotated[int | None, Parameter(group=JUDGING)] = None
    """How many of the best ones are fused; default 3."""


def run_command(
    prompt: Prompt = None,
    *,
    source: QuestionOptions | None = None,
    name: Annotated[str | None, Parameter(group=OUTPUT)] = None,
    panel: VoteOptions | None = None,
    out: TurnOptions | None = None,
) -> Exit:
    """Ask many models, read the answer out of each text and count; or let a judge compare the answers in pairs.

    Of a tie, the answer whose first voter is listed first wins. What cannot be read is an abstention.

    Args:
        prompt: The question; - reads it from standard input.
        source: Where else it is read.
        name: Name of a saved configuration.
        panel: Who votes, and how it is counted.
        out: What is printed and written.
    """
    text = (source or QuestionOptions()).question(prompt)
    saved = load(name, "vote") if name else None
    return run_config(text, configure(panel or VoteOptions(), saved), out or TurnOptions())


def save(name: str, *, panel: VoteOptions | None = None) -> Exit:
    """Save a vote; `consensus vote "PROMPT" --name NAME` uses it.

    Args:
        name: Lower-case letters, digits and dashes.
        panel: Who votes, and how it is counted.
    """
    config = configure(panel or VoteOptions(), None)
    return save_block(name, Vote(config=config), config.models())


def configure(panel: VoteOptions, under: dict[str, Any] | None) -> VoteConfig:
    """Make the configuration of options that lie over others.

    Where a pairwise judge is given here, what is saved or in a file about counting gives way.
    """
    below = laid_over(VoteConfig, file_of(panel), under or {})
    if panel.pairwise_judge is not None:
        below = {name: value for name, value in below.items() if name not in COUNTING}
    return configured(VoteConfig, replace(panel, config=None), below, **REQUIRED)


def run_config(prompt: str, config: VoteConfig, out: TurnOptions) -> Exit:
    """Run a configuration."""
    members = [str(member) for member in config.panel()]
    return run_flow(lambda: vote(prompt, config, conversation=out.turns()), members, out, show=_show)


def _show(record: Record, ui_url: str) -> None:
    if record.answer is not None:
        put(record.answer)
    summary(record, ui_url)
    if record.tally:
        say("Votes:")
        for line in tally_lines(record):
            say(f"  {line}")
        if record.tie:
            say("  a tie: the answer whose first voter is listed first was taken")
