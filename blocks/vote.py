"""The settings of a vote, and the block in which they are saved."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from consensus_flows.blocks.answer_schema import schema_fault
from consensus_flows.blocks.calibration import VOTE, Calibration, Cascade, LearnedVote, SavedPanel
from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.member import PANEL, Member, ModelName, members_of, named, parse_member
from consensus_flows.blocks.panel import OneModel, PanelConfig, StandIn
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import saved_config
from consensus_flows.blocks.spelling import did_you_mean


def _read_weights(value: Any) -> Any:
    """Let `a=1,b=2` stand for the weights, as they are written on a command line."""
    if not isinstance(value, str):
        return value
    weights: dict[str, str] = {}
    for part in value.split(","):
        name, equals, weight = part.strip().rpartition("=")
        if not equals or not name.strip():
            raise ValueError(f"{part.strip()!r} is not a weight: use member=weight, for example openai/gpt-6-luna=2")
        weights[name.strip()] = weight.strip()
    return weights


def _read_cascade(value: Any) -> Any:
    """Let `a,b>c` stand for a cascade, and `2 of a,b,c>d` for one in which not all have to agree; a form may leave it empty."""
    if not isinstance(value, str) or not value:
        return value or None
    asked, arrow, then = value.partition(">")
    number, of, names = asked.rpartition(" of ")
    ask = [name.strip() for name in names.split(",")]
    agree = number.strip() if of else str(len(ask))
    if not (arrow and then.strip() and all(ask) and agree.isdecimal()):
        raise ValueError(
            f"{value!r} is not a cascade: use a,b>c, for example openai/gpt-6-luna,anthropic/claude-haiku-4-5>openai/gpt-6.1-sol"
        )
    return {"ask": ask, "agree": agree, "then": then.strip()}


def _read_names(value: Any) -> Any:
    """Let `a,b` stand for two names, alone or in a list."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return value
    return [part.strip() for name in names for part in name.split(",")]


COUNTING = frozenset(
    {
        "extract",
        "extractor",
        "stop_when",
        "waves",
        "weights",
        "stop_at_confidence",
        "cascade",
        "tie_order",
        "learned",
        "calibration",
    }
)
"""Settings of the count, which a pairwise judge does without."""
STOPS = ("stop_when", "stop_at_confidence", "cascade")
"""Settings that say when enough members were asked; there is one at most."""


class VoteConfig(PanelConfig):
    """Who votes, how an answer is read and when to stop; or who compares the answers in pairs."""

    extract: str = Field(
        "text",
        description=(
            "How to read the answer: number, choice (a letter), choice:A-D, json:FIELD, json (a vote on each field of answer_schema), label:A,B, text (all of it, "
            "normalized), text:FIELD, exact (all of it, as it is), exact:FIELD or llm (a model reads it)."
        ),
        examples=["number", "json:answer"],
    )
    extractor: OneModel | None = Field(
        None,
        description="Model that reads the answers, as provider/model; required if extract is llm.",
    )
    stop_when: int | None = Field(
        None,
        ge=1,
        description="Number of votes at which to stop; members are then asked in order. Default: ask all.",
    )
    stop_at_confidence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=(
            "Probability of the leading answer at which to stop; members are then asked in order. Requires a panel "
            "calibrated on labeled rows."
        ),
    )
    waves: int | None = Field(
        None,
        ge=1,
        description="Number of members to ask at a time with stop_when or stop_at_confidence; default: 1.",
    )
    cascade: Annotated[Cascade | None, BeforeValidator(_read_cascade, json_schema_input_type=str | Cascade | None)] = (
        Field(
            None,
            description="Members to ask first, and who decides if they do not agree: a,b>c.",
        )
    )
    weights: Annotated[dict[str, float], BeforeValidator(_read_weights, json_schema_input_type=dict[str, float])] = (
        Field(
            default_factory=dict,
            description=(
                "Weights of the votes, by provider/model, provider/model#instance or the model's name alone; "
                "default: 1 each. A member of weight 0 is not asked."
            ),
        )
    )
    tie_order: Annotated[list[str], BeforeValidator(_read_names, json_schema_input_type=list[str])] = Field(
        default_factory=list,
        description="Members whose answer wins a tie, the first one first; default: the order of the members.",
    )
    learned: LearnedVote | None = Field(
        None,
        description="Coefficients of a vote that was fitted on labeled rows: the most probable answer wins.",
    )
    calibration: Calibration | None = Field(
        None,
        description="The labeled rows on which the panel was calibrated, and how good it was on them.",
    )
    pairwise_judge: OneModel | None = Field(
        None,
        description="Model that ranks the answers in pairs instead of counting votes, as provider/model.",
    )
    stand_in: StandIn = None
    comparisons: int | None = Field(
        None,
        ge=1,
        description="Maximum number of pairs to compare; default: all.",
    )
    fuse: OneModel | None = Field(
        None,
        description="Model that writes one answer from the best ones, as provider/model; requires a pairwise judge.",
    )
    fuse_top: int = Field(3, ge=1, description="Number of best answers to fuse.")
    judge_settings: Sampling = Field(
        default_factory=Sampling,
        description="Sampling settings of the extractor, the pairwise judge and the model that fuses.",
    )

    @classmethod
    def under(cls, below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of `below` without those of the count if a pairwise judge is given over them.

        When to stop is said once: of what is given and what is saved it is what is given.
        """
        dropped = COUNTING if "pairwise_judge" in given else STOPS if not given.keys().isdisjoint(STOPS) else ()
        return {name: value for name, value in below.items() if name not in dropped}

    @field_validator("extract")
    @classmethod
    def _check_extract(cls, value: str) -> str:
        parse_extraction(value)
        return value

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name} is {weight}: it must be 0 or more")
        return value

    @model_validator(mode="after")
    def _check_vote(self) -> Self:
        reads = parse_extraction(self.extract).kind == "llm"
        if reads and self.extractor is None:
            raise ValueError("extractor: missing; extract llm needs a model that reads the answers")
        if self.extractor is not None and not reads:
            raise ValueError("extractor: it is only used with extract llm")
        if self.fuse is not None and self.pairwise_judge is None:
            raise ValueError("fuse: requires a pairwise_judge, which finds the best answers")
        if self.comparisons is not None and self.pairwise_judge is None:
            raise ValueError("comparisons: requires a pairwise_judge")
        counted = (self.stop_when, self.weights, self.extractor, self.stop_at_confidence, self.cascade)
        if self.pairwise_judge is not None and any(counted):
            raise ValueError(
                "pairwise_judge: counts no votes: remove stop_when, stop_at_confidence, cascade, weights and extractor, "
                "or the judge"
            )
        self._check_fields()
        self._check_unused()
        self._check_names()
        self._check_learned()
        self._check_stops()
        return self

    @property
    def by_field(self) -> bool:
        """Whether each field of a JSON answer is voted on by itself."""
        return self.extract == "json"

    def _check_fields(self) -> None:
        """Refuse what a vote on each field does not have."""
        if not self.by_field:
            return
        if self.answer_schema is None:
            raise ValueError(
                "answer_schema: required with extract json: the JSON schema whose fields are voted on (--schema FILE)"
            )
        if fault := schema_fault(self.answer_schema):
            raise ValueError(f"answer_schema: {fault}")
        for name in (*STOPS, "learned", "calibration"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: not used with extract json, which asks all members: remove it, or use json:FIELD"
                )

    def _check_names(self) -> None:
        """Refuse names that are no member's."""
        cascade = [] if self.cascade is None else [*self.cascade.ask]
        if self.cascade is not None and self.saved_panel is None and self.cascade.then != VOTE:
            cascade.append(str(self.cascade.then))
        for field, names, members in (
            ("weights", [*self.weights], members_of(self.members)),
            ("tie_order", self.tie_order, self.panel()),
            ("cascade", cascade, self.panel()),
        ):
            for name in names:
                if not _names_one(name, members):
                    known = [*dict.fromkeys(str(member.name) for member in members)]
                    raise ValueError(
                        f"{field}: {name!r} is not the name of exactly one member model.{did_you_mean(name, known)} Use one of {', '.join(known)}"
                    )

    def _check_stops(self) -> None:
        """Refuse a rule that can never be met, or that contradicts another one."""
        if len(rules := [name for name in STOPS if getattr(self, name) is not None]) > 1:
            raise ValueError(f"{rules[1]}: cannot be used with {rules[0]}: give only one of them")
        if self.waves is not None and self.stop_when is None and self.stop_at_confidence is None:
            raise ValueError("waves: requires stop_when or stop_at_confidence")
        votes = math.fsum(self.weights_of(self.panel()))
        if not votes:
            raise ValueError("weights: all members have the weight 0: nobody would be asked")
        if self.stop_when is not None and self.stop_when > votes:
            raise ValueError(f"stop_when is {self.stop_when}, but all members together have {votes:g} votes")

    def _check_learned(self) -> None:
        """Refuse coefficients of other members, or that nobody knows the origin of."""
        if self.learned is None:
            if self.stop_at_confidence is not None:
                raise ValueError(
                    "stop_at_confidence: requires a panel calibrated on labeled rows: `consensus calibrate` makes one"
                )
            return
        if self.calibration is None:
            raise ValueError("learned: requires calibration, the record of the rows that it was fitted on")
        if self.weights:
            raise ValueError("weights: have no effect on a learned vote: remove weights or learned")
        fitted = self.learned.members
        if sorted(self.fitted_as(self.panel(), fitted)) != sorted(fitted):
            raise ValueError(
                f"learned: was fitted on the members {', '.join(fitted)}: use exactly these, or calibrate these members "
                "with `consensus calibrate`"
            )

    def _check_unused(self) -> None:
        """Refuse settings that would have no effect."""
        self.refuse_unless(
            self.pairwise_judge is None,
            "has no effect with a pairwise_judge, which compares whole answers: remove one of them",
            "extract",
        )
        self.refuse_unless(
            self.pairwise_judge,
            "requires a pairwise_judge, because votes compare no texts: set one, or remove it",
            "embedding_model",
        )
        self.refuse_unless(
            self.pairwise_judge,
            "requires a pairwise_judge, in whose place it answers: set one, or remove it",
            "stand_in",
        )
        self.refuse_unless(self.fuse, "requires fuse: set both, or remove it", "fuse_top")
        self.refuse_unless(
            self.extractor or self.pairwise_judge,
            "requires an extractor, a pairwise_judge or fuse; for members use `sampling`",
            "judge_settings",
        )

    @staticmethod
    def _own_name(member: Member, names: Collection[str]) -> str | None:
        """Return the most exact one of `names` that is that of `member`."""
        return next((name for name in _names_of(member) if name in names), None)

    def weights_of(self, members: Sequence[Member]) -> list[float]:
        """What the vote of each of `members` counts; the most exact name decides."""
        names = (self._own_name(member, self.weights) for member in members)
        return [1.0 if name is None else self.weights[name] for name in names]

    def fitted_as(self, members: Sequence[Member], fitted: Collection[str]) -> list[str]:
        """The name that each of `members` has in fitted coefficients."""
        return [self._own_name(member, fitted) or "" for member in members]

    def places_of(self, members: Sequence[Member]) -> list[int]:
        """The place of each of `members` in the order in which they win ties."""
        order = self.named(self.tie_order)
        order += [member for member in self.panel() if member not in order]
        return [order.index(member) for member in members]

    def named(self, names: Sequence[str]) -> list[Member]:
        """The members that are called by these names; that of a model means all of its instances."""
        panel = self.panel()
        return list(dict.fromkeys(member for name in names for member in panel if name in _names_of(member)))

    def panel(self) -> list[Member]:
        """List every instance of every member that is asked, in the order given."""
        everybody = super().panel()
        return [member for member, weight in zip(everybody, self.weights_of(everybody), strict=True) if weight]

    @property
    def saved_panel(self) -> str | SavedPanel | None:
        """The saved panel that decides where those that a cascade asks first do not agree; None where none does."""
        then = VOTE if self.cascade is None else self.cascade.then
        if not isinstance(then, str):
            return then
        name = then.removeprefix(f"{PANEL}/")
        return None if name == VOTE or "/" in name or self.named([then]) else name

    @property
    def decider(self) -> Member | None:
        """The member that decides where those that a cascade asks first do not agree; None where none does."""
        if self.cascade is None or self.saved_panel is not None:
            return None
        return next(iter(self.named([str(self.cascade.then)])), None)

    def in_waves(self) -> list[list[Member]]:
        """Who is asked at once, and who is asked after that as long as the answer is not settled."""
        if self.cascade is not None:
            return [self.named(self.cascade.ask)]
        panel = self.panel()
        asks_all = self.stop_when is None and self.stop_at_confidence is None
        size = len(panel) if asks_all else self.waves or 1
        return [panel[start : start + size] for start in range(0, len(panel), size)]

    def behind(self) -> list[Member]:
        """Who is asked, too, where those that a cascade asks first do not agree."""
        if self.cascade is None:
            return []
        everybody = self.panel() if self.cascade.then == VOTE else [self.decider] if self.decider else []
        return [member for member in everybody if member not in self.named(self.cascade.ask)]

    def needed(self) -> int:
        """The quorum: how many members must answer, of those that may be asked."""
        return self.quorum or sum(map(len, [*self.in_waves(), self.behind()])) // 2 + 1

    def calibrated_on(self) -> Calibration | None:
        """On what the panel was calibrated; None if it was not."""
        return self.calibration

    def rule_digest(self) -> str:
        """Return what tells who is asked, and how it is counted, apart from other votes."""
        rule = self.model_dump(mode="json", include={"members", *COUNTING} - {"extract", "extractor", "calibration"})
        return hashlib.sha256(json.dumps(rule, sort_keys=True).encode("utf-8", "replace")).hexdigest()[:16]

    def outcome_probability(self) -> LearnedVote | None:
        """How probable it is that the answer is right, by who gave it; None where that is not known of this very vote."""
        found = self.calibration
        return found.probability if found is not None and found.rule == self.rule_digest() else None

    def gives_probability(self) -> bool:
        """Tell whether the confidence of a run is a probability that was fitted on labeled rows."""
        return self.learned is not None or self.outcome_probability() is not None

    def by_schema(self) -> list[ModelName]:
        """Those of the models whose answer is read by a JSON schema."""
        judges = (self.extractor, self.pairwise_judge, self.fuse)
        return [*super().by_schema(), *(model for name in judges for model in named(name))]

    def schema_refusal(self) -> str | None:
        """Say why the answer of a run cannot be JSON by the schema of whoever asks; None where it can."""
        whole = self.extract in {"text", "exact", "json"}
        return None if whole else f"its answer is what it reads out of its members' answers (extract {self.extract})"

    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the members' first."""
        others = [name for name in (self.extractor, self.pairwise_judge, self.fuse, self.stand_in) if name]
        others += self.saved_panel.models if isinstance(self.saved_panel, SavedPanel) else []
        return [*super().models(), *(parse_member(name)[0] for name in others)]

    def readers(self) -> list[ModelName]:
        """All but an extractor, which is sent an answer alone."""
        return self.model_copy(update={"extractor": None}).models()


def _names_of(member: Member) -> tuple[str, str, str]:
    """Return what a member may be called, the most exact name first."""
    return str(member), str(member.name), member.name.model


def _names_one(name: str, members: Sequence[Member]) -> bool:
    """Tell whether `name` is that of an instance, of a model, or of a model without its provider, and of one model only."""
    return len({member.name for member in members if name in _names_of(member)}) == 1


Vote = saved_config("Vote", VoteConfig)
