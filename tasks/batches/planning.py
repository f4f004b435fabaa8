"""What the plan of an algorithm is made of: the calls of a run, at least and at most, as long as every model answers.

Retries, second askings and fallbacks are left out: they come only where something fails.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from consensus_flows.blocks.grading import Grading
from consensus_flows.blocks.member import Member, ModelName, parse_member
from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.prompting.prompt_sets import prompt_set
from consensus_flows.tasks.prompts import prompt

COMPARISON_CHARACTERS = 1_200
"""Of the part of the schema that describes a comparison of the answers."""
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
        least: Minimum number of calls.
        most: Maximum number of calls.
        characters: Of instructions in one call, beside the question.
        read_least: Answers of models that are read in the fewest calls, in all of them together.
        read_most: Answers that are read in the most calls.
        max_output_tokens: Maximum number of tokens of one answer, if that is limited.
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

    def within(self, panel: "Planned") -> "Planned":
        """Return these calls of a panel's run where the run is made in the place of each of the calls of `panel`."""
        least, most = self.least * panel.least, self.most * panel.most
        # What a call of the panel reads is part of the question of its run.
        read = (panel.read_least / panel.least if panel.least else 0, panel.read_most / panel.most if panel.most else 0)
        return self._replace(
            task=f"{panel.model} {self.task}",
            least=least,
            most=most,
            characters=self.characters + panel.characters * self.asks,
            read_least=self.read_least * panel.least + read[0] * least * self.asks,
            read_most=self.read_most * panel.most + read[1] * most * self.asks,
        )


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
    return f"{span(*total)} {'call' if total == (1, 1) else 'calls'}: {parts}"


def span(least: float, most: float, form: str = ",") -> str:
    """Say a range, or the one number that it is."""
    return f"{least:{form}}" if least == most else f"{least:{form}} to {most:{form}}"


def member_calls(
    config: PanelConfig,
    members: Sequence[Member],
    rounds: tuple[int, int],
    *,
    guidance: str = "",
    instructions: int = 0,
    reads: int = 0,
    compared: bool = True,
) -> Iterator[Planned]:
    """Plan the members' own calls.

    Args:
        config: Their settings.
        members: Who is asked.
        rounds: In how many rounds, at least and at most; each sees its answers before and what was made of them.
        guidance: What a member is shown between two rounds.
        instructions: Characters of instructions in every call.
        reads: Answers of others that it sees in every call.
        compared: Whether it is measured how far their answers agree.
    """
    prompting = prompt_set(config.prompt_set)
    shown = sum(len(example.user) + len(example.assistant) for example in prompting.examples)
    added = len(config.system or "") + len(prompting.system + prompting.before + prompting.after) + shown
    # In round n the texts between n - 1 rounds are part of the conversation: on the average of n rounds half of them.
    between = len(guidance) * (rounds[1] - 1) // 2
    if compared:
        yield from _embedded(config, len(members), rounds[1])
    for member in members:
        yield Planned(
            model=member.name,
            role="member",
            task="member",
            least=rounds[0],
            most=rounds[1],
            characters=added + instructions + between,
            read_least=reads * rounds[0] + 2 * rounds_before(rounds[0]),
            read_most=reads * rounds[1] + 2 * rounds_before(rounds[1]),
            max_output_tokens=config.settings_of(member).max_output_tokens,
        )


def _embedded(config: PanelConfig, texts: int, rounds: int) -> Iterator[Planned]:
    """Plan the vectors of the answers of a round, by which agreement is measured; none where all wrote the same."""
    model = config.embedding()
    if model is not None and texts > 1:
        most = texts * rounds
        yield Planned(model, "embedding", "embedding", 0, most, read_most=most, max_output_tokens=0, asks=False)


def judge_calls(
    model: ModelName, task: str, calls: tuple[int, int], read: Sequence[float], characters: int, *, settings: Sampling
) -> Planned:
    """Plan the calls of a judge.

    Args:
        model: Who judges.
        task: What people call it: arbiter, aggregator, ...
        calls: How many calls, at least and at most.
        read: Answers that it reads in all of them, at least and at most.
        characters: Of instructions in one call, beside the question.
        settings: Its sampling settings.
    """
    return Planned(model, "judge", task, *calls, characters, read[0], read[1], settings.max_output_tokens)


def grader_calls(grading: Grading) -> Planned:
    """Plan the call that grades a question."""
    characters = prompt_length("grade_system", "grade") + SCHEMA_CHARACTERS
    model = parse_member(grading.model or "")[0]
    return judge_calls(model, "grader", (1, 1), [0, 0], characters, settings=Sampling())


def rounds_before(rounds: int) -> int:
    """How many rounds lie before each of so many rounds, added up."""
    return rounds * (rounds - 1) // 2


def prompt_length(*prompts: str) -> int:
    """Return the characters of these prompts together."""
    return sum(len(prompt(name)) for name in prompts)
