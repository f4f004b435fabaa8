"""A legacy completion: a text goes to models at `/completions`, and what each goes on with comes back.

The counterpart of the pump for servers that still speak OpenAI's first format: OpenRouter, llama.cpp, vLLM.
"""

from prefect import flow

from consensus_flows.blocks.pump import Pump, PumpConfig
from consensus_flows.flows.pump import run_pump
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.openrouter.complete import Completer
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.pump_report import PumpReport
from consensus_flows.tasks.reports.report import run_name, told_of_end
from consensus_flows.tasks.saved_config import chosen


async def run_completion(prompt: str, config: PumpConfig) -> Record:
    """Let every member of the panel go on with `prompt`; see `run_pump`.

    Raises:
        ConfigurationError: Before any call, likewise if something is set that legacy completions do not have.
    """
    if config.service_tier is not None:
        raise ConfigurationError("service_tier: legacy completions have the standard tier alone: leave it out")
    for place, sampling in {"sampling": config.sampling, **config.member_settings}.items():
        if sampling.reasoning_effort is not None:
            raise ConfigurationError(f"{place}.reasoning_effort: legacy completions do not reason: leave it out")
    return await run_pump(prompt, config, Completer(fresh=config.fresh), name="completion")


@flow(
    name="completion", flow_run_name=run_name, persist_result=True, result_serializer="json", validate_parameters=True
)
async def completion(prompt: str, config: PumpConfig | None = None, saved: str | None = None) -> Record:
    """Let models go on with a text, at the legacy endpoint for completions.

    Args:
        prompt: The text.
        config: Who is asked. Empty: a saved configuration.
        saved: Name of a saved configuration (a Pump block) to run in place of config,
            whatever config the deployment sets. Both empty: the one called default.
    """
    config = await chosen(Pump, PumpConfig, config, saved)
    async with record_runs(PumpReport(), in_conversation=False):
        record = await run_completion(prompt, config)
    return told_of_end(record)
