"""Whatever a model writes, every reader finds in the output the rows that were written, and no others."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consensus_flows.tasks.batches.output import RESULT_COLUMNS, write_rows
from consensus_flows.tasks.batches.rows import BadRow
from consensus_flows.tasks.batches.source import Source

PIECES = ["\r", "\r\n", "\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\0", "\ufeff", *',;"\t\\=+-@ ']
CHARACTERS = st.characters(exclude_categories=["Cs"])
HARD = st.lists(st.sampled_from(PIECES) | CHARACTERS, max_size=12).map("".join).filter(str.strip)
EVERY = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows_of(answers: list[str]) -> list[dict[str, Any]]:
    empty = dict.fromkeys(RESULT_COLUMNS)
    return [empty | {"id": str(at), "answer": text, "calls": 1} for at, text in enumerate(answers)]


def written(folder: Path, ending: str, answers: list[str]) -> Path:
    path = folder / f"out{ending}"
    write_rows(str(path), rows_of(answers), [*RESULT_COLUMNS])
    return path


def by_source(path: Path) -> list[str | None]:
    """What a batch reads whose input is the output of another; rows with a NUL are refused by name."""
    found = Source(str(path), prompt_column="answer", id_column="id").rows()
    return [None if isinstance(row, BadRow) else row.prompt for row in found]


def without_nul(answers: list[str]) -> list[str | None]:
    return [None if "\0" in text else text for text in answers]


@EVERY
@given(st.lists(HARD, min_size=1, max_size=5))
@example(["10%\rdone", "fine"])
@example(["\rx", "a\r\nb", "\ufeff=1+1", "a\u2028b", 'a"\r"b', "x\r"])
def test_csv(tmp_path, answers):
    path = written(tmp_path, ".csv", answers)
    assert by_source(path) == without_nul(answers)
    csv.field_size_limit(1 << 20)
    with path.open(newline="", encoding="utf-8") as file:
        assert [row["answer"] for row in csv.DictReader(file)] == answers
    with path.open(
        encoding="utf-8"
    ) as file:  # without newline="" the ends of lines in texts are made equal, as documented
        plain = [text.replace("\r\n", "\n").replace("\r", "\n") for text in answers]
        assert [row["answer"] for row in csv.DictReader(file)] == plain
    options = pa_csv.ParseOptions(newlines_in_values=True)
    if not any("\0" in text for text in answers):
        kept = pa_csv.ConvertOptions(column_types={"answer": "string"})
        table = pa_csv.read_csv(path, parse_options=options, convert_options=kept)
        assert table.column("answer").to_pylist() == answers


def test_the_lines_of_a_csv_file_end_in_a_line_feed(tmp_path):
    path = written(tmp_path, ".csv", ["a\r\n", "b"])
    head, first, second, third, last = path.read_bytes().split(b"\n")
    assert head.decode() == ",".join(RESULT_COLUMNS)
    assert (first, second[:2], third[:4], last) == (b'0,"a\r', b'",', b"1,b,", b"")
    assert not any(line.endswith(b"\r") for line in (head, second, third))


@EVERY
@given(st.lists(HARD, min_size=1, max_size=5))
@example(["a\u2028b", "a\x85b", "\ufeffa"])
def test_json_lines(tmp_path, answers):
    path = written(tmp_path, ".jsonl", answers)
    assert by_source(path) == without_nul(answers)
    text = path.read_text(encoding="utf-8")
    assert [json.loads(line)["answer"] for line in text.splitlines()] == answers, (
        "also for readers that know more line ends"
    )
    assert [json.loads(line)["answer"] for line in text.split("\n")[:-1]] == answers
    kept = pa_json.ParseOptions(explicit_schema=pa.schema([("answer", pa.string())]))
    assert pa_json.read_json(path, parse_options=kept).column("answer").to_pylist() == answers


@settings(EVERY, max_examples=30)  # each takes ten times as long as a text file
@given(st.lists(HARD, min_size=1, max_size=5))
def test_parquet(tmp_path, answers):
    path = written(tmp_path, ".parquet", answers)
    assert by_source(path) == without_nul(answers)
    assert pq.read_table(path).column("answer").to_pylist() == answers


@EVERY
@given(st.lists(HARD, min_size=1, max_size=5))
@example(["a\rb", "c"])
def test_tab_separated_values_of_another_program_are_read(tmp_path, answers):
    path = tmp_path / "in.tsv"
    text = io.StringIO()
    writer = csv.writer(text, dialect="excel-tab")
    writer.writerow(["prompt"])
    writer.writerows([one] for one in answers)
    path.write_bytes(text.getvalue().encode())
    found = Source(str(path)).rows()
    assert [None if isinstance(row, BadRow) else row.prompt for row in found] == without_nul(answers)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet"])
def test_half_a_pair_of_surrogates_becomes_a_question_mark(tmp_path, ending):
    path = written(tmp_path, ending, ["half \ud83d\r", "whole 😀", "\udc80x"])
    assert by_source(path) == ["half ?\r", "whole 😀", "?x"]
