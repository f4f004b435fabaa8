"""Votes on each field of JSON answers: what is a field, what is the same, who wins, and what comes of it satisfies the schema."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.blocks.answer_schema import schema_fault
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.tasks.counting.fields import read_json_answer, violations, vote_by_field
from consensus_flows.tasks.readers import UnreadableError, check_readable

TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def of(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


INVOICE = of(
    {
        "number": {"type": "string", "pattern": "^[A-Z]+-[0-9]+$"},
        "total": NUMBER,
        "vendor": of({"name": TEXT, "city": TEXT}, "name"),
        "items": {"type": "array", "items": TEXT},
        "tags": {"type": "array", "items": TEXT, "uniqueItems": True},
        "note": TEXT,
    },
    "number",
    "total",
)


def shares(found: Any) -> dict[str, float]:
    return {one.path: round(one.tally.share or 0, 2) for one in found.fields}


def test_every_field_is_voted_on_by_itself():
    found = vote_by_field(
        [
            {"number": "A-1", "total": 12.5, "items": ["a", "b"]},
            {"number": "A-1", "total": 12, "items": ["a", "b"]},
            {"number": "A-2", "total": 12.50, "items": ["b", "a"]},
        ],
        INVOICE,
    )
    assert found.answer == {"number": "A-1", "total": 12.5, "items": ["a", "b"]}, "nobody gave just this answer"
    assert shares(found) == {"number": 0.67, "total": 0.67, "vendor": 1, "items": 0.67, "tags": 1, "note": 1}


def test_what_is_the_same():
    found = vote_by_field(
        [
            {"number": "A-1", "total": 1, "note": "Paid in full.", "tags": ["x", "y"], "items": ["Nut", "bolt"]},
            {"number": "a-1", "total": 1.0, "note": "paid in full", "tags": ["y", "x"], "items": ["nut", "Bolt"]},
        ],
        INVOICE,
    )
    assert {one.path: one.tally.tie for one in found.fields if one.tally.tie} == {"number": True}, "a pattern is exact"
    assert found.answer["note"] == "Paid in full.", "as the first member wrote it"
    assert vote_by_field([{"a": True}, {"a": 1}], of({"a": {}})).fields[0].tally.tie, "true is not one"


def test_nested_objects_are_voted_on_by_their_fields_among_those_that_have_them():
    found = vote_by_field(
        [
            {"number": "A-1", "total": 1, "vendor": {"name": "Acme", "city": "Oslo"}},
            {"number": "A-1", "total": 1, "vendor": {"name": "Acme", "city": "Bergen"}},
            {"number": "A-1", "total": 1},
        ],
        INVOICE,
    )
    assert found.answer["vendor"] == {"name": "Acme", "city": "Oslo"}
    assert shares(found)["vendor"] == 0.67 and shares(found)["vendor.name"] == 1 and shares(found)["vendor.city"] == 0.5
    left = vote_by_field(
        [{"number": "A-1", "total": 1, "vendor": {"name": "Acme"}}] + [{"number": "A-1", "total": 1}] * 2, INVOICE
    )
    assert "vendor" not in left.answer and "vendor.name" not in shares(left)


def test_to_leave_out_a_field_is_a_vote():
    one = {"number": "A-1", "total": 1}
    found = vote_by_field([one, one | {"note": "made up"}, one], INVOICE)
    assert "note" not in found.answer and shares(found)["note"] == 0.67
    assert read_json_answer('{"number": "A-1", "total": 1, "note": null}', INVOICE) == one
    nullable = of({"note": {"type": ["string", "null"]}})
    assert read_json_answer('{"note": null}', nullable) == {"note": None}


def test_a_tie_is_decided_by_the_order_or_by_places_and_weights_count():
    values = [{"a": "x"}, {"a": "y"}]
    schema = of({"a": TEXT})
    assert vote_by_field(values, schema).answer == {"a": "x"} and vote_by_field(values, schema).fields[0].tally.tie
    assert vote_by_field(values, schema, places=[1, 0]).answer == {"a": "y"}
    assert vote_by_field(values, schema, weights=[1, 2]).answer == {"a": "y"}
    assert vote_by_field([None, {"a": "y"}], schema).answer == {"a": "y"}


def test_references_and_optional_objects_are_seen_through():
    schema = of(
        {"who": {"anyOf": [{"$ref": "#/$defs/Person"}, {"type": "null"}]}},
        **{"$defs": {"Person": of({"age": NUMBER}, "age")}},
    )
    found = vote_by_field([{"who": {"age": 3}}, {"who": {"age": 4}}, {"who": {"age": 3}}], schema)
    assert found.answer == {"who": {"age": 3}} and shares(found) == {"who.age": 0.67}
    assert vote_by_field([{"who": None}, {"who": None}, {"who": {"age": 3}}], schema).answer == {"who": None}
    itself = of({"name": TEXT, "child": {"$ref": "#"}}, "name")
    assert vote_by_field([{"name": "a", "child": {"name": "b"}}] * 2, itself).answer["child"] == {"name": "b"}


def test_what_does_not_satisfy_the_schema_cannot_be_read():
    for text, why in (
        ("no JSON", "no JSON object"),
        ('{"number": "A-1"}', "'total' is a required property"),
        ('{"number": "1", "total": 1}', "number: '1' does not match"),
        ('{"number": "A-1", "total": "1"}', "total: '1' is not of type 'number'"),
        ('{"number": "A-1", "total": 1, "vendor": {}}', "vendor: 'name' is a required property"),
    ):
        with pytest.raises(UnreadableError, match=why):
            check_readable("schema", text, INVOICE)
    check_readable("schema", 'Here it is: {"number": "A-1", "total": 1}', INVOICE)


def test_a_schema_that_has_no_fields_is_refused():
    for schema in ({"type": "array"}, {"type": "object"}, {"type": "nothing"}, {"properties": 3}):
        assert schema_fault(schema)
    assert schema_fault(INVOICE) is None
    for settings, why in (
        ({}, "answer_schema: required"),
        ({"answer_schema": {"type": "array"}}, "answer_schema: it must be"),
        ({"answer_schema": INVOICE, "stop_when": 1}, "stop_when: not used with extract json"),
    ):
        with pytest.raises(ValueError, match=why):
            VoteConfig.model_validate({"members": ["openai/a"], "extract": "json", **settings})


ANSWERS = st.fixed_dictionaries(
    {"number": st.sampled_from(["A-1", "B-2"]), "total": st.sampled_from([1, 2.5])},
    optional={
        "note": st.sampled_from(["x", "y"]),
        "vendor": st.fixed_dictionaries({"name": st.sampled_from(["a", "b"])}, optional={"city": st.just("c")}),
        "tags": st.lists(st.sampled_from("ab"), unique=True),
    },
)


@given(st.lists(ANSWERS, min_size=1, max_size=5))
def test_the_winners_of_answers_that_satisfy_the_schema_satisfy_it(values):
    found = vote_by_field(values, INVOICE)
    assert next(violations(found.answer, INVOICE), None) is None
    assert all(
        one.value in [value.get(one.path, one.value) for value in values] for one in found.fields if "." not in one.path
    )
    if all(value == values[0] for value in values):
        assert found.answer == values[0] and all(len(one.tally.counts) == 1 for one in found.fields)
