"""Writing the output of a batch: every format, in constant memory, never half a file."""

import csv
import dataclasses
import gzip
import json
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from consensus_flows.flows.batching import run_batch
from consensus_flows.tasks.batches.addresses import journal_path
from consensus_flows.tasks.batches.journal import Journal
from consensus_flows.tasks.batches.output import (
    RESULT_COLUMNS,
    check_output,
    check_replaced,
    output_row,
    own_names,
    write_rows,
)
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.errors import ConfigurationError, OutputError
from tests.kits.batch_kit import batch_of, prompts, serve

ROOT = Path(__file__).parent.parent.parent
RESULT: dict[str, Any] = {
    "answer": 'a "quoted",\ntwo-line answer',
    "status": "confident",
    "degraded": False,
    "confidence": 0.9,
    "agreement": 0.5,
    "cost_usd": 1.5e-05,
    "calls": 4,
    "cached_calls": 0,
    "error": None,
    "warnings": None,
    "duration_s": 2.5,
    "possibly_billed": 0,
    **dict.fromkeys([*RESULT_COLUMNS][13:]),
}


def row(number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"id": str(number), **RESULT, **fields}


def columns(*own: str) -> list[str]:
    return [*RESULT_COLUMNS, *own]


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_results_come_first_and_own_columns_of_their_names_are_renamed():
    names = own_names(["id", "answer", "input_answer", "prompt", "calls"], "id")
    assert names == {
        "answer": "input_input_answer",
        "input_answer": "input_answer",
        "prompt": "prompt",
        "calls": "input_calls",
    }
    own = {"id": "7", "answer": "own", "input_answer": "x", "prompt": "Why?", "calls": 3}
    made = output_row(row(7), own, names)
    assert list(made) == columns("input_input_answer", "input_answer", "prompt", "input_calls")
    assert (made["id"], made["answer"], made["input_input_answer"], made["input_calls"]) == (
        "7",
        RESULT["answer"],
        "own",
        3,
    )
    assert own_names(["id", "key"], "key") == {"id": "input_id", "key": "key"}
    assert own_names(["id"]) == {"id": "input_id"}


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".jsonl.gz"])
def test_json_lines(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    write_rows(str(path), [row(1, prompt="Ünïcode"), row(2)], columns("prompt"))
    text = (gzip.decompress(path.read_bytes()) if ending.endswith(".gz") else path.read_bytes()).decode()
    assert "Ünïcode" in text
    first, second = (json.loads(line) for line in text.splitlines())
    assert first == row(1, prompt="Ünïcode") and list(first) == columns("prompt")
    assert second == row(2)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_csv(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    write_rows(str(path), [row(1, own={"a": [1, None]}, flag=True), row(2, confidence=None)], columns("own", "flag"))
    text = (gzip.decompress(path.read_bytes()) if ending.endswith(".gz") else path.read_bytes()).decode()
    first, second = csv.DictReader(text.splitlines(keepends=True))
    assert list(first) == columns("own", "flag")
    assert first["answer"] == RESULT["answer"]
    assert (first["own"], first["flag"], first["degraded"], first["error"]) == ('{"a": [1, null]}', "true", "false", "")
    assert (float(first["cost_usd"]), first["calls"]) == (1.5e-05, "4")
    assert (second["confidence"], second["own"]) == ("", "")


def test_a_csv_file_holds_what_was_written_also_where_it_looks_like_a_formula(tmp_path):
    path = tmp_path / "out.csv"
    texts = ["=1+1", "-5", "+49 30", "@me", "-0.5 is the answer"]
    write_rows(str(path), [row(number, answer=text) for number, text in enumerate(texts)], columns())
    assert [one.columns["answer"] for one in Source(str(path), prompt_column="answer").rows()] == texts
    write_rows(str(path), [row(confidence=-1)], columns())
    assert ",-1," in path.read_text()


def test_parquet_has_the_types_of_the_results(tmp_path):
    path = tmp_path / "out.parquet"
    write_rows(str(path), [row(1, confidence=1, cost_usd=None), row(2, confidence=None, cost_usd=None)], columns())
    schema = pq.read_schema(path)
    assert schema.names == columns()
    kinds = {"id": pa.string(), "degraded": pa.bool_(), "calls": pa.int64(), "error": pa.string()}
    assert {name: schema.field(name).type for name in kinds} == kinds
    assert {schema.field(name).type for name in ("confidence", "agreement", "cost_usd")} == {pa.float64()}
    assert pq.read_table(path).to_pylist() == [
        row(1, confidence=1.0, cost_usd=None),
        row(2, confidence=None, cost_usd=None),
    ]


def test_a_column_of_parquet_that_begins_empty_or_is_mixed(tmp_path):
    path = tmp_path / "out.parquet"
    late = [None] * 2500
    rows = [
        row(number, late=value, mixed=number if number % 2 else str(number), nested={"n": number}, wide=2**60 + number)
        for number, value in enumerate([*late, 1.5, 2])
    ]
    write_rows(str(path), iter(rows), columns("late", "mixed", "nested", "wide", "never"))
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 3
    types = {name: file.schema_arrow.field(name).type for name in ("late", "mixed", "nested", "wide", "never")}
    assert types == {
        "late": pa.float64(),
        "mixed": pa.string(),
        "nested": pa.string(),
        "wide": pa.int64(),
        "never": pa.string(),
    }
    found = file.read().to_pylist()
    assert [one["late"] for one in found[-2:]] == [1.5, 2.0]
    assert [json.loads(one["mixed"]) for one in found[:2]] == ["0", 1]
    assert json.loads(found[3]["nested"]) == {"n": 3}
    assert found[7]["wide"] == 2**60 + 7


def test_integers_that_no_float_holds_are_not_rounded(tmp_path):
    path = tmp_path / "out.parquet"
    write_rows(str(path), [row(1, n=2**60 + 1), row(2, n=0.5), row(3, n=2**80)], columns("n"))
    assert [json.loads(one["n"]) for one in pq.read_table(path).to_pylist()] == [2**60 + 1, 0.5, 2**80]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_what_utf8_or_json_cannot_hold_does_not_lose_the_file(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    write_rows(str(path), [row(1, answer="half \ud83d", own=[float("inf")], n=float("nan"))], columns("own", "n"))
    (one,) = Source(str(path), prompt_column="answer").rows()
    assert one.prompt == "half ?"
    assert one.columns["n"] in {None, ""}


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_no_rows_make_an_empty_file_with_its_columns(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    write_rows(str(path), [], columns("own"))
    if ending == ".parquet":
        assert pq.read_table(path).column_names == columns("own")
    else:
        assert path.read_text() == ("" if ending == ".jsonl" else ",".join(columns("own")) + "\n")


@pytest.mark.parametrize("ending", [".jsonl", ".csv.gz", ".parquet"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    write_rows(str(path), [row(1)], columns())
    before = path.read_bytes()

    def breaking():
        yield row(2)
        assert path.read_bytes() == before
        raise RuntimeError("the journal is gone")

    with pytest.raises(RuntimeError, match="journal"):
        write_rows(str(path), breaking(), columns())
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    write_rows(str(path), [row(3)], columns())
    assert path.read_bytes() != before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "real.jsonl", tmp_path / "out.jsonl"
    link.symlink_to(target)
    write_rows(str(link), [row(1)], columns())
    assert link.is_symlink() and json_lines(target) == [row(1)]


def test_an_address_of_fsspec_is_written_at_the_end(monkeypatch):
    address = "memory://batch-output/out.parquet"
    check_output(address)

    def rows():
        yield row(1)
        assert not fsspec.filesystem("memory").exists("/batch-output/out.parquet")

    write_rows(address, rows(), columns())
    assert [one.id for one in Source(address, prompt_column="answer", id_column="id").rows()] == ["1"]


@pytest.mark.parametrize("ending", [".jsonl", ".csv.gz", ".parquet"])
def test_a_name_as_long_as_its_journal_allows(tmp_path, ending):
    """What is paid for must not fail at a name for a moment that is longer than all others."""
    name = "x" * (255 - len(".partial") - len(ending)) + ending
    Journal(journal_path(str(tmp_path / name)), {}).close()
    write_rows(str(tmp_path / name), [row(1)], columns())
    assert len(list(Source(str(tmp_path / name), prompt_column="answer").rows())) == 1
    with pytest.raises(ConfigurationError, match="File name too long"):
        Journal(journal_path(str(tmp_path / f"x{name}")), {})


def test_a_link_to_a_name_without_an_ending_is_compressed_as_its_own_name_says(tmp_path):
    (tmp_path / "out.csv.gz").symlink_to(tmp_path / "real")
    write_rows(str(tmp_path / "out.csv.gz"), [row(1)], columns())
    assert gzip.decompress((tmp_path / "real").read_bytes()).startswith(b"id,")


def test_a_store_takes_names_that_no_file_could_have(tmp_path):
    address = f"memory://long/{'x' * 900}.jsonl"
    Journal(journal_path(address), {}).close()
    write_rows(address, [row(1)], columns())
    assert len(list(Source(address, prompt_column="answer").rows())) == 1
    assert journal_path(address) != journal_path(f"memory://long/{'x' * 901}.jsonl")


class ClientError(Exception):
    """What a store's client raises, which is no OSError."""


class Bucket(MemoryFileSystem):
    """A store that can be listed and read, and written to as long as it is open."""

    protocol = "bucket"
    open_for: tuple[str, ...] = ()
    failure: Exception = ClientError("AccessDenied: s3:PutObject")

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        if not any(word in rpath for word in self.open_for):
            raise self.failure
        super().put_file(lpath, rpath, **options)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> type[Bucket]:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "open_for", ())
    return Bucket


@pytest.mark.parametrize(
    "failure", [ClientError("AccessDenied: s3:PutObject"), PermissionError(13, "Permission denied")]
)
def test_a_bucket_that_cannot_be_written_to_is_found_by_trying(bucket, monkeypatch, failure):
    monkeypatch.setattr(bucket, "failure", failure)
    with pytest.raises(
        ConfigurationError, match=r"output: bucket://b/out\.csv cannot be written to: .*(Access|Permission)"
    ):
        check_output("bucket://b/out.csv")


def test_what_was_tried_in_a_store_is_deleted(bucket, monkeypatch):
    monkeypatch.setattr(bucket, "open_for", ("probe",))
    check_output("bucket://tried/out.csv")
    assert fsspec.filesystem("bucket").find("/tried") == []
    monkeypatch.setattr(bucket, "rm_file", lambda self, path: (_ for _ in ()).throw(ClientError("DeleteObject")))
    check_output("bucket://tried/out.csv")  # who may write need not be allowed to delete


def test_an_error_of_a_stores_client_is_one_of_the_output(bucket, monkeypatch):
    with pytest.raises(OSError, match="ClientError: AccessDenied"):
        write_rows("bucket://b/out.csv", [row(1)], columns())


@pytest.mark.usefixtures("results")
async def test_a_batch_whose_bucket_closes_keeps_all_rows(bucket, vendors, tmp_path, monkeypatch):
    serve(vendors)
    work = dataclasses.replace(batch_of(prompts(tmp_path, 3), tmp_path / "x.jsonl"), output="bucket://b/out.jsonl")
    with pytest.raises(ConfigurationError, match=r"output: bucket://b/out\.jsonl cannot be written to: ClientError"):
        await run_batch(work)
    assert vendors.count() == 0
    monkeypatch.setattr(bucket, "open_for", ("probe",))
    with pytest.raises(
        OutputError, match=r"bucket://b/out\.jsonl cannot be written: ClientError: AccessDenied.* All rows are kept"
    ):
        await run_batch(work)
    monkeypatch.setattr(bucket, "open_for", ("out",))
    assert (await run_batch(work)).resumed == 3 == vendors.count()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "out.json",
            "has an unsupported extension. Did you mean .jsonl or .ndjson? Use one of .jsonl, .ndjson, .csv, .parquet",
        ),
        ("out", "has an unsupported extension"),
        ("out.parquet.gz", "has an unsupported extension"),
        ("out.csv.xz", "has an unsupported extension"),
        ("", "is a folder: give a file in it"),
        ("missing/out.csv", "no such folder: "),
    ],
)
def test_an_output_that_cannot_be_written_is_found_before(tmp_path, name, message):
    with pytest.raises(ConfigurationError) as caught:
        check_output(str(tmp_path / name))
    assert caught.value.message.startswith("output: ") and message in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written_to_is_found_by_trying():
    with pytest.raises(ConfigurationError, match="output: the folder /proc cannot be written to"):
        check_output("/proc/out.jsonl")


def test_modules_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigurationError, match=r"output: Parquet .*consensus-flows\[parquet\]"):
        check_output(str(tmp_path / "out.parquet"))
    with pytest.raises(ConfigurationError, match=r"output: s3:// .*consensus-flows\[s3\]"):
        check_output("s3://bucket/out.csv")


def test_an_output_that_can_be_written_leaves_nothing_behind(tmp_path):
    for name in ("out.jsonl", "out.csv.gz", "out.parquet", "OUT.CSV"):
        check_output(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_the_file_has_the_rights_that_any_new_file_has(tmp_path):
    plain, path = tmp_path / "plain", tmp_path / "out.csv"
    plain.touch()
    write_rows(str(path), [row()], columns())
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


_MEASURE = """
import sys
from consensus_flows.tasks.batches.parquet import pyarrow_for
from consensus_flows.tasks.batches.output import RESULT_COLUMNS, write_rows
from tests.kits.memory import peak_kb
if sys.argv[1].endswith(".parquet"):
    pyarrow_for("output")
before = peak_kb()
text = "0123456789" * 100
rows = ({"id": str(n), "answer": f"{n} {text}", "calls": n} for n in range(100_000))
write_rows(sys.argv[1], rows, [*RESULT_COLUMNS])
print((peak_kb() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read in /proc")
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_hundred_thousand_rows_are_written_in_constant_memory(tmp_path, ending):
    path = tmp_path / f"many{ending}"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", _MEASURE, str(path)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 100
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    path.unlink()


@pytest.mark.parametrize(
    ("there", "given", "options", "refused"),
    [
        (None, ["a"], {}, None),
        ([], ["a"], {}, None),
        (["a", "b"], ["a", "b"], {}, None),
        (["a", "b"], ["a", "mended"], {}, None),
        (["a", "b"], ["mended", "also mended"], {}, "holds nothing of this input"),
        (["a", "b"], ["b", "a"], {}, "under other ids"),
        (["a", "b"], ["c", "d"], {}, "holds nothing of this input"),  # the ids are the same, the rows are not
        ("notes of mine", ["a"], {}, "holds nothing of this input"),
        (["a", "b", "c"], ["a", "b"], {}, None),  # rows were taken out
        (["a", "b", "c"], ["a", "b", "c"], {"limit": 2}, "has 3 rows, and this run of some rows would leave 2"),
        (["a", "b"], ["a", "b", "c"], {"limit": 2}, None),
        ([str(number) for number in range(40)], ["0"] * 39, {"sample": 39}, "has 40 rows"),
    ],
)
def test_whose_output_is_replaced(there, given, options, refused, tmp_path):
    file, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(f"{json.dumps({'id': str(at), 'prompt': text})}\n" for at, text in enumerate(given)))
    rows = there if isinstance(there, str) or there is None else file.read_text()
    if isinstance(there, list):
        rows = "".join(
            f"{json.dumps({'id': str(at), 'prompt': text, 'answer': 'x'})}\n" for at, text in enumerate(there)
        )
    if rows is not None:
        output.write_text(rows)
    source = Source(str(file), selection=Selection(**options))
    with pytest.raises(ConfigurationError, match=refused) if refused else nullcontext():
        check_replaced(str(output), source, source.inspect())
