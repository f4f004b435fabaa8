"""Which addresses a key may be sent to."""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Tell whether `host` is this machine's loopback, by name or by address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_base_url(url: str, allowed_http_hosts: Iterable[str] = ()) -> str:
    """Return `url` without a trailing slash if a key may be sent there.

    Raises:
        ValueError: Unless it is https, or http to loopback or to a host in `allowed_http_hosts`.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").lower()
        parts.port  # noqa: B018  # reading it validates it
    except ValueError as error:
        raise ValueError(f"base_url {url!r} is no address: {error}") from None
    if not host or parts.scheme not in {"http", "https"}:
        raise ValueError(f"base_url {url!r} is no address: write https://host/path")
    if parts.username or parts.password:
        raise ValueError("base_url must not hold a user name or a password: keys have a field of their own")
    if parts.query or parts.fragment:
        raise ValueError(f"base_url {url!r} must not hold a query or a fragment")
    if parts.scheme == "http" and not is_loopback(host) and host not in {h.lower() for h in allowed_http_hosts}:
        raise ValueError(
            f"base_url {url!r} would send the key in clear text: use https, or name {host!r} in allowed_http_hosts"
        )
    return url.strip().rstrip("/")
