"""The settings of a prefer run, and the block in which they are saved."""

from typing import Self

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, model_validator

from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.sampling import Sampling


class PreferConfig(PanelConfig):
    """Who answers and then ranks the answers of the others."""

    rounds: int = Field(
        1,
        ge=1,
        le=1000,
        description="How often all is done: each round has new samples of the answers and new orders.",
        json_schema_extra={"position": 2},
    )
    include_self: bool = Field(
        False,
        description="Show each judge its own answer too; it does not count, but shows how much it prefers it.",
        json_schema_extra={"position": 3},
    )
    criteria: str = Field(
        "",
        description="What the answers are ranked by. Empty: truth first, then completeness, then clarity.",
        json_schema_extra={"position": 4},
    )
    judge_settings: Sampling = Field(
        default_factory=Sampling,
        description="Sampling settings of the members when they judge.",
        json_schema_extra={"position": 15},
    )

    @model_validator(mode="after")
    def _check_judges(self) -> Self:
        if len(self.panel()) < 3:
            raise ValueError(
                f"members: there are only {len(self.panel())}, and each judge needs two answers of others to compare: "
                "name at least 3"
            )
        return self


class Prefer(Block):
    """A saved configuration of the prefer flow.

    Example:
        Load a saved configuration:
        ```python
        from consensus_flows.blocks.prefer import Prefer

        saved = Prefer.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Prefer"
    _block_type_slug = "prefer"
    # The picture that `prefect.filesystems` uses: a configuration is a small document.
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/filesystem.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/latest/develop/blocks")

    config: PreferConfig = Field(description="The settings of the run.")
