"""A small generator of values that satisfy a JSON schema, for default structured answers.

It knows what structured-output schemas use: objects, arrays, strings, numbers, integers, booleans, null, enum,
const, references, unions, nullable, ranges and lengths, in lower-case or Gemini's upper-case type names. It does not
know ``pattern``, ``not`` or conditional schemas.
"""

from __future__ import annotations

import math
import random
from typing import Any, cast

_DEPTH = 8
_FORMATS = {
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "date-time": "2026-01-02T03:04:05Z",
    "uuid": "00000000-0000-4000-8000-000000000001",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "duration": "PT1S",
    "ipv4": "127.0.0.1",
}


def example(schema: dict[str, Any], *, seed: str = "") -> object:
    """Make a value that satisfies a schema.

    Args:
        schema: The JSON schema.
        seed: Equal seeds give equal values; other seeds vary numbers and choices within what is allowed.

    Returns:
        A JSON value.
    """
    return _Maker(schema, random.Random(seed)).make(schema, 0, "value")


class _Maker:
    def __init__(self, root: dict[str, Any], rng: random.Random) -> None:
        self._root = root
        self._rng = rng

    def make(self, schema: object, depth: int, name: str) -> object:
        if not isinstance(schema, dict):
            return name  # the schemas `true` and {} allow anything
        node = self._flatten(cast("dict[str, Any]", schema))
        if "const" in node:
            return node["const"]
        if node.get("enum"):
            return self._rng.choice(node["enum"])
        for union in ("anyOf", "oneOf"):
            if node.get(union):
                return self.make(self._branch(node, union, depth), depth, name)
        match self._type(node, depth):
            case "object":
                return self._object(node, depth)
            case "array":
                return self._array(node, depth, name)
            case "integer":
                return self._integer(node)
            case "number":
                return self._number(node)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case _:
                return self._string(node, name)

    def _flatten(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Follow references and merge ``allOf``."""
        node = dict(schema)
        while "$ref" in node:
            node = self._lookup(str(node.pop("$ref"))) | node
        for part in node.pop("allOf", []):
            other = self._flatten(part)
            properties = {**other.get("properties", {}), **node.get("properties", {})}
            required = [*other.get("required", []), *node.get("required", [])]
            node = other | node
            if properties:
                node |= {"properties": properties, "required": required}
        return node

    def _lookup(self, reference: str) -> dict[str, Any]:
        node: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step:
                node = node[step.replace("~1", "/").replace("~0", "~")]
        return dict(node)

    def _branch(self, node: dict[str, Any], union: str, depth: int) -> dict[str, Any]:
        rest = {key: value for key, value in node.items() if key != union}
        branches = [rest | self._flatten(branch) for branch in node[union]]
        if depth >= _DEPTH:
            return min(branches, key=lambda branch: self._type(branch, depth) in ("object", "array"))
        return next((branch for branch in branches if self._type(branch, depth) != "null"), branches[0])

    def _type(self, node: dict[str, Any], depth: int) -> str:
        kind: Any = node.get("type")
        if isinstance(kind, list):
            kinds = [str(one).lower() for one in cast("list[object]", kind)]
            if depth >= _DEPTH and "null" in kinds:
                return "null"
            return next((one for one in kinds if one != "null"), "null")
        if kind is not None:
            return "null" if depth >= _DEPTH and node.get("nullable") else str(kind).lower()
        if "properties" in node:
            return "object"
        if "items" in node or "prefixItems" in node:
            return "array"
        return "number" if "minimum" in node or "maximum" in node else "string"

    def _object(self, node: dict[str, Any], depth: int) -> dict[str, object]:
        properties: dict[str, Any] = node.get("properties", {})
        required: list[str] = node.get("required", [])
        wanted = [key for key in properties if depth < _DEPTH or key in required]
        made = {key: self.make(properties[key], depth + 1, key) for key in wanted}
        extra = node.get("additionalProperties")
        for key in required:
            if key not in made:
                made[key] = self.make(extra, depth + 1, key)
        for number in range(len(made), int(node.get("minProperties", 0))):
            made[f"key_{number}"] = self.make(extra, depth + 1, "value")
        return made

    def _array(self, node: dict[str, Any], depth: int, name: str) -> list[object]:
        made = [self.make(item, depth + 1, name) for item in node.get("prefixItems", [])]
        least = int(node.get("minItems", 0))
        most = int(node.get("maxItems", max(least, 2)))
        length = least if depth >= _DEPTH else max(least, min(2, most))
        tries = 0
        while len(made) < length and node.get("items", True) is not False:
            item = self.make(node.get("items"), depth + 1, f"{name}_{len(made) + tries}")
            if node.get("uniqueItems") and item in made and tries < 100:
                tries += 1
                continue
            made.append(item)
        return made

    def _bounds(self, node: dict[str, Any], step: float) -> tuple[float, float]:
        low: float | None = node.get("minimum")
        high: float | None = node.get("maximum")
        above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
        if isinstance(above, (int, float)) and not isinstance(above, bool):
            low = above + step if low is None else max(low, above + step)
        if isinstance(below, (int, float)) and not isinstance(below, bool):
            high = below - step if high is None else min(high, below - step)
        if low is None:
            low = 0 if high is None or high >= 0 else high - 1
        return low, low + 1 if high is None else high

    def _integer(self, node: dict[str, Any]) -> int:
        low, high = self._bounds(node, 1)
        unit = int(node.get("multipleOf", 1))
        first, last = math.ceil(low / unit), math.floor(high / unit)
        return unit * self._rng.randint(first, max(first, last))

    def _number(self, node: dict[str, Any]) -> float:
        low, high = self._bounds(node, 1e-6)
        unit = node.get("multipleOf")
        if unit:
            first, last = math.ceil(low / unit), math.floor(high / unit)
            return float(unit * self._rng.randint(first, max(first, last)))
        return min(high, max(low, round(low + (high - low) * self._rng.random(), 4)))

    def _string(self, node: dict[str, Any], name: str) -> str:
        made = _FORMATS.get(str(node.get("format")))
        if made is None:
            made = f"{name} {self._rng.randrange(1000)}"
            made = made.ljust(int(node.get("minLength", 0)), ".")[: int(node.get("maxLength", 1_000_000))]
        return made
