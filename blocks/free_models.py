"""The settings of a run that tries OpenRouter's free models."""

from pydantic import Field

from consensus_flows.blocks.settings import Settings


class FreeModelsConfig(Settings):
    """Which models are tried, how fast, and where the results are kept."""

    output_dir: str = Field(
        ".",
        description="Folder of the JSON files, what was tried before among them.",
    )
    models: list[str] = Field(
        default_factory=list,
        description="Try only these of the free models, as author/slug:free; empty for all.",
    )
    interval: float = Field(
        3.0,
        ge=0,
        description="Seconds between the starts of two requests; OpenRouter allows 20 a minute to free models.",
    )
    timeout: float = Field(60.0, gt=0, description="Seconds that one request may take.")
    prompt: str = Field("Say hello in one word.", min_length=1, description="What is asked.")
    max_output_tokens: int = Field(
        64,
        ge=1,
        description="Maximum number of tokens of an answer; one that is cut off works too.",
    )
    again: bool = Field(
        False,
        description="Try again what failed for a reason that may have passed.",
    )
    fresh: bool = Field(False, description="Forget what was tried, and try all again.")
