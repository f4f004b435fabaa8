"""What the plan of an algorithm is made of: the calls of a run, at least and at most, as long as every model answers.

Retries, second askings and fallbacks are left out: they come only where something fails.
"""

from collections.abc import Iterator, Sequence

from consensus_flows.blocks.member import Member, ModelName
from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.batches.planned import Planned
from consensus_flows.tasks.prompting.prompt_sets import prompt_set
from consensus_flows.tasks.prompts import prompt

SCHEMA_CHARACTERS = 400
"""Of the JSON schema of a judge's answer, which is sent beside the prompt."""
READING_CHARACTERS = 50
"""Of what was read out of an answer."""


def member_calls(
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


def rounds_before(rounds: int) -> int:
    """How many rounds lie before each of so many rounds, added up."""
    return rounds * (rounds - 1) // 2


def prompt_length(*prompts: str) -> int:
    """Return the characters of these prompts together."""
    return sum(len(prompt(name)) for name in prompts)
