"""The options of the command line that are settings: they are made of the fields of a configuration and their descriptions."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar, Union, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from consensus_flows.blocks.member import counted
from consensus_flows.blocks.panel import SINGLE, OneModel, PanelConfig, RunConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import Settings
from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.deployments.terminal import NotAnOptionError, Stop, explain, read_text, say
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.json_text import parse
from consensus_flows.tasks.prompting.prompt_sets import is_path, path_of, prompt_set

PANEL = Group("Panel", sort_key=1)
JUDGING = Group("Judging", sort_key=2)
SAMPLING = Group("Sampling", sort_key=3)
GRADING = Group("Grading", sort_key=4)
BUDGET = Group("Budget", sort_key=5)
ATTESTATION = Group("Attestation", sort_key=6)
OUTPUT = Group("Input and output", sort_key=7)

Config = TypeVar("Config", bound=RunConfig)


def _check_sentence(_: Any, value: Any) -> None:
    if isinstance(value, str) and re.fullmatch(r"--?[A-Za-z]\S*", value):
        raise NotAnOptionError(value)


SENTENCE = Parameter(allow_leading_hyphen=True, validator=_check_sentence)
"""A text may begin with a dash, and be one; but what looks like an option is none, or a slip would be asked and paid for."""
Text = Annotated[str, SENTENCE]


class Flag(NamedTuple):
    """What an option has that does not follow from its field."""

    names: tuple[str, ...] = ()
    group: Group | None = None
    type: Any = None
    help: str = ""
    metavar: str = ""


TextFile = Annotated[
    str, Parameter(converter=lambda _, tokens: read_text(Path(tokens[0].value), tokens[0].keyword or ""))
]
"""A setting that is given as the name of a file."""

SchemaFile = Annotated[
    dict[str, Any],
    Parameter(converter=lambda _, tokens: _read(Path(tokens[0].value), tokens[0].keyword or ""), n_tokens=1),
]
"""A setting that is given as the name of a JSON file."""

FLAGS = {
    "members": Flag(("--member", "--model", "-m"), PANEL, metavar="MODEL"),
    "extractor": Flag(group=JUDGING),
    "pairwise_judge": Flag(group=JUDGING),
    "fuse": Flag(group=JUDGING),
    "system": Flag(("--system", "-s")),
    "answer_schema": Flag(
        ("--schema",),
        type=SchemaFile,
        help="File with the JSON schema of the answer: members, arbiter and aggregator write it as structured output.",
        metavar="FILE",
    ),
    "timeout": Flag(metavar="SECONDS"),
    "prompt_set": Flag(metavar="NAME"),
    "order_seed": Flag(group=JUDGING),
    "prices": Flag(metavar="MODEL=IN/OUT"),
    "fresh": Flag(group=OUTPUT),
    "grading.model": Flag(("--grade",), metavar="MODEL"),
    "grading.easy": Flag(metavar="MODEL"),
    "grading.medium": Flag(metavar="MODEL"),
    "budget.max_cost_usd": Flag(("--max-cost",), metavar="USD"),
    "budget.max_seconds": Flag(("--deadline",), metavar="SECONDS"),
    "sampling.seed": Flag(help="Sampling seed of the members; further instances of a model use the next numbers."),
    "VoteConfig.weights": Flag(
        type=Text,
        help="Weights of the votes: member=weight, separated by commas; default: 1 each. 0: not asked.",
        metavar="MEMBER=WEIGHT,...",
    ),
    "VoteConfig.cascade": Flag(
        type=Text,
        help=(
            "Members to ask first, and who decides if they do not agree: a member, vote for a vote of all, or a saved "
            "panel. 2 of A,B,C>D: two that agree are enough."
        ),
        metavar="A,B>C",
    ),
    "VoteConfig.tie_order": Flag(
        type=Text,
        help="Members whose answer wins a tie, the first one first, separated by commas; default: the order of the members.",
        metavar="MODEL,...",
    ),
    "ConsensusLearningConfig.aggregator_context": Flag(type=Text, help="System prompt of the aggregator."),
    "ConsensusLearningConfig.aggregator_prompt": Flag(
        type=Text, help="Instructions for the aggregator after the answers; default: built in."
    ),
    "MixtureOfAgentsConfig.layers": Flag(
        ("--layer",),
        PANEL,
        list[str],
        "A layer of models, separated by commas: provider/model or provider/model:count.",
    ),
    "MixtureOfAgentsConfig.aggregator": Flag(("--final", "--aggregator"), PANEL, metavar="MODEL"),
    "MixtureOfAgentsConfig.self_moa": Flag(group=PANEL, metavar="MODEL"),
    "MixtureOfAgentsConfig.samples": Flag(group=PANEL),
    "MixtureOfAgentsConfig.aggregator_settings.temperature": Flag(
        ("--final-temperature",), SAMPLING, help="Temperature of the aggregator; default: that of all models."
    ),
    "MixtureOfAgentsConfig.aggregator_settings.max_output_tokens": Flag(
        ("--final-max-output-tokens",),
        SAMPLING,
        help="Maximum number of tokens in the aggregator's answer; default: that of all models.",
    ),
    "MixtureOfAgentsConfig.prompts.initial": Flag(
        ("--initial-prompt",), JUDGING, TextFile, "File with the instruction of the first layer."
    ),
    "MixtureOfAgentsConfig.prompts.aggregate": Flag(
        ("--aggregate-prompt",), JUDGING, TextFile, "File with the instruction of the further layers."
    ),
    "MixtureOfAgentsConfig.prompts.final": Flag(
        ("--final-prompt",), JUDGING, TextFile, "File with the instruction of the aggregator."
    ),
}
"""Options that differ from their field, by the path of the field; those of one configuration have its name in front."""
GROUPS = {
    "grading": GRADING,
    "sampling": SAMPLING,
    "budget": BUDGET,
    "decentralized": JUDGING,
    "attestation": ATTESTATION,
}
"""Groups of settings whose fields are all options."""


METAVARS = {int: "N", float: "NUMBER", Text: "TEXT", TextFile: "FILE", list[str]: "MODEL,..."}
"""What stands for the value of an option, by its type."""


class Option(NamedTuple):
    """An option and the field that it sets."""

    path: tuple[str, ...]
    names: tuple[str, ...]
    type: Any
    group: Group
    help: str
    metavar: str | None

    @property
    def name(self) -> str:
        """The option as a person writes it."""
        return "-m" if "-m" in self.names else self.names[0]


@cache
def options(config: type[RunConfig]) -> tuple[Option, ...]:
    """Return the options of a configuration, in the order of its form."""
    return tuple(_options(config, config, ()))


def _options(config: type[RunConfig], settings: type[Settings], above: tuple[str, ...]) -> Iterator[Option]:
    for name in settings.in_order():
        path, field = (*above, name), settings.model_fields[name]
        dotted = ".".join(path)
        flag = FLAGS.get(f"{config.__name__}.{dotted}") or FLAGS.get(dotted)
        inner = _plain(field.annotation)
        if isinstance(inner, type) and issubclass(inner, Settings) and not (flag and flag.type):
            yield from _options(config, inner, path)
            continue
        kind = flag.type if flag and flag.type else _scalar(inner)
        if kind is None or (above and flag is None and above[0] not in GROUPS):
            continue
        model = _names_model(field)
        panel = model or name in RunConfig.model_fields
        group = GROUPS[above[0]] if above and above[0] in GROUPS else PANEL if panel else JUDGING
        listed = kind == list[str]
        names = (f"--{(name.removesuffix('s') if listed else name).replace('_', '-')}",)
        text = (flag and flag.help) or _help(field)
        yield Option(
            path,
            (flag and flag.names) or names,
            kind,
            (flag and flag.group) or group,
            f"{text} May be repeated." if listed else text,
            (flag and flag.metavar) or ("MODEL" if model else METAVARS.get(kind)),
        )
        if name == "members":
            yield Option(
                (COUNT,),
                ("--count", "-n"),
                int,
                PANEL,
                "Number of instances of each model without a count of its own.",
                "N",
            )


def _plain(annotation: Any) -> Any:
    """Return a type without the None beside it."""
    if get_origin(annotation) in {Union, UnionType}:
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else None
    return annotation


def _names_model(field: FieldInfo) -> bool:
    """Tell whether a field names a model, or a list of models, each of which is asked once."""
    return SINGLE in field.metadata or _plain(field.annotation) in (OneModel, list[OneModel])


def _scalar(kind: Any) -> Any:
    """Return the type of an option for a field of this type; None if it cannot be given as one."""
    if kind == list[OneModel]:
        return list[str]
    if kind in (str, OneModel):
        return Text
    return kind if kind in {int, float, bool, list[str]} or get_origin(kind) is Literal else None


def _help(field: FieldInfo) -> str:
    text, default = field.description or "", field.default
    shown = isinstance(default, int | float | str) and not isinstance(default, bool) and default != ""
    return f"{text} Default: {default}." if shown and not field.is_required() else text


_dictionary: Any = TypedDict  # its fields are known at run time only


@cache
def options_type(config: type[RunConfig]) -> Any:
    """Make the type of what the command line gives of a configuration: a dictionary of the settings that were given."""
    fields: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for option in options(config):
        parameter = Parameter(
            name=list(option.names),
            group=option.group,
            help=option.help,
            metavar=option.metavar,
            negative="" if option.type == list[str] else None,
        )
        where = fields if len(option.path) == 1 else groups.setdefault(option.path[0], {})
        where[option.path[-1]] = Annotated[option.type, parameter]
    for name, inner in groups.items():
        fields[name] = Annotated[_dictionary(name, inner, total=False), Parameter(name="*")]
    fields[FILE] = Annotated[
        Path,
        Parameter(
            name="--config",
            metavar="FILE",
            group=OUTPUT,
            help="JSON or TOML file of settings; it overrides the saved configuration, and options override it.",
        ),
    ]
    return Annotated[_dictionary(config.__name__, fields, total=False), Parameter(name="*")]


FILE = "config"
"""Where the options hold the name of a file of settings."""
COUNT = "count"
"""Where they hold the number of instances of the members that have no count."""
if TYPE_CHECKING:
    RunOptions = dict[str, Any]
    PanelOptions = dict[str, Any]
else:
    RunOptions = options_type(RunConfig)
    PanelOptions = options_type(PanelConfig)


def foreign(config: type[RunConfig], given: Mapping[str, Any], offered: type[RunConfig]) -> list[str]:
    """Name the options of `offered` that were given and that `config` does not have."""
    own = {option.path for option in options(config)}
    return [option.name for option in options(offered) if option.path not in own and _holds(given, option.path)]


def _holds(given: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    name, *rest = path
    return name in given and (not rest or _holds(given[name], tuple(rest)))


def overlaid(settings: type[Settings], over: Mapping[str, Any], under: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings over others. A group of settings, such as the budget, is merged key by key."""
    result = {**under}
    for name, value in over.items():
        field, below = settings.model_fields.get(name), under.get(name)
        group = field.annotation if field else None
        if not (isinstance(value, Mapping) and isinstance(below, Mapping)):
            result[name] = value
        elif isinstance(group, type) and issubclass(group, Settings):
            result[name] = overlaid(group, value, below)
        else:  # by members' names, who may be others now; a vendor's `extra` is merged as `Sampling.over` does it
            result[name] = {**below, **value} if settings is Sampling else value
    return result


def settings(
    config: type[RunConfig], given: Mapping[str, Any], saved: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Lay the options that were given over the configuration file, and that over the saved configuration."""
    result = dict(saved or {})
    file = _read(given[FILE], "--config") if FILE in given else {}
    if "seed" in file:
        say(f"consensus: --config {given[FILE]}: seed is read as order_seed; the seed of the models is sampling.seed")
    for over in (file, {name: value for name, value in given.items() if name not in {FILE, COUNT}}):
        result = overlaid(config, over, config.under(result, over))
    if COUNT in given and isinstance(result.get("members"), list):
        result["members"] = [counted(str(member), given[COUNT]) for member in result["members"]]
    for name in GROUPS:  # what is no group in the file is named, whatever options lie over it
        if name in file and not isinstance(file[name], Mapping):
            result[name] = file[name]
    return result


def configured(
    config: type[Config],
    given: Mapping[str, Any] | None,
    saved: Mapping[str, Any] | None = None,
    *,
    optional: tuple[str, ...] = (),
) -> Config:
    """Make the configuration of a run.

    Args:
        config: The configuration's model.
        given: What was given on the command line.
        saved: A saved configuration that lies under it.
        optional: Settings that a run can do without this time.

    Raises:
        Stop: Naming each option that is missing or wrong.
    """
    values = settings(config, given or {}, saved)
    names = {".".join(option.path): option.name for option in options(config)}
    unknown = [name for name in values if name not in config.model_fields and name != "seed"]
    wrong = [f"unknown setting {name!r}.{did_you_mean(name, config.model_fields)}" for name in unknown]
    if missing := [name for name in config.missing(values) if name not in optional]:
        raise Stop("\n".join([*wrong, *(f"{name}: give {names.get(name, name)} provider/model" for name in missing)]))
    if isinstance(values.get("prompt_set"), str):
        values["prompt_set"] = _checked_set(values["prompt_set"])
    try:
        return config.model_validate(values)
    except ValidationError as error:
        members = values.get("members") or []
        hint = "\n--name uses a saved configuration" if any("/" not in str(name) for name in members) else ""
        raise Stop(explain(error, names) + hint) from None


def _checked_set(name: str) -> str:
    """Return the name of a prompt set that can be used, and a path as one that holds wherever the run takes place.

    Raises:
        Stop: If there is no such set, or its file is not right.
    """
    try:
        prompt_set(name)
        return str(path_of(name)) if is_path(name) else name
    except ConfigurationError as error:
        raise Stop(f"--prompt-set: {error.reason}") from None


def _read(path: Path, option: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text) if path.suffix == ".toml" else parse(text)
    except OSError as error:
        raise Stop(f"{option} {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Stop(f"{option} {path} is not {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from None
    if not isinstance(value, dict):
        raise Stop(f"{option} {path} must hold {'an object of settings' if option == '--config' else 'a JSON schema'}")
    return value
