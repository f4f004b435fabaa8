"""A legacy completion: a text goes to models at `/completions`, and each model continues it.

The counterpart of the pump for servers that still speak OpenAI's first format: OpenRouter, llama.cpp, vLLM.
"""

from prefect import flow

from consensus_flows.blocks.pump import Pump, PumpConfig
from consensus_flows.flows.pump import report, run_pump
from consensus_flows.flows.run import FLOW, ConfigOrName, run_as_flow
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Record


async def run_completion(prompt: str, config: PumpConfig, *, conversation: tuple[Message, ...] = ()) -> Record:
    """Let every member of the panel continue `prompt`; see `run_pump`.

    Raises:
        ConfigurationError: Before any call, likewise if something is set that legacy completions do not have.
    """
    if config.service_tier is not None:
        raise ConfigurationError("service_tier: legacy completions only have the standard tier: remove it")
    for place, sampling in {"sampling": config.sampling, **config.member_settings}.items():
        if sampling.reasoning_effort is not None:
            raise ConfigurationError(f"{place}.reasoning_effort: legacy completions do not support it: remove it")
    return await run_pump(
        prompt, config, Caller(fresh=config.fresh, kind="completion"), conversation=conversation, name="completion"
    )


@flow(name="completion", **FLOW)
async def completion(prompt: str, config: ConfigOrName[PumpConfig] = None) -> Record:
    """Let models continue a text, at the legacy endpoint for completions.

    Args:
        prompt: The text.
        config: Who is asked, or the name of a saved configuration (a Pump block). Empty: the one called default.
    """
    return await run_as_flow(run_completion, Pump, report, prompt, config, in_conversation=False)
