"""`consensus learn`: consensus learning, from options or from one of Flare's input files."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from consensus_flows.blocks.consensus_learning import (
    Approach,
    ConsensusLearning,
    ConsensusLearningConfig,
    PromptType,
    is_used,
)
from consensus_flows.blocks.member import members_of
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions
from consensus_flows.deployments.commands.settings.keys import saved as saved_credentials
from consensus_flows.deployments.commands.settings.saved import find, save_block
from consensus_flows.deployments.options import JUDGING, OUTPUT, PANEL, PanelOptions, configured, file_of, laid_over
from consensus_flows.deployments.run import TurnOptions, run_flow
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, say
from consensus_flows.flows.consensus_learning import consensus_learning
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.reports.flare import FlareRun, document, read_input

KIND = "learn"
MEMBERS = "-m provider/model, as often as you like, or --input FILE"
AGGREGATOR = "--aggregator provider/model, or another --approach"


@Parameter(name="*")
@dataclass(kw_only=True)
class LearnOptions(PanelOptions):
    """How answers are aggregated, and how the aggregate goes back."""

    aggregator: Annotated[str | None, Parameter(group=PANEL)] = None
    """The model that merges the answers: provider/model."""
    fallback_aggregator: Annotated[list[str] | None, Parameter(group=PANEL, negative="")] = None
    """A model that merges when the aggregator fails. May be repeated."""
    approach: Annotated[Approach | None, Parameter(group=JUDGING)] = None
    """Aggregate by a model, a count, the nearest answer, or among the members; default centralized_llm."""
    iterations: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Improvement rounds after the first; default 1."""
    aggregated_prompt_type: Annotated[PromptType | None, Parameter(group=JUDGING)] = None
    """Role in which the aggregate goes back to the members; default user."""
    improvement_prompt: Annotated[str | None, Parameter(group=JUDGING)] = None
    """What members are asked to do with the aggregate."""
    aggregator_context: Annotated[str | None, Parameter(group=JUDGING)] = None
    """System prompt of the aggregator."""
    aggregator_prompt: Annotated[str | None, Parameter(group=JUDGING)] = None
    """What the aggregator is asked after the answers."""
    extract: Annotated[str | None, Parameter(group=JUDGING)] = None
    """How the answer is read: number, choice, json:FIELD, label:A,B or text."""
    k: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Decentralized: peers that a member asks in each round; default 10, or all where there are fewer."""
    alpha: Annotated[float | None, Parameter(group=JUDGING)] = None
    """Decentralized: share of them that must hold a value before it is adopted; default 0.6."""
    beta: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Decentralized: rounds in a row that must confirm a value; default 5."""
    max_rounds: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Decentralized: most rounds of asking peers; default 100."""
    alike: Annotated[float | None, Parameter(group=JUDGING)] = None
    """Decentralized: similarity from which two free texts count as one value; default 0.6."""
    stop_when_stable: Annotated[bool | None, Parameter(group=JUDGING)] = None
    """Stop when a round no longer changes the answer and the members agree."""
    stability_threshold: Annotated[float | None, Parameter(group=JUDGING)] = None
    """What counts as unchanged and as agreed, 0 to 1; default 0.8."""


@Parameter(name="*")
@dataclass(kw_only=True)
class LearnOutput(TurnOptions):
    """What is printed and written."""

    output_format: Annotated[Literal["record", "flare"], Parameter(group=OUTPUT)] = "record"
    """What --output and --json write: the record, or Flare's shape, which alone means --json."""


class _Question(NamedTuple):
    prompt: str
    conversation: tuple[Message, ...]


def run_command(
    prompt: Prompt = None,
    *,
    source: QuestionOptions | None = None,
    input: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    name: Annotated[str | None, Parameter(group=OUTPUT)] = None,
    panel: LearnOptions | None = None,
    out: LearnOutput | None = None,
) -> Exit:
    """Ask a panel of models, aggregate their answers, and let each improve its own with the aggregate in mind.

    Args:
        prompt: The question; - reads it from standard input.
        source: Where else it is read.
        input: One of Flare's input.json files. Options given here are laid over it.
        name: Name of a saved configuration.
        panel: Who is asked and how the answers are aggregated.
        out: What is printed and written.
    """
    panel, out, source = panel or LearnOptions(), out or LearnOutput(), source or QuestionOptions()
    if input is not None and name is not None:
        raise Stop("--input and --name both hold the settings of a run: give one of them")
    if input is None:
        question = _Question(source.question(prompt), ())
        return _run(question, configure(panel, find(name, KIND).values if name else None), out)
    file = _read(input)
    question = _question(file, prompt, source)
    return _run(question, configure(panel, _under(file, panel)), out)


def run_config(prompt: str, config: ConsensusLearningConfig, out: TurnOptions) -> Exit:
    """Run a configuration."""
    return _run(_Question(prompt, ()), config, out)


def save(
    name: str,
    *,
    input: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    panel: LearnOptions | None = None,
) -> Exit:
    """Save a configuration; `consensus learn "PROMPT" --name NAME` uses it.

    Args:
        name: Lower-case letters, digits and dashes.
        input: One of Flare's input.json files. Of its conversation only the system prompt is saved.
        panel: Who is asked and how the answers are aggregated.
    """
    panel = panel or LearnOptions()
    under: dict[str, Any] | None = None
    if input is not None:
        file = _read(input)
        under = _under(file, panel)
        system = [message.content for message in file.conversation if message.role == "system"]
        if system:
            under["system"] = "\n\n".join(system)
        if file.question is not None or len(system) < len(file.conversation):
            say("consensus: a configuration has no question: of initial_conversation only the system prompt is saved")
    config = configure(panel, under)
    return save_block(name, ConsensusLearning(config=config), config.models())


def configure(panel: LearnOptions, under: dict[str, Any] | None) -> ConsensusLearningConfig:
    """Make the configuration of options that lie over others.

    Where an approach is given here, what is saved or in a file for another one gives way.
    """
    below = laid_over(ConsensusLearningConfig, file_of(panel), under or {})
    if panel.approach is not None:
        below = {name: value for name, value in below.items() if is_used(name, panel.approach)}
    central = (panel.approach or below.get("approach")) in {None, "centralized_llm"}
    required = {"members": MEMBERS} | ({"aggregator": AGGREGATOR} if central else {})
    return configured(ConsensusLearningConfig, replace(panel, config=None), below, **required)


def _run(question: _Question, config: ConsensusLearningConfig, out: TurnOptions) -> Exit:
    prompt, conversation = question.prompt, (*out.turns(), *question.conversation)
    shape = None
    if isinstance(out, LearnOutput) and out.output_format == "flare":
        out.json = out.json or out.output is None
        shape = lambda record: document(record, config.system, conversation)  # noqa: E731 - it is an argument
    members = [str(member) for member in config.panel()]
    return run_flow(
        lambda: consensus_learning(prompt, config, conversation=list(conversation)), members, out, shape=shape
    )


def _read(path: Path) -> FlareRun:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Stop(f"--input {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Stop(f"--input {path} is no UTF-8 text: {error.reason} at byte {error.start}") from None
    try:
        read_input(text)  # before a server is started: what is wrong with the file does not depend on it
        connect()
        return read_input(text, {name for name, _, _ in asyncio.run(saved_credentials())})
    except ConfigurationError as error:
        raise Stop("\n".join(f"--input {path}: {line}" for line in error.message.splitlines())) from None


def _question(file: FlareRun, prompt: str | None, source: QuestionOptions) -> _Question:
    if file.question is None:
        return _Question(source.question(prompt), file.conversation)
    if prompt is not None or source.given():
        raise Stop("the question stands in initial_conversation of --input already: give no prompt beside it")
    return _Question(file.question, file.conversation)


def _under(file: FlareRun, panel: LearnOptions) -> dict[str, Any]:
    """Return the file's settings without those that an option says otherwise, member by member."""
    settings = dict(file.settings)
    if panel.member is not None:
        settings["instance_settings"] = _kept(settings["instance_settings"], panel.member)
    given = {name for name in ("temperature", "max_output_tokens") if getattr(panel, name) is not None}
    settings["instance_settings"] = {
        member: {name: value for name, value in sampling.items() if name not in given}
        for member, sampling in settings["instance_settings"].items()
    }
    return settings


def _kept(settings: dict[str, Any], members: Sequence[str]) -> dict[str, Any]:
    try:
        known = {str(member) for member in members_of(list(members))}
    except ValueError:
        return {}  # the configuration says what is wrong
    return {member: sampling for member, sampling in settings.items() if member in known}
