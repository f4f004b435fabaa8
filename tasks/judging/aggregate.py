"""Let a model put the answers of a round together: what it is shown, and what happens when it cannot."""

from collections.abc import Sequence
from dataclasses import dataclass

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig, Turn
from consensus_flows.blocks.member import ModelName
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.judging.fence import fenced, shuffled
from consensus_flows.tasks.judging.text_hearing import READER, hear_text
from consensus_flows.tasks.prompts import fill, prompt
from consensus_flows.tasks.record import Response, Synthesis


@dataclass(frozen=True)
class Material:
    """What an aggregator is shown.

    Attributes:
        question: The question, which always reaches it.
        responses: The answers of those members that did not fail.
        system: Instructions that the members had.
        conversation: Earlier turns, without instructions.
        seed: Decides the order of the answers and the tag that fences them.
        label: What the round is called in the UI.
    """

    question: str
    responses: Sequence[Response]
    system: str | None = None
    conversation: Sequence[Message] = ()
    seed: str = "0"
    label: str = ""


async def aggregate(
    material: Material, config: ConsensusLearningConfig, call: Call
) -> tuple[Synthesis | None, list[Response]]:
    """Ask the aggregator, and where it fails each fallback in order.

    Returns:
        The aggregate, or None where none of them gave a usable one; and every call made for it.
    """
    calls: list[Response] = []
    for model in config.aggregators():
        labelled = shuffled(material.responses, f"{material.seed}:{model}")
        request = request_of(material, config, model, labelled)
        text, heard = await hear_text(request, call)
        calls += heard
        if text is not None:
            names = {label: response.member for label, response in labelled.items()}
            return Synthesis(text=text, arbiter=str(model), labels=names, method="centralized_llm"), calls
    return None, calls


def request_of(
    material: Material, config: ConsensusLearningConfig, model: ModelName, labelled: dict[str, Response]
) -> Request:
    """Return what `model` is asked: its context, the conversation, the question with the answers, and its task."""
    context = [_message(turn) for turn in config.aggregator_context]
    task = [_message(turn) for turn in config.aggregator_prompt]
    instructions = f"The answers had to follow these instructions:\n\n{material.system}\n\n" if material.system else ""
    shown = fill(
        "aggregate",
        question=material.question,
        instructions=instructions,
        count=len(labelled),
        answers=fenced({label: response.text or "" for label, response in labelled.items()}, material.seed),
    )
    said = [turn for turn in task if turn.role != "system"]
    system = [turn.content for turn in (*context, *task) if turn.role == "system"]
    turns = [
        *(turn for turn in context if turn.role != "system"),
        *material.conversation,
        Message(role="user", content=shown),
        *(said or [Message(role="user", content=prompt("aggregate_task"))]),
    ]
    return Request(
        provider=model.provider,
        model=model.model,
        messages=(
            Message(role="system", content="\n\n".join((prompt("aggregator_system"), *system))),
            *joined(turns),
        ),
        sampling=config.aggregator_settings,
        reader=READER,
        label=f"aggregator {model} · {material.label}",
        timeout=config.timeout_s(),
    )


def joined(turns: Sequence[Message]) -> list[Message]:
    """Join neighbouring turns of one side into one, because some servers refuse two in a row."""
    result: list[Message] = []
    for turn in turns:
        if result and result[-1].role == turn.role:
            result[-1] = Message(role=turn.role, content=f"{result[-1].content}\n\n{turn.content}")
        else:
            result.append(turn)
    return result


def _message(turn: Turn) -> Message:
    return Message(role=turn.role, content=turn.content)
