"""Keeps what is sent to this machine out of proxies: Prefect's client and its websockets read the environment alone."""

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment

from consensus_flows.blocks.addresses import checked_proxies, is_loopback
from consensus_flows.tasks.errors import ConfigurationError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def loopback_without_proxy(*urls: str) -> None:
    """Let this process and those it starts reach loopback directly, whatever proxies the environment names.

    Args:
        urls: Addresses whose hosts are excepted too if they are loopback, such as 127.0.0.2.

    Raises:
        ConfigurationError: If a proxy cannot be used.
    """
    try:
        any_proxy = checked_proxies()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    # With nothing in the environment the system's settings hold on macOS, and a NO_PROXY would switch them off.
    if not any_proxy or not getproxies_environment():
        return
    hosts = [host for url in urls if is_loopback(host := urlsplit(url).hostname or "")]
    excepted = [part for part in getproxies().get("no", "").split(",") if part.strip()]
    # The lower-case variable wins over the other, so both are set.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(dict.fromkeys([*excepted, *LOOPBACK, *hosts]))
