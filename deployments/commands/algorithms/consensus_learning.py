"""`consensus consensus-learning`, `learn` for short: consensus learning, from options or from one of Flare's input files."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.member import members_of
from consensus_flows.deployments.algorithm_commands import Given, Name, ask, choose, save_config
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions
from consensus_flows.deployments.commands.settings.keys import saved as saved_credentials
from consensus_flows.deployments.options import OUTPUT, configured, options_type
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, say
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.reports.flare import FlareRun, document, read_input

NAME = "consensus-learning"


@Parameter(name="*")
@dataclass(kw_only=True)
class LearnOutput(TurnOptions):
    """What is printed and written."""

    output_format: Annotated[Literal["record", "flare"], Parameter(group=OUTPUT)] = "record"
    """Format of --output and --json: the record, or Flare's format (implies --json without --output)."""


class _Question(NamedTuple):
    prompt: str
    conversation: tuple[Message, ...]


def command(
    prompt: Prompt = None,
    *,
    source: QuestionOptions | None = None,
    input: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
    name: Name = None,
    given: Given | None = None,
    out: LearnOutput | None = None,
) -> Exit:
    """Ask a panel of models, aggregate their answers, and let each improve its own.

    Args:
        prompt: Prompt; - reads it from standard input.
        source: Where else it is read.
        input: Flare input.json file; options override it.
        name: Name of a saved configuration; options override it.
        given: The settings.
        out: What is printed and written.
    """
    given, out, source = given or {}, out or LearnOutput(), source or QuestionOptions()
    if input is not None and name is not None:
        raise Stop("--input and --name both hold the settings of a run: give one of them")
    if input is None:
        question = _Question(source.question(prompt), ())
        one, config = choose(name, given, NAME)
    else:
        file = _read(input)
        question = _question(file, prompt, source)
        one, config = algorithm(NAME), configured(ConsensusLearningConfig, given, _under(file, given))
    conversation = [*out.turns(), *question.conversation]
    shape = None
    if out.output_format == "flare":
        out.json = out.json or out.output is None
        shape = lambda record: document(record, config.system, tuple(conversation))  # noqa: E731 - it is an argument
    files = source.attachments()
    return ask(one, question.prompt, config, out, shape=shape, conversation=conversation, attachments=files)


def save(
    name: str,
    *,
    input: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
    given: Given | None = None,
) -> Exit:
    """Save a configuration; `consensus learn "PROMPT" --name NAME` uses it.

    Args:
        name: Lower-case letters, digits and dashes.
        input: Flare input.json file. Of its conversation only the system prompt is saved.
        given: The settings.
    """
    given = given or {}
    under: dict[str, Any] | None = None
    if input is not None:
        file = _read(input)
        under = _under(file, given)
        system = [message.content for message in file.conversation if message.role == "system"]
        if system:
            under["system"] = "\n\n".join(system)
        if file.question is not None or len(system) < len(file.conversation):
            say("consensus: a configuration has no question: of initial_conversation only the system prompt is saved")
    return save_config(algorithm(NAME), name, configured(ConsensusLearningConfig, given, under))


for _command in (command, save):
    _command.__annotations__["given"] = options_type(ConsensusLearningConfig)


def _read(path: Path) -> FlareRun:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Stop(f"--input {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Stop(f"--input {path} is not UTF-8: {error.reason} at byte {error.start}") from None
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


def _under(file: FlareRun, given: Given) -> dict[str, Any]:
    """Return the file's settings without those that an option says otherwise, member by member."""
    settings = dict(file.settings)
    if "members" in given:
        settings["instance_settings"] = _kept(settings["instance_settings"], given["members"])
    sampled = {name for name in ("temperature", "max_output_tokens") if name in given.get("sampling", {})}
    settings["instance_settings"] = {
        member: {name: value for name, value in sampling.items() if name not in sampled}
        for member, sampling in settings["instance_settings"].items()
    }
    return settings


def _kept(settings: dict[str, Any], members: Sequence[str]) -> dict[str, Any]:
    try:
        known = {str(member) for member in members_of(list(members))}
    except ValueError:
        return {}  # the configuration says what is wrong
    return {member: sampling for member, sampling in settings.items() if member in known}
