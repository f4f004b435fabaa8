"""Numbers that a parser of JSON dies of: the row is refused by name, and --skip-bad goes on with the others."""

import io
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consensus_flows.tasks.batches.formats import json_numbers
from consensus_flows.tasks.batches.formats.json_file import read_json_array
from consensus_flows.tasks.batches.row import Item
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.errors import ConfigurationError

REFUSED = {
    "9" * 5000: "is too large",
    "-" + "9" * 5000: "is too large",
    "1e999999": "is too large",
    "1e99999999999999999999": "is too large",
    "-1E+99999999999999999999": "is too large",
    "NaN": "NaN is no JSON value",
    "Infinity": "is too large",
    "-Infinity": "is too large",
    "[" * 100_000 + "]" * 100_000: "nested deeper than 64 levels",
    '{"a":' * 100_000 + "1" + "}" * 100_000: "nested deeper than 64 levels",
}


@pytest.mark.parametrize("number", REFUSED, ids=lambda number: number[:12])
def test_one_item_is_refused_and_the_others_are_read(tmp_path, number):
    path = tmp_path / "in.json"
    path.write_text(f'[{{"prompt": "a"}}, {{"prompt": "b", "n": {number}}}, {{"prompt": "c"}}]')
    inventory = Source(str(path)).inspect()
    assert (inventory.rows, [bad.line for bad in inventory.bad]) == (2, [2])
    assert REFUSED[number] in inventory.bad[0].message and inventory.bad[0].where == "in.json item 2"
    lines = tmp_path / "in.jsonl"
    lines.write_text(f'{{"prompt": "a"}}\n{{"prompt": "b", "n": {number}}}\n{{"prompt": "c"}}\n')
    inventory = Source(str(lines)).inspect()
    assert (inventory.rows, [bad.line for bad in inventory.bad]) == (2, [2])


@pytest.mark.parametrize("padding", [0, 60_000, 65_500])
@pytest.mark.parametrize(
    "number",
    [
        "1e-99999999999999999999",
        "0." + "1" * 100_000,
        "9" * 4300,
        "-" + "9" * 4300,
        "-0.0",
        "1E3",
        "0." + "0" * 99_990 + "1e99990",
    ],
)
def test_numbers_that_can_be_held_are_what_they_are_in_json_lines(tmp_path, number, padding):
    path = tmp_path / "in.json"
    path.write_text(f'[{{"prompt": "b{"x" * padding}", "n": {number}}}]')
    (row,) = Source(str(path)).rows()
    assert row.columns["n"] == json.loads(number)


def test_a_number_without_end_takes_no_memory_and_no_time(tmp_path):
    path = tmp_path / "in.json"
    path.write_text('[{"prompt": "a", "n": ' + "7" * 20_000_000 + '}, {"prompt": "b"}]')
    assert [row.columns["prompt"] for row in Source(str(path)).rows() if hasattr(row, "columns")] == ["b"]


@pytest.mark.parametrize("word", ["x" * 3_000_000, "1e" + "0" * 3_000_000 + "x", "-" * 3_000_000, "1e" * 1_500_000])
@pytest.mark.timeout(20)
def test_nothing_takes_more_than_its_length(tmp_path, word):
    path = tmp_path / "in.json"
    path.write_text(f'[{{"prompt": "a", "n": {word}}}, {{"prompt": "b"}}]')
    try:
        found = [bad.line for bad in Source(str(path)).inspect().bad]
    except ConfigurationError as error:
        found = [1] if "broken JSON at item 1" in error.message else []
    assert found == [1], "what is no number is refused, if not as such then as one that is too large"


@pytest.mark.parametrize("broken", ["1e", "--1", "01", "nan", "1.e5", "0x10", "1_000", "+1"])
def test_what_is_no_number_at_all_breaks_the_array_and_names_the_item(tmp_path, broken):
    path = tmp_path / "in.json"
    path.write_text(f'[{{"prompt": "a"}}, {{"prompt": "b", "n": {broken}}}]')
    with pytest.raises(ConfigurationError, match="broken JSON at item 2"):
        Source(str(path)).inspect()


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 9), st.booleans())
@example(["\\", '"1e99999999999"', "9" * 5000], 1, True)
@example(['\\\\"', {"NaN": "Infinity, -Infinity", "9" * 4001: 1}], 2, False)
def test_wherever_a_piece_of_the_file_ends_nothing_else_is_touched(values, piece, ascii_only):
    text = json.dumps(values, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_numbers, "_CHUNK", piece)
        numbers = json_numbers.Numbers(io.BytesIO(text))
        assert b"".join(iter(numbers.read, b"")) == text


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 4096])
def test_numbers_are_replaced_wherever_a_piece_ends(monkeypatch, piece):
    monkeypatch.setattr(json_numbers, "_CHUNK", piece)
    text = f'[{"8" * 9000}, NaN, -Infinity, 1e12345678901, "NaN {"8" * 9000}", -{"8" * 9000}, 7, {"8" * 4301}]'
    found = [item.value for item in read_json_array(io.BytesIO(text.encode())) if isinstance(item, Item)]
    assert math.isnan(found.pop(1))
    assert found == [math.inf, -math.inf, math.inf, f"NaN {'8' * 9000}", -math.inf, 7, math.inf]
