"""Which proxy the environment names for a URL: one rule for both transports, as curl and urllib read it."""

from __future__ import annotations

import functools
import os
import sys
from urllib.parse import urlsplit

from hctef._urls import Url, parse_url
from hctef.exceptions import HctefUrlError


def environment_proxy(url: str) -> Url | None:
    """The proxy, with its credentials where the environment gives some; None where there is none for `url`.

    Raises HctefUrlError: what the environment names is no http(s) URL. It does not show it: it may hold a password.
    """
    # Elsewhere the system's settings count, too.
    if sys.platform == "linux" and not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies  # noqa: PLC0415  # 2 ms of `import hctef`: few are behind a proxy

    parts = urlsplit(url)
    proxies = getproxies()
    name = parts.scheme if proxies.get(parts.scheme) else "all"
    proxy = proxies.get(name)
    if not proxy or _is_exempt(parts.netloc.rpartition("@")[2]):
        return None
    return _parsed(proxy, f"{name}_proxy")


def _is_exempt(server: str) -> bool:
    """Whether the environment wants no proxy for it; of an IPv6 address it may say so without the brackets."""
    from urllib.request import proxy_bypass  # noqa: PLC0415  # as above

    literal = server[1 : server.find("]")] if server.startswith("[") else ""
    return bool(proxy_bypass(server) or (literal and proxy_bypass(literal)))


@functools.lru_cache(8)
def _parsed(proxy: str, name: str) -> Url:
    try:
        return parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except HctefUrlError as error:
        hint = "an http(s) proxy is what hctef speaks to; no_proxy exempts hosts, and pool=… has proxies of its own"
        raise HctefUrlError(f"the environment's {name}: {error} ({hint})") from None
