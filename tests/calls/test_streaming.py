"""The final model's text is read while it is written, and what is recorded of the call is what it always was."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.request import Request, request_key
from consensus_flows.tasks.judging.judge import TEXT
from consensus_flows.tasks.record import Response
from consensus_flows.tasks.watch import Piece, watched_by
from tests.kits.asking import VENDORS, asking, forget, question, stored
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Step, faults
from tests.vendors import Usage as Counts

TEXT_OF_ANSWER = "It is\n\n    18, because six times three is 18."
KEY = "sk-test-0123456789abcdefghij"


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(
        tmp_path_factory.mktemp("streaming"), OPENAI_API_KEY=KEY, ANTHROPIC_API_KEY=KEY, GEMINI_API_KEY=KEY
    ) as vendors:
        yield vendors


class Reader:
    """Reads pieces, and puts them together as one who reads along must."""

    def __init__(self, vendors: LoopbackVendors | None = None) -> None:
        self.pieces: list[Piece] = []
        self.drafts = [""]
        self.under_way: list[bool] = []
        self._vendors = vendors

    async def on_event(self, event: str, value: Any) -> None:
        if event == "wrote":
            self.pieces.append(value)
            if value.start != len(self.drafts[-1]):
                self.drafts.append("")
            self.drafts[-1] += value.text
            if self._vendors is not None:
                self.under_way.append(self._vendors.seen[-1].status == 0)


async def read(request: Request, vendors: LoopbackVendors | None = None, **options: Any) -> tuple[Response, Reader]:
    reader = Reader(vendors)
    with watched_by(reader, pieces=True):
        return await Caller(**options)(request), reader


def final(provider: str = "openai", **fields: Any) -> Request:
    return question(provider, **{"answer_in": "", "reader": TEXT, **fields})


def streamed(server: LoopbackVendors, request: Request) -> list[bool]:
    return [one.stream for one in server.seen if one.model == request.model]


@pytest.mark.parametrize(
    "step",
    [
        Reply(
            text=TEXT_OF_ANSWER, usage=Counts(input=30, output=20, cached=5, reasoning=4), thoughts="Hm, let me see."
        ),
        Reply(text=TEXT_OF_ANSWER, usage="missing"),
        faults.truncated(),
        faults.refusal(),
        faults.safety_stop(),
        faults.prompt_blocked(),
        faults.empty(),
        faults.tool_call_only(),
        faults.rate_limit(),
        faults.unauthorized(),
        faults.context_too_long(),
        faults.html_page(),
        faults.invalid_json(),
    ],
)
@pytest.mark.parametrize("provider", [*VENDORS, "openrouter"])
async def test_the_record_is_that_of_an_unstreamed_call(server: LoopbackVendors, provider: str, step: Step) -> None:
    request = final(provider)
    server.script(request.model, then=step)
    plain = await Caller(fresh=True)(request)
    forget()
    found, reader = await read(request, fresh=True)
    alone = streamed(server, request)
    assert alone[0] is False and alone[-1] is True
    ignored = {"latency_s"}
    assert found.model_dump(exclude=ignored) == plain.model_dump(exclude=ignored)
    if found.text and found.error is None:
        assert reader.drafts == [found.text]
        assert len(reader.pieces) > 3


@pytest.mark.parametrize("provider", VENDORS)
async def test_the_first_piece_comes_before_the_vendor_has_finished(server: LoopbackVendors, provider: str) -> None:
    request = final(provider)
    server.script(request.model, Reply(text=TEXT_OF_ANSWER, pace=0.02))
    found, reader = await read(request, server)
    assert reader.drafts == [found.text] == [TEXT_OF_ANSWER]
    assert reader.under_way[0]
    assert {piece.member for piece in reader.pieces} == {f"{request.name}#1"}


async def test_nothing_is_streamed_where_nobody_reads(server: LoopbackVendors) -> None:
    unread, member = final(), question()
    with watched_by(reader := Reader()):
        await Caller()(unread)
    _, other = await read(member)
    assert streamed(server, unread) == streamed(server, member) == [False]
    assert reader.pieces == other.pieces == []


async def test_the_cache_does_not_know_of_streams(server: LoopbackVendors) -> None:
    request = final()
    server.script(request.model, Reply(text=TEXT_OF_ANSWER))
    before = set(stored())
    first, _ = await read(request)
    assert set(stored()) - before == {request_key(request, server.openai_url)}
    again, reader = await read(request)
    assert (first.cached, again.cached, again.text) == (False, True, TEXT_OF_ANSWER)
    assert [piece.text for piece in reader.pieces] == [TEXT_OF_ANSWER], "at once"
    unread = await Caller()(request.model_copy(update={"answer_in": None}))
    assert (unread.cached, server.count(request.model)) == (True, 1)


async def test_identical_calls_are_paid_once_and_both_are_read(server: LoopbackVendors) -> None:
    request = final()
    server.script(request.model, Reply(text=TEXT_OF_ANSWER, pace=0.02))
    pairs = await asyncio.gather(read(request), read(request))
    assert server.count(request.model) == 1
    assert [reader.drafts for _, reader in pairs] == [[TEXT_OF_ANSWER]] * 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.cut_mid_body(), "connection"),
        (faults.end_early(), "connection"),
        (faults.error_in_stream(), "overloaded"),
    ],
)
@pytest.mark.parametrize("provider", VENDORS)
async def test_a_broken_stream_is_tried_once_more_and_then_a_failure(
    server: LoopbackVendors, provider: str, fault: Step, kind: str
) -> None:
    def broken(seen: SeenRequest) -> Reply:
        made = fault if isinstance(fault, Reply) else fault(seen)
        return Reply(text="One might well say that", fault=made.fault, breaks=made.breaks)

    request = final(provider)
    server.script(request.model, broken, Reply(text=TEXT_OF_ANSWER))
    found, reader = await read(request)
    assert (found.text, found.attempts, found.possibly_billed) == (TEXT_OF_ANSWER, 2, 1)
    assert reader.drafts[-1] == TEXT_OF_ANSWER
    assert len(reader.drafts) == 2, "what was written before is withdrawn"

    request = final(provider)
    server.script(request.model, then=broken)
    found, _ = await read(request)
    assert found.error is not None
    wanted = (
        kind if provider != "openai" or kind == "connection" else "server"
    )  # an error event of OpenAI's has no status
    assert (found.error.kind, found.attempts, found.cost_usd) == (wanted, 2, None)
    assert not any(request.model in str(content) for content in stored().values())


async def test_an_attempt_that_says_the_same_continues(server: LoopbackVendors) -> None:
    request = final()
    server.script(request.model, Reply(text=TEXT_OF_ANSWER, fault="close_mid_body"), Reply(text=TEXT_OF_ANSWER))
    found, reader = await read(request)
    assert (found.attempts, reader.drafts) == (2, [TEXT_OF_ANSWER])


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_stream_that_stalls_times_out(server: LoopbackVendors, provider: str) -> None:
    request = final(provider, timeout=0.3)
    server.script(request.model, Reply(text=TEXT_OF_ANSWER, fault="stall"), Reply(text=TEXT_OF_ANSWER))
    found, reader = await read(request)
    assert (found.text, found.attempts, reader.drafts) == (TEXT_OF_ANSWER, 2, [TEXT_OF_ANSWER])


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_stream_without_end_is_not_read_to_its_end(
    server: LoopbackVendors, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSENSUS_MAX_RESPONSE_MB", "0.01")
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-another-one")
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}-small")
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"{KEY}-small")
    monkeypatch.setenv("GEMINI_API_KEY", f"{KEY}-small")
    forget()
    request = final(provider)
    server.script(request.model, then=Reply(text="word " * 10_000))
    found, _ = await read(request)
    forget()
    assert found.error is not None
    assert (found.error.kind, "larger than 0.01 MB" in found.error.message) == ("malformed", True)


@pytest.mark.parametrize("name", ["stream_options", "stream"])
async def test_a_server_that_refuses_to_stream_is_asked_without(server: LoopbackVendors, name: str) -> None:
    def refusing(seen: SeenRequest) -> Reply:
        if name in seen.params:
            body = {"detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted"}]}
            return Reply(status=422, body=body)
        return Reply(text=TEXT_OF_ANSWER)

    request = final()
    server.script(request.model, then=refusing)
    found, reader = await read(request)
    assert (found.text, found.error) == (TEXT_OF_ANSWER, None)
    assert [one.kind for one in found.warnings] == (["odd_response"] if name == "stream_options" else []), "no usage"
    assert reader.drafts == [TEXT_OF_ANSWER]
    assert streamed(server, request) == ([True, True] if name == "stream_options" else [True, False])
    await read(request.model_copy(update={"sample": 1}))
    assert len(streamed(server, request)) == 3, "it is remembered"


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_server_that_knows_of_no_stream_is_read_as_ever(server: LoopbackVendors, provider: str) -> None:
    wires = {"openai": "choices", "anthropic": "content", "google": "candidates"}
    request = final(provider)

    def whole(seen: SeenRequest) -> Reply:
        from tests.vendors import routes

        answer = routes._WIRES[seen.vendor].answer(seen, routes.resolve(Reply(text=TEXT_OF_ANSWER), seen))
        assert wires[provider] in answer
        return Reply(body=answer)

    server.script(request.model, whole)
    found, reader = await read(request)
    assert (found.text, found.finish_reason, reader.drafts) == (TEXT_OF_ANSWER, "stop", [TEXT_OF_ANSWER])
    assert found.usage.output_tokens


@pytest.mark.parametrize("provider", VENDORS)
@pytest.mark.parametrize("event", ["[1, 2]", '"text"', "{", '{"choices": 1, "candidates": 1, "type": "message_delta"}'])
async def test_events_that_are_none_of_the_vendor_are_a_failure(
    server: LoopbackVendors, provider: str, event: str
) -> None:
    request = final(provider)
    headers = {"content-type": "text/event-stream"}
    server.script(request.model, then=Reply(body=f"data: {event}\n\n", headers=headers))
    found, _ = await read(request)
    assert found.error is not None
    assert (found.error.kind, found.attempts) in {("malformed", 2), ("connection", 2), ("empty", 2)}


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_key_that_is_repeated_is_never_passed_on(server: LoopbackVendors, provider: str) -> None:
    parts = ["You asked with ", KEY[:12], f"{KEY[12:]} today."]
    request = final(provider)
    server.script(request.model, Reply(text=" ".join(parts)))
    found, reader = await read(request)
    written = "".join(piece.text for piece in reader.pieces)
    assert KEY[:9] not in written and KEY[12:] not in written
    assert reader.drafts == [found.text]
    assert "[key]" in (found.text or "")


async def test_the_answer_is_read_out_of_json(server: LoopbackVendors) -> None:
    fields = {"analysis": 'so "it" is', "answer": ' Ja: "18"\n\tund 😀 mehr ', "more": "x"}
    request = final(answer_in="answer", reader="", response_schema={"type": "object", "properties": {}})
    server.script(request.model, Reply(text=json.dumps(fields)), Reply(text="no JSON at all, and much of it"))
    found, reader = await read(request)
    assert (found.error, reader.drafts) == (None, [fields["answer"].strip()])
    assert len(reader.pieces) > 3
    _, reader = await read(request.model_copy(update={"sample": 1}))
    assert reader.pieces == []


async def test_a_long_text_is_read_in_time_that_grows_with_it(server: LoopbackVendors) -> None:
    request = final()
    server.script(request.model, Reply(text="word " * 20_000))
    found, reader = await read(request)
    assert reader.drafts == [(found.text or "").strip()]
    assert 100 < len(reader.pieces) < 2_000
