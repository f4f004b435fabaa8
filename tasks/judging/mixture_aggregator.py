"""The last layer of a mixture of agents: one model makes one answer of all; others stand by in case it fails."""

from collections.abc import Sequence
from dataclasses import dataclass

from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.judging.mixture import Task, in_order
from consensus_flows.tasks.judging.text_hearing import READER, hear_text
from consensus_flows.tasks.record import Response, Synthesis

SO_FAR = "synthesis so far"


@dataclass(frozen=True)
class Material:
    """What the aggregator sees in one call.

    Attributes:
        responses: The answers that are new to it.
        so_far: Its synthesis of earlier answers, if there were too many for one call.
        seed: Decides the order of the answers and the tag of their fences.
        label: What the call is called in the UI.
    """

    responses: Sequence[Response]
    so_far: str | None = None
    seed: str = "0"
    label: str = "aggregate"


async def synthesize(
    task: Task, material: Material, config: MixtureOfAgentsConfig, call: Call
) -> tuple[Synthesis | None, list[Response]]:
    """Ask the aggregator, and where it fails each fallback in order.

    Returns:
        The synthesis, or None where none of them wrote a usable one; and every call made for it.
    """
    calls: list[Response] = []
    for model in config.aggregators():
        order = in_order(material.responses, f"{material.seed}:{model}")
        shown = [(SO_FAR, material.so_far)] * config.reserved if material.so_far is not None else []
        shown += [(response.member, response.text or "") for response in order]
        request = Request(
            provider=model.provider,
            model=model.model,
            messages=task.messages([text for _, text in shown], material.seed),
            sampling=config.aggregator_sampling(),
            reader=READER,
            label=f"aggregator {model} · {material.label}",
            timeout=config.timeout_s(),
        )
        text, made = await hear_text(request, call)
        calls += made
        if text is not None:
            names = {str(number): member for number, (member, _) in enumerate(shown, 1)}
            return Synthesis(text=text, arbiter=str(model), labels=names, method="aggregator"), calls
    return None, calls
