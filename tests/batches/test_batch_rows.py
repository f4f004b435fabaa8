"""Which rows a batch takes, from where, and what becomes of them outside of files: stdin, stdout, frames; lists and comparisons."""

import json

import pyarrow as pa
import pytest

from consensus_flows import batch
from consensus_flows.tasks.batches.difference import difference
from consensus_flows.tasks.batches.frames import guess_format, output_rows
from consensus_flows.tasks.batches.rows import BadRow
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.batch_kit import ONE, column, prompts, serve
from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    return commands(monkeypatch, capsys)


def test_the_first_rows_and_a_sample(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": ""}\n' + "".join(f'{{"prompt": "{n}"}}\n' for n in range(50)))

    def taken(**selection):
        return [
            row.number
            for row in Source(str(path), selection=Selection(**selection)).rows()
            if not isinstance(row, BadRow)
        ]

    assert taken(limit=3) == [1, 2, 3] and len(taken()) == len(taken(limit=99)) == len(taken(sample=99)) == 50
    some = taken(sample=5)
    assert some == sorted(set(some)) and len(some) == 5 and some == taken(sample=5) != taken(sample=5, seed=1)
    source = Source(str(path), selection=Selection(sample=5))
    assert source.inspect().rows == 5 == sum(not isinstance(row, BadRow) for row in source.rows())
    with pytest.raises(ConfigurationError, match="not both"):
        Source(str(path), selection=Selection(limit=1, sample=1))


def test_a_try_of_some_rows_a_pipe_and_the_list_of_batches(consensus, vendors, tmp_path, monkeypatch):
    serve(vendors)
    source, out, other = prompts(tmp_path, 4), tmp_path / "out.jsonl", tmp_path / "other.csv"
    assert consensus("batch", source, "-o", other, *ONE, "--sample", "2").code == 0 and vendors.count() == 2
    assert consensus("batch", source, "-o", out, *ONE).code == 0 and vendors.count() == 4, "two were stored"
    fewer = consensus("batch", source, "-o", out, *ONE, "--limit", "2")
    assert fewer.code == 2 and "has 4 rows" in fewer.err and len(column(out, "id")) == 4, (
        "a try does not replace it all"
    )
    piped = consensus("batch", "-", "-o", "-", *ONE, stdin=source.read_text())
    assert piped.code == 0 and vendors.count() == 4
    assert [json.loads(line)["id"] for line in piped.out.splitlines()] == column(out, "id")
    assert consensus("batch", "-", "-o", "-", *ONE, stdin=" ").code == 2

    listed = json.loads(consensus("batches", "--limit", "3", "--json").out)
    assert [(one["state"], one["summary"]["rows"]) for one in listed] == [
        ("finished", 4),
        ("finished", 4),
        ("finished", 2),
    ]
    assert listed[1]["output"] == str(out) and listed[1]["input"] == str(source)
    shown = consensus("batches", "show", listed[1]["id"], "--json")
    assert shown.code == 0 and json.loads(shown.out)["worst"] == []

    def flows(*options: str) -> set[str]:
        return {run["flow"] for run in json.loads(consensus("runs", "--json", "--limit", "3", *options).out)}

    assert flows() == flows("--flow", "batch") == {"batch"} and flows("--flow", "pump") == {"pump"}
    assert "pump" in flows("--rows")
    told = consensus("run", listed[0]["id"])
    assert told.code == 2 and "consensus batches show" in told.err

    compared = json.loads(consensus("diff", out, other, "--json").out)
    assert (compared["matched"], compared["changed"], len(compared["only_before"])) == (2, 0, 2)
    assert consensus("diff", out, other).code == 0


def test_a_wrong_option_is_named_as_it_was_given(consensus, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("a,b\n1,2\n")
    assert (
        "--prompt-column: name the column that is the prompt, or give --prompt-template"
        in consensus("batch", source, "-o", tmp_path / "out.csv", *ONE).err
    )


@pytest.mark.parametrize("text", ["csv", "jsonl", "json"])
def test_the_format_of_a_pipe(text):
    assert guess_format({"csv": b"prompt\nx\n", "jsonl": b'\xef\xbb\xbf {"a": 1}', "json": b"\n[1]"}[text]) == text


async def test_rows_of_a_frame_and_back(results, vendors):
    serve(vendors)
    rows = [{"id": 1, "prompt": "What is 1?", "x": None}, {"id": 2, "prompt": "What is 2?", "x": 0.5}]
    config = {"members": ["openai/a"]}
    for given in (pa.Table.from_pylist(rows), rows):
        summary = await batch(given, flow="pump", config=config)
        table = summary.to_frame("pyarrow").to_pylist()
        assert [row["id"] for row in table] == ["1", "2"] and [row["x"] for row in table] == [None, 0.5]
        assert table[0]["answers"]["openai/a"]["text"] == "a says: WHAT IS 1?"
    assert vendors.count() == 2
    with pytest.raises(ConfigurationError, match=r"^input: int is not"):
        batch(3)


def test_two_outputs_row_by_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        'id,answer,status,agreement,cost_usd,tie,votes\n1,A,finished,0.5,0.1,true,"{""A"": 1}"\n2,,failed,,,,\n'
    )
    before = list(output_rows(str(path)))
    assert before[0]["votes"] == {"A": 1} and before[0]["tie"] is True and before[1]["answer"] is None
    after = [{**before[0], "answer": "B", "agreement": 1.0}, {**before[1], "id": "3"}]
    found = difference(before, after)
    assert (found.matched, found.changed, found.only_before, found.only_after) == (1, 1, ["2"], ["3"])
    assert (found.changes[0].before, found.changes[0].after) == ("A", "B")
    assert (found.agreement_before, found.agreement_after, found.cost_before_usd) == (0.5, 1.0, None)
