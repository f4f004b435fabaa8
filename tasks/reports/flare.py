"""The files of Flare's AI Consensus: its `input.json` is read as it is, and a run can be written in its output's shape."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from consensus_flows.blocks.consensus_learning import Approach, ConsensusLearningConfig, PromptType, Turn, is_used
from consensus_flows.blocks.member import members_of, parse_member
from consensus_flows.tasks.calls.providers import built_in
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.json_text import parse
from consensus_flows.tasks.record import Record

OPENROUTER = "openrouter"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FlareModel(_Strict):
    """One entry of `models`, or `aggregator.model`."""

    id: str = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    provider: str | None = None
    """An addition: the provider of this id, said outright."""


class FlareAggregator(_Strict):
    """The `aggregator`."""

    model: FlareModel
    approach: Approach = "centralized_llm"
    aggregator_context: list[Turn] = Field(default_factory=list)
    aggregator_prompt: list[Turn] = Field(default_factory=list)

    @field_validator("approach", mode="before")
    @classmethod
    def _unset(cls, value: Any) -> Any:
        return value or "centralized_llm"  # the original never read it, and its default is an empty text


class FlareInput(_Strict):
    """The whole file, of either generation: the newer one has no `initial_conversation`."""

    models: list[FlareModel] = Field(min_length=1)
    aggregator: FlareAggregator
    initial_conversation: list[Turn] = Field(default_factory=list)
    aggregated_prompt_type: PromptType = "system"
    improvement_prompt: str = ""
    iterations: int = Field(1, ge=0, le=100)

    @field_validator("aggregator", mode="before")
    @classmethod
    def _only_one(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if len(value) != 1:
            raise ValueError(f"is a list of {len(value)}: write one aggregator, as an object or as a list of one")
        return value[0]


class FlareRun(NamedTuple):
    """What a file asks for."""

    settings: dict[str, Any]
    """The settings of a `ConsensusLearningConfig` that the file chooses."""
    conversation: tuple[Message, ...]
    """What stands before the question."""
    question: str | None
    """The last turn of the user's; None where the file has no question."""


def read_input(text: str, providers: Collection[str] = ()) -> FlareRun:
    """Read an `input.json`.

    An id is OpenRouter's unless it names a provider. It does where

    - the entry has a `provider` of its own,
    - its first part is `local` or one of `providers`, except for the name of a built-in vendor, or
    - its first part is a built-in vendor's name and two more parts follow: OpenRouter's own ids have two parts, so
      `openai/gpt-4o` and `openrouter/auto` are ids at OpenRouter, `openrouter/openai/gpt-4o` and
      `huggingface/meta-llama/llama-3.2-3b-instruct` name a provider.

    Args:
        text: The file's content.
        providers: Names of saved credentials.

    Raises:
        ConfigurationError: Naming the path in the file of everything that is wrong, for example `aggregator.model.id`.
    """
    try:
        value = parse(text)
    except ValueError as error:
        raise ConfigurationError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigurationError("this must be an object with models, aggregator and so on")
    try:
        file = FlareInput.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError("\n".join(dict.fromkeys(_explained(error)))) from None
    turns = [Message(role=turn.role, content=turn.content) for turn in file.initial_conversation]
    question = None
    spoken = [index for index, turn in enumerate(turns) if turn.role != "system"]
    if spoken and turns[spoken[-1]].role == "user":
        question = turns.pop(spoken[-1]).content
    elif spoken:
        raise ConfigurationError("initial_conversation: the last turn is the assistant's: end with a user's turn")
    return FlareRun(_settings(file, providers), tuple(turns), question)


def name_of(model: FlareModel, providers: Collection[str] = ()) -> str:
    """Return the model as `provider/model`, by the rule of `read_input`; never with a count."""
    first, *rest = model.id.split("/")
    keyed = {name for name, provider in built_in().items() if provider.block is not None}
    if model.provider is not None:
        name = f"{model.provider}/{model.id}"
    elif (rest and first not in keyed and (first in built_in() or first in providers)) or (
        len(rest) >= 2 and first in keyed
    ):
        name = model.id
    else:
        name = f"{OPENROUTER}/{model.id}"
    # What looks like a count belongs to the id here: the file lists a model as often as it is wanted.
    return f"{name}:1" if parse_member(name)[1] > 1 else name


def document(record: Record, system: str | None, conversation: Sequence[Message]) -> dict[str, Any]:
    """Return a run in the shape of Flare's output: `initial_conversation`, `iteration_k` and `aggregate_k` from 0.

    Models bear the ids of the input file; one that is listed several times has its number behind it. Those that failed
    are not in `iteration_k`; where there are any, `failed_k` names them with their cause.

    Args:
        record: The record of the run.
        system: System prompt of the members.
        conversation: What stood before the question.
    """
    first = [Message(role="system", content=system)] if system else []
    turns = [*first, *conversation, Message(role="user", content=record.prompt)]
    result: dict[str, Any] = {"initial_conversation": [turn.model_dump() for turn in turns]}
    for index, iteration in enumerate(record.iterations):
        names = {
            response.member: response.model
            if response.provider == OPENROUTER
            else f"{response.provider}/{response.model}"
            for response in iteration.responses
        }
        ids = {
            member: name if list(names.values()).count(name) == 1 else f"{name}#{member.rpartition('#')[2]}"
            for member, name in names.items()
        }
        result[f"iteration_{index}"] = {ids[r.member]: r.text for r in iteration.responses if r.answered}
        failed = {ids[r.member]: r.error.message for r in iteration.responses if r.error is not None}
        if failed:
            result[f"failed_{index}"] = failed
        if iteration.synthesis is not None:
            result[f"aggregate_{index}"] = iteration.synthesis.text
    return result


def _settings(file: FlareInput, providers: Collection[str]) -> dict[str, Any]:
    names = []
    for path, model in (
        *((f"models[{index}]", model) for index, model in enumerate(file.models)),
        ("aggregator.model", file.aggregator.model),
    ):
        try:
            names.append(name_of(model, providers))
        except ValueError as error:
            raise ConfigurationError(f"{path}.id: {error}") from None
    *members, aggregator = names
    settings: dict[str, Any] = {
        "members": members,
        "instance_settings": {
            str(member): _sampling(model)
            for member, model in zip(members_of(members), file.models, strict=True)
            if _sampling(model)
        },
        "aggregator": aggregator,
        "aggregator_settings": _sampling(file.aggregator.model),
        "approach": file.aggregator.approach,
        "aggregator_context": [turn.model_dump() for turn in file.aggregator.aggregator_context],
        "aggregator_prompt": [turn.model_dump() for turn in file.aggregator.aggregator_prompt],
        "aggregated_prompt_type": file.aggregated_prompt_type,
        "improvement_prompt": file.improvement_prompt,
        "iterations": file.iterations,
    }
    # The format demands an aggregator with a model, also where the approach asks none.
    settings = {name: value for name, value in settings.items() if is_used(name, file.aggregator.approach)}
    try:
        ConsensusLearningConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigurationError(
            "\n".join(_explained(error, {"aggregator_prompt": "aggregator.aggregator_prompt"}))
        ) from None
    return settings


def _sampling(model: FlareModel) -> dict[str, Any]:
    known = {"max_output_tokens": model.max_tokens, "temperature": model.temperature}
    return {name: value for name, value in known.items() if value is not None}


def _explained(error: ValidationError, paths: dict[str, str] | None = None) -> Iterator[str]:
    """Say for each mistake where in the file it is and what would be right."""
    for item in error.errors(include_url=False, include_context=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).lstrip(".")
        path = (paths or {}).get(path, path)
        message = "unknown field" if item["type"] == "extra_forbidden" else item["msg"]
        message = "is missing" if item["type"] == "missing" else message.removeprefix("Value error, ")
        yield f"{path}: {message}" if path else message
