"""Where runs are recorded, as a block: one address for every worker and command line of a Prefect server."""

import re

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

HISTORY_BLOCK = "consensus-history"
"""The name under which the block is looked for."""


class HistoryDatabase(Block):
    """Database of the history of runs. Saved as `consensus-history`, it is used by all who use this server.

    Example:
        Save the address of a PostgreSQL database:
        ```python
        from consensus_flows.blocks import HistoryDatabase

        HistoryDatabase(url="postgresql://user:password@host/name").save("consensus-history")
        ```
    """

    _block_type_name = "Consensus History Database"
    _block_type_slug = "consensus-history-database"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/secret.png"
    )
    _documentation_url = HttpUrl("https://www.prefect.io/docs/latest/develop/blocks")

    # An error of pydantic quotes its input, and the input of this block holds a password.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: SecretStr = Field(
        title="URL",
        description="URL of the database: postgresql://user:password@host/name.",
        json_schema_extra={"position": 0},
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value().strip()  # an address read from a file ends with a line break
        if not re.match(r"[a-z][a-z0-9]*(\+[a-z0-9]+)?://", text):
            raise ValueError("not a database URL: use postgresql://user:password@host/name")
        return SecretStr(text)
