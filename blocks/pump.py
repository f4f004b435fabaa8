"""The settings of a pump run, and the block in which they are saved."""

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl

from consensus_flows.blocks.panel import PanelConfig


class PumpConfig(PanelConfig):
    """Who is asked. Nobody judges: every answer is returned."""

    quorum: int | None = Field(
        None,
        ge=1,
        description="Members that must answer for the run to succeed; empty for one.",
        json_schema_extra={"position": 51},
    )

    def needed(self) -> int:
        """The quorum: one answer is worth having where no answers are compared."""
        return self.quorum or 1


class Pump(Block):
    """A saved configuration of the pump flow.

    Example:
        Load a saved configuration:
        ```python
        from consensus_flows.blocks.pump import Pump

        saved = Pump.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Pump"
    _block_type_slug = "pump"
    # The picture that `prefect.filesystems` uses: a configuration is a small document.
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/filesystem.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/latest/develop/blocks")

    config: PumpConfig = Field(description="The settings of the run.")
