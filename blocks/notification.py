"""Where notifications go that no block of Prefect's own reaches, mail above all: an address of Apprise, saved as a block."""

from prefect.blocks.notifications import AppriseNotificationBlock
from pydantic import ConfigDict, HttpUrl


class AppriseAddress(AppriseNotificationBlock):
    """An address of Apprise: mailtos://user:password@example.com?to=you@example.com, or any other service it knows.

    Example:
        Save the address of a mailbox:
        ```python
        from consensus_flows.blocks import AppriseAddress

        AppriseAddress(url="mailtos://user:password@example.com?to=you@example.com").save("night")
        ```
    """

    _block_type_name = "Apprise Address"
    _block_type_slug = "apprise-address"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/secret.png"
    )
    _documentation_url = HttpUrl("https://github.com/caronc/apprise/wiki")

    # An error of pydantic quotes its input, and the input of this block holds a password.
    model_config = ConfigDict(hide_input_in_errors=True)
