"""Prompt sets: how every member of any flow is prompted beside the question, as files that a person edits.

A set may add to the system prompt, stand before and after what is asked, show examples (few-shot prompting, Brown et al.,
arXiv:2005.14165), ask for the steps of thought (chain of thought, Wei et al., arXiv:2201.11903) or for sources, and say
by which markers these are kept apart from the answer.
"""

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.files import place
from consensus_flows.tasks.record import Response, RunWarning, read_sources

FOLDER = "CONSENSUS_PROMPT_SETS"
"""The environment variable that names the folder of one's own sets; one of them hides a shipped one of the same name."""
SUFFIX = ".toml"
_SHIPPED = Path(__file__).parent.parent / "prompts" / "sets"


class Example(BaseModel):
    """A question and how it should be answered."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    user: str = Field(min_length=1)
    assistant: str = Field(min_length=1)


class PromptSet(BaseModel):
    """How members are prompted, and how what they write is divided."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    description: str = ""
    """What the set is for; it is not sent."""
    system: str = ""
    """Added to the end of the system prompt."""
    before: str = ""
    """Stands before what is asked, in every round."""
    after: str = ""
    """Stands after what is asked, in every round."""
    examples: tuple[Example, ...] = ()
    """Turns that stand first, right after the system prompt."""
    answer_marker: str = ""
    """The line from which the answer begins; what stands before it is the reasoning."""
    citations_marker: str = ""
    """The line after which the sources stand."""

    def prompted(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return `messages` as a member is sent them; the last one is what is asked."""
        said = [message.content for message in messages[:1] if message.role == "system"]
        system = "\n\n".join(text for text in (*said, self.system) if text)
        *earlier, last = messages[len(said) :]
        asked = "\n\n".join(text for text in (self.before, last.content, self.after) if text)
        return (
            *([Message(role="system", content=system)] if system else []),
            *(turn for example in self.examples for turn in _turns(example)),
            *earlier,
            last.model_copy(update={"content": asked}),
        )

    def divided(self, response: Response) -> Response:
        """Return `response` with the answer as its text and the rest kept apart; what has no marker stays whole."""
        if response.text is None or response.error is not None or not (self.answer_marker or self.citations_marker):
            return response
        parts = divide(response.text, self.answer_marker, self.citations_marker)
        return response.model_copy(
            update={
                "text": parts.answer,
                "reasoning": parts.reasoning,
                "citations": list(parts.citations),
                "warnings": [
                    *response.warnings,
                    *(_unmarked(response.member, marker) for marker in parts.missing),
                ],
            }
        )


def _unmarked(member: str, marker: str) -> RunWarning:
    message = f"{member} has nothing marked {marker!r}: not kept apart"
    return RunWarning(kind="unmarked", message=message, member=member)


def prompt_set(name: str) -> PromptSet:
    """Read the prompt set `name`.

    Args:
        name: A name, or the path of a file.

    Raises:
        ConfigurationError: If there is none, naming those there are, or what is wrong in the file.
    """
    path = path_of(name)
    try:
        return PromptSet.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", field="prompt_set") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False)]
        raise ConfigurationError(f"{path}: {'; '.join(lines)}", field="prompt_set") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, or nested without end
        raise ConfigurationError(f"{path} is not TOML: {error}", field="prompt_set") from None


def is_path(name: str) -> bool:
    """Tell whether `name` is the path of a file, and not the name of a set."""
    return name.endswith(SUFFIX) or "/" in name or os.sep in name


def path_of(name: str) -> Path:
    """Return the file of the prompt set `name`: a path as it is, a name in one's own folder and then the shipped one.

    Raises:
        ConfigurationError: If a name is not found, naming those there are; or if a deployed run may not read the file.
    """
    if is_path(name):
        own_folder = os.environ.get(FOLDER)
        return place(name, "prompt_set", *([Path(own_folder).expanduser().resolve()] if own_folder else []))
    sets = prompt_sets()
    if name not in sets:
        own = os.environ.get(FOLDER)
        missing = (
            f" ({FOLDER} names {own!r}, which is not a folder)" if own and not Path(own).expanduser().is_dir() else ""
        )
        raise ConfigurationError(
            f"unknown prompt set {name!r}.{did_you_mean(name, sets)} Use one of {', '.join(sets)}{missing}, or the path of a file",
            field="prompt_set",
        )
    return sets[name]


def prompt_sets() -> dict[str, Path]:
    """Return the file of every prompt set that has a name, in the order of the names."""
    own = os.environ.get(FOLDER)
    folders = [_SHIPPED, *([Path(own).expanduser().resolve()] if own else [])]
    found = {path.stem: path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}"))}
    return dict(sorted(found.items()))


def _turns(example: Example) -> tuple[Message, Message]:
    return Message(role="user", content=example.user), Message(role="assistant", content=example.assistant)


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
