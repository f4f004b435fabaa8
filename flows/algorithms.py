"""The algorithms that answer one question: a line for each, from which commands, batches, history and estimates follow.

An installed package adds its own by an entry point of the group `consensus_flows.algorithms`, which names an `Algorithm`.
Nothing that a line names is imported until it is needed.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from consensus_flows.tasks.errors import ConfigurationError

GROUP = "consensus_flows.algorithms"
OWN = {"quorum", "straggler_grace", "embedding_model", "grading", "prices", "member_settings", "attestation"}
"""Settings of a panel that do not hold for one model, or not as they are."""


@dataclass(frozen=True)
class Algorithm:
    """Where an algorithm is found.

    For one that is called `my-name`, the module holds:

    - `run_my_name(prompt, config, call, *, conversation)`, which asks and returns the record;
    - `my_name`, the flow around it, with the parameters `prompt`, `config`, `conversation` and, for its form, `attachments`;
    - `plan(config)`, which yields the calls of a run, for estimates;
    - `waves(config)`, which returns how often a run waits for calls that depend on those before, at least and at most, if
      that is to be estimated too.
    """

    name: str
    """The name of its command, its deployment and its runs, in lower case with dashes; the slug of its block."""
    summary: str
    """What it does, in one sentence."""
    module: str
    block: str
    """The block in which a configuration is saved, as `module:name`."""
    alias: str = ""
    """A shorter name of its command."""

    @property
    def identifier(self) -> str:
        """The name as it is written in Python."""
        return self.name.replace("-", "_")

    def run(self) -> Any:
        """Import the function that asks and returns the record."""
        return getattr(import_module(self.module), f"run_{self.identifier}")

    def flow(self) -> Any:
        """Import the flow."""
        return getattr(import_module(self.module), self.identifier)

    def report(self, config: Any) -> Any:
        """Make what a run shows in the UI, of those built-in algorithms in whose form a model answers alone."""
        return import_module(self.module).report(config)

    def plan(self, config: Any) -> Any:
        """List the calls of a run, at least and at most; of a panel that is asked as panel/NAME, those of its run.

        Where questions are graded, that is what the model takes that answers easy ones alone, and what all take together.
        """
        from consensus_flows.tasks.batches.planning import grader_calls, merged

        whole = merged(_with_panels(import_module(self.module).plan(config), config))
        if config.grading.model is None:
            return whole
        paths = [algorithm_of(one).plan(one) for one in (alone(config, name) for name in config.grading.targets())]
        others = [plan._replace(least=0, read_least=0) for path in (*paths[1:], whole) for plan in path]
        return merged([grader_calls(config.grading), *paths[0], *others])

    def waves(self, config: Any) -> tuple[int, int] | None:
        """Return how often a run waits for calls that depend on those before, at least and at most; None if nobody says."""
        count = getattr(import_module(self.module), "waves", None)
        return None if count is None else count(config)

    def block_class(self) -> Any:
        """Import the block in which a configuration is saved."""
        module, name = self.block.split(":")
        return getattr(import_module(module), name)

    def config_class(self) -> Any:
        """Import the configuration's model."""
        return self.block_class().model_fields["config"].annotation


def takes(config: Any, models: Iterable[Any]) -> tuple[int, int]:
    """Return how often calls that are made together are waited for: once, or as often as the run of a panel among them waits.

    Args:
        config: The configuration in which the panels are.
        models: Who is asked.

    Returns:
        The numbers at least and at most.
    """
    from consensus_flows.blocks.member import PANEL

    panels = (config.panels.get(model.model) for model in models if model.provider == PANEL)
    found = [(1, 1), *(waves_of(panel) for panel in panels if panel is not None)]
    return max(least for least, _ in found), max(most for _, most in found)


def waves_of(panel: Any) -> tuple[int, int]:
    """Return how often the run of a saved panel waits for its calls, at least and at most; once if nobody says."""
    one = algorithm(panel.flow)
    return one.waves(one.config_class().model_validate(panel.config)) or (1, 1)


def _with_panels(plans: Iterable[Any], config: Any) -> Iterator[Any]:
    """Put the calls of its run in the place of each call of a panel."""
    from consensus_flows.blocks.member import PANEL

    for planned in plans:
        panel = config.panels.get(planned.model.model) if planned.model.provider == PANEL else None
        if panel is None:
            yield planned
            continue
        one = algorithm(panel.flow)
        for inner in one.plan(one.config_class().model_validate(panel.config)):
            yield inner.within(planned)


def _built_in(name: str, alias: str, block: str, summary: str) -> Algorithm:
    module = name.replace("-", "_")
    return Algorithm(
        name, summary, f"consensus_flows.flows.{module}", f"consensus_flows.blocks.{module}:{block}", alias
    )


MAIN = "consortium"
"""The algorithm of a question that names none."""
BUILT_IN = (
    _built_in(MAIN, "", "Consortium", "Ask a panel of models; an arbiter synthesizes one answer."),
    _built_in(
        "consensus-learning",
        "learn",
        "ConsensusLearning",
        "Ask a panel, aggregate, and let each member improve its answer; read Flare's input.json.",
    ),
    _built_in("pump", "", "Pump", "Ask many models at once; print each answer with its latency."),
    _built_in("prefer", "", "Prefer", "Ask many models, and let them rank each other's answers."),
    _built_in(
        "mixture-of-agents",
        "moa",
        "MixtureOfAgents",
        "Ask models in layers; each layer improves the answers of the one before.",
    ),
    _built_in(
        "swarm",
        "",
        "Swarm",
        "Split a task into parts that models or panels answer at once, and join the answers.",
    ),
    _built_in("vote", "", "Vote", "Ask many models and count their answers, or rank them in pairs."),
)


@cache
def algorithms() -> dict[str, Algorithm]:
    """Return all algorithms by name: the built-in ones, then those of installed packages."""
    found = {one.name: one for one in BUILT_IN}
    for point in entry_points(group=GROUP):
        try:
            algorithm: Algorithm = point.load()
        except Exception as error:
            # One package that cannot be imported must not take all other commands with it.
            logging.getLogger(__name__).warning("consensus: skipping the algorithm %s: %s", point.name, error)
        else:
            found.setdefault(algorithm.name, algorithm)
    return found


def algorithm(name: str) -> Algorithm:
    """Return the algorithm of this name or alias.

    Raises:
        ConfigurationError: If there is none.
    """
    for one in algorithms().values():
        if name in {one.name, one.alias or one.name, one.identifier}:
            return one
    from consensus_flows.blocks.spelling import did_you_mean  # here, because blocks import Prefect

    names = algorithms()
    raise ConfigurationError(
        f"flow: unknown algorithm {name!r}.{did_you_mean(name, names)} Use one of {', '.join(names)}"
    )


def algorithm_of(config: object) -> Algorithm:
    """Return the algorithm of a configuration.

    Raises:
        TypeError: If it is the configuration of none.
    """
    for one in algorithms().values():
        if type(config) is one.config_class():
            return one
    raise TypeError(f"{type(config).__name__} is not the configuration of an algorithm")


def alone(config: Any, name: str) -> Any:
    """Return the settings with which a model answers alone: in the form in which the panel's answers are read, if they are.

    Args:
        config: The panel.
        name: The model.
    """
    from consensus_flows.blocks.member import parse_price
    from consensus_flows.blocks.panel import RunConfig

    shared = config.model_dump(include={*RunConfig.model_fields} - OWN, exclude_defaults=True)
    shared["prices"] = [price for price in config.prices if parse_price(price)[0] == name]
    shared["member_settings"] = {name: own} if (own := config.member_settings.get(name)) else {}
    extract = getattr(config, "extract", None)
    if extract is None:
        return algorithm("pump").config_class().model_validate(shared | {"members": [name]})
    reading = {}
    if getattr(config, "extractor", None) is not None:
        reading = {"extractor": config.extractor, "judge_settings": config.judge_settings}
    own = {"members": [name], "extract": extract, "quorum": 1}
    return algorithm("vote").config_class().model_validate(shared | reading | own)


def full_name(name: str) -> str:
    """Return the name of the algorithm with this alias; any other name as it is, for that of another flow."""
    return next((one.name for one in algorithms().values() if name == one.alias), name)


FlowName = Annotated[
    str,
    AfterValidator(lambda name: algorithm(name).name),
    WithJsonSchema(
        {"type": "string", "enum": [*algorithms(), *(one.alias for one in algorithms().values() if one.alias)]}
    ),
]
"""The name or alias of an algorithm as a parameter of a flow."""
