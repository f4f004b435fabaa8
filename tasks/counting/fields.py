"""Votes on the answers of members that are JSON, field by field; plain functions, exact, with a stated rule for everything.

- Each property of the schema is a field, those of nested objects by their path (`address.city`). A list is one value: it is
  compared as a whole, in its order, or without one where the schema says `uniqueItems`. So is an object without properties in its
  schema, and what has several schemas.
- Texts are compared as a vote of whole texts compares them, but exactly where the schema has an `enum`, a `const`, a `format` or a
  `pattern`. Numbers are equal by their value.
- To leave out a field, or a nested object, is a vote for that. On the fields of a nested object those vote that have it.
- Of a tie the value wins that the member of the first place gave, as in any vote.
"""

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consensus_flows.blocks.answer_schema import object_schema, resolved
from consensus_flows.blocks.extraction import Extraction
from consensus_flows.tasks.counting.extraction.extract import extract
from consensus_flows.tasks.counting.vote import Tally, count_votes
from consensus_flows.tasks.readers import SCHEMA, UnreadableError, json_object, reader

LEFT_OUT: Any = type("LeftOut", (), {"__repr__": lambda _: "left out"})()
"""The value of a field that is not there."""
OBJECT = "object"
"""What a nested object counts as, whose fields are voted on by themselves."""
_EXACT = ("enum", "const", "format", "pattern")
_TEXT = Extraction("text")


@dataclass(frozen=True)
class FieldCount:
    """The votes on one field."""

    path: str
    """Its name; of a field in a nested object the names from the outermost one, with dots between them."""
    tally: Tally
    written: Mapping[Hashable, Any]
    """For each value as the first member that gave it wrote it; `LEFT_OUT` for none."""

    @property
    def value(self) -> Any:
        """The value that has won."""
        assert self.tally.winner is not None
        return self.written[self.tally.winner.value]


@dataclass
class FieldVotes:
    """The answer that was put together, and the votes on each of its fields, in the order of the schema."""

    answer: dict[str, Any]
    fields: list[FieldCount] = field(default_factory=list)


def vote_by_field(
    values: Sequence[dict[str, Any] | None],
    schema: Mapping[str, Any],
    weights: Sequence[float] | None = None,
    places: Sequence[int] | None = None,
) -> FieldVotes:
    """Count the votes on each field, and put the answer together.

    Args:
        values: What each member answered; None for one that could not be read. One at least is not.
        schema: The JSON schema of the answer.
        weights: What each member's vote counts; one vote each by default.
        places: The place of each member in the order in which they win ties.
    """
    made = FieldVotes({})

    def decide(path: str, keys: Sequence[Hashable | None], given: Sequence[Any]) -> Any:
        tally = count_votes(keys, weights, places)
        written = {key: one for key, one in zip(reversed(keys), reversed(given), strict=True) if key is not None}
        count = FieldCount(path, tally, written)
        nested = tally.winner is not None and tally.winner.value == OBJECT
        if not nested or len(tally.counts) > 1:
            made.fields.append(count)
        return count.value

    def of_object(inner: Mapping[str, Any], given: Sequence[dict[str, Any] | None], above: str) -> dict[str, Any]:
        properties: dict[str, Any] = {name: {} for one in given if one for name in one}
        properties = {**inner["properties"], **{n: {} for n in properties if n not in inner["properties"]}}
        found = {}
        for name, sub in properties.items():
            value = of_value(
                sub, [None if one is None else (one.get(name, LEFT_OUT),) for one in given], f"{above}{name}"
            )
            if value is not LEFT_OUT:
                found[name] = value
        return found

    def of_value(sub: Any, given: Sequence[tuple[Any] | None], path: str) -> Any:
        plain = [None if one is None else one[0] for one in given]
        inner = object_schema(sub, schema)
        if inner is None:
            return decide(path, [None if one is None else _key(one[0], sub, schema) for one in given], plain)
        objects = [isinstance(one, dict) for one in plain]
        keys = [
            None if one is None else OBJECT if whole else _key(one[0], sub, schema)
            for one, whole in zip(given, objects, strict=True)
        ]
        value = decide(path, keys, plain)
        if not isinstance(value, dict):
            return value
        return of_object(inner, [one if whole else None for one, whole in zip(plain, objects, strict=True)], f"{path}.")

    root = object_schema(schema, schema)
    assert root is not None
    made.answer = of_object(root, values, "")
    return made


def _key(value: Any, sub: Any, root: Mapping[str, Any]) -> Hashable:
    """Return what is compared of a value: equal for two that are the same."""
    sub = resolved(sub, root)
    rule: Mapping[str, Any] = sub if isinstance(sub, Mapping) else {}
    if value is LEFT_OUT or value is None or isinstance(value, bool):
        return "constant", repr(value)
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, str):
        reading = None if any(name in rule for name in _EXACT) else extract(value, _TEXT)
        return "text", value.strip() if reading is None else reading.value
    if isinstance(value, list):
        items = [_key(one, rule.get("items", {}), root) for one in value]
        return "list", frozenset(items) if rule.get("uniqueItems") else tuple(items)
    known = rule.get("properties", {})
    return "object", frozenset((name, _key(one, known.get(name, {}), root)) for name, one in value.items())


@reader(SCHEMA)
def read_json_answer(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object in what a member wrote, which satisfies the schema.

    A null where the schema allows a field to be left out and not to be null stands for leaving it out: models write that.

    Raises:
        UnreadableError: If there is none, naming what is wrong with it.
    """
    found: dict[str, Any] = _without_nulls(json_object(text), schema, schema)
    if wrong := next(violations(found, schema), None):
        raise UnreadableError(wrong)
    return found


def violations(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """Say in a sentence each where a value does not satisfy a JSON schema."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(value):
        where = ".".join(map(str, error.absolute_path))
        yield f"{where or 'the object'}: {error.message[:300]}"


def _without_nulls(value: Any, sub: Any, root: Mapping[str, Any]) -> Any:
    inner = object_schema(sub, root)
    if inner is None or not isinstance(value, dict):
        return value
    properties, required = inner["properties"], inner.get("required", ())
    return {
        name: _without_nulls(one, properties.get(name, {}), root)
        for name, one in value.items()
        if one is not None or name in required or name not in properties or _is_valid(None, properties[name], root)
    }


def _is_valid(value: Any, sub: Any, root: Mapping[str, Any]) -> bool:
    """Tell whether a value satisfies a part of a schema, which may refer to the definitions of the whole."""
    definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
    return next(violations(value, {**definitions, "allOf": [sub]}), None) is None


def as_json(value: Any) -> str:
    """Write an answer, or a field's value, as JSON."""
    return json.dumps(value, ensure_ascii=False)
