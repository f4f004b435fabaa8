"""Scripts and log of a server, safe to use from any thread."""

from __future__ import annotations

import threading
from typing import Any

from .prompt_cache import PromptCache
from .script import Kind, Script, SeenRequest, Step

LISTING = "/models"
"""Name under which requests for the list of models are scripted."""

ANY = "*"
"""Name under which every model without a script of its own is scripted."""


class Ledger:
    """What models are told to answer and what they were asked."""

    def __init__(self) -> None:
        """Start empty."""
        self.together = 0
        """Answers are held until so many requests have been in flight at once, however long they take to arrive."""
        self.in_flight = 0
        self.in_flight_peak = 0
        self._lock = threading.Lock()
        self._scripts: dict[str, Script] = {}
        self._seen: list[SeenRequest] = []
        self._counts: dict[tuple[Kind, str], int] = {}
        self._prompts = PromptCache()

    def script(self, model: str, *steps: Step, then: Step | None = None) -> Script:
        """Say what requests for a model are answered, replacing what was said before.

        Args:
            model: Model name, ``"*"`` for all models without a script, ``"/models"`` for listing models,
                ``"/batches/create"`` and the like for requests to a batch API.
            steps: Answers in order.
            then: What answers once they are used up; None gives the default reply.

        Returns:
            The script, which tells how many steps are left.
        """
        made = Script(*steps, then=then)
        with self._lock:
            self._scripts[model] = made
        return made

    @property
    def seen(self) -> list[SeenRequest]:
        """All requests so far in order of arrival, listings included."""
        with self._lock:
            return list(self._seen)

    def count(self, model: str | None = None, *, kind: Kind = "chat") -> int:
        """Count requests.

        Args:
            model: Model to count; None counts all.
            kind: Kind to count; by default generations, the ones that cost money.

        Returns:
            How many arrived, answered or not.
        """
        with self._lock:
            return sum(n for (of, name), n in self._counts.items() if of == kind and model in (None, name))

    def reset(self) -> None:
        """Forget scripts, log and counts; requests in flight go on unlogged."""
        with self._lock:
            self._scripts.clear()
            self._seen.clear()
            self._counts.clear()
            self._prompts = PromptCache()
            self.in_flight_peak = self.in_flight
            self.together = 0

    def summary(self) -> dict[str, Any]:
        """The log as plain JSON values: what ``GET /_seen`` answers."""
        with self._lock:
            log = [
                {"path": one.path, "model": one.model, "kind": one.kind, "at": one.at, "status": one.status}
                for one in self._seen
            ]
            chats = {name: n for (kind, name), n in self._counts.items() if kind == "chat"}
        return {
            "count": sum(chats.values()),
            "by_model": chats,
            "in_flight_peak": self.in_flight_peak,
            "requests": log,
        }

    def note(self, seen: SeenRequest) -> Step | None:
        """Log a request, number it, and take its step."""
        with self._lock:
            key = (seen.kind, seen.model)
            seen.index = self._counts.get(key, 0)
            self._counts[key] = seen.index + 1
            self._seen.append(seen)
            if seen.kind == "chat":
                self._prompts.count(seen)
            if seen.kind == "models":
                script = self._scripts.get(LISTING)
            elif seen.kind == "batches":
                script = self._scripts.get(seen.model)
            else:
                script = self._scripts.get(seen.model) or self._scripts.get(ANY)
        return None if script is None else script.next()

    def scripted(self) -> list[str]:
        """Names of the models that have scripts."""
        with self._lock:
            return [name for name in self._scripts if name != ANY and not name.startswith("/")]

    def begin(self) -> None:
        """Count a request as in flight; server's thread only."""
        self.in_flight += 1
        self.in_flight_peak = max(self.in_flight_peak, self.in_flight)

    def end(self, seen: SeenRequest, status: int) -> None:
        """Count a request as over; server's thread only."""
        self.in_flight -= 1
        self.answered(seen, status)

    def answered(self, seen: SeenRequest, status: int) -> None:
        """Note how a request was answered, and keep its prompt if it was."""
        seen.status = status
        if seen.kind == "chat" and status == 200:
            with self._lock:
                self._prompts.keep(seen)
