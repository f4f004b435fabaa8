"""Small files that become large: refused, or read in little memory and in linear time, with one sentence."""

import bz2
import gzip
import io
import json
import lzma
import random
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consensus_flows.tasks.batches.formats import parquet_footer, unpacking
from consensus_flows.tasks.batches.formats.json_file import read_json_array
from consensus_flows.tasks.batches.formats.parquet_size import BATCH_ROWS, bytes_of, rows_at_once
from consensus_flows.tasks.batches.formats.unpacking import Growing
from consensus_flows.tasks.batches.limits import MAX_PROMPT_CHARACTERS, MAX_ROW_CHARACTERS, check_names
from consensus_flows.tasks.batches.row import Row
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.batch_input_kit import ROOT, bad, good, refused, rows_of, written

TOO_LONG = f"the prompt is longer than {MAX_PROMPT_CHARACTERS:,} characters"
TOO_LARGE = f"the row is larger than {MAX_ROW_CHARACTERS:,} characters"
BIG = "a" * 4_000_000
READING = """
import json, resource, sys
from collections import Counter
from consensus_flows.tasks.batches.source import Source
from tests.kits.memory import peak_kb
import pyarrow.compute, pyarrow.parquet
before = peak_kb()
found = Counter(getattr(row, "message", "") for row in Source(sys.argv[1], prompt_column="prompt").rows())
print(json.dumps([found, peak_kb() - before]))
"""


def repeated(count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [BIG])


def in_lists(count: int) -> pa.Array:
    return pa.ListArray.from_arrays([0, count, count + 1], repeated(count + 1))


@pytest.mark.parametrize(
    ("columns", "how", "found"),
    [
        ({"prompt": lambda: repeated(200)}, {}, {TOO_LONG: 200}),
        ({"prompt": lambda: pa.array(["x"] * 200), "other": lambda: repeated(200)}, {}, {"": 200}),
        ({"prompt": lambda: pa.array(["x", "y"]), "other": lambda: in_lists(100_000)}, {}, {TOO_LARGE: 1, "": 1}),
        (
            {"prompt": lambda: pa.array(["x", "y"]), "o": lambda: pa.StructArray.from_arrays([in_lists(9_000)], ["k"])},
            {},
            {TOO_LARGE: 1, "": 1},
        ),
        (
            {"prompt": lambda: repeated(150).cast(pa.string())},
            {"use_dictionary": False, "column_encoding": {"prompt": "DELTA_BYTE_ARRAY"}},
            {TOO_LONG: 150},
        ),
    ],
)
def test_one_long_text_in_every_row_of_a_parquet_file(tmp_path, columns, how, found):
    path = tmp_path / "bomb.parquet"
    table = pa.table({name: make() for name, make in columns.items()})
    pq.write_table(table, path, compression="zstd", store_schema=False, **how)
    del table
    assert path.stat().st_size < 3000
    ran = subprocess.run([sys.executable, "-c", READING, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    counted, grown_kb = json.loads(ran.stdout)
    assert counted == found
    assert grown_kb < 2_000_000  # a hundred rows are looked at for their columns: 400 MB


def test_a_parquet_file_out_of_proportion_is_refused(tmp_path):
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"prompt": repeated(80).cast(pa.string())}), path, compression="zstd", use_dictionary=False)
    assert "bytes unpack to more than 256,000,000" in refused(path)


def test_what_is_held_of_a_parquet_file_at_once(tmp_path):
    path = tmp_path / "q.parquet"
    chance = random.Random(1)
    prompts = [f"{number} {chance.random()} " * 40 for number in range(3_000)]
    tags = [["a", "b"], [], None] * 1_000
    pq.write_table(pa.table({"prompt": prompts, "tags": tags, "kind": ["one", "two", "three"] * 1_000}), path)
    with path.open("rb") as file:
        assert rows_at_once(file, pq.ParquetFile(file).metadata.row_group(0)) > BATCH_ROWS / 2, "as fast as ever"
    assert [(row.prompt, row.columns["tags"]) for row in good(path)] == list(zip(prompts, tags, strict=True))
    pairs = pa.array([[("k", 1)], None, [("l", 2), ("m", 3)]], pa.map_(pa.string(), pa.int64()))
    sized = [
        (60, 64, pa.array(["a" * 20] * 2)),
        (16, 20, pa.array([1, 2]).slice(0, 1)),
        (8_000_000, 9_000_000, repeated(2)),
        (12_000_000, 13_000_000, in_lists(2)),
        (4_000_000, 4_000_100, in_lists(2).slice(1, 1)),
        (8_000_000, 8_000_200, pa.StructArray.from_arrays([repeated(2), pa.array([1, 2])], ["a", "b"])),
        (4_000_000, 4_000_100, pa.StructArray.from_arrays([repeated(2)], ["a"]).slice(1, 1)),
        (80, 140, pairs),
        (24, 45, pairs.slice(0, 1)),
        (8, 16, pairs.slice(1, 1)),
        (50, 80, pairs.slice(2, 1)),
    ]
    for least, most, array in sized:
        assert least <= bytes_of(pa, array) <= most, (array.type, bytes_of(pa, array))
    pq.write_table(pa.table({"prompt": ["x", "y", "z"], "pairs": pairs}), path)
    assert [row.columns["pairs"] for row in good(path)] == [[["k", 1]], None, [["l", 2], ["m", 3]]]


def test_a_long_text_of_an_array_is_read_in_few_pieces(tmp_path, monkeypatch):
    reads = []
    read = Growing.read
    monkeypatch.setattr(Growing, "read", lambda self, size=-1: reads.append(1) or read(self, size))
    text = b'["one", "' + b"a" * 40_000_000 + b'", "two", {"prompt": "' + b'\\"' * 900_000 + b'"}]'
    path = written(tmp_path, "q.json.gz", gzip.compress(text, 1))
    found = rows_of(path)
    assert [len(row.prompt) for row in found if isinstance(row, Row)] == [3, 3, 900_000]
    assert bad(path) == {2: TOO_LARGE}
    assert len(reads) < 2 * 50


def test_a_text_without_end_is_not_held(tmp_path):
    path = written(tmp_path, "q.json.gz", gzip.compress(b'["one", "' + b"a" * 120_000_000 + b'", "two"]', 1))
    assert "it holds a text of more than 16,000,000 characters, so that" in refused(path)


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "json"])
def test_a_packed_file_out_of_proportion_is_refused(tmp_path, monkeypatch, kind, ending, pack):
    monkeypatch.setattr(unpacking, "ALWAYS_BYTES", 200_000)
    line = {"json": b'"a",', "jsonl": b'"a"\n'}.get(kind, b"prompt\n")
    whole = b"prompt\n" * (kind == "csv") + b"[" * (kind == "json") + line * 100_000 + b'"b"]' * (kind == "json")
    path = written(tmp_path, f"q.{kind}.{ending}", pack(whole))
    assert "bytes unpack to more than 2" in refused(path)
    monkeypatch.setattr(unpacking, "MOST_TIMES", 100_000)
    assert len(rows_of(path)) >= 100_000


def test_a_line_of_a_hundred_thousand_names_is_read_at_once(tmp_path):
    names = [f"c{number}" for number in range(100_000)]
    started = time.thread_time()
    path = written(tmp_path, "q.csv", ",".join(names) + "\n" + ",".join("x" for _ in names) + "\n")
    assert len(good(path, prompt_column="c7")) == 1
    check_names(names)
    assert time.thread_time() - started < 20  # with a look at all names for each of them it took minutes
    with pytest.raises(ConfigurationError, match="two columns are called 'c5'"):
        check_names([*names, "c9", "c5"])


def test_pieces_grow_and_begin_anew():
    class Pieces:
        def read(self, size=-1):
            return b" " * (1 << 16)

    growing = Growing(Pieces())
    assert [len(growing.read(9)) >> 16 for _ in range(6)] == [1, 1, 2, 4, 8, 16]
    assert list(growing.followed(iter("ab"))) == ["a", "b"]
    assert len(growing.read(9)) == 1 << 16
    with pytest.raises(ConfigurationError, match="a text of more than"):
        list(read_json_array(io.BytesIO(b"[" + b" " * 200_000_000)))


def test_metadata_over_which_arrow_ends_the_process_are_refused(tmp_path):
    """The number of levels in the size statistics of a column is one that the column cannot have."""
    whole = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["one", None], "parts": [["a", "b"], None]}), whole)
    content = whole.getvalue()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # The beginning of a list of 2 to 4 numbers of 64 bits, in Thrift's compact protocol.
    lists = [place for place in range(footer, len(content) - 8) if content[place] in {0x26, 0x36, 0x46}]
    ends = []
    for place in lists:
        damaged = content[:place] + bytes([content[place] - 0x10]) + content[place + 1 :]
        look = [sys.executable, "-P", "-c", parquet_footer._LOOK]
        ends.append(subprocess.run(look, input=damaged, capture_output=True, check=False).returncode)
        if ends[-1]:
            file = tmp_path / "damaged.parquet"
            file.write_bytes(damaged)
            assert "cannot be read as Parquet" in refused(file)
    assert -signal.SIGABRT in ends, "Arrow has mended it: the look in a process of its own can go"
