"""A legacy completion: a text goes to models at `/completions`, and what each goes on with comes back.

The counterpart of the pump for servers that still speak OpenAI's first format: OpenRouter, llama.cpp, vLLM.
"""

from prefect import flow

from blocks.pump import Pump, PumpConfig
from flows.pump import run_pump
from tasks.openrouter.complete import Completer
from tasks.record import Record
from tasks.recording import recorded
from tasks.reports.pump_report import PumpReport
from tasks.reports.report import run_name, told_of_end
from tasks.saved_config import load_config


async def run_completion(prompt: str, config: PumpConfig) -> Record:
    """Let every member of the panel go on with `prompt`; see `run_pump`."""
    return await run_pump(prompt, config, Completer(fresh=config.fresh), name="completion")


@flow(
    name="completion", flow_run_name=run_name, persist_result=True, result_serializer="json", validate_parameters=True
)
async def completion(prompt: str, config: PumpConfig | None = None, saved: str = "default") -> Record:
    """Let models go on with a text, at the legacy endpoint for completions.

    Args:
        prompt: The text.
        config: Who is asked. Empty: the saved configuration.
        saved: Name of the Pump block to use when no configuration is given.
    """
    config = config or await load_config(Pump, PumpConfig, saved)
    async with recorded(PumpReport(), in_conversation=False):
        record = await run_completion(prompt, config)
    return told_of_end(record)
