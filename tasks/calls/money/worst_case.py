"""The most that a call can take: what a budget sets aside before it is sent."""

import json
from collections.abc import Mapping

from consensus_flows.blocks.credentials import Wire
from consensus_flows.tasks.calls.providers import Endpoint
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.record import Usage

ASSUMED_OUTPUT_TOKENS = 4096
"""Of the answer of a call without a limit of its own, where none is sent either. Set a limit to have a bound."""
SENT_LIMITS: Mapping[Wire, int] = {"anthropic": 8192}
"""The limit that is sent for a call without one of its own, where the API wants one. Above about 21,000 Anthropic's SDK
refuses to wait without streaming."""
MESSAGE_TOKENS = 16
"""Assumed of what a vendor puts around a message: roles, marks of beginning and end."""


def most_tokens(text: str) -> int:
    """Return the bytes of `text` in UTF-8, of which no tokenizer in use makes more tokens.

    Byte-level BPE (OpenAI, Llama 3, Qwen) starts from bytes and merges them, and SentencePiece (Gemini, Llama 2, Mistral)
    falls back to bytes, so a token is a byte at the least. Fewer would be no bound, for ASCII neither: measured with
    SmolLM2's tokenizer, 1,000 digits are 1,000 tokens, 1,000 marks of punctuation 800, 1,200 characters of base64 958.
    English has 4 a token, so that of an English prompt four times as much is set aside as is booked when the answer is
    there. Only a tokenizer that normalises by NFKC (T5) could make more, of a few ligatures.
    """
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def worst_case(request: Request, endpoint: Endpoint) -> Usage:
    """Return the most tokens that a call can take."""
    texts = [message.content for message in request.messages]
    if request.response_schema is not None:
        texts.append(json.dumps(request.response_schema))
    return Usage(
        input_tokens=sum(most_tokens(text) + MESSAGE_TOKENS for text in texts),
        output_tokens=request.sampling.max_output_tokens or SENT_LIMITS.get(endpoint.wire, ASSUMED_OUTPUT_TOKENS),
    )
