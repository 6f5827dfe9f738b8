"""URLs (RFC 3986), taken apart once, and shown without what is secret in them. Pure."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from hctef.exceptions import HctefUrlError

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f]")
_LITERAL = re.compile(r"\[[0-9A-Za-z.:%~_-]+\](:[0-9]*)?")


class Url(NamedTuple):
    """An http(s) URL, taken apart once. Its repr and `safe` show no userinfo and no value of the query."""

    request: str
    """What a request is made of: no userinfo, no fragment, ASCII only."""
    authorization: str | None
    """Basic credentials from the userinfo (RFC 7617)."""
    origin: tuple[str, str, int]
    """Scheme, host, port: credentials stay within it (RFC 6454)."""
    safe: str
    """For messages."""

    def __repr__(self) -> str:
        return f"Url({self.safe!r})"

    @property
    def name(self) -> str:
        """The last part of the path, or the host where there is none."""
        return unquote(urlsplit(self.safe).path.rstrip("/").rpartition("/")[2]) or self.origin[1]


def parse_url(url: object) -> Url:
    """Raises HctefUrlError: not an http(s) URL, or one that no request can be made of (RFC 3986)."""
    if not isinstance(url, str):
        raise HctefUrlError(f"a URL must be a str (or a callable that returns one), not {type(url).__name__}")
    try:
        return _parsed(url)
    except HctefUrlError as error:
        if "@" in url:  # whatever it is, a password may be in it
            raise
        raise HctefUrlError(f"{re.split('[?#]', url, maxsplit=1)[0][:100]!r}: {error}") from error.__cause__


def _parsed(url: str) -> Url:
    if _FORBIDDEN.search(url):
        raise HctefUrlError("the URL holds a space or a control character; percent-encode it")
    if not url.isascii() and any("\ud800" <= character <= "\udfff" for character in url):
        raise HctefUrlError("the URL holds a lone surrogate, which no bytes stand for")
    is_read = False
    with contextlib.suppress(ValueError):  # not even as a context: it may name a part of a password
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        is_read = True
    if not is_read:
        raise HctefUrlError("not a valid URL: its host or port cannot be read")
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        what = f"its scheme is {scheme[:20]!r}" if scheme else "it has no http:// or https:// in front"
        raise HctefUrlError(f"not an http(s) URL: {what}")
    if not host:
        raise HctefUrlError("not a valid URL: it names no host")
    userinfo, _, location = parts.netloc.rpartition("@")
    if "[" in location:
        if not _LITERAL.fullmatch(location) or ":" not in host:
            raise HctefUrlError("not a valid URL: its host is no IPv6 address in brackets")
    else:
        if not host.isascii():
            host = _ascii_host(host)
            location = f"{host}:{port}" if port is not None else host
        _check_host(host)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]|{}^`\"<>\\")
    request = urlunsplit((scheme, location, path, query, ""))
    authorization = None
    if userinfo:
        user, _, password = userinfo.partition(":")
        pair = f"{unquote(user)}:{unquote(password)}".encode()
        authorization = "Basic " + base64.b64encode(pair).decode("ascii")
    names = [part.partition("=")[0] for part in parts.query.split("&") if "=" in part]
    shown = "&".join(f"{name}=…" for name in names) or ("…" if parts.query else "")
    safe = urlunsplit((scheme, location, path, "", "")) + (f"?{shown}" if shown else "")
    return Url(request, authorization, (scheme, host.lower(), port or (443 if scheme == "https" else 80)), safe)


_SIGNATURES = {
    r"x-amz-signature=": ("x-amz-",),  # S3
    r"x-goog-signature=": ("x-goog-",),  # Google Cloud
    r"awsaccesskeyid=": ("awsaccesskeyid=", "signature=", "expires="),  # S3, before
    r"googleaccessid=": ("googleaccessid=", "signature=", "expires="),  # Google Cloud, before
    r"key-pair-id=": ("key-pair-id=", "signature=", "expires=", "policy=", "hash-algorithm="),  # CloudFront
    r"sv=[0-9]{4}-[0-9]{2}-[0-9]{2}$": (  # Azure
        *("sig=", "se=", "sp=", "sr=", "st=", "sv=", "ss=", "srt=", "spr=", "sip="),
        *("skoid=", "sktid=", "skt=", "ske=", "sks=", "skv="),
    ),
}
"""How known services sign: the part of a query that shows it, and how the parts begin that belong to it. Where the
first is not there, the same names may be what chooses the file."""


def cache_name(url: Url) -> str:
    """What a file is called in a cache: a hash of its URL, without userinfo and, where it is signed as known services
    do it, without what differs each time that it is signed."""
    scheme, netloc, path, query, _ = urlsplit(url.request)
    parts = query.split("&")
    signing = tuple(
        name
        for mark, names in _SIGNATURES.items()
        if any(re.match(mark, part, re.IGNORECASE) for part in parts)
        for name in names
    )
    query = "&".join(part for part in parts if not part.lower().startswith(signing))
    return hashlib.sha256(urlunsplit((scheme, netloc.lower(), path, query, "")).encode()).hexdigest()[:32]


def _ascii_host(host: str) -> str:
    """A host name beyond ASCII as requests have it (RFC 5891, UTS 46). Raises HctefUrlError: nobody can tell."""
    try:
        import idna  # noqa: PLC0415  # for such names only; aiohttp brings it, urllib3 does not

        return idna.encode(host, uts46=True, std3_rules=True).decode("ascii")
    except ImportError as error:
        message = "the URL's host is not ASCII, and the package idna is not installed: write the host as xn--…"
        raise HctefUrlError(message) from error
    except UnicodeError:
        raise HctefUrlError("the URL's host is not ASCII, and no valid name: write it as xn--…") from None


def _check_host(host: str) -> None:
    """Raises HctefUrlError: it is too long, or has a label that is empty or too long (RFC 1035 section 2.3.4), or what
    no name has."""
    name = host.removesuffix(".")  # the root's
    if len(name) > 253 or not all(0 < len(label) <= 63 for label in name.split(".")):
        raise HctefUrlError("not a valid URL: of its host's labels one is empty or too long, or the host itself is")
    if "%" in name:
        raise HctefUrlError("not a valid URL: its host holds what stands in paths only (%)")
