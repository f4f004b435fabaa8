"""Images and files in a question: the bytes that reach each vendor, what the key holds, and what is refused before any call."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pypdf import PdfWriter

from consensus_flows.blocks.member import ModelName
from consensus_flows.tasks import attachments
from consensus_flows.tasks.attachments import attach, attachments_folder, keep
from consensus_flows.tasks.calls.budget import worst_case
from consensus_flows.tasks.calls.providers import _seen, check_attachments, endpoint_of
from consensus_flows.tasks.calls.request import Message, Request, request_key
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Attachment
from tests.kits.asking import VENDORS, asking, outcome, question, stored
from tests.vendors import LISTING, LoopbackVendors, Reply

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TEXT = "total: 42\n```\nfenced\n```\n"


def pdf(pages: int = 2) -> bytes:
    writer, made = PdfWriter(), io.BytesIO()
    for _ in range(pages):
        writer.add_blank_page(72, 72)
    writer.write(made)
    return made.getvalue()


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("attached")) as vendors:
        yield vendors


@pytest.fixture
def files(tmp_path: Path) -> tuple[Attachment, ...]:
    for name, data in (("chart.bin", PNG), ("report.pdf", pdf()), ("notes.md", TEXT.encode())):
        (tmp_path / name).write_bytes(data)
    return attach([str(tmp_path / name) for name in ("chart.bin", "report.pdf", "notes.md")])


def about(files: tuple[Attachment, ...], provider: str = "openai", text: str = "What is it?") -> Request:
    asked = question(provider, text)
    return Request(**asked.model_dump(exclude={"messages"}), messages=(attaching(files), *asked.messages))


def attaching(files: tuple[Attachment, ...]) -> Message:
    return Message(role="user", content="", attachments=files)


def test_the_type_is_told_by_content(files: tuple[Attachment, ...]) -> None:
    assert [(one.kind, one.type, one.pages) for one in files] == [
        ("image", "image/png", None),
        ("pdf", "application/pdf", 2),
        ("text", "text/markdown", None),
    ]


@pytest.mark.parametrize("provider", VENDORS)
async def test_the_bytes_arrive(provider: str, files: tuple[Attachment, ...], server: LoopbackVendors) -> None:
    request = about(files, provider)
    await outcome(request)
    (seen,) = [one for one in server.seen if one.model == request.model and one.kind == "chat"]
    image, document = base64.b64encode(PNG).decode(), base64.b64encode(pdf()).decode()
    if provider == "google":
        *parts, text = seen.params["contents"][0]["parts"]
        assert [base64.urlsafe_b64decode(part["inlineData"]["data"]) for part in parts] == [PNG, pdf()]
        assert [part["inlineData"]["mime_type"] for part in parts] == ["image/png", "application/pdf"]
    else:
        (turn,) = seen.params["messages"]
        *parts, text = turn["content"]
        expected: list[dict[str, Any]] = {
            "openai": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
                {
                    "type": "file",
                    "file": {"filename": "report.pdf", "file_data": f"data:application/pdf;base64,{document}"},
                },
            ],
            "anthropic": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": image}},
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": document}},
            ],
        }[provider]
        assert parts == expected
    assert f"notes.md:\n\n````\n{TEXT}" in text["text"]
    assert text["text"].endswith("\n\nWhat is it?")


async def test_what_is_stored_holds_no_bytes(files: tuple[Attachment, ...], server: LoopbackVendors) -> None:
    before = stored()
    request = about(files)
    await outcome(request)
    assert base64.b64encode(PNG).decode() not in request.model_dump_json()
    (made,) = [content for name, content in stored().items() if name not in before]
    assert base64.b64encode(PNG) not in made


def test_the_key_holds_the_digest(files: tuple[Attachment, ...]) -> None:
    plain = question(text="What is it?")
    request = about(files[:1])
    other = about((keep(PNG + b" ", "chart.bin"),)).model_copy(update={"model": request.model})
    keys = {request_key(one, "a") for one in (request, other, plain.model_copy(update={"model": request.model}))}
    assert len(keys) == 3
    assert request.messages[0].attachments[0].sha256 == hashlib.sha256(PNG).hexdigest()


def test_a_question_without_files_has_the_key_that_it_had() -> None:
    message = Message(role="user", content="Why?")
    assert message.model_dump() == {"role": "user", "content": "Why?"}


async def test_the_same_bytes_are_sent_when_the_file_has_changed(tmp_path: Path, server: LoopbackVendors) -> None:
    path = tmp_path / "chart.png"
    path.write_bytes(PNG)
    files = attach([str(path)])
    path.write_bytes(b"another one")
    kept = attachments_folder() / files[0].sha256
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    request = about(files)
    await outcome(request)
    seen = next(one for one in server.seen if one.model == request.model)
    assert base64.b64encode(PNG).decode() in json.dumps(seen.params)


@pytest.mark.parametrize("damage", ["changed", "gone"])
async def test_a_copy_that_is_not_what_was_attached_is_not_sent(damage: str, server: LoopbackVendors) -> None:
    file = keep(PNG + damage.encode(), "chart.png")
    kept = attachments_folder() / file.sha256
    kept.write_bytes(PNG) if damage == "changed" else kept.unlink()
    request = about((file,))
    result, _ = await outcome(request)
    assert isinstance(result, ConfigurationError)
    assert "attach the file again" in result.message
    assert not [one for one in server.seen if one.model == request.model]


@pytest.mark.parametrize(
    ("name", "data", "cause"),
    [
        ("film.mp4", b"\x00\x00\x00\x18ftypmp42", "neither an image"),
        ("empty.png", b"", "is empty"),
        ("broken.pdf", b"%PDF-1.7 and nothing else", "cannot be read as a PDF"),
        ("large.txt", b"x" * 1_000_001, "more than 1 MB"),
    ],
)
def test_what_no_model_is_sent(
    name: str, data: bytes, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSENSUS_MAX_ATTACHMENT_MB", "1")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigurationError, match=cause) as refused:
        attach([str(tmp_path / name)])
    assert refused.value.field == "attachments"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        attach([str(tmp_path / "none.png")])


@pytest.fixture
def web() -> Iterator[str]:
    class Pictures(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/cat.png") else 404)
            self.end_headers()
            self.wfile.write(PNG)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_a_url_is_fetched_once_and_kept(web: str) -> None:
    (file,) = attach([f"{web}/cat.png?size=large"])
    assert (file.name, file.type, file.sha256) == ("cat.png", "image/png", hashlib.sha256(PNG).hexdigest())
    with pytest.raises(ConfigurationError, match="HTTP 404"):
        attach([f"{web}/dog.png"])


def test_a_file_of_a_store_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/pictures/cat.png", PNG)
    (file,) = attach(["memory://pictures/cat.png"])
    assert (file.name, file.type, file.sha256) == ("cat.png", "image/png", hashlib.sha256(PNG).hexdigest())
    with pytest.raises(ConfigurationError, match=r"attachments: no such file: memory://pictures/dog\.png"):
        attach(["memory://pictures/dog.png"])
    monkeypatch.setenv("CONSENSUS_MAX_ATTACHMENT_MB", "0.00001")
    with pytest.raises(ConfigurationError, match="more than 1e-05 MB"):
        attach(["memory://pictures/cat.png"])
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'consensus-flows\[s3\]'"):
        attach(["s3://pictures/cat.png"])


def test_who_asks_over_a_server_reaches_named_hosts_alone(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing is fetched from 127\.0\.0\.1"):
        attachments.attached(f"{web}/cat.png", "attachments", anywhere=False)
    monkeypatch.setenv("CONSENSUS_ATTACHMENT_HOSTS", "example.com, 127.0.0.1")
    assert attachments.attached(f"{web}/cat.png", "attachments", anywhere=False).type == "image/png"


async def test_a_model_that_sees_nothing_is_refused(files: tuple[Attachment, ...], server: LoopbackVendors) -> None:
    listed = {
        "object": "list",
        "data": [
            {"id": "blind", "object": "model", "architecture": {"input_modalities": ["text"]}},
            {"id": "seeing", "object": "model", "architecture": {"input_modalities": ["text", "image"]}},
        ],
    }
    server.script(LISTING, then=Reply(body=listed))
    _seen.clear()
    names = [ModelName("openrouter", "blind"), ModelName("openrouter", "seeing"), ModelName("openrouter", "unlisted")]
    endpoints = {name: await endpoint_of(*name) for name in names}
    with pytest.raises(ConfigurationError) as refused:
        await check_attachments(endpoints, files)
    assert "openrouter/blind takes no images (chart.bin)" in refused.value.message
    assert "seeing" not in refused.value.message
    del endpoints[names[0]]
    await check_attachments(endpoints, files)
    server.script(LISTING)


async def test_a_vendor_without_a_form_for_images_is_refused(
    files: tuple[Attachment, ...], server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ModelName("openai", "model")
    endpoint = await endpoint_of(*name)
    monkeypatch.setattr(type(endpoint.vendor), "attachment_kinds", frozenset())
    with pytest.raises(ConfigurationError, match="takes no images"):
        await check_attachments({name: endpoint}, files)
    await check_attachments({name: endpoint}, files[2:])  # a text is sent to every model


async def test_the_worst_case_counts_files(files: tuple[Attachment, ...], server: LoopbackVendors) -> None:
    endpoint = await endpoint_of("anthropic", "model")
    plain = worst_case(question("anthropic", "What is it?"), endpoint).input_tokens
    more = worst_case(about(files, "anthropic"), endpoint).input_tokens - plain
    vendor = endpoint.vendor
    assert more == vendor.image_tokens + 2 * vendor.page_tokens + len(TEXT) + 3 * 16


def test_a_digest_is_no_path() -> None:
    with pytest.raises(ValueError, match="sha256"):
        Attachment(name="x", type="text/plain", sha256="../../../etc/passwd", size=1)
