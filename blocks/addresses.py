"""Which addresses a key may be sent to."""

import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


def is_loopback(host: str) -> bool:
    """Tell whether `host` is surely this machine's loopback.

    Names such as `a.localhost` are not: glibc asks DNS for them.
    """
    if host == "localhost":
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
        raise ValueError("base_url is not a URL: use https://host/path") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must not contain a user name or password: use the key's own field")
    if not host or parts.scheme not in {"http", "https"} or _BLANK.search(url.strip()):
        raise ValueError("base_url is not a URL: use https://host/path")
    if parts.query or parts.fragment or url.strip().endswith(("?", "#")):
        raise ValueError(f"base_url of {shown!r} must not contain a query or a fragment")
    if parts.scheme == "http" and not is_loopback(host) and host not in {h.lower() for h in allowed_http_hosts}:
        raise ValueError(
            f"base_url {shown!r} would send the key in clear text: use https, or name {host!r} in allowed_http_hosts"
        )
    return url.strip().rstrip("/")


def proxy_for(url: str) -> str | None:
    """Return the proxy through which `url` is reached, as HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say; None for none.

    Loopback is always reached directly, whatever they say.

    Raises:
        ValueError: If the proxy cannot be used, or would see what is sent in clear text.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if is_loopback(host):
        return None
    proxies = getproxies()
    variable = parts.scheme if proxies.get(parts.scheme) else "all"
    proxy = proxies.get(variable)
    if not proxy or proxy_bypass(parts.netloc) or _is_excepted(host, proxies.get("no", "")):
        return None
    if parts.scheme == "http":
        raise ValueError(
            f"http://{host} would be sent in clear text through the proxy of {variable.upper()}_PROXY: "
            f"use https, or add {host!r} to NO_PROXY"
        )
    return checked_proxy(variable, proxy)


def checked_proxies() -> bool:
    """Tell whether any proxy is set, and check that each can be used: HTTP clients fail where one cannot, used or not.

    Raises:
        ValueError: If one cannot be used.
    """
    proxies = getproxies()
    found = [
        checked_proxy(variable, proxies[variable]) for variable in ("http", "https", "all") if proxies.get(variable)
    ]
    return bool(found)


def checked_proxy(variable: str, proxy: str) -> str:
    """Return the address of a proxy, with its scheme, if it can be used.

    Raises:
        ValueError: If not; what was set is not quoted, because it may hold a password.
    """
    name = f"{variable.upper()}_PROXY"
    address = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in {"http", "https", "socks5", "socks5h"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{name} is not a proxy URL: use http://host:port or socks5://host:port")
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ValueError(f"{name} is a SOCKS proxy, which needs another package: pip install socksio, or unset {name}")
    return address


def _is_excepted(host: str, exceptions: str) -> bool:
    """Tell whether NO_PROXY excepts `host` in a way that the standard library does not read: *.example.org, 10.0.0.0/8."""
    for exception in map(str.strip, exceptions.lower().split(",")):
        if exception.startswith("*.") and host.endswith(exception[1:]):
            return True
        with suppress(ValueError):
            if "/" in exception and ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False):
                return True
    return False
