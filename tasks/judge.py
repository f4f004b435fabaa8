"""An arbiter's judgement: what it is shown, how its answer is read, and what happens when it cannot be read."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from blocks.member import ModelName
from blocks.sampling import Sampling
from tasks.agreement import medoid
from tasks.fence import fenced, shuffled
from tasks.prompts import fill, prompt, version
from tasks.readers import UnreadableError, flag, json_object, reader, share, texts
from tasks.record import Response, Synthesis
from tasks.request import Message, Request

Method = Literal["synthesize", "rank"]
Call = Callable[..., Awaitable[Response]]

_COMMON: dict[str, JsonValue] = {
    # A whole number, because servers enforce the range of integers and not that of fractions.
    "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
    "needs_iteration": {"type": "boolean"},
    "refinement_areas": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
}


def schema_of(method: Method, labels: Sequence[str]) -> dict[str, JsonValue]:
    """Return the JSON schema of a judgement."""
    result: dict[str, JsonValue] = (
        {"synthesis": {"type": "string", "minLength": 1}}
        if method == "synthesize"
        else {
            "ranking": {
                "type": "array",
                "items": {"type": "string", "enum": list(labels)},
                "minItems": len(labels),
                "maxItems": len(labels),
            }
        }
    )
    properties = {"analysis": {"type": "string"}, "dissent": {"type": "string"}, **result, **_COMMON}
    return {
        "type": "object",
        "properties": properties,  # type: ignore[dict-item]
        "required": list(properties),
        "additionalProperties": False,
    }


@dataclass(frozen=True)
class Judgement:
    """An arbiter's answer as read."""

    confidence: float
    analysis: str
    dissent: str
    needs_iteration: bool
    refinement_areas: list[str]
    synthesis: str | None = None
    ranking: tuple[str, ...] = ()


@reader("judgement")
def read_judgement(text: str, schema: dict[str, Any] | None) -> Judgement:
    """Read an arbiter's answer; `schema` tells whether it ranks and under which labels.

    Raises:
        UnreadableError: If a field is missing or wrong. Nothing is filled in.
    """
    properties = (schema or {}).get("properties", {})
    ranks = "ranking" in properties
    fields = json_object(text, ("confidence", "ranking" if ranks else "synthesis"))
    synthesis, ranking = None, ()
    if ranks:
        ranking = _ranking(fields["ranking"], properties["ranking"]["items"]["enum"])
    else:
        synthesis = fields["synthesis"]
        if not isinstance(synthesis, str) or not synthesis.strip():
            raise UnreadableError("synthesis is empty")
    return Judgement(
        confidence=share(fields["confidence"]),
        analysis=_text(fields.get("analysis"), "analysis"),
        dissent=_text(fields.get("dissent"), "dissent"),
        needs_iteration=flag(fields.get("needs_iteration", False), "needs_iteration"),
        refinement_areas=texts(fields.get("refinement_areas"), "refinement_areas"),
        synthesis=synthesis,
        ranking=ranking,
    )


def _ranking(value: Any, labels: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UnreadableError("ranking must be a list of labels")
    ranking = tuple(item.strip().upper() for item in value)
    if sorted(ranking) != sorted(labels):
        raise UnreadableError(f"ranking must name each of {', '.join(labels)} once, from best to worst")
    return ranking


def _text(value: Any, field: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableError(f"{field} must be a text")
    return value.strip()


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


@dataclass(frozen=True)
class Court:
    """Who judges, and how."""

    arbiters: Sequence[ModelName]
    method: Method = "synthesize"
    sampling: Sampling = Sampling()
    timeout: float = 120.0


async def judge(case: Case, court: Court, call: Call) -> tuple[Synthesis, list[Response]]:
    """Let the arbiter judge; the fallbacks, in order: each further arbiter, then the answer nearest to all others.

    Returns:
        The synthesis, and every call made for it. `synthesis.arbiter` is None when no arbiter could judge.
    """
    calls: list[Response] = []
    for arbiter in court.arbiters:
        candidates = _candidates(case, court, arbiter)
        labelled = shuffled(candidates, f"{case.seed}:{arbiter}")
        request = _request(case, court, arbiter, labelled)
        response = await call(request)
        calls.append(response)
        if response.error is not None and response.error.kind in {"malformed", "truncated"}:
            request = _again(request, response)
            response = await call(request)
            calls.append(response)
        if response.error is None:
            judgement = read_judgement(response.text or "", request.response_schema)
            return _synthesis(judgement, arbiter, labelled), calls
    return fallback(case.responses), calls


def fallback(responses: Sequence[Response]) -> Synthesis:
    """Return the answer that is nearest to all others, word for word, for when no arbiter could judge."""
    chosen = responses[medoid([response.text or "" for response in responses])]
    return Synthesis(text=chosen.text or "", chosen=chosen.member)


def _candidates(case: Case, court: Court, arbiter: ModelName) -> Sequence[Response]:
    """A judge that ranks is not shown its own answers, unless there are no others."""
    if court.method == "synthesize":
        return case.responses
    others = [r for r in case.responses if (r.provider, r.model) != tuple(arbiter)]
    return others or case.responses


def _request(case: Case, court: Court, arbiter: ModelName, labelled: dict[str, Response]) -> Request:
    name = f"arbiter_{court.method}"
    instructions = f"The answers had to follow these instructions:\n\n{case.system}\n\n" if case.system else ""
    text = fill(
        name,
        question=case.question,
        instructions=instructions,
        history=_history(case.history),
        count=len(labelled),
        answers=fenced({label: response.text or "" for label, response in labelled.items()}, case.seed),
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
        prompt_version=version("arbiter_system", name),
        label=f"arbiter {arbiter} · {case.label}",
        timeout=court.timeout,
    )


def _history(syntheses: Sequence[Synthesis]) -> str:
    if not syntheses:
        return ""
    parts = [
        f"Round {number}, confidence {'unknown' if one.confidence is None else round(one.confidence * 100)}:\n{one.text}"
        for number, one in enumerate(syntheses, 1)
    ]
    return "The best answers of earlier rounds:\n\n" + "\n\n".join(parts) + "\n\n"


def _again(request: Request, response: Response) -> Request:
    """Ask once more, with what was wrong; an answer that was cut off gets twice the room."""
    error = response.error
    assert error is not None
    cause = "it was cut off, so be brief" if error.kind == "truncated" else error.message.split(": ", 2)[-1]
    said = [Message(role="assistant", content=response.text)] if response.text else []
    sampling = request.sampling
    if error.kind == "truncated" and sampling.max_output_tokens:
        sampling = sampling.model_copy(update={"max_output_tokens": sampling.max_output_tokens * 2})
    return request.model_copy(
        update={
            "messages": (*request.messages, *said, Message(role="user", content=fill("reask", error=cause))),
            "sampling": sampling,
            "prompt_version": f"{request.prompt_version}+{version('reask')}",
            "label": f"{request.label} · again",
        }
    )


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
