"""`consensus prefer`: models answer, then rank each other's answers."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.deployments.algorithm_commands import Given, Name, ask, choose
from consensus_flows.deployments.commands.algorithms.many import run_folder
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions
from consensus_flows.deployments.commands.preferences.preference_view import show_record as show
from consensus_flows.deployments.options import OUTPUT, options_type
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.terminal import Exit, Stop

__all__ = ["command", "show"]


def command(
    prompt: Prompt = None,
    *,
    source: QuestionOptions | None = None,
    prompts: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None,
    at_once: Annotated[int, Parameter(group=OUTPUT, metavar="N")] = 4,
    name: Name = None,
    given: Given | None = None,
    out: TurnOptions | None = None,
) -> Exit:
    """Ask many models, and let each rank the answers of the others. The answer is the one with the highest Borda count.

    With --prompts, every *.md and *.txt file of a folder is a prompt, and --output is a folder for their records.

    Args:
        prompt: Prompt; - reads it from standard input.
        source: Where else it is read.
        prompts: Folder of prompts.
        at_once: Number of prompts to work on concurrently, with --prompts.
        name: Name of a saved configuration; options override it.
        given: The settings.
        out: What is printed and written.
    """
    out, source = out or TurnOptions(), source or QuestionOptions()
    if prompts is not None and (prompt is not None or source.given()):
        raise Stop("there are two prompts: give --prompts alone, without --prompt, --prompt-file and --stdin")
    if prompts is not None:
        source.refuse_files("--prompts")
    text = "" if prompts else source.question(prompt)
    one, config = choose(name, given or {}, "prefer")
    if prompts is not None:
        return run_folder(prompts, config, out, at_once)
    return ask(one, text, config, out, attachments=source.attachments())


command.__annotations__["given"] = options_type(PreferConfig)
