"""Answers that arrive and are still no opinion: empty, refused, blocked, cut short, or not what was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import anthropic_wire, google_wire, openai_wire
from .script import Reply, SeenRequest, Step
from .wire import is_object, resolve

_PAGE = "<html><body><h1>Bad gateway</h1></body></html>"


def empty(finish: str = "stop") -> Step:
    """An answer with no text: "" (OpenAI), no content blocks (Anthropic), no parts (Gemini)."""
    return Reply(text="", finish=finish)


def null_content() -> Step:
    """A choice whose content is null; a Gemini candidate without content."""

    def step(seen: SeenRequest) -> Reply:
        body = _body(seen, Reply(text=""))
        if seen.vendor == "openai":
            body["choices"][0]["message"]["content"] = None
        elif seen.vendor == "google":
            del body["candidates"][0]["content"]
        return Reply(body=body)

    return step


def no_choices() -> Step:
    """A success without a single choice, content block or candidate."""

    def step(seen: SeenRequest) -> Reply:
        body = _body(seen, Reply(text=""))
        return Reply(
            body=body | {{"openai": "choices", "anthropic": "content", "google": "candidates"}[seen.vendor]: []}
        )

    return step


def refusal(text: str = "I can't help with that.") -> Step:
    """The model refuses: ``message.refusal`` (OpenAI), stop reason refusal (Anthropic), plain words (Gemini)."""
    return lambda seen: Reply(text=text, finish="stop" if seen.vendor == "google" else "refusal")


def safety_stop() -> Step:
    """The vendor's filter ends the answer: content_filter (OpenAI), refusal (Anthropic), SAFETY (Gemini)."""
    return Reply(text="", finish="content_filter")


def prompt_blocked(reason: str = "SAFETY") -> Step:
    """Gemini's feedback on a blocked prompt, without candidates; the others end the answer by their filter."""

    def step(seen: SeenRequest) -> Reply:
        if seen.vendor == "google":
            return Reply(body=google_wire.blocked(seen, reason))
        return Reply(text="", finish="content_filter")

    return step


def truncated(text: str = "The answer is") -> Step:
    """The token limit ends the answer: length (OpenAI), max_tokens (Anthropic), MAX_TOKENS (Gemini)."""
    return Reply(text=text, finish="length")


def tool_call_only(name: str = "look_up") -> Step:
    """A tool call that nobody offered, and no text."""

    def step(seen: SeenRequest) -> Reply:
        body = _body(seen, Reply(tool_input={"query": "loopback"}))
        if seen.vendor == "openai":
            body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] = name
        elif seen.vendor == "anthropic":
            body["content"][0]["name"] = name
        else:
            body["candidates"][0]["content"]["parts"][0]["functionCall"]["name"] = name
        return Reply(body=body)

    return step


def error_in_success(code: int = 502, message: str = "Provider returned error") -> Step:
    """Status 200 with an error object in place of choices, as OpenRouter sends when generation breaks."""

    def step(seen: SeenRequest) -> Reply:
        if seen.vendor == "anthropic":
            return Reply(body=anthropic_wire.error(code, message))
        if seen.vendor == "google":
            return Reply(body=google_wire.error(code, message))
        return Reply(body=openai_wire.openrouter_error(code, message, {"provider_name": "Loopback"}))

    return step


def key_repeated(form: Callable[[str], str] = str, finish: str = "stop", *, in_header: bool = False) -> Step:
    """A good answer that repeats the key it was asked with in its text, and as the model and the tier that served it.

    Args:
        form: What is said of the key.
        finish: How the answer ends.
        in_header: Whether Google says the tier, which it does in a header; HTTP libraries log those at level DEBUG.
    """

    def step(seen: SeenRequest) -> Reply:
        said = form(seen.key)
        body = _body(seen, Reply(text=f"Asked with {said}. The answer is 18.", finish=finish))
        body["modelVersion" if seen.vendor == "google" else "model"] = f"m via {said}"
        if seen.vendor == "openai":
            body["service_tier"] = said
        headers = {"x-gemini-service-tier": said} if in_header and seen.vendor == "google" else {}
        return Reply(body=body, headers=headers)

    return step


def invalid_json() -> Step:
    """A whole body, of the announced length, that is only the beginning of a JSON object."""
    return Reply(body=b'{"id": "cut", "choices": [{"index": 0, "mess')


def html_page(status: int = 502) -> Step:
    """A proxy's HTML page in place of the vendor's JSON."""
    return Reply(status=status, headers={"content-type": "text/html"}, body=_PAGE)


def _body(seen: SeenRequest, reply: Reply) -> dict[str, Any]:
    wires = {"openai": openai_wire, "anthropic": anthropic_wire, "google": google_wire}
    body: Any = wires[seen.vendor].answer(seen, resolve(reply, seen))
    assert is_object(body)
    return body
