"""A setting that would have no effect is refused, by name and with what would be right."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from consensus_flows.blocks.check_models import CheckModelsConfig
from consensus_flows.blocks.consensus_learning import SETTINGS_OF, ConsensusLearningConfig, is_used
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.completion import run_completion
from consensus_flows.tasks.errors import ConfigurationError

MEMBERS = {"members": ["openai/one", "openai/two"]}
CENTRAL = {**MEMBERS, "aggregator": "openai/judge"}
MIXTURE = {"layers": [MEMBERS], "aggregator": "openai/judge"}
UNUSED: list[tuple[type[BaseModel], dict[str, Any], dict[str, Any], str]] = [
    (
        VoteConfig,
        MEMBERS,
        {"pairwise_judge": "openai/judge", "extract": "number"},
        "extract: has no effect with a pairwise_judge",
    ),
    (
        VoteConfig,
        MEMBERS,
        {"extract": "number", "embedding_model": "openai/e"},
        "embedding_model: requires a pairwise_judge",
    ),
    (VoteConfig, MEMBERS, {"pairwise_judge": "openai/judge", "fuse_top": 2}, "fuse_top: requires fuse"),
    (VoteConfig, MEMBERS, {"stand_in": "openai/best"}, "stand_in: requires a pairwise_judge"),
    (
        ConsensusLearningConfig,
        MEMBERS,
        {"approach": "medoid", "stand_in": "openai/best"},
        "stand_in: not used by the approach medoid",
    ),
    (VoteConfig, MEMBERS, {"judge_settings": {"temperature": 0}}, "judge_settings: requires an extractor"),
    (ConsensusLearningConfig, CENTRAL, {"approach": "majority"}, "aggregator: not used by the approach majority"),
    (
        ConsensusLearningConfig,
        MEMBERS,
        {"approach": "medoid", "fallback_aggregators": ["a/b"]},
        "fallback_aggregators: .* approach medoid",
    ),
    (
        ConsensusLearningConfig,
        MEMBERS,
        {"approach": "majority", "aggregator_context": "Be brief."},
        "aggregator_context: .* approach majority",
    ),
    (
        ConsensusLearningConfig,
        MEMBERS,
        {"approach": "majority", "aggregator_prompt": "Merge."},
        "aggregator_prompt: .* approach majority",
    ),
    (
        ConsensusLearningConfig,
        MEMBERS,
        {"approach": "majority", "aggregator_settings": {"temperature": 0}},
        "aggregator_settings: .* approach majority",
    ),
    (ConsensusLearningConfig, CENTRAL, {"extract": "number"}, "extract: .* use majority or decentralized"),
    (
        ConsensusLearningConfig,
        MEMBERS,
        {"approach": "medoid", "extract": "number"},
        "extract: not used by the approach medoid",
    ),
    (
        ConsensusLearningConfig,
        CENTRAL,
        {"decentralized": {"k": 3}},
        "decentralized: not used by the approach centralized_llm",
    ),
    (
        ConsensusLearningConfig,
        MEMBERS,
        {"approach": "majority", "alike": 0.7},
        "alike: .* approach majority: remove it, or use decentralized",
    ),
    (
        ConsensusLearningConfig,
        MEMBERS,
        {"approach": "decentralized", "extract": "number", "alike": 0.7},
        "alike: has no effect with extract",
    ),
    (ConsensusLearningConfig, CENTRAL, {"stability_threshold": 0.5}, "stability_threshold: .* stop_when_stable"),
    (MixtureOfAgentsConfig, MIXTURE, {"reserved": 2}, "reserved: requires window"),
    (MixtureOfAgentsConfig, MIXTURE, {"samples": 3}, "samples: requires self_moa"),
    (CheckModelsConfig, MEMBERS, {"embedding_model": "openai/e"}, "embedding_model: a check compares no texts"),
]


@pytest.mark.parametrize(
    ("kind", "good", "unused", "said"), UNUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_it_is_refused(kind, good, unused, said):
    with pytest.raises(ValidationError, match=said):
        kind.model_validate(good | unused)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (VoteConfig, {**MEMBERS, "pairwise_judge": "openai/judge", "embedding_model": "openai/e", "extract": "text"}),
        (VoteConfig, {**MEMBERS, "extract": "llm", "extractor": "openai/judge", "judge_settings": {"temperature": 0}}),
        (ConsensusLearningConfig, {**MEMBERS, "approach": "decentralized", "alike": 0.7, "decentralized": {"k": 1}}),
        (ConsensusLearningConfig, {**MEMBERS, "approach": "majority", "aggregator": None, "aggregator_context": []}),
        (MixtureOfAgentsConfig, {"self_moa": "openai/one", "samples": 4, "window": 3, "reserved": 2}),
    ],
)
def test_it_is_taken_where_it_has_an_effect_and_comes_back_from_a_block(kind, settings):
    config = kind.model_validate(settings)
    # Prefect saves every field; a deployment only those that were chosen.
    for saved in (config.model_dump(mode="json"), config.model_dump(mode="json", exclude_defaults=True)):
        assert kind.model_validate(saved) == config


def test_what_an_approach_has_are_settings():
    names = {name for names in SETTINGS_OF.values() for name in names}
    assert names <= set(ConsensusLearningConfig.model_fields)
    assert is_used("members", "medoid") and not is_used("extract", "medoid") and is_used("extract", "majority")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"service_tier": "flex"}, "service_tier: legacy completions"),
        ({"sampling": {"reasoning_effort": "low"}}, "sampling.reasoning_effort: legacy completions"),
        ({"member_settings": {"openrouter/x/y": {"reasoning_effort": "low"}}}, "openrouter/x/y.reasoning_effort"),
    ],
)
async def test_a_legacy_completion_refuses_what_it_cannot_send(settings, said, vendors):
    with pytest.raises(ConfigurationError, match=said):
        await run_completion("Once", PumpConfig.model_validate({"members": ["openrouter/x/y"]} | settings))
    assert vendors.count() == 0
