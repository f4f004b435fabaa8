"""What --output does to what is there already: devices, pipes, links, modes, other commands, a full disk."""

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from consensus_flows.deployments.terminal import Exit, Stop, checked_output, write_whole
from consensus_flows.tasks.batches.output import check_output, write_rows
from consensus_flows.tasks.files import atomic_write
from tests.kits import processes

ROOT = Path(__file__).parent.parent.parent
ROW = {"id": "1", "answer": "yes"}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def write(path: Path) -> None:
    """Write a file as a single question does, and as a batch does."""
    if path.suffix == ".jsonl":
        check_output(str(path))
        write_rows(str(path), [ROW], ["answer"])
    else:
        checked_output(path)
        write_whole(path, '{"answer": "yes"}\n')


@pytest.fixture(params=["out.json", "out.jsonl"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_named_pipe_is_written_to(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    write(path)
    reader.join(10)
    assert read == ['{"answer": "yes"}\n'] and stat.S_ISFIFO(path.stat().st_mode)
    assert names(tmp_path) == [name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device, and could delete one")
def test_a_device_stays_a_device(tmp_path, name):
    path = tmp_path / name
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.write_text("")
    except OSError as error:
        pytest.skip(f"no device can be made here: {error.strerror}")
    write(path)
    assert stat.S_ISCHR(path.stat().st_mode) and names(tmp_path) == [name]


def test_an_open_descriptor_is_written_to():
    reader, writer = os.pipe()
    write(Path(f"/dev/fd/{writer}"))
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == '{"answer": "yes"}\n'


PRINTS = """
from pathlib import Path
from consensus_flows.deployments.terminal import checked_output, put, write_whole
path = checked_output(Path({path!r}))
put("the answer")
write_whole(path, "the record\\n")
put("the end")
"""


@pytest.mark.parametrize("path", ["/dev/stdout", "out.txt"])
def test_what_was_printed_is_not_lost_where_the_output_is_standard_output(tmp_path, path):
    out = tmp_path / "out.txt"
    with out.open("a") as file:
        done = processes.run(
            [sys.executable, "-c", PRINTS.format(path=path)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=file,
        )
    assert done.returncode == 0, done.stderr
    assert out.read_text() == "the answer\nthe record\nthe end\n"


def test_a_link_stays_and_leads_to_the_new_file(tmp_path, name):
    real, link = tmp_path / "there" / f"real{Path(name).suffix}", tmp_path / name
    real.parent.mkdir()
    link.symlink_to(real)
    write(link)  # it leads nowhere yet
    write(link)
    assert link.is_symlink() and real.read_text() == '{"answer": "yes"}\n'
    assert names(real.parent) == [real.name]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_keeps_its_mode(tmp_path, name, mode):
    path = tmp_path / name
    path.touch()
    path.chmod(mode)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_replaces_a_private_file_is_private_while_it_is_written(tmp_path):
    path = tmp_path / "out.json"
    path.touch(mode=0o600)
    with atomic_write(path) as part:
        assert stat.S_IMODE(part.stat().st_mode) == 0o600 and part.parent == tmp_path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_keeps_its_owner(tmp_path, name):
    path = tmp_path / name
    path.touch()
    os.chown(path, 1234, 1234)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1234)


def test_checking_changes_nothing(tmp_path):
    empty = tmp_path / "empty.json"
    empty.touch()
    inode = empty.stat().st_ino
    checked_output(empty)
    checked_output(tmp_path / "new.json")
    assert names(tmp_path) == ["empty.json"] and empty.stat().st_ino == inode


def test_many_at_once_write_one_file(tmp_path):
    """Each writes its own file beside it: none takes away another's."""
    path, failed = tmp_path / "out.json", list[BaseException]()

    def many() -> None:
        try:
            for _ in range(50):
                write_whole(path, "whole\n" * 1000)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and path.read_text() == "whole\n" * 1000 and names(tmp_path) == ["out.json"]


@contextmanager
def small_files() -> Iterator[None]:
    """The limit of a file's size does what a full disk does; it holds for pytest's own output too."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("before")
    with small_files(), pytest.raises(Stop, match="cannot be written: File too large") as stopped:
        write_whole(path, "x" * 10_000)
    assert stopped.value.code == Exit.NO_ANSWER
    assert path.read_text() == "before" and names(tmp_path) == ["out.json"]
