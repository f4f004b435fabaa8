"""The journal of a batch: what a crash, another process, another plan or a full disk does to it, and what it never does."""

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from consensus_flows.blocks.settings import Budget
from consensus_flows.flows.batch_shards import number_of_parts, share
from consensus_flows.tasks.batches import addresses
from consensus_flows.tasks.batches import journal as batches_journal
from consensus_flows.tasks.batches.addresses import dated, day_of_run, journal_path, same_place
from consensus_flows.tasks.batches.journal import Journal
from consensus_flows.tasks.batches.rows import Row
from consensus_flows.tasks.batches.totals import Totals
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits import processes
from tests.kits.batch_kit import ROOT

NOON = datetime(2026, 11, 27, 10, 30, tzinfo=UTC)
PLAN = {"flow": "pump", "configuration": {"members": ["openai/a"]}, "prompts": [None, None, None], "part": [0, 1]}


def row(number: int, prompt: str = "What?", **columns: object) -> Row:
    return Row(number, number + 2, f"r{number}", prompt, {"prompt": prompt, **columns})


def result(number: int) -> dict[str, object]:
    return {"id": f"r{number}", "answer": f"answer {number}"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three rows and a call."""
    path = tmp_path / "out.jsonl.partial"
    journal = Journal(path, PLAN)
    for number in (2, 0, 1):
        journal.add(row(number), result(number))
    call(journal)
    journal.close()
    return path


def call(journal: Journal, cost: float | None = 0.5) -> None:
    journal.add_call({"call": "openai/a", "s": 1.0, "usd": cost, "requests": 2, "tokens": 30, "error": None})


def opened(path: Path, plan: dict[str, object] = PLAN) -> Journal:
    return Journal(path, plan)


def test_it_is_read_again_in_the_order_of_the_input(path):
    journal = opened(path)
    assert (journal.found, len(journal)) == (3, 3)
    assert [(one.number, one.result["answer"]) for one in journal.finished()] == [
        (0, "answer 0"),
        (1, "answer 1"),
        (2, "answer 2"),
    ]
    assert (journal.totals.sent, journal.totals.cost_usd, journal.totals.spent) == (1, 0.5, (2, 30, 0.5))
    assert path.stat().st_mode & 0o777 == 0o600
    journal.close()


@pytest.mark.parametrize("kept", [1, 10, 60])
def test_half_a_line_at_the_end_is_cut_off(path, kept):
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole + last[:kept])
    journal = opened(path)
    assert path.read_bytes() == whole and len(journal) == 3
    journal.add(row(3), result(3))
    journal.close()
    again = opened(path)
    assert len(again) == 4 and [one.number for one in again.finished()] == [0, 1, 2, 3]
    again.close()


@pytest.mark.parametrize(
    "line",
    [
        b'{"row": 3}',
        b'{"row": 3, "digest": "x", "result": 5, "own": {}}',
        b'{"call": "openai/a"}',
        b'{"call": "openai/a", "requests": "two", "tokens": [], "usd": {}, "error": []}',
        b'{"sent": 7}',
        b'{"settled": 1}',
        b'{"forget": []}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_a_damaged_line_counts_for_nothing(path, line):
    with path.open("ab") as file:
        file.write(line + b"\n")
    journal = opened(path)
    assert [one.number for one in journal.finished()] == [0, 1, 2]
    journal.add(row(3), result(3))
    journal.close()
    again = opened(path)
    assert len(again) == 4
    again.close()


def indexed(path: Path, rows: int = 7) -> Path:
    """A journal of many rows, each with a request and a call, with an index after every second row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_journal, "INDEXED", 2)
        journal = Journal(path, PLAN)
        for number in range(rows):
            entered = journal.sent("openai/a", 100, 1.0)
            journal.settled(entered, 10, 0.25, lost=False)
            journal.add_call(
                {"call": "openai/a", "s": number / 8, "usd": 0.25, "requests": 1, "tokens": 10, "error": None}
                | {"entries": [entered]}
            )
            journal.add(row(number), result(number))
        journal.sent("openai/a", 100, 1.0)
        journal.close()
    return path


def said(path: Path) -> tuple[object, ...]:
    journal = opened(path)
    journal.close()
    totals = journal.totals
    return list(journal.finished()), totals.models(), totals.spent, totals.possibly_billed, totals.next_request()


def test_an_index_stands_for_the_lines_before_it(tmp_path, monkeypatch):
    path, plain = indexed(tmp_path / "indexed.partial"), tmp_path / "plain.partial"
    lines = path.read_bytes().splitlines(keepends=True)
    assert [at for at, line in enumerate(lines) if line.startswith(b'{"index"')] == [9, 18, 27]
    plain.write_bytes(b"".join(line for line in lines if not line.startswith(b'{"index"')))
    parsed: list[bytes] = []
    real = batches_journal._parsed
    monkeypatch.setattr(batches_journal, "_parsed", lambda line: parsed.append(line) or real(line))
    whole = said(plain)
    assert len(whole[0]) == 7 and whole[2] == (8, 170, 2.75) and whole[3] == 1 and len(parsed) == 30
    parsed.clear()
    assert said(path) == whole and len(parsed) == 1 + 3 + 5, "the first line, the indexes, and what comes after"
    resumed = opened(path)
    resumed.add(row(7), result(7))
    resumed.close()
    assert len(said(path)[0]) == 8


@pytest.mark.parametrize(
    ("at", "damage"), [(4, (b":", b";")), (13, (b":", b";")), (9, (b":", b";")), (18, (b"1", b"2"))]
)
def test_what_is_damaged_is_found_in_spite_of_an_index(tmp_path, at, damage):
    """Of a row that is damaged no other line says what it was; of an index the lines say it themselves."""
    path = indexed(tmp_path / "out.partial")
    whole, lines = said(path), path.read_bytes().splitlines(keepends=True)
    is_row = lines[at].startswith(b'{"row"')
    assert is_row or lines[at].startswith(b'{"index"')
    lines[at] = lines[at][:20] + lines[at][20:].replace(*damage)
    path.write_bytes(b"".join(lines))
    found = said(path)
    if is_row:
        assert len(found[0]) == 6 and found[1:] == whole[1:]
    else:
        assert found == whole


def test_a_row_that_is_forgotten_stays_so(tmp_path, monkeypatch):
    monkeypatch.setattr(batches_journal, "INDEXED", 2)
    path = tmp_path / "out.partial"
    journal = Journal(path, PLAN)
    for number in (0, 1, 2):
        journal.add(row(number), result(number))
    journal.forget(0)
    journal.forget(2)
    for number in (3, 4, 2):
        journal.add(row(number), result(number))
    journal.close()
    assert [one.number for one in opened(path).finished()] == [1, 2, 3, 4]


def test_a_first_line_that_is_nested_without_end_is_no_journal(tmp_path):
    path = tmp_path / "out.partial"
    path.write_bytes(b'{"batch": ' * 100_000 + b"\n")
    with pytest.raises(ConfigurationError, match="is not a batch journal"):
        opened(path)


def test_what_is_no_file_of_its_own_is_no_journal(tmp_path):
    pipe, link, other = tmp_path / "pipe.partial", tmp_path / "link.partial", tmp_path / "other"
    os.mkfifo(pipe)
    link.symlink_to(other)
    for path in (pipe, link):
        with pytest.raises(ConfigurationError, match="is not a batch journal: move it away"):
            opened(path)
    assert not other.exists() and link.is_symlink() and pipe.is_fifo()


@pytest.mark.parametrize("left", [b"", b"{", b'{"batch": {"flow": "pu'])
def test_a_journal_whose_first_line_is_torn_is_begun_anew(tmp_path, left):
    path = tmp_path / "out.partial"
    path.write_bytes(left)
    journal = opened(path)
    assert len(journal) == 0 and path.read_text().endswith("}\n")
    assert json.loads(path.read_text()) == {"batch": PLAN, "format": 1, "rows": None}
    journal.close()


@pytest.mark.parametrize("text", ["my notes", "my notes\n", '{"id": 1}\n{"id": 2}\n', '{"batch": 1, "format": 99}\n'])
def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path, text):
    path = tmp_path / "out.partial"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="is not a batch journal: move it away"):
        opened(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"flow": "vote"}, "flow"),
        ({"configuration": {"members": ["openai/b"]}}, "configuration"),
        ({"part": [0, 2]}, "part"),
    ],
)
def test_another_batch_is_named_and_its_rows_are_kept(path, changed, named):
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=f"another {named}"):
        opened(path, PLAN | changed)
    assert path.read_bytes() == before


def test_another_process_has_it(path):
    journal = opened(path)
    with pytest.raises(ConfigurationError, match="another process is at work on it"):
        opened(path)
    journal.close()
    opened(path).close()


def test_a_journal_that_is_taken_away_by_its_holder_is_made_anew(path, monkeypatch):
    """Between opening and locking, the process that had it ends and removes it: no row may go into a removed file."""
    import fcntl

    real, calls = fcntl.flock, []

    def flock(file: int, how: int) -> None:
        if not calls:
            path.unlink()
        calls.append(how)
        real(file, how)

    monkeypatch.setattr("consensus_flows.tasks.batches.journal.fcntl.flock", flock)
    journal = opened(path)
    journal.add(row(0), result(0))
    journal.close()
    assert len(calls) == 2 and '"row": 0' in path.read_text()


@pytest.mark.parametrize("changed", [row(1, "Who?"), row(1)._replace(id="x"), row(1, gold=5)])
def test_a_row_that_is_another_one_now_is_not_held(path, changed):
    journal = opened(path)
    assert journal.holds(row(1)) and not journal.holds(changed)
    journal.add(changed, result(9))
    journal.close()
    again = opened(path)
    assert again.holds(changed) and [one.result["id"] for one in again.finished()] == ["r0", "r9", "r2"]
    again.close()


def test_a_forgotten_row_is_done_again(path):
    journal = opened(path)
    journal.forget(1)
    journal.forget(7)
    journal.close()
    again = opened(path)
    assert len(again) == 2 and not again.holds(row(1))
    again.close()


def test_half_a_character_and_line_separators_of_a_model_are_kept(path):
    journal = opened(path)
    text = "half \ud83d, \u2028, \x85 and \n"
    journal.add(row(3), {"id": "r3", "answer": text})
    journal.close()
    again = opened(path)
    assert [one.result["answer"] for one in again.finished()][-1] == text
    again.close()


FILLED = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from tests.batches.test_batch_journal import PLAN, call, result, row
from consensus_flows.tasks.batches.journal import Journal
from consensus_flows.tasks.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
journal, number = Journal(Path(sys.argv[1]), PLAN), 0
try:
    while True:
        journal.add(row(number, "x" * 300), result(number))
        number += 1
except OutputError as error:
    try:
        while True:
            call(journal)
    except OutputError:
        pass
    print(number, len(journal), error.message)
"""


def test_a_full_disk_is_loud_and_keeps_what_is_there(tmp_path):
    """The limit of a file's size does what a full disk does: a part of a line is written, the rest is refused."""
    path = tmp_path / "out.partial"
    done = processes.run([sys.executable, "-c", FILLED, str(path)], text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    number, held, message = done.stdout.split(" ", 2)
    assert int(number) == int(held) >= 3
    assert "cannot be written: File too large" in message and "start again with the same arguments" in message
    assert path.read_bytes().endswith(b"\n") and path.stat().st_size <= 4096
    journal = opened(path)
    assert len(journal) == int(number)
    journal.add(row(99), result(99))
    journal.close()
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_disk_that_takes_a_part_and_then_the_rest(tmp_path, monkeypatch):
    import os

    real = os.write
    monkeypatch.setattr(
        "consensus_flows.tasks.batches.journal.os.write", lambda file, data: real(file, bytes(data[:7]))
    )
    journal = opened(tmp_path / "out.partial")
    journal.add(row(0), result(0))
    journal.add(row(1), result(1))
    journal.close()
    monkeypatch.undo()
    again = opened(tmp_path / "out.partial")
    assert len(again) == 2
    again.close()


def test_a_folder_in_its_place_is_an_error_of_the_input(tmp_path):
    (tmp_path / "out.partial").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        opened(tmp_path / "out.partial")


def test_where_it_is(tmp_path):
    assert journal_path(str(tmp_path / "a.jsonl")) == tmp_path / "a.jsonl.partial"
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    assert journal_path(str(tmp_path / "link.jsonl")) == tmp_path / "a.jsonl.partial", "two batches of one file meet"
    in_memory = journal_path("memory://bucket/a.jsonl")
    assert in_memory.parent.name == "consensus-batches" and in_memory != journal_path("memory://other/a.jsonl")


def test_the_day_in_an_address():
    assert dated("plain.jsonl") == "plain.jsonl"
    made = dated("out-{date}.jsonl")
    assert len(made) == len("out-2026-01-31.jsonl") and made.startswith("out-20")
    for misspelt in ("out-{data}.jsonl", "{Date}/{date}.csv", "out-{}.csv"):
        with pytest.raises(ConfigurationError, match=r"output: .* is not a placeholder: only \{date\} is"):
            dated(misspelt)


@pytest.mark.parametrize(("zone", "day"), [("Pacific/Kiritimati", 1), ("Europe/Berlin", 0), ("Pacific/Pago_Pago", -1)])
def test_the_day_is_that_of_the_time_zone(zone, day, monkeypatch):
    monkeypatch.setattr(addresses, "flow_run", SimpleNamespace(scheduled_start_time=NOON))
    assert day_of_run(zone) == NOON.date() + timedelta(days=day)


def test_the_day_is_that_of_the_machine(monkeypatch):
    monkeypatch.setattr(addresses, "flow_run", SimpleNamespace(scheduled_start_time=NOON))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert dated("{date}.jsonl") == "2026-11-28.jsonl"
    finally:
        monkeypatch.undo()
        time.tzset()
    with pytest.raises(ConfigurationError, match="timezone: unknown time zone 'Atlantis'"):
        day_of_run("Atlantis")


def test_a_folder_may_have_braces_in_its_name(tmp_path):
    folder = tmp_path / "{run}"
    folder.mkdir()
    assert dated(str(folder / "out.jsonl")) == str(folder / "out.jsonl")
    assert dated(f"{folder}/out-{{date}}.jsonl").startswith(f"{folder}/out-20")
    for misspelt in (f"{folder}/out-{{data}}.jsonl", f"{tmp_path}/{{other}}/out.jsonl"):
        with pytest.raises(ConfigurationError, match="is not a placeholder"):
            dated(misspelt)


def test_two_addresses_of_one_file(tmp_path):
    file, link = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    file.touch()
    link.symlink_to(file)
    assert same_place(str(file), str(link)) and same_place("memory://x/a", "memory://x/a")
    assert not same_place(str(file), "memory://x/a.jsonl") and not same_place(str(file), str(tmp_path / "c.jsonl"))


def test_sums_are_put_together():
    one, other = Totals(), Totals()
    for seconds in range(1, 101):
        one.add_call({"call": "m", "s": seconds, "usd": 0.01, "requests": 1, "tokens": 5, "error": None})
    other.add_call({"call": "m", "s": 0.0, "usd": 0.0, "requests": 4, "tokens": 0, "error": "timeout"})
    other.add_call({"call": "n", "s": 2.0, "usd": None, "requests": 1, "tokens": 7, "error": None})
    one.add(json.loads(json.dumps(other.dump())))
    first, second = one.models()
    assert (first.model, first.calls, first.failed, first.requests) == ("m", 101, 1, 104)
    assert (first.p50_s, first.p95_s, first.errors) == (50.0, 95.0, {"timeout": 1})
    assert first.cost_usd == pytest.approx(1.0) and second.cost_usd is None and one.cost_usd is None
    assert one.sent == 102 and one.spent[:2] == (100, 500), "what others have spent is in their journals"


def test_a_budget_is_shared_to_the_last_call():
    budget, taken = Budget(max_calls=11, max_tokens=100, max_cost_usd=1.5, max_seconds=60), []
    for of in (3, 2, 1):
        taken.append(share(budget, taken, of))
    assert [calls for calls, _, _ in taken] == [4, 4, 3] and sum(tokens for _, tokens, _ in taken) == 100
    assert sum(usd for _, _, usd in taken) == 1.5
    taken[0] = (1, 10, 0.1)  # so much is what it has spent
    assert share(budget, taken, 1) == (3, 24, pytest.approx(0.4)), "what one leaves is there for the next"
    assert (
        share(Budget(), taken, 2) == (0, 0, 0.0) == share(Budget(max_calls=1, max_tokens=1, max_cost_usd=1), taken, 1)
    )
    with pytest.raises(ConfigurationError, match="max_calls: 2 cannot be shared among 3 shards"):
        number_of_parts(1000, 3, Budget(max_calls=2))


def test_many_rows_are_more_parts_than_runs_at_once():
    assert [number_of_parts(rows, 4, Budget()) for rows in (7, 1000, 1500, 1_000_000)] == [4, 4, 6, 32]
    assert number_of_parts(1_000_000, 4, Budget(max_calls=9)) == 9, "each part has a call"
    assert number_of_parts(1_000_000, 4, Budget(max_seconds=60)) == 4, "all end by then"
