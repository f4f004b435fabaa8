"""The command `consensus`."""

import atexit
import logging
import os
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

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from consensus_flows.deployments.folder_settings import ignore_folder_settings
from consensus_flows.deployments.terminal import Exit, Stop, flush, leave, open_streams, say
from consensus_flows.flows.algorithms import MAIN, algorithm, algorithms

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]

app = App(
    name="consensus",
    help='Many models, one answer, as workflows on Prefect. `consensus "PROMPT"` alone runs the saved default.',
    version=lambda: version("consensus-flows"),
    version_flags=["--version"],
    error_console=Console(stderr=True),
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
    help='Save a configuration under a name; `consensus "PROMPT" --name NAME` uses it, and the one called `default` without.',
    help_flags=[],
    version_flags=[],
)
app.command(
    _batch,
    name="batch",
    help="Run a flow on every row of a file; --flow names it, --name a saved configuration.",
    help_flags=[],
    version_flags=[],
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
    help="Put the recorded preferences of a folder together.",
)
app.command(
    "consensus_flows.deployments.commands.algorithms.chat:chat", name="chat", help="Talk with a panel, turn after turn."
)
app.command(
    "consensus_flows.deployments.commands.history:list_history",
    name="runs",
    help="List the runs of the history, newest first.",
)
app.command("consensus_flows.deployments.commands.history:show_run", name="run", help="Show a run of the history.")
app.command(
    "consensus_flows.deployments.commands.history:stats",
    name="stats",
    help="How each model did, over the runs of the history.",
)
app.command(
    "consensus_flows.deployments.commands.history:app",
    name="history",
    help="The database of the history: where it is, and what is deleted from it.",
)
app.command(
    "consensus_flows.deployments.commands.store:app",
    name="store",
    help="The stored answers: delete those older than some days.",
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
    help="Credentials of providers, saved as Prefect blocks.",
)
app.command(
    "consensus_flows.deployments.commands.openrouter.account:app",
    name="openrouter",
    help="OpenRouter's own: credits, models, which free ones work.",
)
app.command(
    "consensus_flows.deployments.commands.settings.prompts:app",
    name="prompts",
    help="Prompt sets: examples, steps of thought, citations.",
)
app.command(
    "consensus_flows.deployments.commands.operations.check:check",
    name="check",
    help="Is the server there, do the credentials answer, what will a run call?",
)
app.command(
    "consensus_flows.deployments.commands.operations.up:up",
    name="up",
    help="Start server, work pool, deployments and a worker on this machine.",
)
app.command("consensus_flows.deployments.commands.operations.up:down", name="down", help="Stop what up has started.")
app.command(
    "consensus_flows.deployments.commands.operations.ui:ui",
    name="ui",
    help="Open the Prefect UI in your browser, signed in.",
)


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
    try:
        result: Exit | None = app(tokens(sys.argv[1:]), exit_on_error=False, print_error=True)
    except CycloptsError:
        raise Stop("", Exit.BAD_INPUT) from None
    return result


def tokens(arguments: list[str]) -> list[str]:
    """Put the main command before arguments that name none; the options of a default command would be shown as those of all."""
    if not arguments:
        return [] if sys.stdin.isatty() else [MAIN]
    return arguments if arguments[0] in app or arguments[0] in {"--help", "-h", "--version"} else [MAIN, *arguments]


if __name__ == "__main__":
    entry()
