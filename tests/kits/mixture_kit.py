"""What the tests of the mixture of agents share: configurations, and what a model was shown."""

from typing import Any

from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from tests.vendors import SeenRequest


def config(*layers: Any, **settings: Any) -> MixtureOfAgentsConfig:
    """Two layers of two models and an aggregator, unless layers are given."""
    layers = layers or ("openai/a,openai/b", "openai/c,openai/d")
    return MixtureOfAgentsConfig.model_validate({"layers": list(layers), "aggregator": "openai/final"} | settings)


def self_moa(samples: int, **settings: Any) -> MixtureOfAgentsConfig:
    """One model, sampled several times."""
    return MixtureOfAgentsConfig.model_validate({"self_moa": "openai/a", "samples": samples} | settings)


def answers_of(seen: SeenRequest) -> list[str]:
    """The numbered answers that a model was shown."""
    shown, texts = seen.prompt, list[str]()
    while "[answer " in shown:
        _, _, shown = shown.partition(f"[answer {len(texts) + 1} ")
        tag, _, rest = shown.partition("]\n")
        text, _, shown = rest.partition(f"\n[end answer {len(texts) + 1} {tag}]")
        texts.append(text)
    return texts
