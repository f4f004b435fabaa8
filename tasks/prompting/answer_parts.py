"""Divides what a model wrote into the reasoning, the answer and the sources, by markers at the beginning of a line."""

import re
from dataclasses import dataclass

from consensus_flows.tasks.record import read_sources


@dataclass(frozen=True)
class Parts:
    """What a model wrote, in parts.

    Attributes:
        answer: The answer; never empty where the text is not.
        reasoning: What stands before the answer's marker; None where nothing does, or there is no marker.
        citations: The sources.
        missing: Markers that should be there and are not, or have no answer behind them.
    """

    answer: str
    reasoning: str | None = None
    citations: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def divide(text: str, answer_marker: str = "", citations_marker: str = "") -> Parts:
    """Divide `text` at its markers; each part reaches to the next marker or the end.

    Of several lines that begin with a marker the last counts: models speak of their answer before they give it. Where no
    answer stands behind a marker of its own, it is what stands before the sources.

    Args:
        text: What the model wrote.
        answer_marker: What the line of the answer begins with; empty where the answer has none.
        citations_marker: What the line above the sources begins with; empty where no sources are asked for.
    """
    found = {marker: match for marker in (answer_marker, citations_marker) if (match := _last(text, marker))}
    starts = sorted(match.start() for match in found.values())

    def behind(marker: str) -> str:
        if marker not in found:
            return ""
        match = found[marker]
        end = next((start for start in starts if start > match.start()), len(text))
        return text[match.end() : end].strip()

    before, answer = text[: starts[0]].strip() if starts else text.strip(), behind(answer_marker)
    missing = [marker for marker in (answer_marker, citations_marker) if marker and marker not in found]
    if answer_marker in found and not answer:
        missing.append(answer_marker)
    if not answer and not before:  # nothing but sources: then they are what was said
        return Parts(text.strip(), missing=tuple(missing))
    return Parts(
        answer or before,
        reasoning=(before or None) if answer else None,
        citations=tuple(read_sources(behind(citations_marker))),
        missing=tuple(missing),
    )


def _last(text: str, marker: str) -> re.Match[str] | None:
    """Find the last line that begins with `marker`, in whatever case and emphasis."""
    marker = marker.strip()
    if not marker:
        return None
    words = re.escape(marker.removesuffix(":").strip())
    # Models write the same marker as a heading, in bold, or alone on its line without the colon.
    end = r"[*_ \t]*(?::[*_ \t]*|$)" if marker.endswith(":") else r"[ \t]*"
    matches = list(re.finditer(rf"^[#>*_ \t-]*{words}{end}", text, re.IGNORECASE | re.MULTILINE))
    return matches[-1] if matches else None
