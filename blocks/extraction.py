"""How the answer is read out of what a model wrote: `number`, `choice`, `json`, `json:FIELD`, `label:A,B`, `text`, `exact`, `llm`."""

import re
import string
from typing import Literal, NamedTuple, get_args

from consensus_flows.blocks.spelling import did_you_mean

Kind = Literal["number", "choice", "json", "label", "text", "exact", "llm"]

FORMS = "number, choice, choice:A-D, json, json:FIELD, label:A,B, text, text:FIELD, exact, exact:FIELD or llm"
"""The forms that `parse_extraction` reads, for people."""

_ALONE: dict[str, Kind] = {
    "number": "number",
    "choice": "choice",
    "json": "json",
    "text": "text",
    "exact": "exact",
    "llm": "llm",
}
_OF_FIELD: dict[str, Kind] = {"json": "json", "text": "text", "exact": "exact"}


class Extraction(NamedTuple):
    """A way to read an answer; `field` is that of a JSON object, `labels` are the answers that there can be, if known."""

    kind: Kind
    field: str | None = None
    labels: tuple[str, ...] = ()


def parse_extraction(text: str) -> Extraction:
    """Read the name of an extraction, for example `json:answer`.

    Raises:
        ValueError: If there is no such extraction, or what it needs is missing.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if name in _ALONE and not colon:
        return Extraction(_ALONE[name])
    if name in _OF_FIELD and rest:
        return Extraction(_OF_FIELD[name], rest)
    if name == "choice" and colon:
        bounds = re.fullmatch(r"([A-Z])\s*-\s*([A-Z])", rest.upper())
        if bounds is None or bounds[1] >= bounds[2]:
            raise ValueError(f"{text!r} needs the first and the last letter, for example choice:A-D")
        first, last = map(string.ascii_uppercase.index, bounds.groups())
        return Extraction("choice", labels=tuple(string.ascii_uppercase[first : last + 1]))
    if name == "label":
        labels = tuple(label.strip() for label in rest.split(","))
        if len(labels) < 2 or not all(labels):
            raise ValueError(f"{text!r} needs two or more labels, for example label:yes,no")
        if len({label.casefold() for label in labels}) < len(labels):
            raise ValueError(f"{text!r} names a label twice")
        return Extraction("label", labels=labels)
    raise ValueError(f"unknown extraction {text!r}.{did_you_mean(name, get_args(Kind))} Use one of {FORMS}")
