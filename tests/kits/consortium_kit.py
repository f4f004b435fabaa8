"""What the tests of the consortium share: a configuration, a judgement, and what the vendors saw."""

import json
from typing import Any

from consensus_flows.blocks.consortium import ConsortiumConfig
from tests.vendors import LoopbackVendors, Reply, SeenRequest

MEMBERS = ["openai/one", "openai/two", "openai/three"]
ARBITER = "openai/arbiter"


def config(**settings: Any) -> ConsortiumConfig:
    """Three members and an arbiter, which are never confident enough unless they are told to be."""
    return ConsortiumConfig.model_validate({"members": MEMBERS, "arbiter": ARBITER, "max_iterations": 1} | settings)


def judged(confidence: Any = 90, synthesis: str = "the synthesis", **fields: Any) -> Reply:
    """An arbiter's answer."""
    judgement = {
        "analysis": "the analysis",
        "dissent": "",
        "synthesis": synthesis,
        "confidence": confidence,
        "final": True,
        "refinement_areas": [],
    }
    return Reply(text=json.dumps(judgement | fields))


def ranking(*labels: str, confidence: int = 90) -> Reply:
    """The answer of an arbiter that ranks."""
    fields = {"analysis": "", "dissent": "", "ranking": labels, "confidence": confidence}
    return Reply(text=json.dumps(fields | {"final": True, "refinement_areas": []}))


def asked(vendors: LoopbackVendors, model: str) -> list[SeenRequest]:
    """The requests of one model, in order."""
    return [seen for seen in vendors.seen if seen.kind == "chat" and seen.model == model]


def say(vendors: LoopbackVendors, **texts: str) -> None:
    """Let each model always say the same."""
    for model, text in texts.items():
        vendors.script(model, then=Reply(text=text))
