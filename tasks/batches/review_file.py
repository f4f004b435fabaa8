"""The review of a batch: the file and the page of rows to look at, and the decisions that come back.

Decisions are kept in a file beside the output, so that a batch that is run again has them too. Those that were written into
a review file and not applied yet are carried over when it is written anew.
"""

import fcntl
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

from consensus_flows.tasks.addresses import place_of
from consensus_flows.tasks.batches.addresses import journal_path
from consensus_flows.tasks.batches.journal import Finished
from consensus_flows.tasks.batches.output import check_output, ending_of, write_file, write_rows
from consensus_flows.tasks.batches.results import flat_answers
from consensus_flows.tasks.batches.review import Decision, abstained, decided, now, reasons, unsure
from consensus_flows.tasks.batches.review_page import write_page
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.errors import ConfigurationError

DECISIONS = ".decisions"
PAGE = ".html"
_BEFORE = ("id", "reasons", "question", "answer", "decision")
_AFTER = ("confidence", "confidence_measure", "votes", "split_fields", "panel_answer", "dissent", "error", "warnings")
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.,]+\Z)")
"""What a spreadsheet would calculate; a number is left alone."""


def check_review(address: str, output: str) -> None:
    """Check that a review can be written to an address.

    Raises:
        ConfigurationError: If not.
    """
    check_output(address, "review", page=True)
    if place_of(address, "review").path == place_of(output, "output").path:
        raise ConfigurationError(f"review: {address} is the output: name another file")


def question_digest(prompt: str) -> str:
    """Return what tells a question from another one of the same id."""
    return hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:16]


def read_decisions(output: str) -> dict[str, Decision]:
    """Return the decisions about an output, by the id of the row."""
    place = place_of(output + DECISIONS, "output")
    try:
        text = place.fs.cat_file(place.path)
    except FileNotFoundError:
        return {}
    return {name: Decision(*one) for name, one in json.loads(text).items()}


class Reviewer:
    """Applies the rule of abstention and people's decisions to finished rows, and collects those to look at.

    Args:
        output: Address of the output.
        review: Address of the review file, or of the page alone; None for neither.
        abstain_below: The least share with which an answer stands.
        review_below: The least probability with which an answer needs no look.
        prompt_of: Returns the prompt of a row's own columns.
    """

    def __init__(
        self,
        output: str,
        review: str | None,
        abstain_below: float | None,
        review_below: float | None,
        prompt_of: Callable[[dict[str, Any]], str],
    ) -> None:
        self._output, self._review, self._prompt_of = output, review, prompt_of
        self._abstain_below, self._review_below = abstain_below, review_below
        self._decisions = read_decisions(output)
        self._pending = _pending(review) if review else {}
        self._members: dict[str, None] = {}
        self._rows = tempfile.TemporaryFile(  # noqa: SIM115 - it is closed where this is left
            "w+", encoding="utf-8", errors="replace", prefix="consensus-review-"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def reviewed(self, one: Finished) -> Finished:
        """Return a row as it is in the output."""
        result = unsure(abstained(one.result, self._abstain_below), self._review_below)
        why = reasons(result)
        if not why and not self._decisions:
            return one._replace(result=result)
        prompt = self._prompt_of(one.own)
        decision = self._decisions.get(result["id"])
        if decision is not None and decision.question != question_digest(prompt):
            decision = None
        result = decided(result, decision)
        if why and self._review:
            self._members.update(dict.fromkeys(result.get("answers") or {}))
            pending = self._pending.get(result["id"])
            written = pending[1] if pending and pending[0] == prompt else decision.answer if decision else ""
            row = {**result, "reasons": why, "question": prompt, "decision": written}
            self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        return one._replace(result=result)

    def write(self, of: int) -> None:
        """Write the review file and its page, when all rows have gone by.

        Args:
            of: How many rows the batch has.

        Raises:
            OSError: If that fails.
        """
        if self._review is None:
            return
        file, page = self._review, re.sub(r"(\.\w+?)(\.gz)?\Z", PAGE, self._review)
        if file == page:
            file = ""
        else:
            flat = ending_of(file, "review") not in {".jsonl", ".ndjson"}
            members = list(self._members) if flat else ["answers"]
            columns = [*_BEFORE, *members, *_AFTER, "output"]
            write_rows(file, (self._shown(row, flat=flat) for row in self._all()), columns)
        title = place_of(self._output, "output").name
        name = place_of(file, "review").name if file else ""
        write_file(page, lambda path: write_page(path, self._all(), title=title, file=name, of=of))

    def _all(self) -> Iterator[dict[str, Any]]:
        self._rows.seek(0)
        return map(json.loads, self._rows)

    def _shown(self, row: dict[str, Any], *, flat: bool) -> dict[str, Any]:
        made = {name: row.get(name) for name in (*_BEFORE, *_AFTER)}
        made["output"] = self._output
        if not flat:
            return made | {"answers": row["answers"]}
        made |= {"reasons": ", ".join(row["reasons"]), **flat_answers(row)}
        return {name: _no_formula(value) for name, value in made.items()}


def _no_formula(value: Any) -> Any:
    """Return a text so that a spreadsheet does not calculate it: this file is opened by people."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _pending(review: str) -> dict[str, tuple[str, str]]:
    """Return the question and the decision of each row of a review file that has one."""
    place = place_of(review, "review")
    if review.endswith(PAGE) or not place.fs.exists(place.path):
        return {}
    return {row["id"]: (row["question"], row["decision"]) for row in _decided_rows(review)}


def _decided_rows(review: str) -> Iterator[dict[str, str]]:
    for row in Source(review).records():
        if missing := [name for name in ("id", "question", "decision") if name not in row]:
            raise ConfigurationError(f"review: {review} has no column {missing[0]!r}: it is not a review file")
        plain = {name: "" if value is None else str(value) for name, value in row.items()}
        if plain["decision"].strip():
            yield plain | {"question": _as_asked(plain["question"])}


def _as_asked(question: str) -> str:
    return question[1:] if question[:1] == "'" and _FORMULA.match(question[1:]) else question


class Applied(NamedTuple):
    """What came of the decisions in a review file."""

    output: str
    rows: int
    """Rows of the output that have a decision now."""
    unknown: list[str]
    """Ids that are not in the output."""


def apply_review(review: str, output: str | None, by: str) -> Applied:
    """Bring the decisions of a review file into the output, and keep them for later runs of the batch.

    Args:
        review: The review file.
        output: The output; None for the one that the file names.
        by: Who decided.

    Raises:
        ConfigurationError: If there is no decision, or the output cannot be used.
        OSError: If something cannot be written; the output is then as it was.
    """
    rows = list(_decided_rows(review))
    if not rows:
        raise ConfigurationError(f"review: {review} has no decisions: write them into the column 'decision'")
    address = output or rows[0].get("output") or ""
    if not address:
        raise ConfigurationError(f"review: {review} does not name its output: give --output")
    _check_idle(address)
    decisions = read_decisions(address)
    for row in rows:
        digest, answer = question_digest(row["question"]), row["decision"].strip()
        before = decisions.get(row["id"])
        if before is None or (before.question, before.answer) != (digest, answer):
            decisions[row["id"]] = Decision(digest, answer, by, now())
    columns: dict[str, None] = {}
    found: set[str] = set()
    for one in Source(address).records():
        columns.update(dict.fromkeys(one))
        found.add(str(one.get("id")))
    known = {name: one for name, one in decisions.items() if name in found}
    text = json.dumps(decisions, indent=1, ensure_ascii=False) + "\n"
    write_file(address + DECISIONS, lambda path: path.write_bytes(text.encode("utf-8", "replace")))
    write_rows(address, _with_decisions(Source(address).records(), known), list(columns))
    return Applied(address, len(known), [row["id"] for row in rows if row["id"] not in found])


def _with_decisions(rows: Iterable[Mapping[str, Any]], decisions: Mapping[str, Decision]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield decided(row, decisions.get(str(row.get("id"))))


def _check_idle(output: str) -> None:
    """Check that no batch is at work on an output.

    Raises:
        ConfigurationError: If one is.
    """
    with suppress(FileNotFoundError), journal_path(output).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"output: a batch is writing {output}: apply the review when it has ended"
            ) from None
