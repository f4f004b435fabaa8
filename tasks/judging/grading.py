"""One question, one grade: how hard it is, in a small model's judgement, before anything dear is asked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from consensus_flows.blocks.member import ModelName
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.judging.judge import JudgeRequest, ask_judge
from consensus_flows.tasks.judging.judgements import Difficulty
from consensus_flows.tasks.record import Grade

_grade: ContextVar[Grade | None] = ContextVar("grade", default=None)


async def grade(
    question: str, model: ModelName, call: Call, *, conversation: Sequence[Message] = (), timeout: float = 120.0
) -> Grade:
    """Let a model grade a question; one that fails gives no level, and the question gets the whole panel.

    Args:
        question: The question.
        model: Who grades.
        call: Makes the calls.
        conversation: Earlier turns.
        timeout: Seconds that one attempt may take.
    """
    asked = JudgeRequest(question=question, conversation=conversation, timeout=timeout)
    request = asked.request(model, "grade", Difficulty, f"grade · {model}")
    made, calls = await ask_judge(request, call, Difficulty.read, member=f"grader {model}")
    return Grade(
        model=str(model),
        level=made.level if made else None,
        reason=made.reason if made else (calls[-1].error.message if calls[-1].error else ""),
        calls=calls,
    )


@contextmanager
def graded_as(made: Grade) -> Iterator[None]:
    """Let the run that begins in the block have this grade."""
    token = _grade.set(made)
    try:
        yield
    finally:
        _grade.reset(token)


def take_grade() -> Grade | None:
    """Return the grade of the run that begins, once: a run inside it has none."""
    made = _grade.get()
    _grade.set(None)
    return made
