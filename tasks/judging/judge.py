"""Let an arbiter judge: what it is shown, and what happens when its answer cannot be read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.counting.agreement import medoid
from consensus_flows.tasks.counting.likeness import LEXICAL, Likeness
from consensus_flows.tasks.judging.fence import fence_tag, fenced, shuffled
from consensus_flows.tasks.judging.hearing import hear
from consensus_flows.tasks.judging.judgement import Judgement, Method, read_judgement, schema_of
from consensus_flows.tasks.prompts import fill, prompt
from consensus_flows.tasks.record import Response, Synthesis


@dataclass(frozen=True)
class Case:
    """What an arbiter judges: the question and the answers to it."""

    question: str
    responses: Sequence[Response]
    history: Sequence[Synthesis] = ()
    system: str | None = None
    conversation: Sequence[Message] = ()
    seed: str = "0"
    label: str = ""
    likeness: Likeness = LEXICAL
    """Finds the answer nearest to all others when no arbiter can judge."""


@dataclass(frozen=True)
class Court:
    """Who judges, and how."""

    arbiters: Sequence[ModelName]
    method: Method = "synthesize"
    sampling: Sampling = field(default_factory=Sampling)
    timeout: float = 120.0


async def judge(case: Case, court: Court, call: Call) -> tuple[Synthesis, list[Response]]:
    """Let the arbiter judge; the fallbacks, in order: each further arbiter, then the answer nearest to all others.

    Returns:
        The synthesis, and every call made for it. `synthesis.arbiter` is None when no arbiter could judge.
    """
    calls: list[Response] = []
    for arbiter in court.arbiters:
        candidates = _candidates(case, court, arbiter)
        if not candidates:
            continue
        labelled = shuffled(candidates, f"{case.seed}:{arbiter}")
        request = _request(case, court, arbiter, labelled)
        judgement, heard = await hear(request, call, read_judgement, member=str(arbiter))
        calls += heard
        if judgement is not None:
            return _synthesis(judgement, arbiter, labelled), calls
    return fallback(case.responses, case.likeness), calls


def fallback(responses: Sequence[Response], likeness: Likeness = LEXICAL) -> Synthesis:
    """Return the answer that is nearest to all others, word for word, for when no arbiter could judge."""
    chosen = responses[medoid([response.text or "" for response in responses], likeness)]
    return Synthesis(text=chosen.text or "", chosen=chosen.member)


def _candidates(case: Case, court: Court, arbiter: ModelName) -> Sequence[Response]:
    """A judge that ranks is never shown its own answers; where there are no others it cannot judge."""
    if court.method == "synthesize":
        return case.responses
    return [r for r in case.responses if (r.provider, r.model) != tuple(arbiter)]


def _request(case: Case, court: Court, arbiter: ModelName, labelled: dict[str, Response]) -> Request:
    name = f"arbiter_{court.method}"
    instructions = f"The answers had to follow these instructions:\n\n{case.system}\n\n" if case.system else ""
    answers = {label: response.text or "" for label, response in labelled.items()}
    # One tag for all that models wrote: earlier syntheses may be a member's answer word for word.
    tag = fence_tag([*answers.values(), *(one.text for one in case.history)], case.seed)
    text = fill(
        name,
        question=case.question,
        instructions=instructions,
        history=_history(case.history, case.seed, tag),
        count=len(labelled),
        answers=fenced(answers, case.seed, tag=tag),
    )
    return Request(
        provider=arbiter.provider,
        model=arbiter.model,
        messages=(
            Message(role="system", content=prompt("arbiter_system")),
            *case.conversation,
            Message(role="user", content=text),
        ),
        sampling=court.sampling,
        response_schema=schema_of(court.method, list(labelled)),
        reader="judgement",
        label=f"arbiter {arbiter} · {case.label}",
        timeout=court.timeout,
    )


def _history(syntheses: Sequence[Synthesis], seed: str, tag: str) -> str:
    if not syntheses:
        return ""
    rounds = {
        f"{number}, confidence {'unknown' if one.confidence is None else round(one.confidence * 100)},": one.text
        for number, one in enumerate(syntheses, 1)
    }
    return f"The best answers of earlier rounds:\n\n{fenced(rounds, seed, 'round', tag)}\n\n"


def _synthesis(judgement: Judgement, arbiter: ModelName, labelled: dict[str, Response]) -> Synthesis:
    best = labelled[judgement.ranking[0]] if judgement.ranking else None
    return Synthesis(
        text=(best.text or "") if best else (judgement.synthesis or ""),
        confidence=judgement.confidence,
        analysis=judgement.analysis,
        dissent=judgement.dissent,
        needs_iteration=judgement.needs_iteration,
        refinement_areas=judgement.refinement_areas,
        arbiter=str(arbiter),
        chosen=best.member if best else None,
        ranking=[labelled[label].member for label in judgement.ranking],
        labels={label: response.member for label, response in labelled.items()},
    )
