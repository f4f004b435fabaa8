"""The JSON schema of an answer whose fields are voted on by themselves."""

from collections.abc import Mapping
from typing import Any


def object_schema(sub: Any, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of an object whose properties are named, behind references and beside `null`; None for anything else."""
    sub = resolved(sub, root)
    if not isinstance(sub, Mapping):
        return None
    if isinstance(sub.get("properties"), Mapping):
        return sub
    several = sub.get("anyOf") or sub.get("oneOf") or ()
    others = [one for one in several if resolved(one, root) != {"type": "null"}]
    return object_schema(others[0], root) if len(others) == 1 else None


def resolved(sub: Any, root: Mapping[str, Any]) -> Any:
    """Follow references within the schema, `#/$defs/NAME`; a circle of nothing but references leads nowhere."""
    for _ in range(20):
        reference = sub.get("$ref") if isinstance(sub, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return sub
        sub = root
        for part in reference[2:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            sub = sub.get(name) if isinstance(sub, Mapping) else None
    return None


def schema_fault(schema: Any) -> str | None:
    """Say why answers cannot be voted on by the fields of a schema; None where they can."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"it is no JSON schema: {error.message[:200]}"
    if object_schema(schema, schema) is None or schema.get("type", "object") != "object":
        return 'it must be one of an object with properties: {"type": "object", "properties": {...}}'
    return None
