"""A result folder that fails: loud, and never a silent second payment."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import pickle
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH, temporary_settings

from consensus_flows.flows.consortium import consortium
from consensus_flows.tasks.calls.storage import LOOKED_S, ROOM, PrivateFolder
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.history.writing import close_writers
from tests.kits.asking import Bomb, answer, file_of, outcome, question, stored
from tests.kits.command_kit import Command, commands
from tests.kits.consortium_kit import asked, config, judged, say
from tests.kits.kinds import kinds
from tests.vendors import LoopbackVendors, Reply, SeenRequest

NOT_STORED = "could not be cached"
"""What the warning says on the terminal and in the log."""

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]


@pytest.fixture
def consensus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(monkeypatch, capsys)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes of the test's own, for results."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"a disk of its own cannot be mounted here: {done.stderr.strip()}")
    with temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: folder}):
        yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    """Make the disk read-only (`ro`), or writable again (`rw`)."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave not one byte."""
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


async def test_a_history_on_a_full_disk_is_a_warning_and_no_lost_answer(
    small_disk: Path, vendors: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(vendors, one="one", two="two", three="three")
    vendors.script("arbiter", then=judged(90))
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{small_disk / 'history.db'}")
    with temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: tmp_path / "elsewhere"}):
        assert kinds(await consortium("Room?", config())) == []
        close_writers()
        fill(small_disk)
        record = await consortium("No room?", config())
        close_writers()
        (small_disk / "ballast").unlink()
        again = await consortium("Room again?", config())
        close_writers()
    assert record.answer == "the synthesis" == again.answer
    assert kinds(record) == [("not_recorded", None, None)]
    assert "full" in record.warnings[0].message or "I/O error" in record.warnings[0].message
    assert kinds(again) == []


async def test_a_disk_that_fills_up_while_the_model_answers(
    small_disk: Path, vendors: LoopbackVendors, caplog: pytest.LogCaptureFixture
) -> None:
    """The room was there before the call and is gone after it: the answer is in the record, and so is the warning."""

    def answers(seen: SeenRequest) -> Reply:
        fill(small_disk)
        return Reply(text="paid for")

    say(vendors, one="one", two="two")
    vendors.script("three", then=answers)
    vendors.script("arbiter", then=judged(90))
    state: Any = await consortium("What?", config(quorum=3), return_state=True)
    # With no room left the arbiter is not asked: it would be paid for and lost.
    record = await state.aresult()
    assert [one.text for one in record.iterations[0].responses if one.model == "three"] == ["paid for"]
    (warning,) = [one for one in record.warnings if one.member == "openai/three#1"]
    assert warning.kind == "not_stored" and str(small_disk) in warning.message
    assert NOT_STORED in caplog.text
    assert vendors.count("arbiter") == 0
    (refused,) = {call.error.message for call in record.iterations[0].judgements if call.error}
    assert "bytes left, so paid answers would be lost" in refused
    assert record.degraded

    # With room again, what was stored is not paid for again, and what was not is: once.
    (small_disk / "ballast").unlink()
    say(vendors, three="paid for again")
    second = await consortium("What?", config(quorum=3))
    lost = {model for model in ("one", "two", "three") if ("not_stored", f"openai/{model}#1", 1) in kinds(record)}
    assert "three" in lost, "whoever answered before the disk was full is stored"
    for model in ("one", "two", "three"):
        assert vendors.count(model) == (2 if model in lost else 1)
    assert vendors.count("arbiter") == 1
    assert "not_stored" not in {kind for kind, _, _ in kinds(second)}


async def test_without_room_nothing_is_sent(small_disk: Path, vendors: LoopbackVendors) -> None:
    fill(small_disk)
    request = question()
    error, book = await outcome(request)
    assert isinstance(error, ConfigurationError), error
    assert "bytes left" in error.message
    assert "PREFECT_RESULTS_LOCAL_STORAGE_PATH" in error.message
    assert (vendors.count(), book.attempts) == (0, [])
    (small_disk / "ballast").unlink()
    (small_disk / "ballast").write_bytes(b"x" * ROOM)
    await answer(request)


def mode_of(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


async def test_a_folder_cleaned_away_while_the_model_answers_is_made_again(vendors: LoopbackVendors) -> None:
    folder, request = Path(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value()), question()

    def answers(seen: SeenRequest) -> Reply:
        shutil.rmtree(folder)
        return Reply(text="paid for")

    vendors.script(request.model, answers, then=Reply(text="paid for again"))
    assert (await answer(request)).text == "paid for"
    assert mode_of(folder) == 0o700
    assert (await answer(request)).text == "paid for"
    assert vendors.count(request.model) == 1


async def test_what_fails_at_the_first_look_and_not_at_the_second_is_stored(
    vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect goes on without a key where it could not be computed, and the call is made: its answer must be kept."""
    request, found = question(), shutil.disk_usage("/")
    looks = iter([found._replace(free=0)])
    monkeypatch.setattr("consensus_flows.tasks.calls.storage.shutil.disk_usage", lambda _path: next(looks, found))
    vendors.script(request.model, then=Reply(text="paid for"))
    first, book = await outcome(request)
    assert (first.text, len(book.attempts)) == ("paid for", 1)
    assert next(looks, None) is None
    assert await answer(request) == first
    assert vendors.count(request.model) == 1


def failing(monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    """Let every write into the result folder go this way."""
    for storage in (LocalFileSystem, PrivateFolder):
        monkeypatch.setattr(storage, "awrite_path", how)


async def full(self: LocalFileSystem, path: str, content: bytes) -> str:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def half(self: LocalFileSystem, path: str, content: bytes) -> str:
    """A write that ends in the middle: what a full disk leaves behind."""
    self._resolve_path(path).write_bytes(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def nothing(self: LocalFileSystem, path: str, content: bytes) -> str:
    """A storage that says it has written and has not."""
    return path


@pytest.mark.parametrize("how", [full, half, nothing])
def test_an_answer_that_cannot_be_stored_is_said_on_every_channel(
    how: Any, vendors: LoopbackVendors, consensus: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vendors.script("*", then=Reply(text="fine"))
    with monkeypatch.context() as patch:
        failing(patch, how)
        ran = consensus("pump", "What?", "-m", "openai/one", "--output", tmp_path / "record.json")
        assert ran.code == 0, ran.err
        assert NOT_STORED in ran.err
        quiet = consensus("pump", "What?", "-m", "openai/one", "--json", "--fresh")
        assert NOT_STORED in quiet.err, "who prints the record alone is told as well"
        assert "not_stored" in [one["kind"] for one in json.loads(quiet.out)["warnings"]]
    assert [one["kind"] for one in json.loads((tmp_path / "record.json").read_text())["warnings"]] == ["not_stored"]
    again = consensus("pump", "What?", "-m", "openai/one")
    assert NOT_STORED not in again.err
    assert vendors.count("one") == 3


async def test_an_old_answer_left_in_place_is_not_taken_for_the_new_one(
    vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendors.script("one", Reply(text="old"), Reply(text="new"), then=Reply(text="newer"))
    say(vendors, two="two", three="three")
    vendors.script("arbiter", then=judged(90))
    await consortium("What?", config())
    with monkeypatch.context() as patch:
        failing(patch, full)
        record = await consortium("What?", config(fresh=True))
    assert record.iterations[0].responses[0].text == "new"
    assert [kind for kind, _, _ in kinds(record)].count("not_stored") == 4, record.warnings
    third = await consortium("What?", config())
    assert third.iterations[0].responses[0].text == "old"
    assert [len(asked(vendors, model)) for model in ("one", "two", "three", "arbiter")] == [2, 2, 2, 2]


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
async def test_the_file_of_another_user_cannot_be_a_pickle(vendors: LoopbackVendors, tmp_path: Path) -> None:
    """Who owns a file is decided by the folder, which is 0700; what is read is plain data whoever wrote it."""
    request = question()
    before = set(stored())
    first = await answer(request)
    (key,) = set(stored()) - before
    path = file_of(key)
    os.chown(path, 65534, 65534)
    assert await answer(request) == first
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "was here")))
    os.chown(path, 65534, 65534)
    assert (await answer(request)).text == first.text
    assert not (tmp_path / "was here").exists()
    assert vendors.count(request.model) == 2
    assert (
        pickle.loads(path.with_name(f"{key}.rejected").read_bytes()) is None
    )  # so that the test above tests something
    assert (tmp_path / "was here").exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: b"", lambda content: b"{}"])
def test_a_damaged_record_is_never_paid_for_again_in_silence(
    damage: Callable[[bytes], bytes], vendors: LoopbackVendors, consensus: Command, caplog: pytest.LogCaptureFixture
) -> None:
    vendors.script("*", then=Reply(text="fine"))
    before = set(stored())
    first = consensus("pump", "What?", "-m", "openai/one")
    (key,) = set(stored()) - before
    path = file_of(key)
    path.write_bytes(damage(path.read_bytes()))
    again = consensus("pump", "What?", "-m", "openai/one", "--json")
    assert (first.code, again.code, vendors.count("one")) == (0, 0, 2)
    assert json.loads(again.out)["warnings"][0]["kind"] == "rejected"
    assert "a cached answer was damaged" in again.err
    assert "quarantined" in caplog.text
    third = consensus("pump", "What?", "-m", "openai/one", "--json")
    assert not json.loads(third.out)["warnings"]
    assert vendors.count("one") == 2


async def test_a_read_only_disk_is_said_before_anything_is_sent(small_disk: Path, vendors: LoopbackVendors) -> None:
    request, other = question(), question()
    await answer(request)
    remount(small_disk, "ro")
    await asyncio.sleep(LOOKED_S)
    for asked_for in (request, other):
        error, book = await outcome(asked_for)
        assert isinstance(error, ConfigurationError), error
        assert "PREFECT_RESULTS_LOCAL_STORAGE_PATH" in error.message
        assert book.attempts == []
    assert vendors.count() == 1
    remount(small_disk, "rw")
    await answer(request)
    assert vendors.count() == 1


async def test_a_history_on_a_read_only_disk_is_a_warning_and_no_lost_answer(
    small_disk: Path, vendors: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(vendors, one="one", two="two", three="three")
    vendors.script("arbiter", then=judged(90))
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{small_disk / 'history.db'}")
    with temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: tmp_path / "elsewhere"}):
        assert kinds(await consortium("First?", config())) == []
        close_writers()
        remount(small_disk, "ro")
        record = await consortium("Second?", config())
        close_writers()
    assert record.answer == "the synthesis"
    assert kinds(record) == [("not_recorded", None, None)]
