"""`consensus mixture-of-agents`; `check-proposer` and `check-aggregator` try models out for their roles."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.deployments.algorithm_commands import Given, Name, ask, choose
from consensus_flows.deployments.commands.algorithms.layer_view import LayerLines, LayerTable, layer_view
from consensus_flows.deployments.commands.algorithms.layer_view import show_layers as show
from consensus_flows.deployments.commands.algorithms.many import run_list
from consensus_flows.deployments.commands.algorithms.query_files import read_queries, read_references
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions
from consensus_flows.deployments.options import OUTPUT, options_type
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.terminal import Exit, Stop

__all__ = ["command", "show", "view"]

command = App(name="mixture-of-agents")
command.command(
    "consensus_flows.deployments.commands.operations.check_models:check_proposer",
    name="check-proposer",
    help="Test models as proposers.",
)
command.command(
    "consensus_flows.deployments.commands.operations.check_models:check_aggregator",
    name="check-aggregator",
    help="Test models as aggregators.",
)


def mixture(
    prompt: Prompt = None,
    *,
    source: QuestionOptions | None = None,
    queries: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None,
    reference: Annotated[list[Path] | None, Parameter(group=OUTPUT, negative="", metavar="FILE")] = None,
    name: Name = None,
    given: Given | None = None,
    out: TurnOptions | None = None,
) -> Exit:
    """Ask models in layers; each layer improves the answers of the one before, and the aggregator writes the final one.

    Args:
        prompt: Prompt; - reads it from standard input.
        source: Where else it is read.
        queries: File of prompts, one a line or a JSON list; the result is a list of records.
        reference: File of recorded answers to use as the first layer, JSON or JSONL. May be repeated.
        name: Name of a saved configuration; options override it.
        given: The settings.
        out: What is printed and written.
    """
    out, source = out or TurnOptions(), source or QuestionOptions()
    if queries is not None and (prompt is not None or source.given()):
        raise Stop("--queries holds the questions: give no prompt beside it")
    if queries is not None:
        source.refuse_files("--queries")
    questions = read_queries(queries) if queries else [source.question(prompt)]
    recorded = read_references(reference or [])
    one, config = choose(name, given or {}, "mixture-of-agents", optional=("layers",) if recorded else ())
    if queries is not None:
        return run_list(questions, config, recorded, out)
    return ask(one, questions[0], config, out, reference=list(recorded), attachments=source.attachments())


mixture.__annotations__["given"] = options_type(MixtureOfAgentsConfig)
command.default(mixture)


def view(config: MixtureOfAgentsConfig) -> LayerLines | LayerTable:  # noqa: ARG001
    """Return what shows the layers as they are asked."""
    return layer_view()
