"""What a batch will take: calls, tokens and US dollars by model, before the first call is made."""

import asyncio
import math
from collections.abc import Sequence

from pydantic import BaseModel

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.tasks.batches.planning import Planned
from consensus_flows.tasks.batches.rows import Files
from consensus_flows.tasks.calls.pricing import BATCH, price, priced
from consensus_flows.tasks.calls.providers import Endpoint, check_models, is_self_hosted
from consensus_flows.tasks.history.reading import Lengths
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import Usage

BYTES_PER_TOKEN = 4
"""Of UTF-8. A character of English is one byte, of Greek or Cyrillic two, of Chinese or Japanese three, so that a token is
four letters, two, or one character and a third: about what the tokenizers of 2024 and later make of them. What is expected
is never above what a budget sets aside, which is a token a byte."""
OUTPUT_TOKENS = 500
"""Assumed of an answer of a model that the history does not know."""


class ModelEstimate(BaseModel):
    """What is expected of one model, in all rows together."""

    model: str
    tasks: list[str]
    """What it is called for."""
    calls_least: int = 0
    calls_most: int = 0
    input_tokens_least: int = 0
    input_tokens_most: int = 0
    output_tokens_least: int = 0
    output_tokens_most: int = 0
    cost_usd_least: float | None = 0.0
    """None where the price is not known."""
    cost_usd_most: float | None = 0.0
    service_tier: str | None = None
    """The tier that is asked for and that the price is of, if it is not the standard one."""
    batch_api: bool = False
    """Whether `--vendor-batch` sends its calls through the vendor's batch API."""
    batch_usd_least: float | None = 0.0
    """The cost with `--vendor-batch`."""
    batch_usd_most: float | None = 0.0


class Estimate(BaseModel):
    """What is expected of a batch if no call fails and nothing is stored yet."""

    rows: int
    calls_least: int
    calls_most: int
    cost_usd_least: float | None
    """None as soon as the price of one model is not known."""
    cost_usd_most: float | None
    known_cost_usd_least: float = 0.0
    """The cost of the models whose price is known."""
    known_cost_usd_most: float = 0.0
    unpriced_calls: int = 0
    """At most so many calls go to models whose price is not known."""
    calls_expected: int | None = None
    """As many a question as on the labeled rows on which the panel was calibrated; None if it was not."""
    cost_usd_expected: float | None = None
    batch_usd_least: float | None = None
    """The cost with `--vendor-batch`, by which the calls of `models` with a `batch_api` are made at half the price."""
    batch_usd_most: float | None = None
    waves_least: int | None = None
    """How often vendors are waited for then; None where the algorithm does not say."""
    waves_most: int | None = None
    models: list[ModelEstimate]
    assumptions: list[str]
    """What the figures rest on, a sentence each."""


async def estimate(  # noqa: PLR0917  # named where more than the first four are given
    config: RunConfig,
    plans: list[Planned],
    rows: int,
    size: int,
    files: Files = Files(),  # noqa: B008 - it cannot be changed
    waves: tuple[int, int] | None = None,
) -> Estimate:
    """Estimate what a batch will take. No model is called.

    Args:
        config: The settings of every row's run.
        plans: The calls of one run.
        rows: How many rows there are.
        size: Of all their prompts together, in bytes of UTF-8.
        files: What they are about.
        waves: How often a run waits for calls that depend on those before, at least and at most.

    Raises:
        ConfigurationError: If a model cannot be asked.
    """
    endpoints = await check_models(list(dict.fromkeys(plan.model for plan in plans)))
    lengths, known = await asyncio.to_thread(_lengths)
    outputs = [_output_tokens(plan, lengths) for plan in plans]
    answer = _mean([(plan, tokens) for plan, tokens in zip(plans, outputs, strict=True) if plan.role == "member"])
    question = (size + files.size) / rows if rows else 0.0
    models: dict[ModelName, ModelEstimate] = {}
    for plan, output in zip(plans, outputs, strict=True):
        endpoint = endpoints[plan.model]
        one = models.setdefault(plan.model, ModelEstimate(model=str(plan.model), tasks=[]))
        one.service_tier = endpoint.tier(config.service_tier)
        one.batch_api = endpoint.vendor.batch_api(endpoint.credentials) is not None
        if plan.task not in one.tasks:
            one.tasks.append(plan.task)
        vendor = endpoint.vendor
        shown = (files.images * vendor.image_tokens + files.pages * vendor.page_tokens) / rows if rows else 0.0
        with priced(config.price_table()):
            await _add(one, plan, endpoint, rows=rows, question=question, shown=shown, output=output, answer=answer)
    found = list(models.values())
    measured = config.calibrated_on()
    return Estimate(
        rows=rows,
        calls_least=sum(one.calls_least for one in found),
        calls_most=sum(one.calls_most for one in found),
        cost_usd_least=_sum([one.cost_usd_least for one in found]),
        cost_usd_most=_sum([one.cost_usd_most for one in found]),
        known_cost_usd_least=math.fsum(one.cost_usd_least or 0.0 for one in found),
        known_cost_usd_most=math.fsum(one.cost_usd_most or 0.0 for one in found),
        unpriced_calls=sum(one.calls_most for one in found if one.cost_usd_most is None),
        calls_expected=None if measured is None else round(measured.calls * rows),
        cost_usd_expected=None if measured is None or measured.cost_usd is None else measured.cost_usd * rows,
        batch_usd_least=_sum([one.batch_usd_least for one in found]),
        batch_usd_most=_sum([one.batch_usd_most for one in found]),
        waves_least=waves and waves[0],
        waves_most=waves and waves[1],
        models=found,
        assumptions=[*_assumptions(config, found, plans, lengths, known), *_of_files(files)],
    )


async def _add(
    one: ModelEstimate,
    plan: Planned,
    endpoint: Endpoint,
    *,
    rows: int,
    question: float,
    shown: float,
    output: float,
    answer: float,
) -> None:
    """Add the calls of one plan to those of its model.

    Args:
        one: What is expected of the model.
        plan: The calls of one row.
        endpoint: Where they go.
        rows: How many rows there are.
        question: Bytes of a prompt, on the average.
        shown: Tokens of its images and PDFs.
        output: Tokens of what the model writes in one call.
        answer: Tokens of a member's answer, which others read.
    """
    for which, calls, read in (("least", plan.least, plan.read_least), ("most", plan.most, plan.read_most)):
        if not calls:
            continue
        # Per call, because some vendors ask a higher price of a long input.
        own = question * plan.asks + plan.characters
        entry = own / BYTES_PER_TOKEN + shown * plan.asks + read / calls * answer
        usage = Usage(input_tokens=math.ceil(entry), output_tokens=math.ceil(output))
        batched = BATCH if one.batch_api and plan.role != "embedding" else one.service_tier
        for name, tier in (("cost_usd", one.service_tier), ("batch_usd", batched)):
            each = await price(endpoint, plan.model.model, usage, tier)
            before = getattr(one, f"{name}_{which}")
            cost = None if each is None or before is None else before + each * calls * rows
            setattr(one, f"{name}_{which}", cost)
        for name, number in (
            ("calls", 1),
            ("input_tokens", usage.input_tokens),
            ("output_tokens", usage.output_tokens),
        ):
            setattr(one, f"{name}_{which}", getattr(one, f"{name}_{which}") + number * calls * rows)
    if one.cost_usd_most is None:
        one.cost_usd_least = one.batch_usd_least = None


def _output_tokens(plan: Planned, lengths: Lengths) -> float:
    if plan.role == "embedding":
        return 0.0
    measured = lengths.get((*plan.model, plan.role))
    if measured is None:
        measured = lengths.get((*plan.model, "member" if plan.role == "judge" else "judge"), OUTPUT_TOKENS)
    return min(measured, plan.max_output_tokens or measured)


def _mean(answers: Sequence[tuple[Planned, float]]) -> float:
    calls = sum(plan.most for plan, _ in answers)
    return sum(plan.most * tokens for plan, tokens in answers) / calls if calls else OUTPUT_TOKENS


def _sum(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return math.fsum(known) if len(known) == len(costs) else None


def _lengths() -> tuple[Lengths, str]:
    """Return what the history knows of the lengths of answers, and why it knows nothing."""
    from consensus_flows.tasks.errors import HistoryError
    from consensus_flows.tasks.history.database import opened
    from consensus_flows.tasks.history.reading import mean_output_tokens

    try:
        with opened() as history:
            return history.read(mean_output_tokens), ""
    except HistoryError as error:
        return {}, error.message


def _of_files(files: Files) -> list[str]:
    said = []
    if files.images or files.pages:
        said.append("images and pages of PDFs have the most tokens that their vendors count")
    if files.remote:
        said.append(f"{plural(files.remote, 'file')} of other machines: not counted")
    return said


def _assumptions(
    config: RunConfig, models: Sequence[ModelEstimate], plans: Sequence[Planned], lengths: Lengths, unread: str
) -> list[str]:
    known = {ModelName(provider, model) for provider, model, _ in lengths}
    asked = dict.fromkeys(plan.model for plan in plans if plan.role != "embedding")
    measured, guessed = [str(m) for m in asked if m in known], [str(m) for m in asked if m not in known]
    said = [
        "no call fails, is asked again or is answered from the cache",
        f"{BYTES_PER_TOKEN} bytes of UTF-8 are a token: 4 characters of English, fewer of other scripts",
        "answers of a round are input of whoever reads them",
    ]
    if measured:
        said.append(f"{', '.join(measured)}: answers as long as they were on the average in the history")
    if guessed:
        why = f" (the history cannot be read: {unread})" if unread else ""
        said.append(f"{', '.join(guessed)}: answers of {OUTPUT_TOKENS} tokens, or the limit if that is lower{why}")
    if unpriced := [one.model for one in models if one.cost_usd_most is None]:
        said.append(
            f"{', '.join(unpriced)}: the price is not known and not in the sum; give it with --price MODEL=IN/OUT"
        )
    given = config.price_table()
    if given:
        said.append("prices that were given: " + ", ".join(f"{name} ${a:g}/${b:g}" for name, (a, b) in given.items()))
    names = [one.model for one in models if one.model not in given]
    if here := [name for name in names if is_self_hosted(name.partition("/")[0])]:
        said.append(f"{', '.join(here)}: runs on your own machine, at no cost")
    if config.service_tier is not None:
        tiers = {one.model: one.service_tier for one in models}
        if served := [name for name, tier in tiers.items() if tier]:
            said.append(f"{', '.join(served)}: served as {config.service_tier}, at the price of that")
        if not_served := [name for name, tier in tiers.items() if not tier]:
            said.append(f"{', '.join(not_served)}: has no {config.service_tier}, so it is the standard price")
    return said
