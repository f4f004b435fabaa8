"""A plugin of `llm`: every saved panel is a model, under its name."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import llm
from llm.parts import AttachmentPart, StreamEvent, TextPart
from pydantic import Field

from consensus_flows.deployments.folder_settings import ignore_folder_settings
from consensus_flows.deployments.saved_names import saved_names

if TYPE_CHECKING:
    from consensus_flows.tasks.calls.request import Message
    from consensus_flows.tasks.history.writing import Conversation
    from consensus_flows.tasks.record import Attachment, Record

PREFIX = "consensus/"
PATHS = {
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "max_tokens": "sampling.max_output_tokens",
    "seed": "sampling.seed",
    "reasoning_effort": "sampling.reasoning_effort",
    "fresh": "fresh",
    "max_calls": "budget.max_calls",
    "max_cost": "budget.max_cost_usd",
}
"""For each option the path of the setting that it is."""


TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf", "text/plain"}


class PanelOptions(llm.Options):
    """Settings that lie over those of the saved panel."""

    temperature: float | None = Field(None, description="Sampling temperature of the members")
    top_p: float | None = Field(None, description="Nucleus sampling of the members")
    max_tokens: int | None = Field(None, description="Maximum number of tokens in a member's answer")
    seed: int | None = Field(None, description="Sampling seed of the members")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="Reasoning effort of the members"
    )
    fresh: bool | None = Field(None, description="Ignore cached answers: ask again, and replace them")
    max_calls: int | None = Field(None, description="Maximum number of requests of the run, including retries")
    max_cost: float | None = Field(None, description="Maximum cost of the run in US dollars")

    def settings(self) -> dict[str, Any]:
        """Return the settings that were given."""
        found: dict[str, Any] = {}
        for name, path in PATHS.items():
            if (value := getattr(self, name)) is not None:
                group, _, field = path.rpartition(".")
                (found.setdefault(group, {}) if group else found)[field] = value
        return found


@llm.hookimpl(trylast=True)
def register_models(register: Callable[..., None], model_aliases: list[llm.models.ModelWithAliases]) -> None:
    """Register every saved panel; one whose name is that of another model already has a prefix."""
    taken = {name for one in model_aliases for name in one.aliases}
    taken |= {model.model_id for one in model_aliases for model in filter(None, (one.model, one.async_model))}
    for name in saved_names():
        model_id, aliases = (PREFIX + name, []) if name in taken else (name, [PREFIX + name])
        register(Panel(model_id, name), AsyncPanel(model_id, name), aliases=aliases)


class _Saved:
    """What the model and the async model share."""

    can_stream = True
    attachment_types: Any = TYPES
    Options: Any = PanelOptions

    def __init__(self, model_id: str, name: str) -> None:
        self.model_id, self.name = model_id, name

    async def _answer(self, prompt: Any, response: Any, *, stream: bool) -> AsyncGenerator[StreamEvent, None]:
        """Run the panel: what happens comes as reasoning, the answer as text, in pieces where it is streamed.

        Raises:
            ModelError: If there is no answer.
        """
        _quiet()
        # `llm` gives the first turn a conversation only when it logs it.
        response.conversation = response.conversation or response.model.conversation()
        from consensus_flows.deployments.gateway.chat import Written, consensus_of
        from consensus_flows.deployments.gateway.errors import GatewayError
        from consensus_flows.deployments.gateway.panels import panel_of
        from consensus_flows.deployments.gateway.runs import GatewayRun
        from consensus_flows.deployments.server import connect
        from consensus_flows.deployments.terminal import explained
        from consensus_flows.deployments.view import line_of

        run: GatewayRun | None = None
        try:
            info = await asyncio.to_thread(connect)
            panel = await panel_of(self.name, prompt.options.settings(), {path: name for name, path in PATHS.items()})
            *before, question = _messages(prompt)
            written = Written()
            conversation = await asyncio.to_thread(_conversation, response.conversation.id, before)
            run = GatewayRun(panel, question.content, before, conversation, pieces=stream)
            async for happened in run.events():
                if happened is None:
                    continue
                if happened.event == "wrote":
                    if text := written.take(happened.value):
                        yield StreamEvent(type="text", chunk=text)
                elif stream and (line := line_of(*happened)):
                    yield StreamEvent(type="reasoning", chunk=f"{line}\n")
            record = await run.record()
            response.response_json = consensus_of(record, info.ui_url, [])
            _count(response, record)
            if record.answer is None:
                raise llm.ModelError(record.error or "no member gave an answer")
            yield StreamEvent(type="text", chunk=written.rest(record))
        except Exception as error:
            if isinstance(error, GatewayError):
                raise llm.ModelError(error.message) from error
            if (stop := explained(error)) is None:
                raise
            raise llm.ModelError(stop.message) from error
        finally:
            if run is not None:
                if not run.done:
                    run.task.cancel()
                await asyncio.wait({run.task})  # Prefect records the end of the run


class Panel(_Saved, llm.Model):
    """A saved panel."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,  # noqa: ARG002 - the prompt holds its messages
    ) -> Iterator[str | StreamEvent]:
        """Run the panel, in a thread: a notebook has an event loop of its own."""
        context, events = copy_context(), self._answer(prompt, response, stream=stream)
        with ThreadPoolExecutor(1) as thread, asyncio.Runner() as runner:

            def step(work: Any) -> Any:
                made = thread.submit(runner.run, work, context=context)
                try:
                    return made.result()
                except KeyboardInterrupt:
                    # What is under way is canceled, and what was paid for is written down.
                    loop = runner.get_loop()
                    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
                    wait([made])
                    raise

            try:
                while (event := step(_next(events))) is not None:
                    yield event
            finally:
                step(_close(events))


class AsyncPanel(_Saved, llm.AsyncModel):
    """A saved panel, for programs with an event loop."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None,  # noqa: ARG002
    ) -> AsyncGenerator[str | StreamEvent, None]:
        """Run the panel."""
        async for event in self._answer(prompt, response, stream=stream):
            yield event


async def _next(events: AsyncGenerator[StreamEvent, None]) -> StreamEvent | None:
    return await anext(events, None)


async def _close(events: AsyncGenerator[StreamEvent, None]) -> None:
    from consensus_flows.tasks.calls.providers import close_clients

    await events.aclose()
    await close_clients()


def _quiet() -> None:
    """Keep Prefect's log from the terminal, and its settings from being read in whatever folder `llm` is run in."""
    if "prefect" not in sys.modules:
        os.environ.setdefault("DO_NOT_TRACK", "1")
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        ignore_folder_settings(lambda text: print(text, file=sys.stderr))


def _messages(prompt: llm.Prompt) -> "list[Message]":
    """Return the conversation, of which the last message is the question."""
    from consensus_flows.tasks.calls.request import Message

    found = []
    for one in prompt.messages:
        if one.role in {"system", "user", "assistant"}:
            files = [
                _kept(part.attachment) for part in one.parts if isinstance(part, AttachmentPart) and part.attachment
            ]
            text = "".join(part.text for part in one.parts if isinstance(part, TextPart))
            found += [Message(role="user", content="", attachments=tuple(files))] if files else []
            found.append(Message(role=one.role, content=text))
    if not found or found[-1].role != "user":
        raise llm.ModelError("the prompt is empty: write a question")
    return found


def _kept(given: Any) -> "Attachment":
    from consensus_flows.tasks.attachments import keep

    return keep(given.content_bytes(), Path(given.path or given.url or "attachment").name, given.resolve_type())


def _conversation(id: str, before: "list[Message]") -> "Conversation":
    """Return the conversation of `llm` as one of the history, under the same id."""
    from consensus_flows.deployments.commands.history import from_history
    from consensus_flows.deployments.terminal import Stop
    from consensus_flows.tasks.history.reading import named
    from consensus_flows.tasks.history.writing import Conversation

    try:
        known = from_history(lambda connection: named(connection, id))
    except Stop:  # it begins, or the history cannot be read
        return Conversation(id)
    return Conversation(id, known.parent, before)


def _count(response: Any, record: "Record") -> None:
    usage = record.usage
    details = {
        "cached_input_tokens": usage.cached_input_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "calls": record.calls,
        "cost_usd": record.cost_usd,
    }
    response.set_usage(
        input=usage.input_tokens,
        output=usage.output_tokens,
        details={name: value for name, value in details.items() if value},
    )
