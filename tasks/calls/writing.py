"""The run's answer while its model writes it: piece by piece to those who watch, and never more than will be in the answer."""

from collections.abc import Collection

from pydantic_core import from_json

from consensus_flows.tasks.calls.redact import before_secret, is_distinctive
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.watch import Piece, emit


class Writer:
    """Passes on what a call writes, over all of its attempts."""

    def __init__(self, request: Request, member: str) -> None:
        self._request = request
        self._member = member
        self._secrets: Collection[str] = ()
        self._text = ""
        self._due = 0.0
        self._sent = ""

    @property
    def begun(self) -> bool:
        """Whether this attempt has written something."""
        return bool(self._text)

    def begin(self, secrets: Collection[str]) -> None:
        """Begin an attempt, in whose text `secrets` are to be kept back."""
        self._secrets = [secret for secret in secrets if is_distinctive(secret)]
        self._text, self._due = "", 0.0

    async def write(self, text: str) -> None:
        """Pass on what is new of the answer with the next part of what is written."""
        self._text += text
        # All of it is read again, so of a long text not after every word.
        if len(self._text) >= self._due:
            self._due = len(self._text) * 1.01
            answer = answer_in(before_secret(self._text, self._secrets), self._request)
            if not self._sent.startswith(answer):  # else it was made again, and is so far the same
                await self._send(answer)

    async def end(self, text: str) -> None:
        """Pass on what is left when the call has ended well with `text`: all of it, where it was not streamed."""
        await self._send(answer_in(text, self._request))

    async def _send(self, answer: str) -> None:
        start = len(self._sent) if answer.startswith(self._sent) else 0
        if answer[start:]:
            self._sent = answer
            await emit("wrote", Piece(answer[start:], self._member, start))


def answer_in(text: str, request: Request) -> str:
    """Return as much of the run's answer as stands in `text`, which may not be complete."""
    if not request.answer_in:
        return text.strip() if request.reader else text
    try:
        fields = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return ""
    found = fields.get(request.answer_in) if isinstance(fields, dict) else None
    return found.strip() if isinstance(found, str) else ""
