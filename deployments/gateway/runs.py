"""The runs of the gateway: identical requests under way share one, and a client that leaves ends none."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from consensus_flows.deployments.gateway.errors import GatewayError
from consensus_flows.deployments.gateway.panels import Panel
from consensus_flows.deployments.killed_runs import RunKeeper
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.history.writing import Conversation, continuing
from consensus_flows.tasks.record import NoAnswerError, Record
from consensus_flows.tasks.watch import watched_by

REMEMBER_S = 600.0
"""Seconds for which a retried request finds the run that it has started, where no answer comes from the cache."""
CONVERSATIONS = 10_000
"""Conversations that a request can continue."""
ALIVE_S = 15.0
"""Seconds after which a client hears that nothing has happened."""


class Happened(NamedTuple):
    """What happened in a run; see `consensus_flows.tasks.watch`."""

    event: str
    value: Any


class GatewayRun:
    """A run under way, or one that has just ended; any number of clients look on. It is a watcher of its flow."""

    def __init__(
        self, panel: Panel, prompt: str, messages: Sequence[Message], conversation: Conversation, *, pieces: bool
    ) -> None:
        self.panel = panel
        self.conversation = conversation
        self.ended_at: float | None = None
        self._events: list[Happened] = []
        self._news = asyncio.Event()
        self.outcome: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._keeper = RunKeeper()
        self._pieces = pieces
        self.task = asyncio.create_task(self._run(prompt, messages))

    @property
    def done(self) -> bool:
        """Whether its record is known, or why there is none."""
        return self.outcome.done()

    async def started(self) -> str:
        """Wait until the run has begun, and return its id.

        Raises:
            Exception: Why it could not begin.
        """
        async for happened in self.events():
            if happened is not None and happened.event == "started":
                return str(happened.value.flow_run_id)
        return str((await self.record()).flow_run_id)

    async def record(self) -> Record:
        """Wait for the record, also of a run without an answer.

        Raises:
            Exception: Why there is none.
        """
        return await asyncio.shield(self.outcome)

    async def events(self, alive: float = ALIVE_S) -> AsyncIterator[Happened | None]:
        """Return what happens, from the beginning until the record is known; None after each `alive` seconds of silence."""
        position = 0
        while True:
            news = self._news
            while position < len(self._events):
                position += 1
                yield self._events[position - 1]
            if self.done:
                return
            try:
                async with asyncio.timeout(alive):
                    await news.wait()
            except TimeoutError:
                yield None

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event."""
        await self._keeper.on_event(event, value)
        if event == "recorded":  # what Prefect does at the end of a run holds up no client
            self._end(value)
        self._tell(Happened(event, value))

    async def _run(self, prompt: str, messages: Sequence[Message]) -> None:
        flow = self.panel.algorithm.flow()
        conversation = self.conversation if self.panel.in_conversation else None
        try:
            with watched_by(self, pieces=self._pieces), continuing(conversation):
                self._end(await flow(prompt, self.panel.config, conversation=list(messages)))
        except NoAnswerError as error:
            self._end(error.record or error)
        except BaseException as error:
            stopped = GatewayError(
                503, "the gateway was stopped; answers that were paid for are cached", "stopped", retry=True
            )
            self._end(error if isinstance(error, Exception) else stopped)
            if not isinstance(error, Exception):
                raise
        finally:
            await asyncio.to_thread(self._keeper.close)

    def _end(self, outcome: Record | Exception) -> None:
        if self.done:
            return
        self.ended_at = time.monotonic()
        if isinstance(outcome, Record):
            self.outcome.set_result(outcome)
        else:
            self.outcome.set_exception(outcome)
            self.outcome.exception()  # or asyncio would report it where the client has left
        self._tell()

    def _tell(self, *happened: Happened) -> None:
        self._events += happened
        news, self._news = self._news, asyncio.Event()
        news.set()


class Runs:
    """All runs of the gateway."""

    def __init__(self) -> None:
        self._known: dict[str, GatewayRun] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()

    def ask(
        self,
        panel: Panel,
        messages: Sequence[Message],
        *,
        pieces: bool = False,
        retried: bool = False,
        after: Conversation | None = None,
    ) -> GatewayRun:
        """Ask a panel, or look on where the same is being asked.

        Args:
            panel: Who is asked.
            messages: The conversation; the last message is the question.
            pieces: Whether the client reads the answer while it is written.
            retried: Whether the client says that it has sent this request before.
            after: The conversation up to the turn that this one follows, where the client names it.
        """
        self._forget()
        *before, question = messages
        key = _digest([panel.algorithm.name, panel.config.model_dump(mode="json")], messages)
        known = self._known.get(key)
        if known is not None and (retried or not known.done):
            return known
        earlier = before[:-1] if before and before[-1].only_attaches else before  # the files are this question's
        continued = after or (self._conversations.get(_digest([], earlier)) if earlier else None)
        conversation = Conversation() if continued is None else Conversation(continued.id, continued.parent, earlier)
        run = self._known[key] = GatewayRun(panel, question.content, before, conversation, pieces=pieces)
        self._working.add(run.task)
        run.task.add_done_callback(self._working.discard)
        run.outcome.add_done_callback(lambda _: self._remember(run, messages))
        return run

    async def finish(self, stop_at: float) -> None:
        """Wait for the runs under way, and cancel those that are not done at `stop_at`, by the monotonic clock."""
        if self._working:
            _, late = await asyncio.wait(self._working, timeout=max(stop_at - time.monotonic(), 0.0))
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    @property
    def under_way(self) -> int:
        """How many runs there are."""
        return len(self._working)

    def _remember(self, run: GatewayRun, messages: Sequence[Message]) -> None:
        """Remember a conversation by all that was said in it: clients send no id, but every message each time."""
        made = run.conversation
        if made.messages and made.messages[-1].role == "assistant" and made.parent is not None:
            self._conversations[_digest([], [*messages, made.messages[-1]])] = Conversation(made.id, made.parent)
            while len(self._conversations) > CONVERSATIONS:
                self._conversations.popitem(last=False)

    def _forget(self) -> None:
        """Forget runs that have ended: their answers are cached. Those that use no cache are kept for a retried request."""
        now = time.monotonic()
        for key, run in list(self._known.items()):
            if run.ended_at is not None and now - run.ended_at > (REMEMBER_S if run.panel.config.fresh else 0.0):
                del self._known[key]


def _digest(beside: list[Any], messages: Sequence[Message]) -> str:
    document = [*beside, *(message.model_dump(mode="json") for message in messages)]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
