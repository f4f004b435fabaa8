"""What the tests of pump and prefer share: members that answer, and that rank what they are shown by a rule."""

import re
from collections.abc import Callable
from typing import Any

from consensus_flows.blocks.prefer import PreferConfig
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Step, json_reply

MEMBERS = ["openai/one", "anthropic/two", "google/three"]
ONE, TWO, THREE = (f"{name}#1" for name in MEMBERS)
TEXTS = {"one": "alpha", "two": "beta", "three": "gamma", "four": "delta"}


def config(*members: str, **settings: Any) -> PreferConfig:
    return PreferConfig.model_validate({"members": list(members or MEMBERS)} | settings)


def is_judge(seen: SeenRequest) -> bool:
    return "one of several judges" in (seen.system or "")


def shown(seen: SeenRequest) -> dict[str, str]:
    """The answers that a judge saw, by label and in the order shown."""
    found = re.findall(r"^\[answer (\w+) (\w+)\]\n(.*?)\n\[end answer \1 \2\]$", seen.prompt, re.DOTALL | re.MULTILINE)
    return {label: text for label, _, text in found}


def ranks(rule: Callable[[str, int], int]) -> Callable[[SeenRequest], Reply]:
    """A judge that gives each answer the rank `rule(text, position)`."""

    def reply(seen: SeenRequest) -> Reply:
        given = {label: rule(text, place) for place, (label, text) in enumerate(shown(seen).items(), 1)}
        return json_reply({"analysis": "because", "can_rank": True, "ranks": given})

    return reply


def prefers(*texts: str) -> Callable[[SeenRequest], Reply]:
    """A judge that ranks what it sees in the order of `texts`."""

    def reply(seen: SeenRequest) -> Reply:
        order = [text for text in texts if text in shown(seen).values()]
        return ranks(lambda text, _: order.index(text) + 1)(seen)

    return reply


def member(answer: Step | str, judgement: Step) -> Callable[[SeenRequest], Reply]:
    """A member that answers, and judges when it is asked to."""

    def reply(seen: SeenRequest) -> Reply:
        step = judgement if is_judge(seen) else Reply(text=answer) if isinstance(answer, str) else answer
        return step if isinstance(step, Reply) else step(seen)

    return reply


def panel(vendors: LoopbackVendors, **judgements: Step) -> None:
    """Let each model answer its text of TEXTS, and judge as is said; by default beta before gamma before alpha."""
    for model, text in TEXTS.items():
        judgement = judgements.get(model, prefers("beta", "gamma", "alpha", "delta"))
        vendors.script(model, then=member(text, judgement))


def judged_by(vendors: LoopbackVendors, model: str) -> list[SeenRequest]:
    """What a model was asked as judge."""
    return [seen for seen in vendors.seen if seen.kind == "chat" and seen.model == model and is_judge(seen)]
