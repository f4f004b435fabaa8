"""What the help of the commands shows."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import get_args

from cyclopts import App

from consensus_flows.deployments.algorithm_commands import save_command
from consensus_flows.deployments.cli import COMMANDS, app
from consensus_flows.deployments.commands import schedules
from consensus_flows.deployments.commands.algorithms import batch
from consensus_flows.flows.algorithms import algorithm


def _commands(above: App) -> Iterator[App]:
    for name in above:
        if not name.startswith("-"):
            yield above[name]
            yield from _commands(above[name])


def _by_flow() -> Iterator[App]:
    for make in (save_command(algorithm("vote")), batch.command("vote"), schedules.command("vote")):
        one = App(name=make.__name__)
        one.default(make)
        yield one


def test_every_option_says_what_its_value_is_and_not_its_type():
    plain = [
        (command.name, argument.names)
        for command in (*_commands(app), *_by_flow())
        if command.default_command is not None and command.help_flags  # else the one that is made by flow has the help
        for argument in command.assemble_argument_collection()
        if argument.parse and argument.show and argument.index is None and argument.parameter.metavar is None
        if {kind for kind in (get_args(argument.hint) or [argument.hint]) if kind is not NoneType}
        & {str, int, float, Path, list[str], list[Path]}
    ]
    assert plain == []


def test_a_price_and_a_limit_are_written_as_elsewhere(capsys):
    app(["vote", "--help"], result_action="return_value")
    assert "--price MODEL=IN/OUT" in capsys.readouterr().out
    app(["logs", "--help"], result_action="return_value")
    assert "--limit" in capsys.readouterr().out


def test_every_command_is_in_a_group_of_the_help(capsys):
    app(["--help"])
    shown = capsys.readouterr().out
    titles = [*COMMANDS, "Options"]
    assert [shown.index(f"─ {title} ─") for title in titles] == sorted(shown.index(f"─ {title} ─") for title in titles)
    named = {
        name
        for group in COMMANDS.values()
        for _, names, _ in group
        for name in ([names] if isinstance(names, str) else names)
    }
    assert named == {name for name in app if not name.startswith("-")}


def test_bash_completes_the_options_of_the_commands_that_are_made_by_flow(tmp_path):
    script = tmp_path / "completion.bash"
    install = [sys.executable, "-m", "consensus_flows.deployments.cli", "--install-completion", "--shell", "bash"]
    subprocess.run([*install, "--output", str(script)], check=True, env={**os.environ, "HOME": str(tmp_path)})
    function = re.findall(r"complete .*-F (\w+)", script.read_text())[-1]
    wanted = {
        "batch --ven": "--vendor-batch",
        "save --arb": "--arbiter",
        "schedule --eve": "--every",
        "evaluate --lab": "--label",
    }
    for typed, option in wanted.items():
        complete = f'COMP_WORDS=(consensus {typed}); COMP_CWORD=2; {function}; echo "${{COMPREPLY[@]}}"'
        bash = ["bash", "-c", f"source {script}; {complete}"]
        shown = subprocess.run(bash, check=True, capture_output=True, text=True)
        assert option in shown.stdout.split(), typed
