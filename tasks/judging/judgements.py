"""What judges are asked to write, each judgement as one pydantic model.

It gives the JSON schema that is sent, reads what came back, and says what is wrong with it in words that a model can act on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    model_validator,
)

from consensus_flows.tasks.plain_text import labels
from consensus_flows.tasks.readers import UnreadableError, json_object, reader, share
from consensus_flows.tasks.record import (
    AnswerComparison,
    Contradiction,
    Level,
    Outcome,
    PartialCoverage,
    Position,
    UniqueInsight,
)


class Judgement(BaseModel):
    """What a judge writes. Fields that have a default are remarks: nothing is decided by them, and they may be missing."""

    model_config = ConfigDict(frozen=True, str_strip_whitespace=True)

    reader: ClassVar[str] = ""
    """Name under which a request asks for this judgement to be read, with the number of labels behind a colon."""
    exact: ClassVar[bool] = False
    """Whether numbers are read as texts, with all their digits."""
    either: ClassVar[tuple[str, ...]] = ()
    """Keys of which a judge's own object must have one, where it has no single key that decides."""
    unasked: ClassVar[frozenset[str]] = frozenset()
    """Fields that this judgement does not ask for."""

    @classmethod
    @cache  # the classes are kept too, and a batch asks for the same schema row after row
    def json_schema(cls) -> dict[str, JsonValue]:
        """Return the schema that is sent: every object closed and all of it required, as the strictest vendor wants it."""
        schema = cls.model_json_schema()
        properties = {name: field for name, field in schema["properties"].items() if name not in cls.unasked}
        return cast("dict[str, JsonValue]", _closed({**schema, "properties": properties}, schema.get("$defs", {})))

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the judge's own JSON object.

        Raises:
            UnreadableError: If there is none, several that differ, or one that is not this judgement.
        """
        required = tuple(name for name, field in cls.model_fields.items() if field.is_required())
        fields = json_object(text, required, cls.either, exact=cls.exact)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise UnreadableError("; ".join(map(_wrong, error.errors(include_url=False)[:3]))) from None


def _wrong(error: Any) -> str:
    """Say what is wrong with one field. Our own validators name it themselves."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"


def _closed(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema without references, titles, defaults and descriptions: what is to be written stands in the prompt."""
    if isinstance(schema, list):
        return [_closed(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _closed(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:  # a remark that may be missing is asked for all the same
        return _closed(schema["anyOf"][0], definitions)
    plain = {key: value for key, value in schema.items() if key not in {"$defs", "title", "default", "description"}}
    if "const" in plain:
        plain["enum"] = [plain.pop("const")]
    if "properties" not in plain:
        return {key: _closed(value, definitions) for key, value in plain.items()}
    properties = {name: _closed(field, definitions) for name, field in plain["properties"].items()}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _texts(value: Any) -> Any:
    """Take one text for a list of one, and nothing for an empty list."""
    items = [value] if isinstance(value, str) else [] if value is None else value
    return [item for item in items if item != ""] if isinstance(items, list) else items


def _rank(value: Any) -> Any:
    if isinstance(value, bool):
        raise UnreadableError("a rank is a whole number, not true or false")
    return value


def _label(value: Any) -> Any:
    """Read a label as judges write it: `b`, ` B `, `answer B`."""
    return value.strip().upper().removeprefix("ANSWER ") if isinstance(value, str) else value


Remark = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
Texts = Annotated[list[str], BeforeValidator(_texts), Field(json_schema_extra={"maxItems": 5})]
# A whole number, because servers enforce the range of integers and not that of fractions.
Confidence = Annotated[float, BeforeValidator(share), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 100})]


class _Position(BaseModel):
    position: str
    answers: list[str]


class _Contradiction(BaseModel):
    topic: str
    positions: list[_Position]


class _Coverage(BaseModel):
    point: str
    answers: list[str]


class _Insight(BaseModel):
    insight: str
    answer: str


class LabelledComparison(BaseModel):
    """How the answers compare, with labels for their authors; see `consensus_flows.tasks.record.AnswerComparison`."""

    model_config = ConfigDict(frozen=True, str_strip_whitespace=True)

    consensus: Texts = []
    contradictions: list[_Contradiction] = []
    partial_coverage: list[_Coverage] = []
    unique_insights: list[_Insight] = []
    blind_spots: Texts = []

    def of(self, members: Mapping[str, str]) -> AnswerComparison:
        """Return the comparison with the `members` that stand behind the labels."""

        def named(answers: Sequence[str]) -> list[str]:
            return [members[label] for label in dict.fromkeys(answers)]

        return AnswerComparison(
            consensus=self.consensus,
            contradictions=[
                Contradiction(
                    topic=one.topic,
                    positions=[Position(position=p.position, members=named(p.answers)) for p in one.positions],
                )
                for one in self.contradictions
            ],
            partial_coverage=[
                PartialCoverage(point=one.point, members=named(one.answers)) for one in self.partial_coverage
            ],
            unique_insights=[
                UniqueInsight(insight=one.insight, member=members[one.answer]) for one in self.unique_insights
            ],
            blind_spots=self.blind_spots,
        )


class ArbiterVerdict(Judgement):
    """An arbiter's judgement, in the order in which it is written: the reasons come before what follows from them."""

    comparison: LabelledComparison | None = None
    analysis: Remark = ""
    dissent: Remark = ""
    synthesis: str = ""
    ranking: Sequence[str] = ()
    confidence: Confidence
    # Not `needs_iteration`, as in the record: small models are fond of `true`, and would go on for ever.
    final: bool = True
    refinement_areas: Texts = []


class Extraction(Judgement):
    """The final answer that a text gives; empty where it gives none."""

    reader: ClassVar[str] = "extraction"
    exact: ClassVar[bool] = True

    answer: Remark


class PairVerdict(Judgement):
    """Which of two answers is better."""

    reader: ClassVar[str] = "comparison"

    analysis: Remark = ""
    better: Annotated[
        Outcome, BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value)
    ]


class Difficulty(Judgement):
    """How hard a question is."""

    reader: ClassVar[str] = "difficulty"

    reason: Remark = ""
    level: Annotated[Level, BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value)]


class FusionNotes(Judgement):
    """What is right and wrong in the answers to be fused; the fused answer is written after it, as plain text."""

    reader: ClassVar[str] = "fusion_notes"
    either: ClassVar[tuple[str, ...]] = ("analysis",)

    analysis: Remark = ""
    answer: str = ""


class Fusion(FusionNotes):
    """The same, with the fused answer in it."""

    reader: ClassVar[str] = "fusion"
    either: ClassVar[tuple[str, ...]] = ()

    answer: str = Field(min_length=1)


class _Ranks(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _by_label(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ranks = {_label(label): rank for label, rank in value.items()}
        if len(ranks) < len(value):
            raise UnreadableError("ranks must give each label one rank")
        return ranks


class Preference(Judgement):
    """How a member ranks the others' answers. A rank for each label, because no schema can ask for each label once in a list."""

    either: ClassVar[tuple[str, ...]] = ("ranks", "can_rank")

    analysis: Remark = ""
    # Not `abstain`: small models are fond of `true`, and would abstain from everything.
    can_rank: bool = True
    ranks: Any = None

    @property
    def ranking(self) -> list[list[str]]:
        """Groups of tied labels from best to worst; none for an abstention. 1, 2, 2, 4 and 1, 2, 2, 3 are the same."""
        ranks: dict[str, int] = self.ranks.model_dump() if self.ranks else {}
        return [[label for label in ranks if ranks[label] == rank] for rank in sorted(set(ranks.values()))]


class SameMeaning(Judgement):
    """For each label itself, or one before it that is the same answer in other words."""

    same_as: Any


Kind = Literal["synthesis", "ranking", "verdict"]
"""An arbiter's judgement with the answer in it, with a ranking, or of an answer that is written after it."""


def _literal(names: Sequence[str]) -> Any:
    return Annotated[cast("Any", Literal)[tuple(names)], BeforeValidator(_label)]


def _each_once(names: Sequence[str]) -> AfterValidator:
    def check(ranking: list[str]) -> list[str]:
        if sorted(ranking) != sorted(names):
            raise UnreadableError(f"ranking must name each of {', '.join(names)} once, from best to worst")
        return ranking

    return AfterValidator(check)


def _comparison(label: Any, count: int) -> Any:
    """The comparison, with the labels of the answers that are judged."""
    several: Any = (Annotated[list[label], Field(min_length=1, json_schema_extra={"maxItems": count})], ...)
    position = create_model("Position", __base__=_Position, answers=several)
    contradiction = create_model("Contradiction", __base__=_Contradiction, positions=(_few(position), ...))
    coverage = create_model("Coverage", __base__=_Coverage, answers=several)
    insight = create_model("Insight", __base__=_Insight, answer=(label, ...))
    return create_model(
        "Comparison",
        __base__=LabelledComparison,
        contradictions=(_few(contradiction), []),
        partial_coverage=(_few(coverage), []),
        unique_insights=(_few(insight), []),
    )


def _few(item: Any) -> Any:
    return Annotated[list[item], Field(json_schema_extra={"maxItems": 5})]


@cache
def arbiter_verdict(kind: Kind, count: int, *, comparison: bool = True) -> type[ArbiterVerdict]:
    """Return what an arbiter writes about so many answers."""
    names = labels(count)
    label: Any = _literal(names)
    fields: dict[str, Any] = {}
    if comparison:
        fields["comparison"] = (_comparison(label, count) | None, None)
    if kind == "synthesis":
        fields["synthesis"] = (Annotated[str, Field(min_length=1)], ...)
    if kind == "ranking":
        size: Any = {"minItems": count, "maxItems": count}
        fields["ranking"] = (Annotated[list[label], _each_once(names), Field(json_schema_extra=size)], ...)
    verdict = _named(create_model("ArbiterVerdict", __base__=ArbiterVerdict, **fields), f"{kind}:{count}")
    verdict.unasked = frozenset({"comparison", "synthesis", "ranking"} - set(fields))
    return verdict


@cache
def preference(count: int) -> type[Preference]:
    """Return what a member writes that ranks so many answers."""
    rank = Annotated[int, Field(ge=1, le=count), BeforeValidator(_rank)]
    fields: Any = dict.fromkeys(labels(count), (rank, ...))
    ranks: Any = create_model("Ranks", __base__=_Ranks, **fields)

    def wanted(value: Any, info: ValidationInfo) -> Any:
        """Leave out the ranks of a judge that abstains; of any other they are required."""
        if info.data.get("can_rank") is False:
            return None
        if value is None:
            raise UnreadableError("ranks must give each answer a rank")
        return value

    field = Annotated[ranks | None, BeforeValidator(wanted), Field(validate_default=True)]
    return _named(create_model("Preference", __base__=Preference, ranks=(field, None)), f"preference:{count}")


@cache
def same_meaning(count: int) -> type[SameMeaning]:
    """Return what a model writes that tells which of so many answers are the same."""
    names = labels(count)
    fields: Any = {name: (cast("Any", Literal)[tuple(names[: place + 1])], ...) for place, name in enumerate(names)}
    same = create_model("SameAs", __config__=ConfigDict(extra="forbid", frozen=True), **fields)
    return _named(create_model("SameMeaning", __base__=SameMeaning, same_as=(same, ...)), f"same_meaning:{count}")


Made = TypeVar("Made", bound=Judgement)


def _named(judgement: type[Made], name: str) -> type[Made]:
    judgement.reader = name
    return judgement


def _register() -> None:
    """Let requests name the judgements, so that only what can be read is stored."""
    fixed: tuple[type[Judgement], ...] = (Extraction, PairVerdict, Difficulty, FusionNotes, Fusion)
    for judgement in fixed:
        reader(judgement.reader)(judgement.read)
    counted: dict[str, Callable[[int], type[Judgement]]] = {"preference": preference, "same_meaning": same_meaning}
    counted |= {kind: partial(arbiter_verdict, kind) for kind in get_args(Kind)}
    for name, made in counted.items():
        reader(name)(lambda text, count, made=made: made(count).read(text))


_register()
