"""`consensus moa`: a mixture of agents; `check-proposer` and `check-aggregator` try models out for their roles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from consensus_flows.blocks.mixture_of_agents import MixtureOfAgents, MixtureOfAgentsConfig
from consensus_flows.deployments.commands.algorithms.layer_view import layer_view, show_layers
from consensus_flows.deployments.commands.algorithms.many import run_list
from consensus_flows.deployments.commands.algorithms.query_files import read_queries, read_references
from consensus_flows.deployments.commands.algorithms.questions import Prompt, QuestionOptions, read_text
from consensus_flows.deployments.commands.settings.saved import load, save_block
from consensus_flows.deployments.options import (
    JUDGING,
    OUTPUT,
    PANEL,
    SAMPLING,
    RunOptions,
    configured,
    file_of,
    laid_over,
    settings,
)
from consensus_flows.deployments.run import TurnOptions, run_flow
from consensus_flows.deployments.terminal import Exit, Stop
from consensus_flows.flows.mixture_of_agents import mixture_of_agents
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.reports.recorded import Recorded

KIND = "moa"
AGGREGATOR = "--final provider/model"

app = App(name=KIND)
app.command(
    "consensus_flows.deployments.commands.operations.check_models:check_proposer",
    name="check-proposer",
    help="Try models out as proposers.",
)
app.command(
    "consensus_flows.deployments.commands.operations.check_models:check_aggregator",
    name="check-aggregator",
    help="Try models out as aggregators.",
)


@Parameter(name="*")
@dataclass(kw_only=True)
class MixtureOptions(RunOptions):
    """Who is in which layer, and who aggregates."""

    layers: Annotated[list[str] | None, Parameter(name="--layer", group=PANEL, negative="")] = None
    """A layer of models: provider/model, with a count if you like, separated by commas. May be repeated."""
    aggregator: Annotated[str | None, Parameter(name=["--final", "--aggregator"], group=PANEL)] = None
    """The model of the last layer, which makes the one answer: provider/model."""
    fallback_aggregators: Annotated[
        list[str] | None, Parameter(name="--fallback-aggregator", group=PANEL, negative="")
    ] = None
    """A model that aggregates when the aggregator fails. May be repeated."""
    self_moa: Annotated[str | None, Parameter(group=PANEL)] = None
    """Instead of layers: one model, sampled --samples times; it aggregates too, unless --final names another."""
    samples: Annotated[int | None, Parameter(group=PANEL)] = None
    """How often the model of --self-moa answers; default 6."""
    window: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Most answers that the aggregator sees at once; of more, it goes on from its synthesis so far."""
    reserved: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Places in each further window that the synthesis so far takes; default 1."""
    final_temperature: Annotated[float | None, Parameter(group=SAMPLING)] = None
    """Temperature of the aggregator, if it is to be another."""
    final_max_output_tokens: Annotated[int | None, Parameter(group=SAMPLING)] = None
    """Most tokens in the aggregator's answer, if it is to be another number."""


@Parameter(name="*")
@dataclass(kw_only=True)
class PromptOptions:
    """Text files with instructions in place of the built-in ones."""

    initial_prompt: Annotated[Path | None, Parameter(group=JUDGING)] = None
    """File with what the first layer is told."""
    aggregate_prompt: Annotated[Path | None, Parameter(group=JUDGING)] = None
    """File with what the further layers are told to do with the answers before."""
    final_prompt: Annotated[Path | None, Parameter(group=JUDGING)] = None
    """File with what the aggregator is told to do with the answers."""


@app.default
def run_command(
    prompt: Prompt = None,
    *,
    source: QuestionOptions | None = None,
    queries: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    reference: Annotated[list[Path] | None, Parameter(group=OUTPUT, negative="")] = None,
    name: Annotated[str | None, Parameter(group=OUTPUT)] = None,
    panel: MixtureOptions | None = None,
    prompts: PromptOptions | None = None,
    out: TurnOptions | None = None,
) -> Exit:
    """Ask layers of models, each of which sees all answers of the layer before; the last model makes one answer.

    Args:
        prompt: The question; - reads it from standard input.
        source: Where else it is read.
        queries: File of questions, one a line or a JSON list, for a list of records.
        reference: File of recorded answers that stand in for the first layer, JSON or JSONL. May be repeated.
        name: Name of a saved configuration.
        panel: Who is in which layer, and who aggregates.
        prompts: Instructions in place of the built-in ones.
        out: What is printed and written.
    """
    panel, out, source = panel or MixtureOptions(), out or TurnOptions(), source or QuestionOptions()
    if queries is not None and (prompt is not None or source.given()):
        raise Stop("--queries holds the questions: give no prompt beside it")
    questions = read_queries(queries) if queries else [source.question(prompt)]
    recorded = read_references(reference or [])
    saved = load(name, KIND) if name else None
    config = _configured(panel, prompts or PromptOptions(), saved, needs_layers=not recorded)
    if queries is not None:
        return run_list(questions, config, recorded, out)
    return run_config(questions[0], config, out, recorded)


def save(name: str, *, panel: MixtureOptions | None = None, prompts: PromptOptions | None = None) -> Exit:
    """Save a configuration; `consensus moa "PROMPT" --name NAME` uses it.

    Args:
        name: Lower-case letters, digits and dashes.
        panel: Who is in which layer, and who aggregates.
        prompts: Instructions in place of the built-in ones.
    """
    config = _configured(panel or MixtureOptions(), prompts or PromptOptions(), None)
    return save_block(name, MixtureOfAgents(config=config), config.models())


def configure(panel: MixtureOptions, under: dict[str, Any] | None) -> MixtureOfAgentsConfig:
    """Make the configuration of options that lie over others."""
    return _configured(panel, PromptOptions(), under)


def _configured(
    panel: MixtureOptions, prompts: PromptOptions, saved: dict[str, Any] | None, *, needs_layers: bool = True
) -> MixtureOfAgentsConfig:
    file = file_of(panel)
    under = laid_over(MixtureOfAgentsConfig, file, _without_other(saved or {}, file))
    under, panel = _without_other(under, vars(panel)), replace(panel, config=None)
    values = settings(MixtureOfAgentsConfig, panel, under)
    if needs_layers and not values.get("layers") and not values.get("self_moa"):
        raise Stop("layers: give --layer provider/model,provider/model, or --self-moa provider/model")
    required = {} if values.get("self_moa") else {"aggregator": AGGREGATOR}
    texts = {role: read_text(path, f"--{role}-prompt") for role, path in _files(prompts).items()}
    return configured(MixtureOfAgentsConfig, panel, under, {"prompts": texts} if texts else None, **required)


def _without_other(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return settings without layers where those above them have self-MoA, and the other way round."""
    gone = {*(("self_moa", "samples") if over.get("layers") else ()), *(("layers",) if over.get("self_moa") else ())}
    return {name: value for name, value in under.items() if name not in gone}


def _files(prompts: PromptOptions) -> dict[str, Path]:
    files = {"initial": prompts.initial_prompt, "aggregate": prompts.aggregate_prompt, "final": prompts.final_prompt}
    return {role: path for role, path in files.items() if path is not None}


def run_config(prompt: str, config: MixtureOfAgentsConfig, out: TurnOptions, recorded: Sequence[Recorded] = ()) -> Exit:
    """Run a configuration, with recorded answers in place of the first layer if there are some."""

    async def start() -> Record:
        return await mixture_of_agents(prompt, config, conversation=out.turns(), reference=list(recorded))

    models = [*(str(member) for member in config.members()), *map(str, config.aggregators())]
    return run_flow(start, models, out, view=layer_view(), show=show_layers)
