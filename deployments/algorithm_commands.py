"""The commands of every algorithm, made of its line in the registry and of its configuration: ask it, save it.

What only one algorithm has is in the module of its name in `commands/algorithms`: `command` in place of the one made here,
`save` likewise, `view(config)` for what looks on, `show(record, ui_url)` for what is printed in the end.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from consensus_flows.blocks.panel import PanelConfig, RunConfig
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions
from consensus_flows.deployments.commands.settings.saved import find, find_default, is_saved, save_block
from consensus_flows.deployments.options import FILE, OUTPUT, configured, foreign, options_type
from consensus_flows.deployments.run import TurnOptions, run_flow
from consensus_flows.deployments.terminal import Exit, Stop
from consensus_flows.flows.algorithms import MAIN, Algorithm, algorithm, algorithms
from consensus_flows.flows.run import attaching
from consensus_flows.tasks.record import Attachment

Name = Annotated[str | None, Parameter(group=OUTPUT, metavar="NAME")]
Given = dict[str, Any]
if TYPE_CHECKING:
    Flow = str | None
else:
    Flow = Annotated[Literal[tuple(algorithms())] | None, Parameter(group=OUTPUT)]


def __getattr__(name: str) -> Any:
    """Return the command of the algorithm that is called so in Python."""
    if name.startswith("_"):
        raise AttributeError(name)
    return own(algorithm(name), "command", None) or _ask_command(algorithm(name))


def own(one: Algorithm, what: str, default: Any) -> Any:
    """Return what an algorithm has of its own at the command line, if anything."""
    module = f"consensus_flows.deployments.commands.algorithms.{one.identifier}"
    return getattr(import_module(module), what, default) if find_spec(module) else default


def choose(
    name: str | None, given: Given, flow: str | None = None, *, optional: tuple[str, ...] = ()
) -> tuple[Algorithm, Any]:
    """Return the algorithm to run and its configuration.

    Args:
        name: Name of a saved configuration, over which the options are laid.
        given: The options that were given.
        flow: The algorithm; None for that of the saved configuration, else the main one.
        optional: Settings that the run can do without.

    Raises:
        Stop: If nothing of that name is saved, or the options do not fit.
    """
    unnamed = flow is None and name is None and "members" not in given and FILE not in given
    found = find_default() if unnamed else find(name, flow) if name else None
    one = algorithm(found.kind if found else flow or MAIN)
    config: type[RunConfig] = one.config_class()
    if found and (strangers := foreign(config, given, algorithm(MAIN).config_class())):
        raise Stop(
            f"{', '.join(strangers)}: {found.name!r} is saved for {one.name}, which has no such option; "
            f"`consensus {one.name} --help` lists those it has"
        )
    try:
        return one, configured(config, given, found.values if found else None, optional=optional)
    except Stop:
        for member in given.get("members", ()):
            if "/" not in member and is_saved(member):
                raise Stop(f"-m {member}: this is a saved configuration, not a model: use --name {member}") from None
        raise


def ask(
    one: Algorithm,
    prompt: str,
    config: Any,
    out: TurnOptions,
    *,
    shape: Callable[[Any], dict[str, Any]] | None = None,
    attachments: Sequence[Attachment] = (),
    ends_command: bool = False,
    **parameters: Any,
) -> Exit:
    """Run an algorithm.

    Args:
        one: The algorithm.
        prompt: The question.
        config: Its configuration.
        out: What is printed and written.
        shape: Makes the document that is written as JSON, in place of the whole record.
        attachments: Files that the question is about.
        ends_command: Whether nothing is printed after the report, so that the shell can go on.
        parameters: Further parameters of its flow.
    """
    flow, view = one.flow(), own(one, "view", None)
    panel = [str(member) for member in config.panel()] if isinstance(config, PanelConfig) else []
    parameters["conversation"] = [*parameters.get("conversation", out.turns()), *attaching(attachments)]
    return run_flow(
        lambda: flow(prompt, config, **parameters),
        panel or [str(model) for model in config.models()],
        out,
        view=view and view(config),
        show=own(one, "show", None),
        shape=shape,
        ends_command=ends_command,
    )


def _ask_command(one: Algorithm) -> Callable[..., Exit]:
    """Make the command that asks an algorithm."""

    def command(
        prompt: Prompt = None,
        *,
        source: QuestionOptions | None = None,
        name: Name = None,
        given: Given | None = None,
        out: TurnOptions | None = None,
    ) -> Exit:
        """Ask.

        Args:
            prompt: Prompt; - reads it from standard input.
            source: Where else it is read.
            name: Name of a saved configuration; options override it.
            given: The settings.
            out: What is printed and written.
        """
        source = source or QuestionOptions()
        text = source.question(prompt)
        # The command `consensus "PROMPT"` runs whatever flow was saved.
        chosen, config = choose(name, given or {}, None if one.name == MAIN else one.name)
        return ask(chosen, text, config, out or TurnOptions(), attachments=source.attachments(), ends_command=True)

    command.__annotations__["given"] = options_type(one.config_class())
    return command


def save_command(one: Algorithm) -> Callable[..., Exit]:
    """Make the command that saves a configuration of an algorithm."""
    if made := own(one, "save", None):
        return made  # type: ignore[no-any-return]

    def save(name: str, *, flow: Flow = None, given: Given | None = None) -> Exit:  # noqa: ARG001 - for its help
        """Save a configuration; `consensus "PROMPT" --name NAME` uses it, and the one called `default` without.

        Args:
            name: Lower-case letters, digits and dashes.
            flow: Algorithm; `consensus save --flow vote --help` shows its options.
            given: The settings.
        """
        return save_config(one, name, configured(one.config_class(), given or {}))

    save.__annotations__["given"] = options_type(one.config_class())
    return save


def save_config(one: Algorithm, name: str, config: Any) -> Exit:
    """Save the configuration of an algorithm."""
    return save_block(name, one.block_class()(config=config), config.models())
