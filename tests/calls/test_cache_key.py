"""What decides an answer is in its key and nothing else; what lies in the result folder is never run."""

from __future__ import annotations

import base64
import json
import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.serializers import JSONSerializer
from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH, temporary_settings
from pydantic import BaseModel

from consensus_flows.blocks import Sampling
from consensus_flows.tasks.calls.request import KEYED, LEFT_OUT, Answer, Message, Request, request_key
from consensus_flows.tasks.calls.storage import is_answer_record, private_folder
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Attachment
from tests.kits.asking import Bomb, answer, asking, file_of, outcome, question, stored
from tests.vendors import LoopbackVendors

BASE = Request(
    provider="openai",
    model="m",
    messages=(Message(role="user", content="Why?"),),
    sampling=Sampling(temperature=0.5, extra={"a": 1}),
    response_schema={"type": "object"},
)
REQUEST_CHANGES: dict[str, Any] = {
    "provider": "other",
    "model": "n",
    "messages": (Message(role="user", content="Why not?"),),
    "sampling": Sampling(),
    "response_schema": None,
    "reader": "json",
    "sample": 1,
    "kind": "completion",
}
SAMPLING_CHANGES: dict[str, Any] = {
    "temperature": 0.6,
    "top_p": 0.5,
    "top_k": 1,
    "max_output_tokens": 1,
    "stop": ("x",),
    "seed": 0,
    "reasoning_effort": "low",
    "extra": {"a": 2},
}
EXTRAS: list[dict[str, Any]] = [{"a": None}, {"a": True}, {"a": "1"}, {"a": 1, "b": None}]
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "default": None},
    {"type": "object", "enum": [None]},
    {"type": "Object"},
]
FILE = Attachment(name="a.png", type="image/png", sha256="0" * 64, size=1)
MESSAGE_CHANGES: dict[str, Any] = {"role": "assistant", "content": "Where?", "attachments": (FILE,)}
FILE_CHANGES: dict[str, Any] = {"name": "b.png", "type": "image/gif", "sha256": "1" * 64, "size": 2, "pages": 1}


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("keys")) as vendors:
        yield vendors


def test_every_field_is_keyed_or_left_out() -> None:
    assert set(Request.model_fields) == KEYED | LEFT_OUT, "decide about the new field in tasks/calls/cache_key.py"
    assert not KEYED & LEFT_OUT
    assert set(REQUEST_CHANGES) == KEYED
    assert set(SAMPLING_CHANGES) == set(Sampling.model_fields), "the key holds all of them: add the new one here"
    assert set(MESSAGE_CHANGES) == set(Message.model_fields)
    assert set(FILE_CHANGES) == set(Attachment.model_fields)


def test_the_key_changes_with_what_decides_the_answer() -> None:
    changed = [BASE.model_copy(update={name: value}) for name, value in REQUEST_CHANGES.items()]
    samplings = [BASE.sampling.model_copy(update={name: value}) for name, value in SAMPLING_CHANGES.items()]
    samplings += [BASE.sampling.model_copy(update={"extra": extra}) for extra in EXTRAS]
    messages = [BASE.messages[0].model_copy(update={name: value}) for name, value in MESSAGE_CHANGES.items()]
    files = [FILE.model_copy(update={name: value}) for name, value in FILE_CHANGES.items()]
    messages += [BASE.messages[0].model_copy(update={"attachments": (file,)}) for file in files]
    changed += [BASE.model_copy(update={"sampling": sampling}) for sampling in samplings]
    changed += [BASE.model_copy(update={"messages": (message,)}) for message in messages]
    changed += [BASE.model_copy(update={"response_schema": schema}) for schema in SCHEMAS]
    changed.append(BASE.model_copy(update={"messages": (*BASE.messages, *BASE.messages)}))
    keys = [request_key(BASE, "a"), request_key(BASE, "b"), *(request_key(request, "a") for request in changed)]
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_change_with_anything_else() -> None:
    key = request_key(BASE, "a")
    assert request_key(BASE.model_copy(update={"label": "x", "timeout": 1.0}), "a") == key
    assert request_key(Request.model_validate_json(BASE.model_dump_json()), "a") == key
    reordered = BASE.model_copy(update={"sampling": Sampling(extra={"b": 1, "a": 2}, temperature=1)})
    same = BASE.model_copy(update={"sampling": Sampling(temperature=1.0, extra={"a": 2, "b": 1})})
    assert request_key(reordered, "a") == request_key(same, "a")


def test_the_key_is_the_same_tomorrow() -> None:
    """A change here makes everybody pay again: raise VERSION and say so in the changelog."""
    plain = Request(provider="openai", model="m", messages=(Message(role="user", content="ü"),))
    assert request_key(plain, "https://api.openai.com/v1") == (
        "answer-d1d25e7423d53aecbdf733b656f9229a9b00b6761c2ea218c237478ffc034ff6"
    )


def record(result: str, serializer: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    serializer = serializer or JSONSerializer().model_dump()
    metadata = {"storage_key": "x", "expiration": None, "serializer": serializer, "prefect_version": "3.8.8"}
    return {"metadata": metadata, "result": result, **fields}


def payload(**data: Any) -> str:
    return json.dumps({"__class__": "consensus_flows.tasks.calls.request.Answer", "data": {"text": "evil", **data}})


def hostile(target: Path) -> dict[str, bytes]:
    """Records that run code, or try to, when Prefect reads them as they are."""
    pickled = base64.encodebytes(pickle.dumps(Bomb(target))).decode()
    call = {"__class__": "os.makedirs", "data": {"name": str(target)}}
    json_serializer = JSONSerializer().model_dump()
    pickle_serializer = {"type": "pickle", "picklelib": "cloudpickle"}
    good = payload()
    records: dict[str, Any] = {
        "pickle": record(pickled, pickle_serializer),
        "compressed pickle": record(pickled, {"type": "compressed/pickle", "serializer": pickle_serializer}),
        "pickle in compressed json": record(
            pickled, {"type": "compressed/json", "serializer": pickle_serializer, "compressionlib": "lzma"}
        ),
        "plain compressed json": record(good, {"type": "compressed/json", "serializer": json_serializer}),
        "odd decoder": record(good, json_serializer | {"object_decoder": "os.mkdir"}),
        "odd library": record(json.dumps(str(target)), json_serializer | {"jsonlib": "pickle"}),
        "odd arguments": record(good, json_serializer | {"loads_kwargs": {"cls": "x"}}),
        "another class": record(json.dumps(call)),
        "another class inside": record(payload(usage=call)),
        "another class inside, hidden": record(
            payload().replace('"text"', f'"usage": {json.dumps(call)}, "usage": {{}}, "text"')
        ),
        "an exception": record(json.dumps({"__exc_type__": "builtins.SystemExit", "message": "x"})),
        "an exception inside": record(payload(warnings=[{"__exc_type__": "builtins.SystemExit", "message": "x"}])),
        "old format": {"serializer": pickle_serializer, "data": pickled},
        "old format beside the new": record(pickled, serializer=json_serializer) | {"serializer": pickle_serializer},
        "data beside the result": record(good, data=pickled),
        "no metadata": {"result": good},
        "another answer": record(json.dumps({"__class__": "consensus_flows.tasks.calls.request.Usage", "data": {}})),
        "no answer": record(payload(surprise=1)),
        "a list": [],
        "a text": "x",
        "a payload that is no text": record(call),  # type: ignore[arg-type]
    }
    made = {name: json.dumps(value).encode() for name, value in records.items()}
    made["the key twice"] = (
        json.dumps(record(good))[:-1] + ', "metadata": ' + json.dumps(record("", pickle_serializer)["metadata"]) + "}"
    ).encode()
    made["a pickle and nothing else"] = pickle.dumps(Bomb(target))
    made["half of a true one"] = json.dumps(record(good)).encode()[:-5]
    made["nothing"] = b""
    return made


@pytest.mark.parametrize("name", sorted(hostile(Path("x"))))
async def test_a_foreign_record_is_moved_aside_and_never_run(
    name: str, server: LoopbackVendors, tmp_path: Path
) -> None:
    target = tmp_path / "was here"
    content = hostile(target)[name]
    request = question()
    before = set(stored())
    await answer(request)
    (key,) = set(stored()) - before
    path = file_of(key)
    path.write_bytes(content)

    found = await answer(request)

    assert not target.exists()
    assert found.text != "evil"
    assert server.count(request.model) == 2
    assert path.with_name(f"{key}.rejected").read_bytes() == content
    # The new answer took its place.
    assert await answer(request) == found
    assert server.count(request.model) == 2


def test_some_of_them_do_run_when_prefect_reads_them(tmp_path: Path) -> None:
    """So that the test above tests something."""
    from prefect.results import ResultRecord

    ran = []
    for number, name in enumerate(hostile(Path("x"))):
        target = tmp_path / str(number)
        try:
            ResultRecord.deserialize(hostile(target)[name])
        except BaseException:  # a record that exits the process is among them
            continue
        finally:
            if target.exists():
                ran.append(name)
    assert {
        "pickle",
        "another class",
        "another class inside, hidden",
        "old format",
    } <= set(ran)


async def test_a_true_record_is_left_alone(server: LoopbackVendors) -> None:
    request = question()
    before = set(stored())
    found = await answer(request)
    (key,) = set(stored()) - before
    assert is_answer_record(stored()[key])
    assert isinstance(found, BaseModel)
    assert stat.S_IMODE(os.stat(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value()).st_mode) == 0o700  # noqa: PTH116


def test_the_folder_is_private(tmp_path: Path) -> None:
    private_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir(mode=0o755)
    private_folder(tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700


def unusable(tmp_path: Path) -> dict[str, Path]:
    a_file = tmp_path / "file"
    a_file.write_text("x")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    return {"a file": a_file, "inside a file": a_file / "x", "shared by all": shared, "read-only": Path("/proc/self")}


@pytest.mark.parametrize("name", ["a file", "inside a file", "shared by all", "read-only"])
async def test_an_unusable_folder_is_said_before_anything_is_sent(
    name: str, server: LoopbackVendors, tmp_path: Path
) -> None:
    request = question()
    folder = unusable(tmp_path)[name] / ("new" if name == "read-only" else "")
    with temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: folder}):
        error, _ = await outcome(request)
    assert isinstance(error, ConfigurationError), error
    assert "PREFECT_RESULTS_LOCAL_STORAGE_PATH" in error.message
    assert server.count(request.model) == 0


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
async def test_the_folder_of_another_user_is_not_used(server: LoopbackVendors, tmp_path: Path) -> None:
    request = question()
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: folder}):
        error, _ = await outcome(request)
    assert isinstance(error, ConfigurationError)
    assert "another user" in error.message
    assert server.count(request.model) == 0


def test_what_is_stored_is_what_was_answered() -> None:
    made = Answer(text="x", cost_usd=0.1, warnings=("w",))
    serializer: JSONSerializer[Any] = JSONSerializer()
    assert serializer.loads(serializer.dumps(made)) == made
