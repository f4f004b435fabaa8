"""Let an arbiter judge the answers of a round, and make one answer of them or rank them."""

from collections.abc import Callable, Sequence

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.member import ModelName
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.judging.judge import Asked, JudgeRequest, ask_for_answer, ask_judge, first_of, in_json
from consensus_flows.tasks.judging.judgements import ArbiterVerdict, Kind, arbiter_verdict
from consensus_flows.tasks.prompting.fence import fence_tag, fenced, shuffled
from consensus_flows.tasks.prompts import prompt
from consensus_flows.tasks.record import Response, Synthesis

Ends = Callable[[float, bool], bool]
"""Tells by an arbiter's confidence, and whether it calls its answer final, whether that becomes the answer of the run."""


async def judge(
    asked: JudgeRequest, responses: Sequence[Response], config: ConsortiumConfig, call: Call, ends: Ends
) -> Asked[Synthesis]:
    """Let the arbiter judge, and where it fails each fallback in order.

    Args:
        asked: What the arbiter knows of the question.
        responses: The answers of those members that did not fail.
        config: Who judges, and how.
        call: Makes the calls.
        ends: Tells which answers can be read while they are written.
    """

    async def ask(arbiter: ModelName) -> Asked[Synthesis]:
        return await _judge(asked, _candidates(responses, config, arbiter), config, arbiter, call, ends=ends)

    return await first_of(config.arbiters(), ask)


def _candidates(responses: Sequence[Response], config: ConsortiumConfig, arbiter: ModelName) -> Sequence[Response]:
    """Return the answers that an arbiter may judge: one that ranks is never shown its own."""
    if config.judging_method == "synthesize":
        return responses
    return [one for one in responses if (one.provider, one.model) != tuple(arbiter)]


async def _judge(
    asked: JudgeRequest,
    candidates: Sequence[Response],
    config: ConsortiumConfig,
    arbiter: ModelName,
    call: Call,
    *,
    ends: Ends,
) -> Asked[Synthesis]:
    if not candidates:
        return None, []
    labelled = shuffled(candidates, f"{asked.seed}:{arbiter}")
    answers = {label: response.text or "" for label, response in labelled.items()}
    kind: Kind = "ranking" if config.judging_method == "rank" else "synthesis"
    if kind == "synthesis" and not in_json(list(answers.values())):
        kind = "verdict"
    compares = config.comparison and len(labelled) > 1
    judgement = arbiter_verdict(kind, len(labelled), comparison=compares)
    # One tag for all that models wrote: earlier syntheses may be a member's answer word for word.
    tag = fence_tag([*answers.values(), *asked.history], asked.seed)
    rounds = {str(number): text for number, text in enumerate(asked.history, 1)}
    request = asked.request(
        arbiter,
        "arbiter",
        judgement,
        f"arbiter {arbiter} · {asked.label}",
        # The verdict comes after the answer: only what it cannot change is read before.
        answer_in="synthesis" if kind == "synthesis" and ends(0.0, False) else None,
        history=fenced(rounds, asked.seed, "round", tag) if rounds else "",
        count=len(labelled),
        answers=fenced(answers, asked.seed, tag=tag),
        comparison=prompt("arbiter_comparison") if compares else "",
        result=prompt(f"arbiter_{kind}"),
    )
    verdict, calls = await ask_judge(request, call, judgement.read, member=str(arbiter))
    if verdict is None:
        return None, calls
    text: str | None = verdict.synthesis
    if kind == "verdict":
        final = ends(verdict.confidence, verdict.final)
        text, more = await ask_for_answer(request, calls[-1].text or "", call, final=final, member=str(arbiter))
        calls += more
    if text is None:
        return None, calls
    return _synthesis(verdict, text, arbiter, labelled, compared=compares), calls


def _synthesis(
    verdict: ArbiterVerdict, text: str, arbiter: ModelName, labelled: dict[str, Response], *, compared: bool
) -> Synthesis:
    best = labelled[verdict.ranking[0]] if verdict.ranking else None
    names = {label: response.member for label, response in labelled.items()}
    return Synthesis(
        text=(best.text or "") if best else text,
        confidence=verdict.confidence,
        analysis=verdict.analysis,
        dissent=verdict.dissent,
        needs_iteration=not verdict.final,
        refinement_areas=verdict.refinement_areas,
        comparison=verdict.comparison.of(names) if compared and verdict.comparison else None,
        arbiter=str(arbiter),
        chosen=best.member if best else None,
        ranking=[names[label] for label in verdict.ranking],
        labels=names,
    )
