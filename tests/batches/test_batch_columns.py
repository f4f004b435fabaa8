"""From rows to prompts: columns, templates, whatever a text holds, and all of it in constant memory."""

import csv
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus_flows.tasks.batches.columns import Template
from consensus_flows.tasks.batches.rows import Row
from consensus_flows.tasks.batches.source import LOOKED_AT, Source
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.batch_input_kit import ROOT, good, refused, rows_of, written


def test_the_column_of_the_prompt(tmp_path):
    assert good(written(tmp_path, "a.csv", "question,prompt\nq,p\n"))[0].prompt == "p"
    assert good(written(tmp_path, "a.csv", "question,x\nq,p\n"))[0].prompt == "q"
    assert good(written(tmp_path, "a.csv", "x\np\n"))[0].prompt == "p"
    assert good(written(tmp_path, "a.csv", "x,y\nq,p\n"), prompt_column="y")[0].prompt == "p"
    path = written(tmp_path, "a.csv", "x,y\nq,p\n")
    assert refused(path) == (
        "prompt_column: name the column that is the prompt, or give prompt_template; the columns are 'x', 'y'"
    )
    assert refused(path, prompt_column="z") == "prompt_column: no column 'z'. The columns are 'x', 'y'"
    assert refused(path, prompt_column="x", id_column="z").startswith("id_column: no column 'z'")
    assert "not both" in refused(path, prompt_column="x", prompt_template="{x}")


def test_a_column_that_no_row_has_is_found_at_the_end_of_a_long_file(tmp_path):
    many = "".join(f'{{"x": "{number}"}}\n' for number in range(LOOKED_AT + 50))
    assert "prompt_column: no column 'y'" in refused(written(tmp_path, "a.jsonl", many), prompt_column="y")
    path = written(tmp_path, "b.jsonl", many + '{"y": "late"}\n')
    assert [row.prompt for row in rows_of(path, prompt_column="y") if isinstance(row, Row)] == ["late"]
    with pytest.raises(ConfigurationError, match="id_column: no column 'key'"):
        Source(str(path), prompt_column="y", id_column="key").inspect()


def test_semicolons_of_a_spreadsheet(tmp_path):
    path = written(tmp_path, "a.csv", "id;prompt\n1;one, two\n")
    assert good(path)[0].columns == {"id": "1", "prompt": "one, two"}


def test_templates(tmp_path):
    path = written(
        tmp_path, "a.jsonl", '{"a": "x", "b": 2, "c": {"d": [true]}, "e": ""}\n{"a": "x", "b": null}\n{"b": 1}'
    )
    found = rows_of(path, prompt_template="{a} {{{b}}} {c}{e}!")
    assert found[0].prompt == 'x {2} {"d": [true]}!'
    assert [row.message for row in found[1:]] == ["column 'b' is empty", "column 'a' is missing"]
    assert "prompt_template: no column 'zz'. The columns are 'a', 'b'" in refused(path, prompt_template="{zz}")


@pytest.mark.parametrize(
    "template", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>9}", "{a:{b}}", "{}", "{ }", "{0.a}", "{", "}", "no column"]
)
def test_a_template_reaches_into_nothing(template):
    with pytest.raises(ConfigurationError, match=r"^prompt_template: "):
        Template(template)


@given(st.dictionaries(st.sampled_from("abc"), st.text(), min_size=3), st.text(alphabet="xyz {}", max_size=20))
def test_a_template_fills_in_what_the_columns_hold(columns, literal):
    escaped = literal.replace("{", "{{").replace("}", "}}")
    assert Template(f"{escaped}{{a}}{escaped}{{b}}").fill(columns) == f"{literal}{columns['a']}{literal}{columns['b']}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    st.lists(st.text().filter(lambda text: text.strip() and "\0" not in text and _utf8(text)), min_size=1, max_size=8)
)
def test_whatever_a_prompt_holds_comes_back(tmp_path, prompts):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts), encoding="utf-8")
    assert [row.prompt for row in good(path)] == prompts
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"prompt": prompt} for prompt in prompts]), encoding="utf-8")
    assert [row.prompt for row in good(path)] == prompts
    path = tmp_path / "q.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "prompt"], *([number, prompt] for number, prompt in enumerate(prompts))])
    assert [row.prompt for row in good(path)] == prompts


def _utf8(text: str) -> bool:
    return text.encode("utf-8", "ignore").decode() == text


_MEASURE = """
import sys
from consensus_flows.tasks.batches.source import Source
from tests.kits.memory import peak_kb
before = peak_kb()
inventory = Source(sys.argv[1], id_column="id").inspect()
after = peak_kb()
print(inventory.rows, inventory.size, (after - before) // 1024, after // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read in /proc")
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_a_hundred_thousand_rows_of_a_kilobyte_are_read_in_constant_memory(tmp_path, ending):
    count, text = 100_000, "0123456789" * 100
    path = tmp_path / f"many{ending}"
    with path.open("w", encoding="utf-8") as file:
        if ending == ".csv":
            file.write("id,prompt\n")
            file.writelines(f"{number},{text}\n" for number in range(count))
        else:
            start, between, end = ("[", ",\n", "]") if ending == ".json" else ("", "\n", "")
            file.write(start)
            file.writelines(
                f'{between if number else ""}{{"id": {number}, "prompt": "{text}"}}' for number in range(count)
            )
            file.write(end)
    try:
        ran = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
        )
    finally:
        path.unlink()
    rows, characters, grown, peak = map(int, ran.stdout.split())
    assert (rows, characters) == (count, count * 1000)
    assert grown < 60, f"{grown} MB for {path.name}"  # 11 MB of it are the digests of the ids
    assert peak < 500
