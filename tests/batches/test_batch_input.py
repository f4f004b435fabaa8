"""Reading the input of a batch: every format, every bad row with its place."""

import gzip
import json
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consensus_flows.tasks.batches.rows import MAX_DEPTH, MAX_PROMPT_CHARACTERS, BadRow, Row
from consensus_flows.tasks.batches.source import BAD_KEPT, Source
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.batch_input_kit import bad, good, refused, rows_of, written

ROOT = Path(__file__).parent.parent.parent


QUESTIONS = [{"key": "a", "question": "Why?", "n": 1}, {"key": "b", "question": 'How,\n"so"?', "n": 2}]


def _in(folder: Path, ending: str) -> Path:
    path = folder / f"questions{ending}"
    match ending.removesuffix(".gz"):
        case ".jsonl" | ".ndjson":
            data = "\n".join(json.dumps(row) for row in QUESTIONS).encode()
        case ".json":
            data = json.dumps(QUESTIONS, indent=2).encode()
        case ".csv":
            data = b'key,question,n\na,Why?,1\nb,"How,\n""so""?",2\n'
        case ".tsv":
            data = b'key\tquestion\tn\na\tWhy?\t1\nb\t"How,\n""so""?"\t2\n'
        case _:
            pq.write_table(pa.Table.from_pylist(QUESTIONS), path)
            return path
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    "ending", [".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".csv.gz", ".jsonl.gz", ".json.gz"]
)
def test_every_format_gives_the_same_rows(tmp_path, ending):
    path = _in(tmp_path, ending)
    found = good(path, id_column="key")
    assert [(row.number, row.id, row.prompt) for row in found] == [(0, "a", "Why?"), (1, "b", 'How,\n"so"?')]
    assert [list(row.columns) for row in found] == [["key", "question", "n"]] * 2
    number = "1" if ending.startswith((".csv", ".tsv")) else 1
    assert found[0].columns == {"key": "a", "question": "Why?", "n": number}
    assert good(path, id_column="key") == found


def test_the_id_is_the_row_number_where_there_is_no_id_column(tmp_path):
    path = written(tmp_path, "q.csv", 'key,prompt\nx,"two\nlines"\n\ny,next\n')
    assert [(row.line, row.id) for row in good(path)] == [(2, "1"), (5, "2")]
    path = written(tmp_path, "q.csv", 'id,prompt\nx,"two\nlines"\n\ny,next\n')
    assert [(row.line, row.id) for row in good(path)] == [(2, "x"), (5, "y")]
    path = written(tmp_path, "q.jsonl", '{"id": 1, "prompt": "a"}\n{"prompt": "b"}')
    assert [row.id for row in good(path)] == ["1", "2"]  # not every row has one
    path = written(tmp_path, "q.json", '["one",\n"two"]')
    assert [(row.line, row.id, row.prompt) for row in good(path)] == [(1, "1", "one"), (2, "2", "two")]
    path = written(tmp_path, "q.txt", "one\r\n\n  \n two\n")
    assert [(row.line, row.id, row.prompt) for row in good(path)] == [(1, "1", "one"), (4, "2", " two")]


def test_a_folder_of_prompts(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name, data in {
        "b.md": b"B",
        "a.txt": b"\xef\xbb\xbfA\n",
        "c.TXT": b"\xff",
        "d.md": b" ",
        "e.png": b"",
        ".f.md": b"F",
    }.items():
        written(folder, name, data)
    (folder / "sub.md").mkdir()
    one, other, broken, empty = rows_of(folder)
    assert (one.id, one.prompt, one.columns) == ("a", "A", {"file": "a.txt", "prompt": "A"})
    assert (other.id, other.number, other.line) == ("b", 1, 2)
    assert (broken.where, broken.message) == ("prompts/c.TXT", "wrong encoding: byte 0xff is not UTF-8")
    assert (empty.where, empty.message) == ("prompts/d.md", "the prompt is empty")
    written(folder, "a.md", "another A")
    assert "duplicate id" in rows_of(folder)[1].message
    assert [row.id for row in good(_only(folder, "b.md"), prompt_template="{file}: {prompt}")] == ["b"]
    assert good(folder, prompt_template="{file}: {prompt}")[0].prompt == "b.md: B"


def _only(folder: Path, name: str) -> Path:
    for path in folder.iterdir():
        if path.name != name and path.is_file():
            path.unlink()
    return folder


def test_an_empty_folder_says_what_it_looks_for(tmp_path):
    assert "*.md or *.txt" in refused(tmp_path)


def test_every_bad_line_of_a_csv_file_is_named(tmp_path):
    lines = [
        b"\xef\xbb\xbfid,prompt",
        b'1,"a\nb"',
        b"2,",
        b"3,x,y",
        b"4,caf\xe9",
        b"1,again",
        b'"5"x,y',
        b"",
        b"6,a\x00b",
        b",no id",
        b"7",
        b'8,"open',
        b"9,in the quotation",
    ]
    path = written(tmp_path, "q.csv", b"\n".join(lines))
    assert bad(path, id_column="id") == {
        4: "the prompt is empty",
        5: "3 fields, but 2 columns",
        6: "wrong encoding: byte 0xe9 is not UTF-8",
        7: 'duplicate id "1"',
        8: "broken CSV: ',' expected after '\"'",
        10: "contains a NUL byte",
        11: "column 'id', the id, is empty",
        12: "1 fields, but 2 columns",
        13: "unclosed quotation mark",
    }
    inventory = Source(str(path), id_column="id").inspect()
    assert (inventory.rows, inventory.bad_rows, inventory.columns) == (1, 9, ("id", "prompt"))
    assert inventory.bad[0] == BadRow(1, 4, "q.csv line 4", "the prompt is empty")
    assert [row.number for row in rows_of(path, id_column="id")] == list(range(10))


def test_every_bad_line_of_a_json_lines_file_is_named(tmp_path):
    deep = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
    lines = [
        b'{"prompt": "good"}',
        b"",
        b'{"prompt": ',
        b'{"other": 1}',
        b'{"prompt": null}',
        b'{"prompt": ["x"]}',
        b"7",
        b'{"prompt": "x", "score": NaN}',
        b'{"prompt": "x", "score": 1e999}',
        b'{"prompt": "caf\xe9"}',
        b'{"prompt": "\\ud83d"}',
        b'{"prompt": "a\\u0000"}',
        b"[" * 500_000,
        f'{{"prompt": "x", "deep": {deep}}}'.encode(),
        b'"a text alone"',
        b'{"prompt": "' + b"x" * (MAX_PROMPT_CHARACTERS + 1) + b'"}',
        b'{"prompt": 42}',
    ]
    found = bad(written(tmp_path, "q.jsonl", b"\n".join(lines)))
    assert found.pop(3).startswith("broken JSON: ")
    assert found == {
        4: "column 'prompt' is missing",
        5: "column 'prompt' is empty",
        6: "column 'prompt' is an array, not a text",
        7: "it is a number, neither an object nor a text",
        8: "NaN is not valid JSON",
        9: "the number inf is too large",
        10: "wrong encoding: byte 0xe9 is not UTF-8",
        11: "wrong encoding: half a character, \\ud83d, is not UTF-8",
        12: "contains a NUL byte",
        13: "it is nested deeper than 64 levels",
        14: "it is nested deeper than 64 levels",
        16: "the prompt is longer than 1,000,000 characters",
    }


def test_a_nested_item_is_one_bad_item_and_the_others_are_read(tmp_path):
    bomb = "[" * 100 + "]" * 100
    path = written(
        tmp_path,
        "q.json",
        f'["one", {{"prompt": "x", "n": {bomb}}}, {{"prompt": {{"a": 1}}}}, 3, null, {{"prompt": "two", "x": 1.5}}]',
    )
    found = rows_of(path)
    assert [row.prompt for row in found if isinstance(row, Row)] == ["one", "two"]
    assert found[-1].columns == {"prompt": "two", "x": 1.5}
    assert bad(path) == {
        2: "it is nested deeper than 64 levels",
        3: "column 'prompt' is an object, not a text",
        4: "it is a number, neither an object nor a text",
        5: "it is null, neither an object nor a text",
    }
    assert found[1].where == "q.json item 2"


def test_a_line_that_is_too_long_is_bad_and_never_held(tmp_path, monkeypatch):
    from consensus_flows.tasks.batches import text_formats as text

    monkeypatch.setattr(text, "MAX_ROW_CHARACTERS", 1000)
    path = written(tmp_path, "q.txt", "short\n" + "x" * 5000 + "\nnext\n" + "y" * 999 + "\n")
    assert bad(path) == {2: text.TOO_LONG}
    assert [row.line for row in rows_of(path)] == [1, 2, 3, 4]
    path = written(tmp_path, "q.jsonl", '"a"\n"' + "x" * 5000 + '"\n"b"\n')
    assert bad(path) == {2: text.TOO_LONG}
    path = written(tmp_path, "q.csv", "prompt,n\na,1\n" + "x" * 5000 + ",2\nb,3\n")
    assert bad(path) == {3: text.TOO_LONG}
    assert [row.prompt for row in rows_of(path) if isinstance(row, Row)] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("q.csv", b"", "input: {} is empty"),
        ("q.csv", b"prompt\n", "input: {} has no rows"),
        ("q.csv", b"prompt,prompt\na,b\n", "input: duplicate column 'prompt'"),
        ("q.jsonl", b"\n\n", "input: {} is empty"),
        ("q.json", b"", "input: {} is empty"),
        ("q.json", b"[]", "input: {} is empty"),
        ("q.json", b'{"prompt": "x"}', "input: it must hold an array of objects or of texts"),
        ("q.json", b'[{"prompt": "x"}, {"pro', "input: broken JSON at item 2, so that what follows cannot be read"),
        ("q.json", b'["x"] y', "input: broken JSON at item 2"),
        ("q.txt", "x".encode("utf-16"), "input: the file is UTF-16"),
        ("q.txt.gz", b"x", "input: {} cannot be read: Not a gzipped file"),
        (
            "q.txt.gz",
            gzip.compress(b"x\n" * 99, mtime=0)[:-9],
            "input: {} cannot be read: Compressed file ended before",
        ),
        ("q.parquet", b"PAR1", "input: not readable as Parquet"),
        ("q.xlsx", b"", "input: {} has an unsupported extension. Use one of .csv, .tsv, .jsonl"),
        ("q.parquet.gz", b"", "input: {} has an unsupported extension"),
    ],
)
def test_an_input_that_cannot_be_used_at_all(tmp_path, name, data, message):
    path = written(tmp_path, name, data)
    assert refused(path).startswith(message.format(path))


def test_a_file_that_breaks_late_says_where(tmp_path):
    lines = b"".join(b'"%d %s"\n' % (number, bytes(str(hash(number)) * 30, "ascii")) for number in range(50_000))
    packed = gzip.compress(lines)
    path = written(tmp_path, "q.jsonl.gz", packed[: len(packed) // 2])
    message = refused(path)
    assert "cannot be read after line " in message and int(message.partition("after line ")[2].split(":")[0]) > 1000


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere.csv", "input: no such file: nowhere.csv"),
        ("", "input: must not be empty"),
        ("s3://bucket/q.csv", "pip install 'consensus-flows[s3]'"),
        ("gs://bucket/q.csv", "pip install 'consensus-flows[gcs]'"),
        ("az://container/q.csv", "pip install 'consensus-flows[azure]'"),
        ("nonsense://q.csv", "Protocol not known"),
    ],
)
def test_an_address_that_cannot_be_reached(address, message, monkeypatch):
    for module in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError) as caught:
        Source(address)
    assert message in caught.value.message and caught.value.message.startswith("input: ")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = _in(tmp_path, ".parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused(path) == "input: Parquet needs a module that is not here: pip install 'consensus-flows[parquet]'"


def test_addresses_of_fsspec():
    with fsspec.open("memory://batch-input/q.jsonl", "wb") as file:
        file.write(b'{"prompt": "from memory"}\n')
    assert [row.prompt for row in good("memory://batch-input/q.jsonl")] == ["from memory"]
    with fsspec.open("memory://batch-folder/one.md", "wb") as file:
        file.write(b"a prompt")
    assert [(row.id, row.prompt) for row in good("memory://batch-folder")] == [("one", "a prompt")]


def test_a_file_address_is_a_local_path(tmp_path):
    path = _in(tmp_path, ".csv")
    assert good(f"file://{path}") == good(path)


def test_values_of_parquet_are_plain_json(tmp_path):
    path = tmp_path / "q.parquet"
    table = pa.table(
        {
            "prompt": ["x"],
            "day": pa.array([date(2026, 1, 31)]),
            "price": pa.array([Decimal("1.10")]),
            "raw": pa.array([b"\xff\x00"]),
            "missing": [float("nan")],
            "nested": [{"a": [1, None]}],
        }
    )
    pq.write_table(table, path)
    (row,) = good(path)
    assert row.columns == {
        "prompt": "x",
        "day": "2026-01-31",
        "price": 1.1,
        "raw": "/wA=",
        "missing": None,
        "nested": {"a": [1, None]},
    }
    json.dumps(row.columns, allow_nan=False)


def test_the_inventory_knows_whether_the_prompts_changed(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"id": 1, "prompt": "x"}\n{"id": 2, "prompt": "yz", "w": 0}\n')
    first = Source(str(path), id_column="id").inspect()
    assert (first.rows, first.bad_rows, first.size, first.columns) == (2, 0, 3, ("id", "prompt", "w"))
    assert Source(str(path), id_column="id").inspect() == first
    assert Source(str(path)).inspect().sha256 == first.sha256  # the lines are the ids
    other = written(tmp_path, "b.jsonl", '{"id": 1, "prompt": "xy"}\n{"id": 2, "prompt": "z"}\n')
    assert Source(str(other), id_column="id").inspect().sha256 != first.sha256
    column = written(tmp_path, "c.jsonl", '{"id": 1, "prompt": "x"}\n{"id": 2, "prompt": "yz", "w": 1}\n')
    assert Source(str(column), id_column="id").inspect().sha256 != first.sha256, "it is written to the output"


def test_all_bad_rows_are_counted_and_the_first_ones_kept(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"prompt": "x"}\n' + '{"prompt": ""}\n' * 250)
    inventory = Source(str(path)).inspect()
    assert (inventory.rows, inventory.bad_rows, len(inventory.bad)) == (1, 250, BAD_KEPT)
    assert [row.line for row in inventory.bad] == list(range(2, BAD_KEPT + 2))
