"""Tells a stored answer of ours from anything else that may lie in its place."""

import json
from typing import Any

from prefect.serializers import JSONSerializer
from prefect.utilities.importtools import to_qualified_name
from pydantic_core import from_json

from consensus_flows.tasks.calls.request import Answer

_ANSWER = to_qualified_name(Answer)


def is_answer_record(content: bytes) -> bool:
    """Tell whether a stored record is whole and may be left to Prefect, without running anything that it names."""
    try:
        from_json(content)  # the parser that Prefect reads records with
        record = json.loads(content.decode(), object_pairs_hook=_plain)
        # Exactly these two: Prefect reads a serializer beside them too, from the days of an older format.
        if set(record) != {"metadata", "result"}:
            return False
        # Read as Prefect does: for each object, whatever order it comes in, a `__class__` is called.
        payload = json.loads(record["result"], object_pairs_hook=_plain)
        if set(payload) != {"__class__", "data"} or payload["__class__"] != _ANSWER:
            return False
        Answer.model_validate(payload["data"])  # knows no field `__class__` at any depth, and forbids others
        serializer = record["metadata"]["serializer"]
        return bool(serializer.get("type") == "json" and serializer.items() <= JSONSerializer().model_dump().items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; of a key that comes twice, one reader may see the first and another the last."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key comes twice")
    return fields
