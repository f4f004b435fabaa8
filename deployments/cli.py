"""The command `consensus`."""

import atexit
import logging
import os
import re
import sys

# Before Prefect is imported, which would report its first import and its commands: `prefect.toml` says so too, but is read in
# this folder alone.
os.environ.setdefault("DO_NOT_TRACK", "1")
# Likewise: its log goes to the server and to the UI as ever, but on the terminal the view speaks.
if not os.environ.get("PREFECT_LOGGING_LEVEL") and "--verbose" not in sys.argv:
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
if "--verbose" in sys.argv:
    sys.argv.remove("--verbose")

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, CycloptsError, CycloptsPanel, Parameter
from cyclopts.exceptions import MissingArgumentError, UnknownOptionError, UnusedCliTokensError
from rich.console import Console

from consensus_flows.deployments.folder_settings import ignore_folder_settings
from consensus_flows.deployments.terminal import (
    Exit,
    NotAnOptionError,
    Stop,
    flush,
    leave,
    open_streams,
    read_stdin,
    say,
)
from consensus_flows.flows.algorithms import MAIN, algorithm, algorithms
from consensus_flows.tasks.plain_text import did_you_mean

_COMMAND = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What looks like the name of a command, and so is no question."""
Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def _panel(error: CycloptsError) -> Any:
    """Say what is wrong with the arguments."""
    text = None
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        text = f"unexpected argument {error.unused_tokens[0]!r}: a question of several words needs quotes"
    elif isinstance(error, MissingArgumentError) and error.argument and not error.keyword:
        name = error.argument.name
        text = f"{name if error.argument.index is None else name.lstrip('-').upper()} is missing"
    elif isinstance(error, UnknownOptionError):
        text = _unknown_option(error.token.keyword or error.token.value, error.argument_collection)
    elif isinstance(error.__cause__, NotAnOptionError) and error.app:
        text = _unknown_option(str(error.__cause__), error.app.assemble_argument_collection())
    return CycloptsPanel(CycloptsError(msg=text) if text else error)


def _unknown_option(given: str, arguments: ArgumentCollection) -> str:
    option = given.partition("=")[0]
    known = [name for argument in arguments if argument.parse for name in argument.names]
    return f"unknown option {option}.{did_you_mean(option, [*known, '--help', '--version'])}"


app = App(
    name="consensus",
    help='Many models, one answer, as workflows on Prefect. `consensus "PROMPT"` alone runs the saved default.',
    version=lambda: version("consensus-flows"),
    version_flags=["--version", "-V"],
    error_console=Console(stderr=True),
    error_formatter=_panel,
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `leave` says what an interruption means
)

# Commands are named by module so that only the one that is called is imported.
for _one in algorithms().values():
    app.command(
        f"consensus_flows.deployments.algorithm_commands:{_one.identifier}",
        name=[name for name in (_one.name, _one.alias) if name],
        help=_one.summary,
    )
app.command(
    f"consensus_flows.deployments.algorithm_commands:{MAIN}",
    name="ask",
    help='Ask the saved default or the given panel; `consensus "PROMPT"` is short for it.',
)
app.command(
    "consensus_flows.deployments.commands.algorithms.demo:demo",
    name="demo",
    help="Ask three instances of the small local model; no key needed.",
)


# `save` and `batch` have the options of the algorithm that --flow names, so they are made when it is known.
def _by_flow(verb: str, flow: str | None, tokens: tuple[str, ...], make: Callable[[], Callable[..., Any]]) -> Any:
    """Run a command that was made for one algorithm, under the name that shows what was written."""
    command = App(
        name=f"consensus {verb}" + (f" --flow {flow}" if flow else ""),
        error_console=app.error_console,
        error_formatter=_panel,
        result_action="return_value",
        version_flags=[],
        suppress_keyboard_interrupt=app.suppress_keyboard_interrupt,
    )
    command.default(make())
    return command(list(tokens), exit_on_error=False, print_error=True)


def _save(*tokens: Tokens, flow: str | None = None) -> Any:
    from consensus_flows.deployments.algorithm_commands import save_command

    return _by_flow("save", flow, tokens, lambda: save_command(algorithm(flow or MAIN)))


def _batch(*tokens: Tokens, flow: str | None = None) -> Any:
    from consensus_flows.deployments.commands.algorithms.batch import command

    named = any(token.partition("=")[0] == "--name" for token in tokens)
    return _by_flow("batch", flow, tokens, lambda: command(algorithm(flow).name if flow else None if named else MAIN))


def _schedule(*tokens: Tokens, flow: str | None = None) -> Any:
    from consensus_flows.deployments.commands.schedules import command

    return _by_flow("schedule", flow, tokens, lambda: command(algorithm(flow).name if flow else None))


app.command(
    _save,
    name="save",
    help="Save a configuration for `--name`; the one called `default` is used without it.",
    help_flags=[],
    version_flags=[],
)
app.command(
    _batch,
    name="batch",
    help="Run an algorithm on every row of a file.",
    help_flags=[],
    version_flags=[],
)
app.command(
    "consensus_flows.deployments.commands.batches:app",
    name="batches",
    help="List batches, newest first; `consensus batches show ID` shows the rows to review.",
)
app.command(
    "consensus_flows.deployments.commands.review:app",
    name="review",
    help="Apply the decisions in a review file to the output of its batch.",
)
app.command(
    "consensus_flows.deployments.commands.diff:diff",
    name="diff",
    help="Compare two batch outputs row by row.",
)
app.command(
    _schedule,
    name="schedule",
    help="Run a batch every night, or at other times, and send what came of it.",
    help_flags=[],
    version_flags=[],
)
app.command(
    "consensus_flows.deployments.commands.schedules:app",
    name="schedules",
    help="The batches that are scheduled: list, pause, resume, remove or run them.",
)
app.command(
    "consensus_flows.deployments.commands.preferences.tally:tally",
    name="tally",
    help="Aggregate recorded preferences.",
)
app.command("consensus_flows.deployments.commands.algorithms.chat:chat", name="chat", help="Chat with a panel.")
app.command(
    "consensus_flows.deployments.commands.history:list_history",
    name="runs",
    help="List past runs, newest first.",
)
app.command(
    "consensus_flows.deployments.commands.history:show_run",
    name="run",
    help="Show a past run: every call, and the answer.",
)
app.command(
    "consensus_flows.deployments.commands.history:logs",
    name="logs",
    help="Print the latest prompts and answers.",
)
app.command(
    "consensus_flows.deployments.commands.history:stats",
    name="stats",
    help="Show calls, failures, latency, cost and wins by model.",
)
app.command(
    "consensus_flows.deployments.commands.history:app",
    name="history",
    help="Manage the history database.",
)
app.command(
    "consensus_flows.deployments.commands.store:app",
    name="store",
    help="Manage cached answers.",
)
app.command(
    "consensus_flows.deployments.commands.settings.saved:list_saved", name="list", help="List the saved configurations."
)
app.command(
    "consensus_flows.deployments.commands.settings.saved:show", name="show", help="Print a saved configuration as JSON."
)
app.command(
    "consensus_flows.deployments.commands.settings.saved:remove", name="remove", help="Remove a saved configuration."
)
app.command(
    "consensus_flows.deployments.commands.settings.keys:app",
    name="keys",
    help="Manage API keys, saved as Prefect blocks.",
)
app.command(
    "consensus_flows.deployments.commands.openrouter.account:app",
    name="openrouter",
    help="Show OpenRouter's credits, models, and which free ones work.",
)
app.command(
    "consensus_flows.deployments.commands.settings.prompts:app",
    name="prompts",
    help="Manage prompt sets: few-shot, chain of thought, citations.",
)
app.command(
    "consensus_flows.deployments.commands.operations.models:models",
    name="models",
    help="List the available models.",
)
app.command(
    "consensus_flows.deployments.commands.operations.check:check",
    name="check",
    help="Check the server, the API keys, and the models of a saved configuration.",
)
app.command(
    "consensus_flows.deployments.commands.operations.up:up",
    name="up",
    help="Start the server, work pool, deployments and a worker on this machine.",
)
app.command("consensus_flows.deployments.commands.operations.up:down", name="down", help="Stop what `up` started.")
app.command(
    "consensus_flows.deployments.commands.operations.ui:ui",
    name="ui",
    help="Open the Prefect UI in your browser, signed in.",
)


def _help(*command: str) -> None:
    """Show the help of a command, or list all commands."""
    if command and command[0] not in app:
        raise unknown_command(command[0])
    app([*command, "--help"])


app.command(_help, name="help", help="Show the help of a command, or list all commands.")


app.register_install_completion_command(help="Install completion for your shell, then exit.")


def entry() -> None:
    """Run the command line as a process of its own."""
    open_streams()
    code: list[int] = []

    def end() -> None:
        # The first to be registered is the last to be called: threads have ended, logs and events are sent. What is left
        # is to take apart some thousand modules, which takes half a second and changes nothing.
        logging.shutdown()
        flush()
        os._exit(code[0])

    atexit.register(end)
    try:
        main()
    except SystemExit as left:
        code.append(left.code if isinstance(left.code, int) else int(left.code is not None))
        raise
    finally:
        if not code:
            atexit.unregister(end)


def main() -> None:
    """Run the command line."""
    ignore_folder_settings(say)
    leave(_dispatch)


def _dispatch() -> Exit | None:
    given = tokens(sys.argv[1:])
    try:
        result: Exit | None = app(given, exit_on_error=False, print_error=True)
    except CycloptsError:
        raise Stop("", Exit.BAD_INPUT) from None
    # A pipe that should have held a question, and held none.
    return Exit.BAD_INPUT if not given and not sys.stdin.isatty() else result


def tokens(arguments: list[str]) -> list[str]:
    """Put the main command before arguments that name none; the options of a default command would be shown as those of all.

    Raises:
        Stop: If a command is named that there is not.
    """
    if not arguments:
        piped = "" if sys.stdin.isatty() else read_stdin()
        return [MAIN, "--no-stdin", "--prompt", piped] if piped else []
    if arguments[0] in app or arguments[0] in {"--help", "-h", "--version", "-V"}:
        return arguments
    if _COMMAND.fullmatch(arguments[0]):
        raise unknown_command(arguments[0], *arguments[1:])
    return [MAIN, *arguments]


def unknown_command(word: str, *others: str) -> Stop:
    """Say that there is no such command, and what may have been meant."""
    question = "put the question in quotes" if others and not others[0].startswith("-") else f"`consensus ask {word}`"
    return Stop(
        f"unknown command {word!r}.{did_you_mean(word, (name for name in app if not name.startswith('-')))} "
        f"`consensus help` lists the commands; to ask a model, {question}"
    )


if __name__ == "__main__":
    entry()
