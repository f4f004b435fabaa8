"""Answers in storage that several machines share: they are found there, and nothing foreign in it is ever run."""

import base64
import json
import pickle
from pathlib import Path
from uuid import uuid4

import pytest
from prefect import flow
from prefect.filesystems import RemoteFileSystem
from prefect.results import ResultStore
from prefect.serializers import PickleSerializer
from prefect.settings import PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK, temporary_settings

from consensus_flows.tasks.calls.ask import ask
from consensus_flows.tasks.calls.request import Answer, Message, Request
from consensus_flows.tasks.calls.storage import CheckedStorage
from tests.vendors import LoopbackVendors, Reply


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@flow
async def asking(text: str) -> Answer:
    answer: Answer = await ask(Request(provider="openai", model="one", messages=(Message(role="user", content=text),)))
    return answer


@pytest.fixture
async def storage(prefect_server):
    """A saved block, which the setting names: what a worker has. Prefect remembers blocks by name, so each is new."""
    name = f"shared-{uuid4().hex}"
    block = RemoteFileSystem(basepath=f"memory://{name}/answers")
    await block.save(name)
    with temporary_settings({PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK: f"remote-file-system/{name}"}):
        yield block
    await RemoteFileSystem.adelete(name)


def stored(block: RemoteFileSystem) -> list[str]:
    return [path for path in block.filesystem.find(block.basepath) if "/answer-" in path]


async def test_an_answer_is_found_in_shared_storage(storage, vendors: LoopbackVendors):
    vendors.script("one", then=Reply(text="the answer"))
    first = await asking("What?")
    (path,) = stored(storage)
    assert json.loads(storage.filesystem.cat_file(path))["metadata"]["storage_block_id"] == str(
        storage._block_document_id
    )
    assert await asking("What?") == first
    assert vendors.count("one") == 1
    await asking("What else?")
    assert vendors.count("one") == 2


@pytest.mark.parametrize("form", ["pickle", "class", "half"])
async def test_a_foreign_record_in_shared_storage_is_never_run(storage, vendors: LoopbackVendors, tmp_path, form):
    vendors.script("one", then=Reply(text="the answer"))
    await asking("What?")
    (path,) = stored(storage)
    true = storage.filesystem.cat_file(path)
    target = tmp_path / "was here"
    record = json.loads(true)
    if form == "pickle":
        record["result"] = base64.encodebytes(pickle.dumps(Evil(target))).decode()
        record["metadata"]["serializer"] = {"type": "pickle", "picklelib": "cloudpickle"}
    elif form == "class":
        record["result"] = json.dumps({"__class__": "pathlib.Path.touch", "data": str(target)})
    content = true[:-9] if form == "half" else json.dumps(record).encode()
    storage.filesystem.pipe_file(path, content)
    assert (await asking("What?")).text == "the answer"
    assert vendors.count("one") == 2
    assert not target.exists()
    # The new answer took its place.
    assert (await asking("What?")).text == "the answer"
    assert vendors.count("one") == 2


async def test_prefect_alone_would_run_it(tmp_path):
    """So that the test above tests something."""
    target = tmp_path / "was here"
    inside = RemoteFileSystem(basepath=f"memory://{uuid4().hex}/answers")
    store = ResultStore(result_storage=inside)
    made = store.create_result_record(None, key="answer-x").model_dump(mode="json")
    made["metadata"]["serializer"] = PickleSerializer().model_dump(mode="json")
    made["result"] = base64.encodebytes(pickle.dumps(Evil(target))).decode()
    content = json.dumps({"metadata": made["metadata"], "result": made["result"]}).encode()
    await inside.awrite_path("answer-x", content)
    await store.aread("answer-x")
    assert target.exists()
    target.unlink()
    store = ResultStore(result_storage=CheckedStorage.around(inside))  # the other one remembers what it has read
    with pytest.raises(ValueError, match="is not a cached answer"):
        await store.aread("answer-x")
    assert not target.exists()
