"""One way to ask a judge: what it is sent, what is asked for again, and who stands in for it."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.judging.judgements import Judgement
from consensus_flows.tasks.prompts import fill, prompt
from consensus_flows.tasks.readers import UnreadableError, read_with, reader
from consensus_flows.tasks.record import CallError, Response

TEXT = "text"
"""Name of `read_text` in requests."""
LONG = 1_000
"""Characters from which an answer is not asked for inside JSON."""
_MARKER = re.compile(r"\[(?:end )?(?:answer|consensus) [^\[\]\n]{1,40} [0-9a-f]{12}\]")
_FORM = re.compile(r"```|\\[\w()\[\]]|\$\$|^[ \t]*\||^(?: {4}|\t)\S|\A\s*\{[\s\S]*\}\s*\Z", re.MULTILINE)
"""Code, a formula, a table or a JSON object: what suffers from being escaped."""

Made = TypeVar("Made")
Asked = tuple[Made | None, list[Response]]
"""What was read, or None; and every call made for it, the last one of which says why there is nothing."""


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """What judges know of a question, whatever they are to say about the answers.

    Attributes:
        question: The question, which always reaches the judge.
        system: Instructions that the members had.
        conversation: Earlier turns, without instructions.
        sampling: Sampling settings of the judges.
        timeout: Seconds that one attempt may take.
        seed: Decides the order of the answers and the tag that fences them.
        label: What the round is called in the UI.
        history: The best answers of earlier rounds, which the members have seen.
        final: Whether the answer that is made becomes that of the run.
    """

    question: str
    system: str | None = None
    conversation: Sequence[Message] = ()
    sampling: Sampling = field(default_factory=Sampling)
    timeout: float = 120.0
    seed: str = "0"
    label: str = ""
    history: Sequence[str] = ()
    final: bool = False

    def without_files(self) -> "JudgeRequest":
        """Return what is known of the question without the files that it is about, for who reads answers alone."""
        turns = [one.model_copy(update={"attachments": ()}) for one in self.conversation if not one.only_attaches]
        return replace(self, conversation=turns)

    def fill(self, name: str, **fields: object) -> str:
        """Return the prompt file `name` with the question, the members' instructions and `fields` in it."""
        round_note = prompt("later_round" if self.history else "first_round")
        return fill(name, question=self.question, instructions=self.system or "", round=round_note, **fields)

    def request(
        self,
        model: ModelName,
        name: str,
        judgement: type[Judgement],
        label: str,
        sample: int = 0,
        *,
        answer_in: str | None = None,
        **fields: object,
    ) -> Request:
        """Return the request for a judgement by the prompt files `name` and `name`_system.

        Args:
            model: Who judges.
            name: The prompt file.
            judgement: What is to be written.
            label: What the call is called in the UI.
            sample: Tells apart instances of one model.
            answer_in: In which field of the judgement the answer of the run stands, if it does.
            fields: What else the prompt holds.
        """
        return Request(
            provider=model.provider,
            model=model.model,
            messages=(
                Message(role="system", content=prompt(f"{name}_system")),
                *self.conversation,
                Message(role="user", content=self.fill(name, **fields)),
            ),
            sampling=self.sampling,
            response_schema=judgement.json_schema(),
            reader=judgement.reader,
            sample=sample,
            label=label,
            timeout=self.timeout,
            answer_in=answer_in,
        )


async def ask_judge(
    request: Request,
    call: Call,
    read: Callable[[str], Made],
    *,
    again: str = "ask_again",
    shown: bool = True,
    **options: Any,
) -> Asked[Made]:
    """Ask a judge, and once more, with what was wrong, where its answer cannot be read.

    Args:
        request: What it is asked; its `reader` should read the same, so that only what can be read is stored.
        call: Makes the calls.
        read: Reads the judge's text; raises UnreadableError, whose message the judge is shown.
        again: The prompt file that says what was wrong.
        shown: Whether the judge is shown again what it wrote.
        options: Passed on to `call`.
    """
    calls: list[Response] = []
    for _ in range(2):
        response = await call(request, **options)
        calls.append(response)
        if response.error is None:
            try:
                return read_with(read, response.text or ""), calls
            except UnreadableError as error:
                response.error = CallError(kind="malformed", message=f"{request.name}: malformed: {error.message}")
        cause = _cause(response, read)
        if cause is None:
            break
        request = _once_more(request, response, fill(again, error=cause), shown=shown)
    return None, calls


def _cause(response: Response, read: Callable[[str], Any]) -> str | None:
    """Say what was wrong with what a judge wrote; None where asking again is of no use: a broken transfer is not its fault."""
    assert response.error is not None
    if response.error.kind == "truncated":
        return prompt("cut_off")
    if response.error.kind == "malformed" and response.text:
        try:
            read_with(read, response.text)
        except UnreadableError as error:
            return error.message
    return None


def _once_more(request: Request, response: Response, wrong: str, *, shown: bool) -> Request:
    """Return the request to ask with again; an answer that was cut off gets twice the room."""
    *before, last = request.messages
    said: tuple[Message, ...]
    if response.text and shown:
        said = (last, Message(role="assistant", content=response.text), Message(role="user", content=wrong))
    else:  # two turns of one side in a row are refused by some servers
        said = (last.model_copy(update={"content": f"{last.content}\n\n{wrong}"}),)
    sampling = request.sampling
    if response.error and response.error.kind == "truncated" and sampling.max_output_tokens:
        sampling = sampling.model_copy(update={"max_output_tokens": sampling.max_output_tokens * 2})
    update = {"messages": (*before, *said), "sampling": sampling, "label": f"{request.label} · again"}
    return request.model_copy(update=update)


async def first_of(models: Sequence[ModelName], ask: Callable[[ModelName], Awaitable[Asked[Made]]]) -> Asked[Made]:
    """Ask a judge, and where it fails each fallback in order."""
    calls: list[Response] = []
    for model in models:
        made, asked = await ask(model)
        calls += asked
        if made is not None:
            return made, calls
    return None, calls


@reader(TEXT)
def read_text(text: str) -> str:
    """Return `text` without blanks around it.

    Raises:
        UnreadableError: If it is empty, or holds the markers of `consensus_flows.tasks.prompting.fence`: then it repeats what it was shown.
    """
    if not text.strip():
        raise UnreadableError("it is empty")
    if _MARKER.search(text):
        raise UnreadableError("it repeats the markers between which the answers were quoted")
    return text.strip()


async def ask_for_text(request: Request, call: Call, **options: Any) -> Asked[str]:
    """Ask for a plain text. Where it cannot be used, the model is not shown it again: it would repeat it."""
    return await ask_judge(request, call, read_text, again="ask_again_text", shown=False, **options)


def in_json(answers: Sequence[str]) -> bool:
    """Tell whether an answer made of `answers` can stand in a JSON object; a long one, code, or a formula suffers there.

    The answers decide by majority, so that one member's flood does not cost a call more.
    """
    return 2 * sum(len(text) > LONG or bool(_FORM.search(text)) for text in answers) < len(answers)


async def ask_for_answer(request: Request, verdict: str, call: Call, *, final: bool, **options: Any) -> Asked[str]:
    """Ask a judge for the answer, as plain text, that follows from its verdict.

    The question and the answers come first, exactly as they did before, so that vendors take them from their cache.

    Args:
        request: The request of the verdict.
        verdict: What the judge wrote.
        call: Makes the calls.
        final: Whether it is the answer of the run.
        options: Passed on to `call`.
    """
    asked = (Message(role="assistant", content=verdict), Message(role="user", content=prompt("write_answer")))
    update = {
        "messages": (*request.messages, *asked),
        "response_schema": None,
        "reader": TEXT,
        "label": f"{request.label} · answer",
        "answer_in": "" if final else None,
    }
    return await ask_for_text(request.model_copy(update=update), call, **options)
