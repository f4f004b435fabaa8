"""# A mixture of agents from Python.

Two layers of the small local model, and the model once more to make one answer. Put your own models in:
`openai/gpt-6-luna`, `anthropic/claude-haiku-4-5:2`, `openrouter/deepseek/deepseek-r1:free`.

Run it with `.venv/bin/python examples/mixture_of_agents.py`; the first line finds a Prefect server, or starts one.
"""

import asyncio

from consensus_flows import MixtureOfAgentsConfig, connect, mixture_of_agents
from consensus_flows.blocks.check_models import CheckModelsConfig
from consensus_flows.flows.check_models import check_models
from consensus_flows.tasks.reports.recorded import Recorded

SYSTEM = "Answer in one short sentence."
SAMPLING = {"temperature": 0.7, "max_output_tokens": 128, "seed": 1}
LAST = {"temperature": 0.0, "max_output_tokens": 256}

# ## Layers
#
# A layer is a list of models, or an object of models and settings. Every model of the second layer sees all answers of the
# first. A model as small as this one is often cut off when it has much to read, so one answer is enough for a layer.

LAYERS = MixtureOfAgentsConfig.model_validate(
    {
        "layers": ["local/smollm2:3", {"members": ["local/smollm2:2"], "sampling": {"temperature": 0.2}}],
        "aggregator": "local/smollm2",
        "quorum": 1,
        "system": SYSTEM,
        "sampling": SAMPLING,
        "aggregator_settings": LAST,
    }
)

# ## Self-MoA
#
# One model, sampled five times. It sees three answers at first, and then what it made of them with the other two.

SAMPLED = MixtureOfAgentsConfig.model_validate(
    {
        "self_moa": "local/smollm2",
        "samples": 5,
        "window": 3,
        "system": SYSTEM,
        "sampling": SAMPLING,
        "aggregator_settings": LAST,
    }
)

# ## Recorded answers
#
# They stand in for a layer; only the aggregator is asked.

RECORDED = [
    Recorded(prompt="What color is a ripe banana?", answers={"Ada": "Yellow.", "Bob": "A ripe banana is yellow."}),
    Recorded(prompt="How many legs has a spider?", answers={"Ada": "Eight.", "Bob": "Eight legs.", "Cem": "Six."}),
]
AGGREGATED = MixtureOfAgentsConfig.model_validate(
    {"aggregator": "local/smollm2", "system": SYSTEM, "aggregator_settings": LAST}
)

# ## Is a model fit for a role?

CANDIDATES = CheckModelsConfig.model_validate(
    {"members": ["local/smollm2"], "sampling": {"temperature": 0.0, "max_output_tokens": 96, "seed": 1}}
)


async def main() -> None:
    """Run them, one after the other."""
    for config in (LAYERS, SAMPLED):
        record = await mixture_of_agents("What is the capital of France?", config)
        for iteration in record.iterations:
            texts = [response.text for response in iteration.responses if response.answered]
            print(f"layer {iteration.number}:", texts or (iteration.synthesis and iteration.synthesis.text))
        print(f"{record.status} after {record.calls} calls: {record.answer}")

    for one in RECORDED:
        record = await mixture_of_agents(str(one.prompt), AGGREGATED, reference=[one])
        print(f"{record.prompt} {record.answer}")

    report = await check_models(CANDIDATES)
    for prompt, answers in report.answers().items():
        for model, answer in answers.items():
            print(f"{model} | {prompt[:60]} | {str(answer)[:80]!r}")


if __name__ == "__main__":
    connect()
    asyncio.run(main())
