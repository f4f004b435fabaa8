"""The settings of a run that tries OpenRouter's free models."""

from pydantic import Field

from consensus_flows.blocks.settings import Settings


class FreeModelsConfig(Settings):
    """Which models are tried, how fast, and where the results are kept."""

    output_dir: str = Field(
        ".",
        description="Folder of the JSON files, including earlier results.",
    )
    models: list[str] = Field(
        default_factory=list,
        description="Free models to test, as author/slug:free; default: all.",
    )
    interval: float = Field(
        3.0,
        ge=0,
        description="Seconds between requests; OpenRouter allows 20 a minute for free models.",
    )
    timeout: float = Field(60.0, gt=0, description="Timeout of a request, in seconds.")
    prompt: str = Field("Say hello in one word.", min_length=1, description="Prompt to send.")
    max_output_tokens: int = Field(
        64,
        ge=1,
        description="Maximum number of tokens in an answer; a model whose answer is cut off works too.",
    )
    again: bool = Field(
        False,
        description="Retry models that failed for a temporary reason.",
    )
    fresh: bool = Field(False, description="Discard earlier results and test all models.")
