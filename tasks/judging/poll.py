"""Let members rank each other's answers: each judges alone, sees no names, and sees them in an order of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from consensus_flows.blocks.member import Member
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.judging.fence import fence_tag, fenced, shuffled
from consensus_flows.tasks.judging.hearing import hear
from consensus_flows.tasks.judging.preference_judgement import Preference, preference_schema, read_preference
from consensus_flows.tasks.prompts import fill, prompt
from consensus_flows.tasks.record import JudgeRanking, Response


@dataclass(frozen=True)
class Poll:
    """What the members rank, and how."""

    question: str
    config: PreferConfig
    system: str | None = None
    conversation: Sequence[Message] = ()
    round: int = 1


async def poll(
    poll: Poll, members: Sequence[Member], responses: Sequence[Response], call: Call
) -> tuple[list[JudgeRanking], list[Response]]:
    """Let every member that answered rank the answers of the others.

    Args:
        poll: The question and the settings.
        members: Who was asked.
        responses: What each of `members` answered; one that failed neither judges nor is judged.
        call: Makes the calls.

    Returns:
        What each judge said, and every call made for it. There are none if no judge has two answers to compare.
    """
    answered = [response for response in responses if response.answered]
    judges = [
        (member, response, [one for one in answered if poll.config.include_self or one is not response])
        for member, response in zip(members, responses, strict=True)
        if response.answered
    ]
    if len(answered) < 3:
        return [], []
    heard = await asyncio.gather(*(_heard(poll, *judge, call) for judge in judges))
    return [entry for entry, _ in heard], [one for _, calls in heard for one in calls]


async def _heard(
    poll: Poll, judge: Member, own: Response, candidates: Sequence[Response], call: Call
) -> tuple[JudgeRanking, list[Response]]:
    seed = f"{poll.config.order_seed}:{poll.round}:{own.member}"
    labelled = shuffled(candidates, seed)
    entry = JudgeRanking(
        round=poll.round, judge=own.member, seed=seed, order=[response.member for response in labelled.values()]
    )
    preference, calls = await hear(
        _request(poll, judge, labelled, seed),
        call,
        read_preference,
        instance=judge.instance,
        member=f"{own.member} as judge",
    )
    _enter(entry, preference, calls[-1], labelled)
    return entry, calls


def _enter(entry: JudgeRanking, preference: Preference | None, last: Response, labelled: dict[str, Response]) -> None:
    """Write down what was read; what could not be read is an abstention, with its text."""
    entry.text = last.text
    if preference is None:
        entry.error = last.error.kind if last.error else None
        entry.abstained = True
        return
    entry.analysis = preference.analysis
    entry.ranking = [[labelled[label].member for label in group] for group in preference.ranking]
    entry.abstained = not entry.ranking


def _request(poll: Poll, judge: Member, labelled: dict[str, Response], seed: str) -> Request:
    answers = {label: response.text or "" for label, response in labelled.items()}
    instructions = f"The answers had to follow these instructions:\n\n{poll.system}\n\n" if poll.system else ""
    text = fill(
        "preference",
        question=poll.question,
        instructions=instructions,
        count=len(labelled),
        answers=fenced(answers, seed, tag=fence_tag(list(answers.values()), seed)),
        criteria=poll.config.criteria,
    )
    return Request(
        provider=judge.name.provider,
        model=judge.name.model,
        messages=(
            Message(role="system", content=prompt("preference_system")),
            *poll.conversation,
            Message(role="user", content=text),
        ),
        sampling=poll.config.judge_settings,
        response_schema=preference_schema(list(labelled)),
        reader="preference",
        sample=judge.instance - 1,
        label=f"{judge.name} #{judge.instance} as judge · round {poll.round}",
        timeout=poll.config.timeout_s(),
    )
