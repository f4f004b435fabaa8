"""Files of questions and of recorded answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consensus_flows.deployments.terminal import Stop, read_text
from consensus_flows.tasks.json_text import parse
from consensus_flows.tasks.reports.recorded import Recorded, numbered


def read_queries(path: Path) -> list[str]:
    """Return the questions in a file: a JSON list of texts, or one a line; blank lines are left out.

    Raises:
        Stop: If it cannot be read, or holds something else.
    """
    text = read_text(path, "--queries")
    if not text.startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    found = _json(text, path, "--queries")
    if not found or not all(isinstance(query, str) and query.strip() for query in found):
        raise Stop(f'--queries {path} must be a JSON list of questions, ["Why?", "How?"], or hold one a line')
    return [str(query) for query in found]


def read_references(paths: Sequence[Path]) -> list[Recorded]:
    """Return the recorded answers of all files; those to the same question are put together.

    A file is a JSON list of texts, an object of texts by member, the record of a run, the evaluation files of
    AlpacaEval and of togethercomputer/MoA (`instruction`, `output`, `generator`), or JSONL of `prompt` and `answers`.

    Raises:
        Stop: If a file cannot be read, or holds something else.
    """
    answers: dict[str | None, dict[str, str | None]] = {}
    for path in paths:
        text = read_text(path, "--reference")
        for prompt, found in _recorded(text, path):
            _add(answers.setdefault(prompt, {}), found, path)
    return [Recorded(prompt=prompt, answers=found) for prompt, found in answers.items()]


Answers = dict[str, str | None] | list[str | None]


def _recorded(text: str, path: Path) -> list[tuple[str | None, Answers]]:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in lines):
        return [_entry(_json(line, path, "--reference"), path) for line in lines]
    value = _json(text, path, "--reference")
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [_entry(item, path) for item in value]
    if isinstance(value, dict) and ("answers" in value or "iterations" in value):
        return [_entry(value, path)]
    return [(None, _answers(value, path))]


def _entry(value: Any, path: Path) -> tuple[str | None, Answers]:
    """Read one question with its answers."""
    prompt = value.get("prompt", value.get("instruction"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise _wrong(path)
    if "iterations" in value:
        return prompt, _first_round(value, path)
    if "output" in value:
        text, author = value["output"], value.get("generator")
        return prompt, _answers({author: text} if isinstance(author, str) else [text], path)
    return prompt, _answers(value.get("answers"), path)


def _first_round(record: dict[str, Any], path: Path) -> Answers:
    """Return the answers of a run's first round; what failed then has none."""
    try:
        responses = record["iterations"][0]["responses"]
        return _answers({one["member"]: None if one.get("error") else one["text"] for one in responses}, path)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _wrong(path) from None


def _answers(value: Any, path: Path) -> Answers:
    texts = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(texts, list) or not texts or not all(text is None or isinstance(text, str) for text in texts):
        raise _wrong(path)
    return value  # type: ignore[no-any-return]


def _add(known: dict[str, str | None], found: Answers, path: Path) -> None:
    if isinstance(found, list):  # whose they are is not known, so the count goes on over all files
        known |= dict(list(numbered([*([None] * len(known)), *found]).items())[len(known) :])
        return
    for name, text in found.items():
        if name in known:
            raise Stop(f"--reference {path}: {name!r} has answered the same question twice: leave one answer")
        known[name] = text


def _json(text: str, path: Path, option: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise Stop(f"{option} {path} is not valid JSON: {error}") from None


def _wrong(path: Path) -> Stop:
    return Stop(
        f"--reference {path} holds no recorded answers: write a JSON list of texts, an object of texts by member, or "
        'JSONL of {"prompt": "...", "answers": {...}}'
    )
