"""What the settings of all flows share: who is asked, and under which conditions."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, field_validator, model_validator

from consensus_flows.blocks.attestation import AttestationSettings
from consensus_flows.blocks.calibration import Calibration, SavedPanel
from consensus_flows.blocks.grading import Grading
from consensus_flows.blocks.member import PANEL, Member, ModelName, members_of, parse_member, parse_model, parse_price
from consensus_flows.blocks.sampling import Sampling, ServiceTier
from consensus_flows.blocks.settings import Budget, Settings
from consensus_flows.blocks.spelling import did_you_mean

TIMEOUT_S = 120.0
"""Seconds that a request may take, where nothing is said."""
FLEX_TIMEOUT_S = 900.0
"""Seconds that a request of the flex tier may take, where nothing is said: what OpenAI advises."""


def _single(name: str) -> str:
    if parse_member(name)[1] > 1:
        raise ValueError(f"{name!r} must not have a count: a single instance is asked")
    return name


SINGLE = AfterValidator(_single)
OneModel = Annotated[str, SINGLE]
"""A setting that names one model, as provider/model."""
StandIn = Annotated[
    OneModel | None,
    Field(
        description=(
            "Model that answers if no judge can, as provider/model: the answer of a member is taken as it is, another model is "
            "asked the question. Default: the answer closest to all others."
        )
    ),
]
"""A setting of every algorithm in which a model judges."""


class RunConfig(Settings):
    """Conditions that hold for every flow: sampling, time, money."""

    model_config = ConfigDict(validate_assignment=True)

    system: str | None = Field(None, description="System prompt of the members; judges see it too.")
    quorum: int | None = Field(
        None,
        ge=1,
        description="Minimum number of members that must answer in each round; default: more than half.",
    )
    straggler_grace: float | None = Field(
        None,
        gt=0,
        description="Once the quorum is reached, wait at most this many times the median latency; default: wait for all.",
    )
    timeout: float | None = Field(
        None,
        gt=0,
        description="Timeout of a request, in seconds; default: 120, or 900 in the flex tier.",
    )
    sampling: Sampling = Field(default_factory=Sampling, description="Sampling settings of all members.")
    member_settings: dict[str, Sampling] = Field(
        default_factory=dict,
        description="Sampling settings of one member, by provider/model; they override those of all members.",
    )
    budget: Budget = Field(default_factory=Budget, description="Limits of the run.")
    order_seed: int = Field(0, description="Seed of the order in which judges see the answers.")
    grading: Grading = Field(
        default_factory=Grading,
        description="Which questions do without the whole panel, because a small model finds them easy.",
    )
    panels: dict[str, SavedPanel] = Field(
        default_factory=dict,
        description="Settings of the panels that are asked as panel/NAME, by name: their flow and config. Default: the saved ones.",
    )
    fresh: bool = Field(
        False,
        description="Ignore cached answers: ask again, and replace them.",
    )
    attestation: AttestationSettings = Field(
        default_factory=AttestationSettings, description="Proof of which image computed the answer."
    )
    prompt_set: str = Field(
        "plain",
        min_length=1,
        description="Prompt set of the members: plain, few-shot, chain-of-thought, citations, your own, or a file.",
    )
    answer_schema: dict[str, JsonValue] | None = Field(
        None,
        description="JSON schema of the answer: members, arbiter and aggregator write it as structured output. Default: free text.",
    )
    embedding_model: OneModel | None = Field(
        None,
        description=(
            "Embedding model that measures the similarity of texts, as provider/model: OpenAI, Google, a "
            "compatible server or local. Default: lexical similarity."
        ),
        examples=["openai/text-embedding-3-small", "google/gemini-embedding-001", "local/smollm2"],
    )
    service_tier: ServiceTier | None = Field(
        None,
        description="flex: half the price for slower answers (OpenAI, Google, OpenRouter). Default: the standard tier.",
    )

    prices: list[str] = Field(
        default_factory=list,
        description=(
            "Price of a model, as provider/model=IN/OUT in US dollars per million input and output tokens; overrides the price "
            "table. Models that run on this machine cost nothing unless a price is given."
        ),
        examples=[["my-server/llama=0.2/0.6"]],
    )

    @model_validator(mode="before")
    @classmethod
    def _read_seed(cls, values: Any) -> Any:
        """Let `seed` stand for `order_seed`, as in configurations that were saved under this name."""
        if not isinstance(values, dict) or "seed" not in values:
            return values
        return {"order_seed": values["seed"]} | {name: value for name, value in values.items() if name != "seed"}

    @classmethod
    def in_order(cls) -> list[str]:
        """The names of the fields: an algorithm's own before those of all."""
        return [*(name for name in cls.model_fields if name not in RunConfig.model_fields), *RunConfig.model_fields]

    @classmethod
    def missing(cls, values: Mapping[str, Any]) -> list[str]:
        """Name the settings that a run needs and that `values` do not hold."""
        return [name for name in cls.in_order() if cls.model_fields[name].is_required() and not values.get(name)]

    @classmethod
    def under(cls, below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG003
        """Return the settings of `below` without those that have no place beside the settings that are given over them."""
        return dict(below)

    @model_validator(mode="after")
    def _check_own_settings(self) -> Self:
        prices = [parse_price(price)[0] for price in self.prices]
        for field, names in (("prices", prices), ("member_settings", self.member_settings)):
            if panel := next((name for name in names if name.startswith(f"{PANEL}/")), None):
                raise ValueError(f"{field}: {panel} is a saved panel, whose own settings hold: change them there")
        return self

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        if self.prices:
            known = [str(name) for name in (*self.models(), *self.grading.models(), self.embedding()) if name]
            for name, _, _ in map(parse_price, self.prices):
                if name not in known:
                    raise ValueError(
                        f"prices: {name!r} is not a model of this configuration; its models are {', '.join(dict.fromkeys(known))}"
                    )
        return self

    def price_table(self) -> dict[str, tuple[float, float]]:
        """The prices that were given, by provider/model: US dollars per million input and output tokens."""
        inner = {name: price for panel in self.panels.values() for name, price in panel.price_table().items()}
        return inner | {name: (read, written) for name, read, written in map(parse_price, self.prices)}

    def refuse_unless(self, condition: object, what: str, *names: str) -> None:
        """Refuse settings that would have no effect.

        Args:
            condition: Whether they have one.
            what: When they have one, and what would be right.
            names: The fields.

        Raises:
            ValueError: Naming the first of them that was set.
        """
        for name in () if condition else names:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}: {what}")

    def calibrated_on(self) -> Calibration | None:
        """On what the panel was calibrated; None if it was not."""
        return None

    def gives_probability(self) -> bool:
        """Tell whether the confidence of a run is a probability that was fitted on labeled rows."""
        return False

    @abstractmethod
    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the members' first; saved panels by their names, as panel/NAME."""

    def all_models(self) -> list[ModelName]:
        """Every model that a run may ask, with the models of a saved panel in its place."""
        return self.reached([*self.models(), *self.grading.models()])

    def reached(self, names: Iterable[ModelName]) -> list[ModelName]:
        """Return these models, with the models of a saved panel in its place."""
        return [
            model
            for name in names
            for model in (
                map(parse_model, self.panels[name.model].models)
                if name.provider == PANEL and name.model in self.panels
                else [name]
            )
        ]

    def by_schema(self) -> list[ModelName]:
        """Those of the models whose answer is read by a JSON schema: the judges, or all where the answer has a schema."""
        return self.models() if self.answer_schema is not None else []

    def schema_refusal(self) -> str | None:
        """Say why the answer of a run cannot be JSON by the schema of whoever asks; None where it can."""
        return None

    def readers(self) -> list[ModelName]:
        """Those of them that are sent the question, and so the files that it is about."""
        return self.models()

    def timeout_s(self) -> float:
        """The seconds that one request may take."""
        return self.timeout or (FLEX_TIMEOUT_S if self.service_tier == "flex" else TIMEOUT_S)

    def embedding(self) -> ModelName | None:
        """The model that embeds texts; None where their wording is compared."""
        return None if self.embedding_model is None else parse_member(self.embedding_model)[0]

    def settings_of(self, member: Member) -> Sampling:
        """Return the sampling settings of `member`; with a seed, each instance of a model has one of its own."""
        own = self.member_settings.get(str(member.name))
        settings = own.over(self.sampling) if own else self.sampling
        if settings.seed is None or member.instance == 1:
            return settings
        return settings.model_copy(update={"seed": settings.seed + member.instance - 1})


class PanelConfig(RunConfig):
    """Settings of a flow that asks one panel of members."""

    members: list[str] = Field(
        min_length=1,
        description="Models that answer: provider/model, or provider/model:count for several instances.",
        examples=[["openai/gpt-6-luna", "anthropic/claude-haiku-4-5:2"]],
    )

    @field_validator("members")
    @classmethod
    def _check_members(cls, names: list[str]) -> list[str]:
        members_of(names)  # here, so that the error names the field
        return names

    @model_validator(mode="after")
    def _check_quorum(self) -> Self:
        if self.quorum is not None and self.quorum > len(self.panel()):
            raise ValueError(f"quorum is {self.quorum}, but there are only {len(self.panel())} members")
        return self

    @model_validator(mode="after")
    def _check_panel(self) -> Self:
        known = {str(member.name) for member in self.panel()}
        for name in self.member_settings:
            if name not in known:
                raise ValueError(
                    f"member_settings: {name!r} is not a member.{did_you_mean(name, known)} Use one of {', '.join(sorted(known))}"
                )
        return self

    def panel(self) -> list[Member]:
        """List every instance of every member, in the order given."""
        return members_of(self.members)

    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the members' first."""
        return [member.name for member in self.panel()]

    def needed(self) -> int:
        """The quorum: how many members must answer."""
        return self.quorum or len(self.panel()) // 2 + 1
