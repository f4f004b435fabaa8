"""Which addresses a key may be sent to."""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


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
    # Only scheme, host and port are ever quoted: a password or a key may hide in the rest of what was typed.
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").lower()
        shown = f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port is not None else "")
    except ValueError:
        raise ValueError("base_url is no address: write https://host/path") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must not hold a user name or a password: keys have a field of their own")
    if not host or parts.scheme not in {"http", "https"} or _BLANK.search(url.strip()):
        raise ValueError("base_url is no address: write https://host/path")
    if parts.query or parts.fragment or url.strip().endswith(("?", "#")):
        raise ValueError(f"base_url of {shown!r} must not hold a query or a fragment")
    if parts.scheme == "http" and not is_loopback(host) and host not in {h.lower() for h in allowed_http_hosts}:
        raise ValueError(
            f"base_url {shown!r} would send the key in clear text: use https, or name {host!r} in allowed_http_hosts"
        )
    return url.strip().rstrip("/")
