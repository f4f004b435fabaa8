"""Measures how far answers agree, in every flow: by wording, or by embeddings where a model for them is given.

One text is embedded a call: a text that comes again, in another round, run or order, is then found in the store and not
paid for again. Vendors charge by the token, so that a call for many texts would cost the same.
"""

import asyncio
from collections.abc import Mapping

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.counting.agreement import Likeness, agreement
from consensus_flows.tasks.readers import EMBEDDING
from consensus_flows.tasks.record import Iteration, Record, Response

MAX_CHARACTERS = 24_000
"""Characters of a text that are embedded, about 6,000 tokens of English: the models of OpenAI take 8,191."""
_NO_OUTPUT = Sampling(max_output_tokens=1)
"""An embedding has no output tokens; without a limit a budget would set aside those of a long answer."""


async def measure(
    iteration: Iteration, record: Record, config: RunConfig, call: Call, label: str | None = None
) -> Likeness:
    """Enter into `iteration` how far its answers agree, and by which measure.

    Args:
        iteration: The round; its responses are there.
        record: The run, for warnings.
        config: Names the embedding model, if there is one.
        call: Makes the calls.
        label: What the round is called in the UI and in warnings, for example `layer 1`.

    Returns:
        The measure, for whatever else compares answers of this round.
    """
    answered = [response for response in iteration.responses if response.answered]
    named: dict[str, str] = {}
    for response in answered:
        named.setdefault(response.text or "", response.member)
    likeness = await likeness_of(named, iteration, record, config, call, label=label or f"iteration {iteration.number}")
    # In a thread: many long texts take seconds, and other calls are under way.
    iteration.agreement = await asyncio.to_thread(agreement, [one.text or "" for one in answered], likeness)
    iteration.agreement_measure = None if iteration.agreement is None else likeness.measure
    return likeness


async def likeness_of(
    named: Mapping[str, str], iteration: Iteration, record: Record, config: RunConfig, call: Call, *, label: str
) -> Likeness:
    """Return a measure that can compare the given texts.

    Without an embedding model it is their wording, and nobody is called. Where a text cannot be embedded it is their
    wording too, for all of them, and a warning says so: two measures are never mixed among texts that are compared.

    Args:
        named: The texts, each with a name for whose it is.
        iteration: The round; its `embeddings` get the calls.
        record: The run, for warnings.
        config: Names the embedding model, if there is one.
        call: Makes the calls.
        label: What the round is called in the UI and in warnings.
    """
    model = config.embedding()
    if model is None or len(named) < 2:  # a text is like itself by every measure
        return Likeness()

    async def embedded(text: str, whose: str) -> Response:
        request = embedding_request(model, text, label=f"{model} embeds {whose} · {label}", timeout=config.timeout_s())
        return await call(request, member=f"{model} embeds {whose}")

    calls = await asyncio.gather(*(embedded(text, whose) for text, whose in named.items()))
    iteration.embeddings += calls
    record.add_warnings((warning for one in calls for warning in one.warnings), iteration.number)
    cause = _unusable(calls)
    if cause is not None:
        message = f"{label}: {model} could not embed every text, so wording is compared: {cause}"
        record.warn("not_embedded", message, member=str(model), iteration=iteration.number)
        return Likeness()
    vectors = {text: one.embedding or () for text, one in zip(named, calls, strict=True)}
    return Likeness(f"embedding:{model}", vectors)


def _unusable(calls: list[Response]) -> str | None:
    """Say why the vectors cannot be compared, or return None where they can."""
    failed = next((one for one in calls if one.error is not None or one.embedding is None), None)
    if failed is not None:
        return failed.error.message if failed.error is not None else "no vector in the response"
    sizes = {len(one.embedding or ()) for one in calls}
    return None if len(sizes) == 1 else f"vectors of {' and '.join(map(str, sorted(sizes)))} dimensions"


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
        reader=EMBEDDING,
        kind="embedding",
        label=label,
        timeout=timeout,
    )
