"""Let members rank each other's answers: each judges alone, sees no names, and sees them in an order of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from consensus_flows.blocks.member import Member
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.judging.judge import JudgeRequest, ask_judge
from consensus_flows.tasks.judging.judgements import preference
from consensus_flows.tasks.prompting.fence import fenced, shuffled
from consensus_flows.tasks.prompts import prompt
from consensus_flows.tasks.record import JudgeRanking, Response


async def poll(
    asked: JudgeRequest,
    members: Sequence[Member],
    responses: Sequence[Response],
    config: PreferConfig,
    call: Call,
    *,
    number: int = 1,
) -> tuple[list[JudgeRanking], list[Response]]:
    """Let every member that answered rank the answers of the others.

    Args:
        asked: What the judges know of the question.
        members: Who was asked.
        responses: What each of `members` answered; one that failed neither judges nor is judged.
        config: Criteria, and whether a judge sees its own answer.
        call: Makes the calls.
        number: The round.

    Returns:
        What each judge said, and every call made for it. There are none if no judge has two answers to compare.
    """
    answered = [response for response in responses if response.answered]
    if len(answered) < 3:
        return [], []

    async def rank(judge: Member, own: Response) -> tuple[JudgeRanking, list[Response]]:
        seed = f"{config.order_seed}:{number}:{own.member}"
        labelled = shuffled([one for one in answered if config.include_self or one is not own], seed)
        names = {label: response.member for label, response in labelled.items()}
        entry = JudgeRanking(round=number, judge=own.member, seed=seed, order=list(names.values()))
        judgement = preference(len(labelled))
        request = replace(asked, seed=seed).request(
            judge.name,
            "preference",
            judgement,
            f"{judge.name} #{judge.instance} as judge · round {number}",
            sample=judge.instance - 1,
            count=len(labelled),
            answers=fenced({label: response.text or "" for label, response in labelled.items()}, seed),
            criteria=config.criteria.strip() or prompt("criteria"),
        )
        found, calls = await ask_judge(
            request, call, judgement.read, instance=judge.instance, member=f"{own.member} as judge"
        )
        entry.text = calls[-1].text
        if found is None:  # an abstention, too, with what it wrote
            entry.error = calls[-1].error.kind if calls[-1].error else None
        else:
            entry.analysis = found.analysis
            entry.ranking = [[names[label] for label in group] for group in found.ranking]
        entry.abstained = not entry.ranking
        return entry, calls

    judges = [(member, own) for member, own in zip(members, responses, strict=True) if own.answered]
    found = await asyncio.gather(*(rank(*judge) for judge in judges))
    return [entry for entry, _ in found], [one for _, calls in found for one in calls]
