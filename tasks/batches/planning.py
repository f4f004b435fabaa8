"""Which calls a run of any configuration makes, at least and at most, as long as every model answers.

Retries, second askings and fallbacks are left out: they come only where something fails.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.layer import Layer
from consensus_flows.blocks.member import Member, ModelName, parse_member
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.panel import PanelConfig, RunConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.tasks.judging.mixture import windows
from consensus_flows.tasks.prompting.prompt_sets import prompt_set
from consensus_flows.tasks.prompts import prompt

SCHEMA_CHARACTERS = 400
"""Of the JSON schema of a judge's answer, which is sent beside the prompt."""
READING_CHARACTERS = 50
"""Of what was read out of an answer."""


class Planned(NamedTuple):
    """The calls of one model in one role, in one run.

    Attributes:
        model: Who is asked.
        role: What for: `member`, `embedding`, or `judge` as the history calls every other.
        task: What the calls are called for people: member, arbiter, aggregator, extractor, ...
        least: Fewest calls.
        most: Most calls.
        characters: Of instructions in one call, beside the question.
        read_least: Answers of models that are read in the fewest calls, in all of them together.
        read_most: Answers that are read in the most calls.
        max_output_tokens: Most tokens of one answer, if that is limited.
        asks: Whether the question is in every call.
    """

    model: ModelName
    role: str
    task: str
    least: int
    most: int
    characters: int = 0
    read_least: float = 0
    read_most: float = 0
    max_output_tokens: int | None = None
    asks: bool = True


def merged(plans: Iterable[Planned]) -> list[Planned]:
    """Add up the calls of the same model, in the same task and under the same limit, in the order of the first ones."""
    found: dict[tuple[ModelName, str, int | None], Planned] = {}
    for plan in plans:
        key = plan.model, plan.task, plan.max_output_tokens
        before = found.get(key)
        found[key] = plan if before is None else _sum(before, plan)
    return list(found.values())


def _sum(one: Planned, other: Planned) -> Planned:
    calls = one.most + other.most
    return one._replace(
        least=one.least + other.least,
        most=calls,
        characters=(one.characters * one.most + other.characters * other.most) // calls if calls else 0,
        read_least=one.read_least + other.read_least,
        read_most=one.read_most + other.read_most,
    )


def calls_in_words(plans: Sequence[Planned]) -> str:
    """Say how many calls a run makes, by what for: `9 to 27 calls: member 6 to 18, arbiter 3 to 9`."""
    tasks: dict[str, tuple[int, int]] = {}
    for plan in plans:
        least, most = tasks.get(plan.task, (0, 0))
        tasks[plan.task] = least + plan.least, most + plan.most
    total = tuple(sum(pair) for pair in zip(*tasks.values(), strict=True)) or (0, 0)
    parts = ", ".join(f"{task} {span(*pair)}" for task, pair in tasks.items())
    return f"{span(*total)} calls: {parts}"


def span(least: float, most: float, form: str = ",") -> str:
    """Say a range, or the one number that it is."""
    return f"{least:{form}}" if least == most else f"{least:{form}} to {most:{form}}"


def planned_calls(config: RunConfig) -> list[Planned]:
    """Return the calls of a run of `config`, a line for each model, role and limit of the answers.

    Raises:
        TypeError: If it is the configuration of no flow that is known here.
        ConfigurationError: If there is no such prompt set.
    """
    for kind, plan in _PLANS.items():
        if isinstance(config, kind):
            return merged(plan(config))
    raise TypeError(f"{type(config).__name__} is the configuration of no flow")


def _consortium(config: ConsortiumConfig) -> Iterator[Planned]:
    members = config.panel()
    rounds = config.min_iterations, config.max_iterations
    yield from _members(config, members, rounds, told=prompt("iterate"))
    yield _judge(
        config.arbiters()[0],
        "arbiter",
        rounds,
        # Every answer of the round, and its own syntheses of the rounds before.
        [count * len(members) + _before(count) for count in rounds],
        _length("arbiter_system", f"arbiter_{config.judging_method}") + len(config.system or "") + SCHEMA_CHARACTERS,
        settings=config.arbiter_settings,
    )


def _learn(config: ConsensusLearningConfig) -> Iterator[Planned]:
    members = config.panel()
    most = config.iterations + 1
    least = 1 if config.approach == "decentralized" else min(2, most) if config.stop_when_stable else most
    rounds = least, most
    yield from _members(config, members, rounds, told=config.improvement_prompt or prompt("improve"))
    for model in config.aggregators()[:1]:
        own = sum(len(turn.content) for turn in (*config.aggregator_context, *config.aggregator_prompt))
        yield _judge(
            model,
            "aggregator",
            rounds,
            [count * len(members) for count in rounds],
            _length("aggregator_system", "aggregate", "aggregate_task") + own + len(config.system or ""),
            settings=config.aggregator_settings,
        )


def _mixture(config: MixtureOfAgentsConfig) -> Iterator[Planned]:
    layers: Sequence[Layer] = config.proposer_layers()
    before = [0, *(len(layer.panel()) for layer in layers)]
    for layer, seen in zip(layers, before, strict=False):
        panel = config.panel_of(layer)
        told = _length("moa_aggregate", "moa_answers") if seen else _length("moa_initial")
        yield from _members(panel, layer.panel(), (1, 1), reads=seen, told_first=told)
    parts = windows(before[-1], config.window, config.reserved)
    calls = len(parts), len(parts)
    read = before[-1] + config.reserved * (len(parts) - 1)
    told = _length("moa_final", "moa_answers") + len(config.system or "")
    yield _judge(
        config.aggregators()[0], "aggregator", calls, (read, read), told, settings=config.aggregator_sampling()
    )


def _vote(config: VoteConfig) -> Iterator[Planned]:
    members = config.panel()
    if config.pairwise_judge is not None:
        yield from _members(config, members, (1, 1))
        yield from _pairwise(config, parse_member(config.pairwise_judge)[0])
        return
    size = len(members) if config.stop_when is None else config.waves or 1
    asked = _enough(config, members, size)
    # Votes are counted and not compared, so that nothing is embedded.
    yield from _members(config, members[:asked], (1, 1), compared=False)
    yield from _members(config, members[asked:], (0, 1), compared=False)
    if config.extractor is not None:
        model, settings = parse_member(config.extractor)[0], config.judge_settings
        # Members that wrote the same are read once in each wave.
        calls = math.ceil(asked / size), len(members)
        told = _length("extract_system", "extract") + SCHEMA_CHARACTERS
        yield _judge(model, "extractor", calls, calls, told, settings=settings)
        # After each wave it says which readings mean the same, if there are two that differ.
        comparing = 0, math.ceil(len(members) / size) - (size == 1 or len(members) == 1)
        told = _length("same_meaning_system", "same_meaning") + READING_CHARACTERS * len(members) + SCHEMA_CHARACTERS
        if comparing[1]:
            yield _judge(model, "extractor", comparing, (0, 0), told, settings=settings)


def _enough(config: VoteConfig, members: Sequence[Member], size: int) -> int:
    """How many members are asked when all of them agree, in waves of `size`."""
    if config.stop_when is None:
        return len(members)
    weights = config.weights_of(members)
    for asked in range(size, len(members), size):
        if math.fsum(weights[:asked]) >= config.stop_when and asked >= (config.quorum or 1):
            return asked
    return len(members)


def _pairwise(config: VoteConfig, judge: ModelName) -> Iterator[Planned]:
    count = sum(member.name != judge for member in config.panel())
    pairs = count * (count - 1) // 2
    # Sorting compares at least every neighbour, and at most as many pairs as there are.
    some = (pairs, pairs) if config.comparisons is None else (count - 1, pairs)
    calls = tuple(2 * min(number, config.comparisons or pairs) for number in some)
    if count < 2:
        return
    told = len(config.system or "") + SCHEMA_CHARACTERS
    yield _judge(
        judge,
        "pairwise judge",
        (calls[0], calls[1]),
        [2 * number for number in calls],
        _length("compare_system", "compare") + told,
        settings=config.judge_settings,
    )
    if config.fuse is not None:
        best = min(config.fuse_top, count)
        yield _judge(
            parse_member(config.fuse)[0],
            "fuser",
            (1, 1),
            (best, best),
            _length("fuse_system", "fuse") + told,
            settings=config.judge_settings,
        )


def _pump(config: PumpConfig) -> Iterator[Planned]:
    yield from _members(config, config.panel(), (1, 1))


def _prefer(config: PreferConfig) -> Iterator[Planned]:
    members, rounds = config.panel(), (config.rounds, config.rounds)
    for _ in range(config.rounds):
        yield from _members(config, members, (1, 1))
    seen = len(members) - (not config.include_self)
    told = _length("preference_system", "preference") + len(config.criteria + (config.system or "")) + SCHEMA_CHARACTERS
    for member in members:
        read = [count * seen for count in rounds]
        yield _judge(member.name, "judge of the others", rounds, read, told, settings=config.judge_settings)


def _members(
    config: PanelConfig,
    members: Sequence[Member],
    rounds: tuple[int, int],
    *,
    told: str = "",
    told_first: int = 0,
    reads: int = 0,
    compared: bool = True,
) -> Iterator[Planned]:
    """Plan the members' own calls.

    Args:
        config: Their settings.
        members: Who is asked.
        rounds: In how many rounds, at least and at most; each sees its answers before and what was made of them.
        told: What a member is told between two rounds.
        told_first: Characters of instructions in every call.
        reads: Answers of others that it sees in every call.
        compared: Whether it is measured how far their answers agree.
    """
    prompting = prompt_set(config.prompt_set)
    shown = sum(len(example.user) + len(example.assistant) for example in prompting.examples)
    added = len(config.system or "") + len(prompting.system + prompting.before + prompting.after) + shown
    # In round n the texts between n - 1 rounds are part of the conversation: on the average of n rounds half of them.
    between = len(told) * (rounds[1] - 1) // 2
    if compared:
        yield from _embedded(config, len(members), rounds[1])
    for member in members:
        yield Planned(
            model=member.name,
            role="member",
            task="member",
            least=rounds[0],
            most=rounds[1],
            characters=added + told_first + between,
            read_least=reads * rounds[0] + 2 * _before(rounds[0]),
            read_most=reads * rounds[1] + 2 * _before(rounds[1]),
            max_output_tokens=config.settings_of(member).max_output_tokens,
        )


def _embedded(config: PanelConfig, texts: int, rounds: int) -> Iterator[Planned]:
    """Plan the vectors of the answers of a round, by which agreement is measured; none where all wrote the same."""
    model = config.embedding()
    if model is not None and texts > 1:
        most = texts * rounds
        yield Planned(model, "embedding", "embedding", 0, most, read_most=most, max_output_tokens=0, asks=False)


def _judge(
    model: ModelName, task: str, calls: tuple[int, int], read: Sequence[float], characters: int, *, settings: Sampling
) -> Planned:
    return Planned(model, "judge", task, *calls, characters, read[0], read[1], settings.max_output_tokens)


def _before(rounds: int) -> int:
    """How many rounds lie before each of so many rounds, added up."""
    return rounds * (rounds - 1) // 2


def _length(*prompts: str) -> int:
    return sum(len(prompt(name)) for name in prompts)


_PLANS: dict[type[RunConfig], Callable[..., Iterator[Planned]]] = {
    ConsortiumConfig: _consortium,
    ConsensusLearningConfig: _learn,
    MixtureOfAgentsConfig: _mixture,
    VoteConfig: _vote,
    PumpConfig: _pump,
    PreferConfig: _prefer,
}
