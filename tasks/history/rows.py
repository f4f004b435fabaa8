"""A run as rows: pure, and without a database."""

import getpass
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.wording import similarity
from consensus_flows.tasks.history.conversation import Conversation
from consensus_flows.tasks.record import Iteration, Record, Response

Row = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """The turn of a conversation that a run is."""

    conversation_id: str
    parent_id: str | None
    given: tuple[Message, ...] = ()

    @classmethod
    def of(cls, conversation: Conversation, given: Sequence[Message]) -> "Turn":
        """Return the turn after what `conversation` has seen.

        Args:
            conversation: The conversation.
            given: All messages that the run was given; those of the conversation come first.
        """
        seen = len(conversation.messages)
        return cls(conversation.id, conversation.parent, tuple(given[seen:]))


@dataclass(frozen=True)
class Entry:
    """A run that is to be written.

    Attributes:
        record: The record.
        started_at: When the run began.
        ended_at: When it ended.
        name: Name of the flow run.
        turn: The turn that it is, if it is one; it counts only if the run has an answer.
        error: Why it was broken off.
    """

    record: Record
    started_at: datetime
    ended_at: datetime
    name: str | None = None
    turn: Turn | None = None
    error: str | None = None


def run_row(entry: Entry, run_id: str, position: int) -> Row:
    """Return the row of the run itself."""
    record = entry.record
    document = record.model_dump(mode="json")
    if entry.error is not None:
        document |= {"status": "failed", "error": record.error or entry.error}
    row = {name: document[name] for name in _OF_THE_RECORD}
    return _clean(
        row
        | {
            "id": run_id,
            "position": position,
            "name": entry.name,
            "username": username(),
            "started_at": entry.started_at,
            "record": json.dumps(document, ensure_ascii=False),
        }
    )


_OF_THE_RECORD = (
    "flow_run_id",
    "flow",
    "status",
    "degraded",
    "confidence",
    "agreement",
    "cost_usd",
    "calls",
    "cached_calls",
    "duration_s",
    "conversation_id",
    "prompt",
    "answer",
    "error",
)


def iteration_rows(record: Record, run_id: str) -> list[Row]:
    """Return a row for each iteration."""
    return [_clean(_iteration_row(one, run_id)) for one in record.iterations]


def _iteration_row(iteration: Iteration, run_id: str) -> Row:
    synthesis = iteration.synthesis
    return {
        "run_id": run_id,
        "number": iteration.number,
        "duration_s": iteration.duration_s,
        "agreement": iteration.agreement,
        "confidence": synthesis.confidence if synthesis else None,
        "arbiter": synthesis.arbiter if synthesis else None,
        "chosen": synthesis.chosen if synthesis else None,
        "synthesis": synthesis.text if synthesis else None,
    }


def call_rows(entry: Entry, run_id: str) -> list[Row]:
    """Return a row for each call, failed ones included."""
    record = entry.record
    return [
        _clean(
            _call_row(call)
            | {
                "run_id": run_id,
                "position": position,
                "iteration": iteration.number,
                "role": "recorded" if call.recorded else role,
                "won": role == "member" and won(record, iteration, call),
                "agreement": shared(record, iteration, call) if role == "member" else None,
            }
        )
        for position, (iteration, role, call) in enumerate(_calls(record), 1)
    ]


def _calls(record: Record) -> Iterator[tuple[Iteration, str, Response]]:
    for one in record.iterations:
        yield from ((one, "member", call) for call in one.responses)
        yield from ((one, "embedding", call) for call in one.embeddings)
        yield from ((one, "judge", call) for call in one.judgements)


def _call_row(call: Response) -> Row:
    return {
        "member": call.member,
        "provider": call.provider,
        "model": call.model,
        "instance": call.instance,
        "error_kind": call.error.kind if call.error else None,
        "error": call.error.message if call.error else None,
        "latency_s": call.latency_s,
        "attempts": call.attempts,
        "cached": call.cached,
        "input_tokens": call.usage.input_tokens,
        "output_tokens": call.usage.output_tokens,
        "cached_input_tokens": call.usage.cached_input_tokens,
        "reasoning_tokens": call.usage.reasoning_tokens,
        "cost_usd": call.cost_usd,
        "text": call.text,
    }


def won(record: Record, iteration: Iteration, call: Response) -> bool:
    """Tell whether the run's answer is that of this call: it was chosen, had most votes, or was ranked best."""
    if not call.answered or iteration.number != record.best_iteration or iteration.synthesis is None:
        return False
    return iteration.synthesis.chosen == call.member


def shared(record: Record, iteration: Iteration, call: Response) -> float | None:
    """Return how far a call agrees with the run's answer, 0 to 1; None where there is nothing to compare with.

    Where answers were counted it is 1 for the same value and 0 for another, else the similarity of the texts.
    """
    best = next((one for one in record.iterations if one.number == record.best_iteration), None)
    # Without a synthesis nobody made one answer of all: the run's answer is a list of them.
    if best is None or best.synthesis is None or record.answer is None or not call.answered:
        return None
    if iteration.synthesis is not None and iteration.synthesis.votes:
        votes = iteration.synthesis.votes
        if not any(call.member in members for members in votes.values()):
            return None  # it abstained
        return float(call.member in votes.get(best.synthesis.value or "", []))
    return round(similarity(call.text or "", record.answer), 4)


def username() -> str:
    """Return the name of who runs this, or nothing where the system knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number that has no name
        return ""


def _clean(row: Row) -> Row:
    """Return the row with texts that every database takes: no zero character, no half of a surrogate pair."""
    return {name: clean(value) if isinstance(value, str) else value for name, value in row.items()}


def clean(text: str) -> str:
    """Return a text that every database takes."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
