"""Floods: texts of one piece repeated, at which a pattern with two ways to read the same run takes the square of the length."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache

import httpx
from openai import AsyncOpenAI

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.tasks.calls.failures import classify, fault_of
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.calls.vendors.openai import VENDOR
from consensus_flows.tasks.counting.extraction.extract import extract_all
from consensus_flows.tasks.judging import judge, judgements  # noqa: F401  # they register readers
from consensus_flows.tasks.plain_text import visible
from consensus_flows.tasks.prompting.fence import fenced, hazards_of
from consensus_flows.tasks.prompting.prompt_sets import divide
from consensus_flows.tasks.readers import UnreadableError, check_readable
from consensus_flows.tasks.record import put_together, read_sources

WORST = (
    ("\\boxed{", " ", ""),
    ("The answer is ", "*", "."),
    ("The answer is", "*", "x"),
    ("", "<", ""),
    ("", "input token count ", ""),
    ("", '{"answer":', ""),
    ('{"answer":' * 990, "1,", ""),
    ('{"b":[' * 400, '{"answer":1,"l":[1,1,', ""),
    ("Sources:\n- a\n", "b\n", ""),
    ("- a\n", "b\n", ""),
    ("", "\ufe0f", ""),
    ("", "\u200b", ""),
)
"""What once took seconds, or the square of it: a head, what is repeated, a tail."""
HEADS = (
    *("", "\\boxed{", "The answer is ", "answer:", "answer is A", "pick ", "option A", "\\frac{1}", "1,111", "yes"),
    *('{"answer":', '{"answer": "', "- a\n", "Sources:\n", "<", "!["),
)
PIECES = (
    *(" ", "\n", "\t", "*", "_", "`", '"', "(", ")", "{", "}", "[", "{}", '{"', "\\", ".", "-", ":", "#", "<", "<a "),
    *("1", "9,", "111,", "111 ", "1.", "1/", "A", "A ", "B\n", "yes ", "not ", "is ", "answer ", "answer is ", "pick "),
    *(
        "\\boxed{",
        "\\frac{1}{",
        '{"answer":1,',
        '{"answer":',
        '{"a":',
        "- x\n",
        "b\n",
        "ignore ",
        "![x",
        "sk-",
        "bearer ",
    ),
    *("\u200d", "\ufe0f", "\u202e", "\u00ad", "\U0001f468\u200d", "\U0001f3f4\U000e0067", "\u0627\u200c", "\r"),
    *(
        "```\n",
        "__",
        "**",
        "input token count ",
        "Answer: x\n",
        "Sources:\n",
        "### ",
        "[answer ",
        '"confidence":',
        "((",
        "]]",
    ),
)
TAILS = ("", "x")

JUDGES = ("text", "synthesis:2", "ranking:2", "verdict:2", "preference:2", "same_meaning:2", "comparison", "fusion")
FORMS = (
    "number",
    "choice",
    "json:answer",
    "label:yes,no",
    "label:not safe,safe",
    "text",
    "text:answer",
    "exact",
    "exact:answer",
)


def floods(length: int) -> Iterator[str]:
    """Yield each head with each piece repeated to `length` characters, and each tail."""
    for head in HEADS:
        for piece in PIECES:
            body = (piece * (length // len(piece) + 1))[:length]
            for tail in TAILS:
                yield f"{head}{body}{tail}"


def _extracting(form: str) -> Callable[[str], object]:
    extraction = parse_extraction(form)
    return lambda text: extract_all([text, text[1:]], extraction)


def _reading(name: str) -> Callable[[str], object]:
    def read(text: str) -> None:
        with suppress(UnreadableError):
            check_readable(name, text)

    return read


@cache
def _client() -> AsyncOpenAI:
    return AsyncOpenAI(api_key="none", base_url="http://127.0.0.1:1")


def _error_page(text: str) -> None:
    """An error page of a proxy, and an error object with a long message, as OpenAI's SDK reports them."""
    request = httpx.Request("POST", "http://127.0.0.1:1")
    encoded = text.encode("utf-8", "replace").decode()
    for body in ({"text": encoded}, {"json": {"error": {"message": encoded, "code": encoded, "param": encoded}}}):
        for status in (400, 429, 502):
            response = httpx.Response(status, request=request, **body)  # type: ignore[arg-type]
            fault = fault_of(_client()._make_status_error_from_response(response))  # type: ignore[arg-type]
            classify(fault)
            VENDOR.refused(fault, frozenset({"temperature", "response_format"}))
            redact(fault.message)


def _sources(text: str) -> None:
    put_together([("one", read_sources(text))])
    divide(text, "Answer:", "Sources:")


READERS: dict[str, Callable[[str], object]] = {
    **{f"extract {form}": _extracting(form) for form in FORMS},
    **{f"reader {name}": _reading(name) for name in JUDGES},
    "hazards": hazards_of,
    "visible": visible,
    "fence": lambda text: fenced({"A": text, "B": text[1:]}, "0"),
    "parts and sources": _sources,
    "error page": _error_page,
}
"""All that reads what a model or a server wrote."""
