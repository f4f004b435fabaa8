"""The task that turns a text into a vector: retried, cached, paced, priced and booked like `ask`.

One text a call: a text that comes again, in another round, run or order, is then found in the store and not paid for
again. Vendors charge by the token, so that a call for many texts would cost the same.
"""

from typing import Any

from prefect.tasks import Task

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.calls.ask import answered, call_task
from consensus_flows.tasks.calls.providers import embedding_endpoint
from consensus_flows.tasks.calls.request import Answer, Message, Request
from consensus_flows.tasks.calls.vectors import READER

MAX_CHARACTERS = 24_000
"""Characters of a text that are embedded, about 6,000 tokens of English: the models of OpenAI take 8,191."""
_NO_OUTPUT = Sampling(max_output_tokens=1)
"""An embedding has no output tokens; without a limit a budget would set aside those of a long answer."""


async def _embed(request: Request) -> Answer:
    """Embed a text once; Prefect calls this again for a retry.

    Raises:
        ModelError: If no vector came back.
        ConfigurationError: If the provider is unknown, has no key, or has no embeddings.
    """
    return await answered(request, embedding_endpoint)


def embed_task(*, fresh: bool = False) -> Task[[Request], Any]:
    """Return the task that embeds a text; its answer's text is the vector as `packed` writes it.

    Args:
        fresh: Ask again even where a vector is stored, and replace it.
    """
    return call_task(_embed, "embed", "Turn a text into a vector; retried, cached and paced.", fresh=fresh)


def embedding_request(model: ModelName, text: str, *, label: str, timeout: float) -> Request:
    """Return the request for the vector of `text`.

    Args:
        model: The embedding model.
        text: The text; of a very long one, the first `MAX_CHARACTERS`.
        label: Name of the call in the UI.
        timeout: Seconds that one attempt may take.
    """
    return Request(
        provider=model.provider,
        model=model.model,
        messages=(Message(role="user", content=text[:MAX_CHARACTERS]),),
        sampling=_NO_OUTPUT,
        reader=READER,
        kind="embedding",
        label=label,
        timeout=timeout,
    )


def is_embedding(request: Request) -> bool:
    """Tell whether `request` asks for a vector and not for an answer."""
    return request.kind == "embedding"
