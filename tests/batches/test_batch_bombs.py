"""Small files that become large, and numbers without end: a bad row or one sentence, in little memory and in linear time."""

import bz2
import gzip
import io
import json
import lzma
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consensus_flows.tasks.batches.parquet import bytes_of
from consensus_flows.tasks.batches.rows import MAX_PROMPT_CHARACTERS, TOO_DEEP, TOO_LARGE, Row, check_names
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits import processes
from tests.kits.batch_input_kit import ROOT, bad, good, refused, rows_of, written

TOO_LONG = f"the prompt is longer than {MAX_PROMPT_CHARACTERS:,} characters"
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


def read_apart(path: Path) -> tuple[dict[str, int], int]:
    """Read in a process of its own; return the messages counted, and by how many kB it grew."""
    ran = processes.run([sys.executable, "-c", READING, path], cwd=ROOT, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    counted, grown_kb = json.loads(ran.stdout)
    return counted, grown_kb


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
        ({"prompt": lambda: repeated(80).cast(pa.string())}, {"use_dictionary": False}, {TOO_LONG: 80}),
    ],
)
def test_one_long_text_in_every_row_of_a_parquet_file(tmp_path, columns, how, found):
    path = tmp_path / "bomb.parquet"
    table = pa.table({name: make() for name, make in columns.items()})
    pq.write_table(table, path, compression="zstd", store_schema=False, **how)
    del table
    assert path.stat().st_size < 40_000
    counted, grown_kb = read_apart(path)
    assert counted == found
    assert grown_kb < 2_000_000  # a hundred rows are looked at for their columns: 400 MB


def test_lists_in_an_encoding_that_has_no_dictionary(tmp_path):
    path = tmp_path / "q.parquet"
    table = pa.table({"prompt": ["x", "y"], "tags": [["a", "ab"], None]})
    pq.write_table(table, path, use_dictionary=False, column_encoding={"tags.list.element": "DELTA_BYTE_ARRAY"})
    assert [row.columns["tags"] for row in good(path)] == [["a", "ab"], None]


def test_the_size_of_the_values_of_a_parquet_file(tmp_path):
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
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table({"prompt": ["x", "y", "z"], "pairs": pairs}), path)
    assert [row.columns["pairs"] for row in good(path)] == [[["k", 1]], None, [["l", 2], ["m", 3]]]


@pytest.mark.timeout(60)
def test_a_long_text_of_an_array_takes_linear_time(tmp_path):
    text = b'["one", "' + b"a" * 12_000_000 + b'", "two", {"prompt": "' + b'\\"' * 900_000 + b'"}]'
    path = written(tmp_path, "q.json.gz", gzip.compress(text, 1))
    found = rows_of(path)
    assert [len(row.prompt) for row in found if isinstance(row, Row)] == [3, 3, 900_000]
    assert bad(path) == {2: TOO_LONG}


@pytest.mark.parametrize(
    "endless", [b'"' + b"a" * 20_000_000 + b'"', b"7" * 20_000_000, b"[" + b"1," * 10_000_000 + b"1]"]
)
def test_an_item_without_end_is_not_held(tmp_path, endless):
    path = written(tmp_path, "q.json.gz", gzip.compress(b'["one", ' + endless + b', "two"]', 1))
    assert "item 2, so that what follows cannot be read: it is longer than 16,000,000 characters" in refused(path)


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_a_packed_line_without_end_is_a_bad_row_and_is_not_held(tmp_path, kind, ending, pack):
    whole = b"prompt\n" * (kind == "csv") + b"a" * 40_000_000 + b'\n"b"\n'
    path = written(tmp_path, f"q.{kind}.{ending}", pack(whole))
    del whole
    assert path.stat().st_size < 1_000_000
    counted, grown_kb = read_apart(path)
    assert sum(counted.values()) == 2 and counted[""] == 1
    assert grown_kb < 200_000


def test_a_line_of_a_hundred_thousand_names_is_read_at_once(tmp_path):
    names = [f"c{number}" for number in range(100_000)]
    started = time.thread_time()
    path = written(tmp_path, "q.csv", ",".join(names) + "\n" + ",".join("x" for _ in names) + "\n")
    assert len(good(path, prompt_column="c7")) == 1
    check_names(names)
    assert time.thread_time() - started < 20  # with a look at all names for each of them it took minutes
    with pytest.raises(ConfigurationError, match="duplicate column 'c5'"):
        check_names([*names, "c9", "c5"])


def test_metadata_over_which_arrow_ends_the_process_are_refused(tmp_path):
    """The number of levels in the size statistics of a column is one that the column cannot have."""
    whole = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["one", None], "parts": [["a", "b"], None]}), whole)
    content = whole.getvalue()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # The beginning of a list of 2 to 4 numbers of 64 bits, in Thrift's compact protocol.
    lists = [place for place in range(footer, len(content) - 8) if content[place] in {0x26, 0x36, 0x46}]
    refusals = []
    for place in lists:
        path = tmp_path / "damaged.parquet"
        path.write_bytes(content[:place] + bytes([content[place] - 0x10]) + content[place + 1 :])
        try:
            rows_of(path)
        except ConfigurationError as error:
            refusals.append(error.message)
    assert all("not readable as Parquet" in refusal for refusal in refusals)
    assert any("histogram size mismatch" in refusal for refusal in refusals), (
        "the one that ends a process that asks for it"
    )


NUMBERS = {
    "9" * 5000: "is too large",
    "-" + "9" * 5000: "is too large",
    "1e999999": "is too large",
    "1e99999999999999999999": "is too large",
    "-1E+99999999999999999999": "is too large",
    "NaN": "NaN is not valid JSON",
    "Infinity": "is too large",
    "-Infinity": "is too large",
}


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:12])
def test_a_number_that_cannot_be_held_is_a_bad_row(tmp_path, number):
    items = [f'{{"prompt": "{name}"{extra}}}' for name, extra in (("a", ""), ("b", f', "n": {number}'), ("c", ""))]
    for name, text in {"in.json": f"[{', '.join(items)}]", "in.jsonl": "\n".join(items)}.items():
        (message,) = bad(written(tmp_path, name, text)).values()
        assert NUMBERS[number] in message
        assert len(rows_of(tmp_path / name)) == 3


@pytest.mark.parametrize("nested", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_what_is_nested_without_end(tmp_path, nested):
    items = ['{"prompt": "a"}', f'{{"prompt": "b", "n": {nested}}}', '{"prompt": "c"}']
    assert bad(written(tmp_path, "in.jsonl", "\n".join(items))) == {2: TOO_DEEP}
    assert f"item 2, so that what follows cannot be read: {TOO_DEEP}" in refused(
        written(tmp_path, "in.json", f"[{', '.join(items)}]")
    )
    deep = '{"prompt": "b", "n": ' + "[" * 70 + "]" * 70 + "}"
    assert bad(written(tmp_path, "in.json", f"[{items[0]}, {deep}, {items[2]}]")) == {2: TOO_DEEP}


@pytest.mark.parametrize("padding", [0, 60_000, 65_500])
@pytest.mark.parametrize(
    "value",
    [
        *("1e-99999999999999999999", "0." + "1" * 100_000, "9" * 4300, "-" + "9" * 4300, "-0.0", "1E3", "true", "null"),
        *('"\\u00e9\\ud83d\\ude00"', '"\\\\\\""', '["NaN", {"a": -7}]'),
    ],
)
def test_a_value_is_what_it_is_wherever_a_piece_of_the_file_ends(tmp_path, value, padding):
    path = written(
        tmp_path, "in.json", f'[{{"prompt": "b{"x" * padding}", "n": {value}}} , {{"prompt": "c", "n": {value}}}]'
    )
    assert [row.columns["n"] for row in good(path)] == [json.loads(value)] * 2


@pytest.mark.parametrize("broken", ["1e", "--1", "01", "nan", "1.e5", "0x10", "1_000", "+1", "x" * 3_000_000, '"\\x"'])
def test_what_is_no_value_breaks_the_array_and_names_the_item(tmp_path, broken):
    path = written(tmp_path, "in.json", f'[{{"prompt": "a"}}, {{"prompt": "b", "n": {broken}}}]')
    assert "broken JSON at item 2" in refused(path)


@pytest.mark.parametrize("text", ['["a"', '["a",', '["a",]', '["a" "b"]', '["a"] "b"', "[", '["a'])
def test_an_array_that_does_not_end_as_one(tmp_path, text):
    assert "broken JSON at item" in refused(written(tmp_path, "in.json", text))
