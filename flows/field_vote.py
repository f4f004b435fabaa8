"""A vote on each field of JSON answers by itself, for extraction: the answer is put together from the fields' winners."""

from functools import partial
from typing import Any

from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.run import Run
from consensus_flows.tasks.asking import missed_quorum
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.counting.fields import (
    LEFT_OUT,
    FieldCount,
    as_json,
    read_json_answer,
    violations,
    vote_by_field,
)
from consensus_flows.tasks.judging.judge import ask_judge
from consensus_flows.tasks.readers import SCHEMA, UnreadableError
from consensus_flows.tasks.record import FieldOption, FieldVote, Iteration, Response, Synthesis, Vote


async def vote_on_fields(run: Run[VoteConfig], iteration: Iteration) -> str | None:
    """Ask everybody at once, count the votes on each field, and put the answer together; return why there is none."""
    config, record, members = run.config, run.record, run.config.panel()
    schema: dict[str, Any] = dict(config.answer_schema or {})
    read = partial(read_json_answer, schema=schema)

    async def ask(request: Request, **options: Any) -> Response:
        """Ask a member, and once more, with what was wrong, where its answer does not satisfy the schema."""
        request = request.model_copy(update={"response_schema": schema, "reader": SCHEMA})
        _, calls = await ask_judge(request, run.call, read, **options)
        iteration.judgements += calls[:-1]
        return calls[-1]

    await run.ask(iteration, members, quorum=config.needed(), label="vote", call=ask)
    values = [_read(response, schema) for response in iteration.responses]
    weights, places = config.weights_of(members), config.places_of(members)
    for response, value, weight in zip(iteration.responses, values, weights, strict=True):
        text = None if value is None else as_json(value)
        record.votes.append(Vote(member=response.member, answer=text, weight=weight, heard=value is not None))
    read_by = [one for one in values if one is not None]
    failure = missed_quorum(iteration.responses, config.needed())
    if not read_by or (failure and not iteration.cut_by_budget):
        return failure or "no member gave a JSON object that satisfies the schema"
    made = vote_by_field(values, schema, weights, places)
    names = [response.member for response in iteration.responses]
    record.fields = [_field_vote(one, names) for one in made.fields]
    answer = made.answer
    if wrong := next(violations(answer, schema), None):
        answer = _nearest(values, made.answer)
        record.degraded = True
        run.warn(
            "stand_in",
            f"the fields' winners together do not satisfy the schema ({wrong}): the nearest answer is taken whole",
        )
    if tied := [one.field for one in record.fields if one.tie]:
        run.warn("tie", f"equally many votes for several values of {', '.join(tied)}: the order of the members decided")
    shares = [one.agreement for one in record.fields]
    record.tie = bool(tied)
    record.unanimous = len(read_by) == len(values) and all(one.unanimous for one in record.fields)
    record.margin = min((_margin(one) for one in record.fields), default=1.0)
    if len(read_by) > 1:  # one voice agrees with nobody
        iteration.agreement = round(sum(shares) / len(shares), 4) if shares else 1.0
        iteration.agreement_measure = "votes"
    whole = next((name for name, value in zip(names, values, strict=True) if value == answer), None)
    iteration.synthesis = Synthesis(text=as_json(answer), chosen=whole, method="fields")
    return None


def _read(response: Response, schema: dict[str, Any]) -> dict[str, Any] | None:
    if not response.answered:
        return None
    try:
        return read_json_answer(response.text or "", schema)
    except UnreadableError:
        return None


def _field_vote(count: FieldCount, names: list[str]) -> FieldVote:
    tally = count.tally
    options = [
        FieldOption(
            value=None if (value := count.written[one.value]) is LEFT_OUT else value,
            left_out=value is LEFT_OUT,
            votes=one.votes,
            share=round(one.votes / tally.cast, 4),
            members=[names[voter] for voter in one.voters],
        )
        for one in tally.counts
    ]
    return FieldVote(field=count.path, agreement=options[0].share, tie=tally.tie, options=options)


def _margin(vote: FieldVote) -> float:
    return round(vote.agreement - max((option.share for option in vote.options[1:]), default=0.0), 4)


def _nearest(values: list[dict[str, Any] | None], answer: dict[str, Any]) -> dict[str, Any]:
    """Return the member's answer that has most of the values of an answer, the first of equals."""
    known = [one for one in values if one is not None]
    return max(known, key=lambda one: sum(one.get(name, LEFT_OUT) == value for name, value in answer.items()))
