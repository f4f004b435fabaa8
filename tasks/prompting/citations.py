"""The sources that models name for what they say: read from a list, and put together over several answers.

Nothing is looked up: a source is the model's own word.
"""

import re
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, Field

_BULLET = re.compile(r"[ \t]*(?:[-*•][ \t]+|(?=\[?\^?\d{1,3}(?:\]|[.)][ \t])))")
_MARK = re.compile(r"\[?\^?\d{1,3}(?:\]:?|[.)](?=\s))\s*")
_NONE = re.compile(r"\W*(?:none|n/a|no sources?)\W*\Z", re.IGNORECASE)


class Citation(BaseModel):
    """A source and who has named it."""

    source: str
    members: list[str] = Field(default_factory=list)


def read_sources(text: str) -> list[str]:
    """List the sources in `text`, one a line, as they were written, without bullets.

    A number before a source, like `[1]`, is kept, because the answer refers to it. In a list with bullets or numbers, a
    line without one goes on with the source before it. A list that only says that there are none is empty.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    listed = any(_BULLET.match(line) for line in lines)
    parts: list[list[str]] = []
    for line in lines:
        found = _BULLET.match(line)
        said = (line[found.end() :] if found else line).strip()
        if listed and not found and parts:
            parts[-1].append(said)
        elif said:
            parts.append([said])
    sources = [" ".join(part) for part in parts]
    return [] if len(sources) == 1 and _NONE.match(sources[0]) else sources


def put_together(named: Iterable[tuple[str, Sequence[str]]]) -> list[Citation]:
    """Return each source once, in the order in which they were first named, with all who named it.

    Args:
        named: For each member its name and its sources. Numbers before them are left out, for each member has its own.
    """
    found: dict[str, Citation] = {}
    for member, sources in named:
        for source in sources:
            plain = _MARK.sub("", source, count=1) if _MARK.match(source) else source
            key = plain.casefold()
            citation = found.get(key) or found.setdefault(key, Citation(source=plain))
            if plain and member not in citation.members:
                citation.members.append(member)
    return [citation for citation in found.values() if citation.source]
