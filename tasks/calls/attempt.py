"""One attempt of a call: wait for a turn, reserve its worst case, send it, log it, and judge what came back."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefect.logging import get_logger

from consensus_flows.blocks.response_headers import told
from consensus_flows.tasks.attachments import text_of
from consensus_flows.tasks.calls.budget import reserve
from consensus_flows.tasks.calls.failures import Fault, Verdict, judge_answer
from consensus_flows.tasks.calls.pace import pace_of
from consensus_flows.tasks.calls.pricing import price
from consensus_flows.tasks.calls.prompt_cache import noted
from consensus_flows.tasks.calls.providers import Endpoint, client_of, setting
from consensus_flows.tasks.calls.redact import is_distinctive, redact, redact_secrets
from consensus_flows.tasks.calls.request import Answer, Message, Request
from consensus_flows.tasks.calls.vendors.vendor import Repairs, Reply, malformed
from consensus_flows.tasks.calls.writing import Writer
from consensus_flows.tasks.errors import ModelError
from consensus_flows.tasks.plain_text import code_fence
from consensus_flows.tasks.prompts import fill
from consensus_flows.tasks.readers import UnreadableError, check_readable
from consensus_flows.tasks.record import Usage

RETRY_AFTER_CAP_S = 120.0


@dataclass
class Attempt:
    """One request that was sent, with what it used; None where the vendor did not say."""

    usage: Usage | None
    cost_usd: float | None
    answered: bool
    maybe_billed: bool
    """The response was lost on the way, and the vendor may have billed it."""
    entry: int | None = None
    """Its number in the log of the run's budget, where there is one."""

    @property
    def free(self) -> bool:
        """Whether it cost nothing: it was refused, or never got there."""
        return not self.maybe_billed and self.cost_usd == 0 and self.usage in {None, Usage()}


@dataclass
class CallLog:
    """The requests that were sent for one call, failed ones included."""

    attempts: list[Attempt] = field(default_factory=list)
    stored_at: Path | None = None
    """The file of the stored answer, where there is one."""
    key: str | None = None
    """The key under which it is stored."""
    writer: Writer | None = None
    """Passes on what is written, where somebody reads it."""


@dataclass(frozen=True)
class Sent:
    """A request that was sent and what came of it."""

    reply: Reply
    cost_usd: float | None = None
    latency_s: float = 0.0
    entry: int | None = None
    redacted: bool = False
    """Whether the answer repeated the key."""

    @property
    def lost(self) -> bool:
        """Whether the response was lost on the way."""
        return self.reply.fault is not None and not self.reply.fault.unbilled


@dataclass(frozen=True)
class Delivered:
    """A request that a vendor's batch has answered, or refused, before its call begins.

    Attributes:
        sent: What came of it.
        repairs: What was known of the model when it was built.
    """

    sent: Sent
    repairs: Repairs


delivered: ContextVar[Delivered | None] = ContextVar("delivered", default=None)
"""What has come of the call that is made now, where nothing is to be sent any more."""
call_log: ContextVar[CallLog | None] = ContextVar("call_log", default=None)
REPAIRS: dict[tuple[str, str], Repairs] = {}
"""What is known of the parameters that a model refuses, by address and model."""
_loaded: set[str] = set()


async def attempt(request: Request, endpoint: Endpoint) -> Answer:
    """Send `request`, and once more for each parameter that the vendor refuses.

    Raises:
        ModelError: If no complete answer came back.
        ConfigurationError: If the client cannot be made.
    """
    vendor, log = endpoint.vendor, call_log.get()
    if vendor.name not in _loaded:
        # Importing an SDK takes one to two seconds: in a thread, so that the calls of other vendors go on.
        await asyncio.to_thread(vendor.load)
        _loaded.add(vendor.name)
    came, left_out = delivered.get(), tuple[str, ...]()
    if came is not None:
        request, sent, repairs = sent_as(request, endpoint, None), came.sent, came.repairs
        if log is not None:
            log.attempts.append(attempt_of(sent))
    else:
        tier = endpoint.tier(request.service_tier, request.kind)
        if tier != request.service_tier:
            left_out = (f"{request.name} has no {request.service_tier} tier: not asked for",)
        request = sent_as(request, endpoint, tier)
        sent, repairs = await _repaired(request, endpoint)
    verdict, detail = _judge(request, endpoint, sent.reply)
    detail = redact(detail, endpoint.secrets)  # at once: a traceback with variables would show it
    if verdict is not None:
        raise _error(request, endpoint, verdict, sent.reply, detail)
    if log is not None:
        log.attempts[-1].answered = True
    reply = sent.reply
    return Answer(
        text=reply.text or "",
        finish_reason=reply.finish,
        model_served=reply.model,
        usage=reply.usage or Usage(),
        cost_usd=sent.cost_usd,
        latency_s=round(sent.latency_s, 4),
        service_tier=reply.service_tier,
        warnings=(
            *left_out,
            *vendor.notes(request, repairs),
            *(f"{request.name} has no parameter for {name}: not sent" for name in vendor.unsent(request)),
        ),
        doubts=(
            *(() if reply.usage or "token usage" in reply.doubts else (f"{request.name} reported no token usage",)),
            *(f"{request.name} reported a {what} that cannot be true: it is not used" for what in reply.doubts),
            *((f"{request.name} repeated the key in its answer: it was redacted",) if sent.redacted else ()),
        ),
    )


async def _repaired(request: Request, endpoint: Endpoint) -> tuple[Sent, Repairs]:
    """Send `request` without what the model is known to refuse, and again without what it turns out to refuse."""
    vendor = endpoint.vendor
    client = await client_of(endpoint, request.model, request.kind)
    log = call_log.get()
    streams = log is not None and log.writer is not None

    def build(repairs: Repairs) -> dict[str, Any]:
        body = vendor.build(request, repairs)
        return body | vendor.stream_arguments(request, repairs) if streams else body

    known = REPAIRS.get((endpoint.address, request.model), Repairs())
    repairs, body = known, build(known)
    while True:
        sent = await _send(request, endpoint, client, body)
        learned = vendor.learn(repairs, sent.reply.fault, body) if sent.reply.fault else repairs
        better = build(learned)
        if better == body:  # nothing was refused, or what was refused is not ours to leave out
            break
        repairs, body = learned, better
    if repairs != known and (sent.reply.fault is None or sent.reply.fault.status not in {400, 404, 422}):
        remember(endpoint, request.model, repairs)
    return sent, repairs


def remember(endpoint: Endpoint, model: str, repairs: Repairs) -> None:
    """Remember what a model refuses."""
    source = (endpoint.address, model)
    # Merged, because a call beside this one may have learned something else meanwhile.
    REPAIRS[source] = REPAIRS.get(source, Repairs()) | repairs


def attempt_of(sent: Sent) -> Attempt:
    """Return the entry of a request in the log of its call."""
    return Attempt(sent.reply.usage, sent.cost_usd, False, sent.lost, sent.entry)


def sent_as(request: Request, endpoint: Endpoint, service_tier: str | None) -> Request:
    """Return a request as its vendor is sent it: in a tier that it has, and with its text files in its texts."""
    sent = request.model_copy(
        update={"service_tier": service_tier, "messages": tuple(map(_with_texts, request.messages))}
    )
    return noted(sent, endpoint.address) if endpoint.vendor.marks_repeated else sent


def _with_texts(message: Message) -> Message:
    """Return a turn with its text files in its text: every vendor is sent those alike."""
    if not message.attachments:
        return message
    found = [(one.name, text_of(one)) for one in message.attachments if one.kind == "text"]
    shown = [fill("attachment", file=name, fence=code_fence(text), text=text) for name, text in found]
    others = tuple(one for one in message.attachments if one.kind != "text")
    return message.model_copy(update={"content": "\n\n".join((*shown, message.content)), "attachments": others})


async def _send(request: Request, endpoint: Endpoint, client: Any, body: dict[str, Any]) -> Sent:
    pace = pace_of(endpoint)
    async with endpoint.vendor.turn(client, request) as ready, pace.turn(request.model) as turn:
        reservation = await reserve(request, endpoint, turn.released)
        entry = reservation.entry if reservation else None
        # If nobody says what became of it, it stays booked at its worst case, and the record says that it may be billed.
        sent = Sent(Reply(fault=Fault(transport="timeout")), entry=entry)
        usage: Usage | None = None
        started = time.monotonic()
        telling = told.set(turn.told)
        try:
            said = await _exchange(request, endpoint, ready, body)
            sent, usage = await received(request, endpoint, said, entry, time.monotonic() - started)
            failed = endpoint.vendor.classify(said.fault) if said.fault else None
            turn.ended(failed, usage.input_tokens + usage.output_tokens if usage else 0)
        finally:
            told.reset(telling)
            # Before anyone looks at what came back: whatever is in it, the request is in the log.
            log = call_log.get()
            if log is not None:
                log.attempts.append(attempt_of(sent))
            if reservation:
                reservation.settle(usage, sent.cost_usd, lost=sent.lost)
    return sent


async def received(
    request: Request, endpoint: Endpoint, said: Reply, entry: int | None, latency_s: float = 0.0
) -> tuple[Sent, Usage | None]:
    """Return what came of a request, without the key and with its price; and the usage to settle it by."""
    reply = _without(endpoint.secrets, said)
    cost, usage = reply.cost_usd, reply.usage
    if reply.fault is not None and reply.fault.unbilled:
        cost, usage = cost or 0.0, usage or Usage()
    elif cost is None and usage is not None:
        cost = await _priced(endpoint, request, reply, usage)
    return Sent(reply, cost, latency_s, entry, redacted=reply.text != said.text), usage


async def _priced(endpoint: Endpoint, request: Request, reply: Reply, usage: Usage) -> float | None:
    """Look up what a call cost. An answer that is paid for is not lost over its price."""
    try:
        named = await price(endpoint, request.model, usage, reply.service_tier)
        # A deployment has a name of its own, and says which model it is.
        return (
            named
            if named is not None or not reply.model
            else await price(endpoint, reply.model, usage, reply.service_tier)
        )
    except Exception as error:
        get_logger("consensus").warning("The price of %s cannot be looked up: %r", request.name, error)
        return None


async def _exchange(request: Request, endpoint: Endpoint, client: Any, body: dict[str, Any]) -> Reply:
    vendor, log = endpoint.vendor, call_log.get()
    writer = log.writer if log is not None else None
    try:
        # The client's own timeout counts from byte to byte: a server that trickles would never reach it.
        async with asyncio.timeout(request.timeout + 1):
            if writer is None:
                response = await vendor.send(client, request, body)
            else:
                writer.begin(endpoint.secrets)
                response = await vendor.stream(client, request, body, writer.write)
    except Exception as error:  # every SDK has its own
        try:
            fault = vendor.fault_of(error)
        except Exception as unread:
            fault = malformed(f"the failure cannot be read: {type(error).__name__}, {type(unread).__name__}")
        if writer is not None and not fault.transport and fault.status is None:
            fault = malformed(f"the stream cannot be read: {type(error).__name__}")
        return Reply(fault=replace(fault, begun=writer is not None and writer.begun))
    return read_response(request, endpoint, body, response)


def read_response(request: Request, endpoint: Endpoint, body: Mapping[str, Any], response: Any) -> Reply:
    """Read the SDK's response object."""
    try:
        return _believed(request, endpoint.vendor.read(request, body, response))
    except Exception as error:  # a server that speaks almost the right format
        return Reply(fault=malformed(f"the response cannot be read: {type(error).__name__}"))


def _believed(request: Request, reply: Reply) -> Reply:
    """Return a reply without a usage that cannot be: no tokens of input, or none of output beside a text."""
    usage = reply.usage
    if usage is None or not reply.text:
        return reply
    if usage.input_tokens and (usage.output_tokens or request.kind == "embedding"):
        return reply
    return replace(reply, usage=None, doubts=(*reply.doubts, "token usage"))


def _without(secrets: Iterable[str], reply: Reply) -> Reply:
    """Return a reply without the key it was asked with: a careless proxy may repeat it in a good answer, too."""
    distinctive = [secret for secret in secrets if is_distinctive(secret)]
    said = {name: getattr(reply, name) for name in ("text", "model", "service_tier")}
    # Not every SDK checks the types of what came.
    clean: dict[str, Any] = {
        name: redact_secrets(part, distinctive) for name, part in said.items() if isinstance(part, str)
    }
    return replace(reply, **clean)


def _judge(request: Request, endpoint: Endpoint, reply: Reply) -> tuple[Verdict | None, str]:
    if reply.fault is not None:
        return endpoint.vendor.classify(reply.fault), reply.fault.message
    verdict = judge_answer(reply.text, reply.finish)
    if verdict is None and request.reader:
        try:
            check_readable(request.reader, reply.text or "", request.response_schema)
        except UnreadableError as error:
            return Verdict("malformed"), error.message
    return verdict, reply.detail


def _error(request: Request, endpoint: Endpoint, verdict: Verdict, reply: Reply, detail: str) -> ModelError:
    status = reply.fault.status if reply.fault else None
    retry, wait = verdict.retry, verdict.wait_s
    cap = setting("RETRY_AFTER_CAP_S", RETRY_AFTER_CAP_S)
    note = ""
    if retry and wait is not None:
        if wait > cap:
            retry, note = False, f" (asks to wait {wait:.0f} s, more than the {cap:.0f} s that are waited at most)"
        else:
            pace_of(endpoint).hold(wait)
    most, log = verdict.max_attempts, call_log.get()
    if most is not None and log is not None:  # attempts that cost nothing are not counted
        most = None if sum(not attempt.free for attempt in log.attempts) < most else 0
    where = f"HTTP {status}: " if status else ""
    at = f" (at {endpoint.address})" if verdict.kind == "connection" else ""
    message = redact(f"{request.name}: {verdict.kind}: {where}{detail}{at}", endpoint.secrets) + note
    return ModelError(
        message,
        kind=verdict.kind,
        retryable=retry,
        wait_s=wait,
        max_attempts=most,
        status=status,
        text=reply.text,
    )
