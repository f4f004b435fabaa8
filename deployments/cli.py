"""The command `consensus`."""

import atexit
import gc
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, CycloptsError, CycloptsPanel, Group, Parameter
from cyclopts.completion.install import create_install_completion_command
from cyclopts.exceptions import MissingArgumentError, UnknownOptionError, UnusedCliTokensError
from rich.console import Console

from consensus_flows.deployments.folder_settings import ignore_folder_settings, quiet_prefect
from consensus_flows.deployments.terminal import (
    Exit,
    NotAnOptionError,
    Stop,
    flush,
    leave,
    let_shell_go,
    open_streams,
    read_stdin,
    say,
)
from consensus_flows.flows.algorithms import MAIN, algorithm, algorithms

quiet_prefect()  # before it is imported

_COMMAND = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What looks like the name of a command, and so is no question."""
Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def _panel(error: CycloptsError) -> Any:
    """Say what is wrong with the arguments."""
    text = None
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens and (inner := _subcommands(error.app)):
        word = error.unused_tokens[0]
        text = f"unknown command {word!r}.{_near(word, inner)} Use one of {', '.join(inner)}"
    elif isinstance(error, UnusedCliTokensError) and error.unused_tokens:
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
    if "--config" in known and (owners := _owners(option)):
        return f"unknown option {option}: it belongs to {' and '.join(owners)}"
    return f"unknown option {option}.{_near(option, [*known, '--help', '--version'])}"


def _owners(option: str) -> list[str]:
    """Name the algorithms that have an option."""
    from consensus_flows.deployments.options import options

    return [
        f"`consensus {one.alias or one.name}`"
        for one in algorithms().values()
        if any(option in each.names for each in options(one.config_class()))
    ]


def _subcommands(command: App | None) -> list[str]:
    return [name for name in command or () if not name.startswith("-")]


app = App(
    name="consensus",
    help='Many models, one answer, as workflows on Prefect. `consensus "PROMPT"` alone runs the saved default.',
    version=lambda: version("consensus-flows"),
    version_flags=["--version", "-V"],
    error_formatter=_panel,
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `leave` says what an interruption means
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


def _evaluate(*tokens: Tokens, flow: str | None = None) -> Any:
    from consensus_flows.deployments.commands import evaluate, evaluate_text

    # Free text has no label to compare with, so that it is another evaluation, with options of its own.
    judged = any(token.partition("=")[0] == "--judge" for token in tokens)
    made = evaluate_text if judged else evaluate
    return _by_flow("evaluate", flow, tokens, lambda: made.command(algorithm(flow).name if flow else None))


def _help(*command: str) -> None:
    """Show the help of a command, or list all commands."""
    if command and command[0] not in app:
        raise unknown_command(command[0])
    app([*command, "--help"])


# Commands are named by module so that only the one that is called is imported.
_ALGORITHMS = "consensus_flows.deployments.algorithm_commands"
_IN = "consensus_flows.deployments.commands"
COMMANDS: dict[str, list[tuple[str | Callable[..., Any], str | list[str], str]]] = {
    "Ask": [
        (
            f"{_ALGORITHMS}:{MAIN}",
            "ask",
            'Ask the saved default or the given panel; `consensus "PROMPT"` is short for it.',
        ),
        *(
            (f"{_ALGORITHMS}:{one.identifier}", [name for name in (one.name, one.alias) if name], one.summary)
            for one in algorithms().values()
        ),
        (f"{_IN}.verdict:verdict", "verdict", "Let a panel vote among choices; the exit code says which one won."),
        (f"{_IN}.algorithms.chat:chat", "chat", "Chat with a panel."),
        (
            f"{_IN}.algorithms.demo:demo",
            "demo",
            "Show why a panel is worth it, with a small local model; no key needed.",
        ),
    ],
    "Batches": [
        (_batch, "batch", "Run an algorithm on every row of a file."),
        (_schedule, "schedule", "Run a batch every night, or at other times, and send what came of it."),
        (
            f"{_IN}.schedules:app",
            "schedules",
            "The batches that are scheduled: list, pause, resume, remove or run them.",
        ),
        (
            f"{_IN}.batches:app",
            "batches",
            "List batches, newest first; `consensus batches show ID` shows the rows to review.",
        ),
        (f"{_IN}.review:app", "review", "Apply the decisions in a review file to the output of its batch."),
        (f"{_IN}.diff:diff", "diff", "Compare two batch outputs row by row."),
    ],
    "Is it worth it": [
        (
            _evaluate,
            "evaluate",
            "Measure what a panel is worth on rows whose right answers you know.",
        ),
        (
            f"{_IN}.calibrate:run",
            "calibrate",
            "Find the best way to ask a panel on rows whose right answers you know, and save it.",
        ),
    ],
    "Look back": [
        (f"{_IN}.history:list_history", "runs", "List past runs, newest first."),
        (f"{_IN}.history:show_run", "run", "Show a past run: every call, and the answer."),
        (f"{_IN}.history:logs", "logs", "Print the latest prompts and answers."),
        (
            f"{_IN}.verify:verify",
            "verify",
            "Verify that a container image computed a record in Google's Confidential Space.",
        ),
        (f"{_IN}.history:stats", "stats", "Show calls, failures, latency, cost and wins by model."),
        (f"{_IN}.preferences.tally:tally", "tally", "Aggregate recorded preferences."),
    ],
    "Set up": [
        (_save, "save", "Save a configuration for `--name`; the one called `default` is used without it."),
        (f"{_IN}.settings.saved:list_saved", "list", "List the saved configurations."),
        (f"{_IN}.settings.saved:show", "show", "Print a saved configuration as JSON."),
        (f"{_IN}.settings.saved:remove", "remove", "Remove a saved configuration."),
        (f"{_IN}.settings.consortia:import_panels", "import", "Save the panels of llm-consortium."),
        (f"{_IN}.settings.keys:app", "keys", "Manage API keys, saved as Prefect blocks."),
        (f"{_IN}.operations.models:models", "models", "List the available models."),
        (f"{_IN}.settings.prompts:app", "prompts", "Manage prompt sets: few-shot, chain of thought, citations."),
        (
            f"{_IN}.operations.check:check",
            "check",
            "Check the server, the API keys, and the models of a saved configuration.",
        ),
        (f"{_IN}.judges:app", "judges", "Test models as judges on labeled pairs of answers."),
        (
            f"{_IN}.openrouter.account:app",
            "openrouter",
            "Show OpenRouter's credits, models, and which free ones work.",
        ),
    ],
    "Use it from elsewhere": [
        (f"{_IN}.serve:serve", "serve", "Serve the saved configurations as models of an OpenAI-compatible API."),
        (f"{_IN}.mcp:mcp", "mcp", "Serve panels as tools of an MCP client: Claude, Cursor, VS Code."),
    ],
    "Server and storage": [
        (
            f"{_IN}.operations.up:up",
            "up",
            "Start the server, work pool, deployments and a worker on this machine.",
        ),
        (f"{_IN}.operations.up:down", "down", "Stop what `up` started."),
        (f"{_IN}.operations.ui:ui", "ui", "Open the Prefect UI in your browser, signed in."),
        (f"{_IN}.history:app", "history", "Manage the history database."),
        (f"{_IN}.cache:app", ["cache", "store"], "Manage cached answers."),
        (_help, "help", "Show the help of a command, or list all commands."),
    ],
}
"""All commands, by group, in the order of the help: where each is, its names, and what it does."""
# The help of what takes tokens is that of the command that is made of them.
_NO_FLAGS: dict[str, list[str]] = {"help_flags": [], "version_flags": []}
for _title, _members in COMMANDS.items():
    _group = Group.create_ordered(_title)
    for _place, (_target, _name, _text) in enumerate(_members):
        _flags = _NO_FLAGS if _target in {_save, _batch, _schedule, _evaluate} else {}
        app.command(_target, name=_name, help=_text, group=_group, sort_key=_place, **_flags)


def _install_completion(**where: Any) -> Path:
    """Install a script that knows, for the commands made for one algorithm, the options they have with the main one."""
    from consensus_flows.deployments.algorithm_commands import save_command
    from consensus_flows.deployments.commands import evaluate, schedules
    from consensus_flows.deployments.commands.algorithms import batch

    app["save"].default_command = save_command(algorithm(MAIN))
    for name, module in (("batch", batch), ("schedule", schedules), ("evaluate", evaluate)):
        app[name].default_command = module.command(MAIN)
    return app.install_completion(**where)


app.command(
    create_install_completion_command(_install_completion, add_to_startup=True),
    name="--install-completion",
    help="Install completion for your shell, then exit.",
)
_options = Group.create_ordered("Options")
for _option in ("--help", "--install-completion", "--version"):
    app[_option].group = _options


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
        let_shell_go(code[0])
        raise
    finally:
        if not code:
            atexit.unregister(end)


def main() -> None:
    """Run the command line."""
    if "--verbose" in sys.argv:  # `quiet_prefect` has seen it
        sys.argv.remove("--verbose")
    app.error_console = Console(stderr=True)
    ignore_folder_settings(say)
    leave(_dispatch)


def _dispatch() -> int | None:
    given = tokens(sys.argv[1:])
    try:
        if not gc.isenabled():
            app.parse_commands(given)  # imports the command
            gc.freeze()
            gc.enable()
        result: int | None = app(given, exit_on_error=False, print_error=True)
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
    if not _COMMAND.fullmatch(arguments[0]):
        return [MAIN, *arguments]
    word, *others = arguments
    alone = not others or others[0].startswith("-")
    # `cat report.txt | consensus Summarize` asks, as with `llm`; `... | consensus modles` is a typo.
    if alone and "-" in others and not _nearest(word):  # the pipe holds the attachment
        return [MAIN, *arguments]
    piped = "" if not alone or _nearest(word) or "--no-stdin" in others or sys.stdin.isatty() else read_stdin()
    if not piped:
        raise unknown_command(word, *others)
    return [MAIN, "--no-stdin", "--prompt", f"{piped}\n\n{word}", *others]


def unknown_command(word: str, *others: str) -> Stop:
    """Say that there is no such command, and what may have been meant."""
    question = "put the question in quotes" if others and not others[0].startswith("-") else f"`consensus ask {word}`"
    return Stop(
        f"unknown command {word!r}.{_nearest(word)} `consensus help` lists the commands; to ask a model, {question}"
    )


def _nearest(word: str) -> str:
    return _near(word, _subcommands(app))


def _near(word: str, known: Iterable[str]) -> str:
    from consensus_flows.blocks.spelling import did_you_mean  # here, because blocks import Prefect

    return did_you_mean(word, known)


if __name__ == "__main__":
    entry()
