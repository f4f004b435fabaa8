"""What a member is asked: its own conversation; and how a whole panel is asked at once, and how long the last ones are waited for."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from consensus_flows.blocks.member import Member
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.tasks.calls.ask import Straggler
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.errors import ErrorKind
from consensus_flows.tasks.prompting.fence import fence_tag, fenced, marked
from consensus_flows.tasks.prompting.prompt_sets import prompt_set
from consensus_flows.tasks.prompts import fill
from consensus_flows.tasks.record import CallError, Response, Synthesis

Asked = tuple[Request, int, Awaitable[Response]]


async def ask_members(
    members: Sequence[Member],
    conversations: Sequence[tuple[Message, ...]],
    config: RunConfig,
    call: Call,
    *,
    quorum: int,
    label: str,
) -> list[Response]:
    """Ask every member what is in its conversation; the responses are in the same order.

    The prompt set of `config` is applied here, so that it holds in every algorithm: it is put around the question, and what
    it separates from the answer is taken out of the responses' text. Text that looks like an attack is noted, too.

    Args:
        members: Who is asked.
        conversations: For each member the messages it is sent.
        config: Sampling settings, timeout and straggler grace.
        call: Makes the calls.
        quorum: How many answers are needed before stragglers may be canceled.
        label: What the round is called in the UI, for example `iteration 1`.

    Raises:
        ConfigurationError: Before any call, if there is no such prompt set.
    """
    prompting = prompt_set(config.prompt_set)
    asked = []
    for member, messages in zip(members, conversations, strict=True):
        request = Request(
            provider=member.name.provider,
            model=member.name.model,
            messages=prompting.prompted(messages),
            sampling=config.settings_of(member),
            sample=member.instance - 1,
            label=f"{member.name} #{member.instance} · {label}",
            timeout=config.timeout_s(),
        )
        asked.append((request, member.instance, call(request, instance=member.instance)))
    responses = await gather_panel(asked, quorum, config.straggler_grace)
    return [marked(prompting.divided(response)) for response in responses]


async def gather_panel(asked: Sequence[Asked], quorum: int, straggler_grace: float | None) -> list[Response]:
    """Wait for the members' answers, in the order in which they were asked.

    Once `quorum` members have answered, the others have `straggler_grace` times the median time of these answers, counted
    from the start. Then they are canceled and named as stragglers.

    Args:
        asked: For each member its request, its instance number and its call.
        quorum: How many answers are needed.
        straggler_grace: None to wait for all.
    """
    started = time.monotonic()
    calls = [asyncio.ensure_future(call) for _, _, call in asked]
    took: dict[asyncio.Future[Response], float] = {}
    pending = set(calls)
    cut: str | None = None
    try:
        while pending:
            wait = _time_left(took, quorum, straggler_grace, started)
            if wait is not None and wait <= 0:
                cut = f"cut after {time.monotonic() - started:.1f} s, when the quorum had answered"
                break
            done, pending = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            took |= {call: time.monotonic() - started for call in done}
    except asyncio.CancelledError as error:
        # A panel that is cut itself, as a member of another one: its own members are for the same reason.
        cut = next((one.reason for one in error.args if isinstance(one, Straggler)), None)
        raise
    finally:
        for call in pending:
            call.cancel(Straggler(cut) if cut else None)
        if pending:
            await asyncio.wait(pending)
    waited = time.monotonic() - started
    return [
        _outcome(call, request, instance, took.get(call, waited), cut)
        for call, (request, instance, _) in zip(calls, asked, strict=True)
    ]


def _time_left(
    took: dict["asyncio.Future[Response]", float], quorum: int, grace: float | None, started: float
) -> float | None:
    """Seconds until stragglers are canceled; None for no limit."""
    if grace is None:
        return None
    times = [time_of for call, seconds in took.items() if (time_of := _time_of(call, seconds)) is not None]
    if len(times) < quorum:
        return None
    return started + grace * statistics.median(times) - time.monotonic()


def _time_of(call: "asyncio.Future[Response]", seconds: float) -> float | None:
    """How long an answer took, retries included; a cached one counts as long as it took when it was made."""
    if call.cancelled() or call.exception() is not None or not call.result().answered:
        return None
    response = call.result()
    return max(seconds, response.latency_s) if response.cached else seconds


def _outcome(
    call: "asyncio.Future[Response]", request: Request, instance: int, waited: float, cut: str | None
) -> Response:
    """One member's entry in the record. Whatever ended its call is data, and never ends the panel's run."""
    if call.cancelled():  # between two attempts: a request in flight would have made a response of its own
        return _failed(request, instance, waited, "straggler", cut or "cancelled")
    error = call.exception()
    if error is not None and not isinstance(error, Exception):
        raise error  # SIGTERM arrived during this call, and is meant for the run
    if error is not None:
        return _failed(request, instance, waited, "unknown", redact(f"{type(error).__name__}: {error}"))
    return call.result()


def _failed(request: Request, instance: int, waited: float, kind: ErrorKind, cause: str) -> Response:
    return Response(
        member=f"{request.name}#{instance}",
        provider=request.provider,
        model=request.model,
        instance=instance,
        latency_s=round(waited, 4),
        attempts=1,
        possibly_billed=0 if kind == "straggler" else 1,
        error=CallError(kind=kind, message=f"{request.name}: {kind}: {cause}", retryable=kind == "straggler"),
    )


def missed_quorum(
    responses: Sequence[Response], quorum: int, unparsed: Mapping[str, CallError] | None = None
) -> str | None:
    """Say which members are missing where fewer than `quorum` answered; return None where enough did.

    Args:
        responses: What the members answered.
        quorum: How many of them have to.
        unparsed: Members whose answer could not be parsed, with the cause; they do not count.
    """
    unparsed = unparsed or {}
    answered = sum(response.answered and response.member not in unparsed for response in responses)
    if answered >= quorum:
        return None
    failed = [(one.member, one.error or unparsed.get(one.member)) for one in responses]
    causes = "; ".join(f"{member}: {error.message}" for member, error in failed if error is not None)
    did = "could be parsed" if unparsed else "answered"
    return f"{answered} of {len(responses)} members {did}, and the quorum is {quorum}. {causes}"


def new_samples(call: Call, members: Sequence[Member], number: int) -> Call:
    """Return `call` for round `number` of the same question: it asks for new samples, which are cached apart.

    Args:
        call: Makes the calls.
        members: All members; the instances of one model have that many consecutive sample indices in each round.
        number: The round, from 1; the first one's requests are left as they are.
    """
    instances = Counter(str(member.name) for member in members)

    async def sample(request: Request, **options: Any) -> Response:
        shift = (number - 1) * instances[request.name]
        sampling = request.sampling
        if shift and sampling.seed is not None:
            sampling = sampling.model_copy(update={"seed": sampling.seed + shift})
        return await call(
            request.model_copy(update={"sample": request.sample + shift, "sampling": sampling}), **options
        )

    return sample


def apart(system: str | None, conversation: Sequence[Message]) -> tuple[str | None, tuple[Message, ...]]:
    """Return all instructions as one text, and the conversation without them.

    Vendors want one system message, and want it first; a conversation that comes from elsewhere may hold several.
    """
    instructions = [system, *(message.content for message in conversation if message.role == "system")]
    turns = tuple(message for message in conversation if message.role != "system")
    return "\n\n".join(text for text in instructions if text and text.strip()) or None, turns


class Turns:
    """The conversation of one member, which continues from its own earlier answer."""

    def __init__(self, question: str, system: str | None = None, conversation: Sequence[Message] = ()) -> None:
        first = (Message(role="system", content=system),) if system else ()
        self._settled = (*first, *conversation)
        self._question = question
        self._guidance = ""

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the member is asked next."""
        parts = [part for part in (self._question, self._guidance) if part]
        return (*self._settled, Message(role="user", content="\n\n".join(parts)))

    def continue_after(self, answer: str | None, guidance: str) -> None:
        """Continue after `answer` with `guidance`; a member that gave none is asked the same again, with the guidance."""
        if answer is not None:
            self._settled = (*self.messages, Message(role="assistant", content=answer))
            self._question = ""
        self._guidance = guidance


def guidance(synthesis: Synthesis, seed: str) -> str:
    """Return what a member is shown of a round before it answers again.

    All of it is quoted as to a judge: it may be another member's answer word for word, or repeat one.
    """
    parts = {
        "so far": synthesis.text,
        "of a minority": synthesis.dissent,
        "to look into": "\n".join(f"- {area}" for area in synthesis.refinement_areas),
    }
    tag = fence_tag(list(parts.values()), seed)
    quoted = [fenced({label: text}, seed, tag=tag) if text else "" for label, text in parts.items()]
    return fill("iterate", **dict(zip(("synthesis", "dissent", "areas"), quoted, strict=True)))
