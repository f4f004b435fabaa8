"""The settings of a pump run, and the block in which they are saved."""

from pydantic import Field

from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.settings import saved_config


class PumpConfig(PanelConfig):
    """Who is asked. Nobody judges: every answer is returned."""

    quorum: int | None = Field(
        None,
        ge=1,
        description="Minimum number of members that must answer; default: 1.",
    )

    def schema_refusal(self) -> str | None:
        """Say why the answer of a run cannot be JSON by the schema of whoever asks; None where it can."""
        return None if len(self.panel()) == 1 else "its answer is the list of all answers"

    def needed(self) -> int:
        """The quorum: one answer is worth having where no answers are compared."""
        return self.quorum or 1


Pump = saved_config("Pump", PumpConfig)
