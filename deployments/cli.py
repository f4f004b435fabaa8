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

from importlib.metadata import version
from typing import get_args

from cyclopts import App, CycloptsError
from rich.console import Console

from consensus_flows.deployments.folder_settings import ignore_folder_settings
from consensus_flows.deployments.kinds import KINDS, MAIN
from consensus_flows.deployments.terminal import Exit, Stop, flush, leave, open_streams, say

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
for _name, _kind in KINDS.items():
    app.command(f"{_kind.module}:{_kind.command}", name=_name, help=_kind.help)
    # As one word of their own, so that help and errors show what was written.
    app.command(f"{_kind.module}:save", name=f"save --flow {_name}", show=False)
    app.command(
        f"consensus_flows.deployments.commands.algorithms.batch:batch_{_name}", name=f"batch --flow {_name}", show=False
    )
app.command(
    "consensus_flows.deployments.commands.algorithms.demo:demo",
    name="demo",
    help="Ask three instances of the small local model; no key needed.",
)
app.command(
    f"{KINDS[MAIN].module}:save_command",
    name="save",
    help='Save a configuration under a name; `consensus "PROMPT" --name NAME` uses it, and the one called `default` without.',
)
app.command(
    "consensus_flows.deployments.commands.algorithms.batch:run_command",
    name="batch",
    help="Run a flow on every row of a file; --flow names its kind, --name a saved configuration.\n\n"
    "Killed half-way it is simply started again, and goes on where it was. --max-calls, --max-tokens and --max-cost are "
    "those of the whole batch, --deadline that of this start of it.",
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
    """Put the main command before arguments that name none, and turn `save --flow KIND` into that kind's own command.

    `batch --flow KIND` likewise.

    Raises:
        Stop: If there is no such kind.
    """
    if not arguments:
        return [] if sys.stdin.isatty() else [MAIN]
    first, *rest = arguments
    rest = [part for text in rest for part in (text.split("=", 1) if text.startswith("--flow=") else [text])]
    if first in {"save", "batch"} and "--flow" in rest:
        at = rest.index("--flow")
        kind = rest[at + 1] if at + 1 < len(rest) else ""
        if kind not in KINDS:
            raise Stop(f"--flow {kind!r} is none of {', '.join(KINDS)}")
        return _dashed([f"{first} --flow {kind}", *rest[:at], *rest[at + 2 :]])
    if (
        first == "batch"
        and not any(text.partition("=")[0] == "--name" for text in rest)
        and not {"--help", "-h"} & set(rest)
    ):
        return _dashed([f"batch --flow {MAIN}", *rest])
    if first in {"--help", "-h", "--version"}:
        return arguments
    return _dashed(arguments if first in app else [MAIN, *arguments])


_DASHED = re.compile(r"-\Z|-[^=\s]*\s")


def _dashed(arguments: list[str]) -> list[str]:
    """Let a lone dash, or a sentence that begins with one, be the prompt; behind an option that takes a value it is that value.

    Raises:
        Stop: If it stands for the rows of a batch.
    """
    result = [
        f"--prompt={text}" if _DASHED.match(text) and not _takes_value(arguments, before) else text
        for before, text in zip(["", *arguments], arguments, strict=False)
    ]
    if arguments[0].startswith("batch") and "--prompt=-" in result:
        raise Stop("input: a batch is read twice, and stdin only once: name a file")
    return result


def _takes_value(arguments: list[str], option: str) -> bool:
    """Tell whether an option of a command waits for a value, as all do but those that are on or off."""
    if not option.startswith("-") or option == "-" or "=" in option:
        return False
    command = app.parse_commands(arguments)[1][-1]
    for argument in command.assemble_argument_collection() if command.default_command else ():
        if option in argument.names:
            return bool not in {argument.hint, *get_args(argument.hint)}
    return True


if __name__ == "__main__":
    entry()
