"""The rules of HTTP that hctef lives by: URLs, request headers, response heads. Pure: strings in, values out.

Sources: RFC 9110 (HTTP semantics: sections 8.8 validators, 13 conditions, 14 ranges, 15 status codes), RFC 3986 (URLs).
Only this module knows that HTTP's last position is inclusive; everything that leaves it is half-open.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from hctef._ranges import ByteRange
from hctef.exceptions import (
    HctefNetworkError,
    HctefUrlError,
    RangeRequestsUnsupportedError,
    RemoteFileChangedError,
    RemoteFileNotFoundError,
    RemotePermissionError,
)

MAX_SIZE = 2**63 - 1
"""The largest file that is believed: what off_t can say."""

RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that say "not now" (RFC 9110 section 15.5.9, 15.6; RFC 8470; RFC 6585). Any other 4xx or 5xx is final."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10  # as curl's documentation advises; browsers follow 20
EXPIRED = frozenset({400, 401, 403})
"""What presigned URLs and tokens answer when their time is over (Azure and GCS: 400 and 403; S3: 403)."""

OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Request headers that decide which bytes come: a caller may not set them."""

_SECRET = re.compile(r"token|key|secret|auth|password|passwd|credential|signature|cookie|session", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f]")
_SATISFIED = re.compile(r"bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes\s+\*/([0-9]{1,19})", re.IGNORECASE)
_LITERAL = re.compile(r"\[[0-9A-Za-z.:%~_-]+\](:[0-9]*)?")
_DIGITS = re.compile(r"[0-9]{1,19}")


# URLs


@dataclass(frozen=True, slots=True)
class Url:
    """An http(s) URL, taken apart once. Its repr and `safe` show no userinfo and no value of the query."""

    request: str = field(repr=False)
    """What a request is made of: no userinfo, no fragment, ASCII only."""
    authorization: str | None = field(repr=False)
    """Basic credentials from the userinfo (RFC 7617)."""
    origin: tuple[str, str, int]
    """Scheme, host, port: credentials stay within it (RFC 6454)."""
    safe: str
    """For messages."""

    @property
    def name(self) -> str:
        """The last part of the path, or the host where there is none."""
        return unquote(urlsplit(self.safe).path.rstrip("/").rpartition("/")[2]) or self.origin[1]


def parse_url(url: object) -> Url:
    """Raises HctefUrlError: not an http(s) URL, or one that no request can be made of (RFC 3986)."""
    if not isinstance(url, str):
        raise HctefUrlError(f"a URL must be a str (or a callable that returns one), not {type(url).__name__}")
    if _FORBIDDEN.search(url):
        raise HctefUrlError("the URL holds a space or a control character; percent-encode it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise HctefUrlError("not a valid URL: its host or port cannot be read") from error
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        raise HctefUrlError(f"not an http(s) URL: the scheme is {scheme[:20] or 'missing'!r}")
    if not host:
        raise HctefUrlError("not a valid URL: it names no host")
    userinfo, _, location = parts.netloc.rpartition("@")
    if "[" in location:
        if not _LITERAL.fullmatch(location):
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


def _ascii_host(host: str) -> str:
    """A host name beyond ASCII as requests have it (RFC 5891, UTS 46). Raises HctefUrlError: nobody can tell."""
    try:
        import idna  # noqa: PLC0415  # for such names only; aiohttp brings it, urllib3 does not

        return idna.encode(host, uts46=True, std3_rules=True).decode("ascii")
    except ImportError as error:
        message = "the URL's host is not ASCII, and the package idna is not installed: write the host as xn--…"
        raise HctefUrlError(message) from error
    except UnicodeError as error:
        raise HctefUrlError("the URL's host is not ASCII, and no valid name: write it as xn--…") from error


def _check_host(host: str) -> None:
    """Raises HctefUrlError: it is too long, or has a label that is empty or too long (RFC 1035 section 2.3.4)."""
    name = host.removesuffix(".")  # the root's
    if len(name) > 253 or not all(0 < len(label) <= 63 for label in name.split(".")):
        raise HctefUrlError("not a valid URL: of its host's labels one is empty or too long, or the host itself is")


def redirect_target(base: Url, head: Head) -> Url:
    """Where a redirect leads (RFC 9110 section 10.2.2).

    Raises:
        HctefNetworkError: it names no target, or one that is not http(s).
    """
    location = head.headers.get("location")
    if not location:
        raise HctefNetworkError(f"{base.safe}: status {head.status} without a Location", status=head.status)
    try:
        return parse_url(urljoin(base.request, location.strip().replace(" ", "%20")))
    except ValueError as error:
        message = f"{base.safe}: status {head.status} redirects to what is no http(s) URL"
        raise HctefNetworkError(message, status=head.status) from error


# requests


def checked_headers(headers: object) -> dict[str, str]:
    """The caller's request headers. Values are never in a message.

    Raises:
        HctefUrlError: not a mapping of str to str, no valid name or value (RFC 9110 section 5),
            or a header of hctef's own.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise HctefUrlError(f"headers must be a mapping or a callable that returns one, not {type(headers).__name__}")
    checked = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise HctefUrlError("names and values of headers must be str")
        if not _TOKEN.fullmatch(name):
            raise HctefUrlError(f"not a valid header name: {name[:40]!r}")
        if any(c in value for c in "\r\n\0"):
            raise HctefUrlError(f"the value of header {name!r} holds a line break")
        if any(c > "\xff" for c in value):  # latin-1 is what an HTTP/1.1 header can hold (RFC 9110 section 5.5)
            raise HctefUrlError(f"the value of header {name!r} holds characters beyond latin-1; encode them")
        if name.lower() in OURS:
            raise HctefUrlError(f"hctef sets the header {name!r} itself")
        checked[name] = value
    return checked


def is_secret(name: str) -> bool:
    """Whether a header of that name looks like a credential: such are not pickled, and stay with their origin."""
    return bool(_SECRET.search(name))


def request_headers(own: Mapping[str, str], url: Url, target: Url, extra: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request to `target`, reached from `url`. Credentials never go to another origin.

    `Accept-Encoding: identity` always: a range of a compressed stream is of no use (RFC 9110 section 14.1).
    """
    headers = {"Accept-Encoding": "identity", **own}
    if target.origin != url.origin:
        headers = {name: value for name, value in headers.items() if not is_secret(name)}
        authorization = target.authorization
    else:
        authorization = target.authorization or url.authorization
    if authorization and not any(name.lower() == "authorization" for name in headers):
        headers["Authorization"] = authorization
    return {**headers, **extra}


def range_header(start: int, stop: int) -> str:
    """`[start, stop)` as the value of a Range header."""
    return f"bytes={start}-{stop - 1}"


def suffix_header(length: int) -> str:
    """The last `length` bytes as the value of a Range header."""
    return f"bytes=-{length}"


# responses


class Head:
    """Status and headers (names in lower case, repeated ones joined by commas) of a response."""

    __slots__ = ("ahead", "headers", "pipelines", "seconds", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        *,
        ahead: bool = False,
        pipelines: bool = False,
        seconds: float | None = None,
    ) -> None:
        """`ahead`: its request was sent before the response in front of it had come: how long it took says nothing of
        the line. `pipelines`: more requests may be sent before its body has come. `seconds`: that it took, where the
        transport can tell them from those of a handshake."""
        self.status, self.headers, self.ahead, self.pipelines = status, headers or {}, ahead, pipelines
        self.seconds = seconds

    def __repr__(self) -> str:
        return f"Head(status={self.status})"

    @property
    def validator(self) -> Validator:
        etag = self.headers.get("etag", "").strip() or None
        return Validator(etag, self.headers.get("last-modified", "").strip() or None)

    @property
    def length(self) -> int | None:
        """Content-Length (RFC 9110 section 8.6); None where it is absent or no number that can be believed."""
        value = self.headers.get("content-length", "").strip()
        if "," in value:
            values = {value.strip() for value in value.split(",")}
            value = values.pop() if len(values) == 1 else ""
        return int(value) if _DIGITS.fullmatch(value) and int(value) <= MAX_SIZE else None

    @property
    def coded(self) -> bool:
        """Whether a Content-Encoding makes its bytes others than the file's."""
        coding = self.headers.get("content-encoding")
        return coding is not None and coding.strip().lower() not in ("", "identity")

    def unsatisfied_size(self) -> int | None:
        """The size that `Content-Range: bytes */size` of a 416 tells."""
        match = _UNSATISFIED.fullmatch(self.headers.get("content-range", "").strip())
        return int(match[1]) if match and int(match[1]) <= MAX_SIZE else None


class Validator(NamedTuple):
    """What tells two versions of a file apart (RFC 9110 section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    def __str__(self) -> str:
        if self.etag:
            return f"ETag {self.etag}"
        return f"Last-Modified {self.last_modified}" if self.last_modified else "none"

    def __bool__(self) -> bool:
        return bool(self.etag or self.last_modified)

    @property
    def conditions(self) -> dict[str, str]:
        """The headers that make a server refuse another version: a weak ETag never stands in If-Match (section
        13.1.1)."""
        if self.etag:
            return {} if self.etag.startswith("W/") else {"If-Match": self.etag}
        return {"If-Unmodified-Since": self.last_modified} if self.last_modified else {}

    def agrees(self, other: Validator) -> bool:
        """Whether `other` (of a later response) is the same version, as far as this one can tell."""
        if self.etag:
            return other.etag == self.etag
        return self.last_modified is None or other.last_modified == self.last_modified


class Part(NamedTuple):
    """What a 206 says it brings."""

    extent: ByteRange
    size: int | None
    """Of the whole file; None where the server says `*`."""


def parse_part(head: Head, where: str) -> Part:
    """Content-Range and Content-Length of a 206, checked against each other (RFC 9110 section 14.4).

    Raises:
        RangeRequestsUnsupportedError: the Content-Range is not there ('content-range-hidden').
        HctefNetworkError: it is garbage, the length differs from it, or the bytes are coded.
    """
    value = head.headers.get("content-range", "").strip()
    if not value:
        kind = head.headers.get("content-type", "")
        hint = "it answers with multipart/byteranges" if "multipart" in kind else "a proxy or the server hides it"
        message = f"{where}: status 206 without a Content-Range ({hint}), so nobody can tell which bytes came"
        raise RangeRequestsUnsupportedError(message, status=206, reason="content-range-hidden")
    if head.coded:
        coding = head.headers["content-encoding"][:40]
        message = f"{where}: status 206 with Content-Encoding {coding!r} although identity was asked for"
        raise HctefNetworkError(message, status=206)
    match = _SATISFIED.fullmatch(value)
    if match:
        first, last = int(match[1]), int(match[2])
        size = None if match[3] == "*" else int(match[3])
        if first <= last < MAX_SIZE and (size is None or last < size <= MAX_SIZE):
            extent = ByteRange(first, last + 1)
            if "content-length" in head.headers and head.length != extent.length:
                length = head.headers["content-length"][:40]
                message = f"{where}: Content-Length {length!r} does not fit Content-Range {value[:80]!r}"
                raise HctefNetworkError(message, status=206)
            return Part(extent, size)
    raise HctefNetworkError(f"{where}: the Content-Range makes no sense: {value[:80]!r}", status=206)


def status_error(head: Head, where: str, *, hint: str = "") -> HctefNetworkError:
    """The error of a status that cannot be used; `hint` says what to try where hctef knows more."""
    status = head.status
    kind, text = HctefNetworkError, f"the server answered with status {status}"
    if status in (401, 403):
        kind, text = RemotePermissionError, f"status {status}: the server wants (other) credentials, or the URL expired"
        hint = hint or "pass headers=…, or a callable url or headers that returns fresh ones"
    elif status in (404, 410):
        kind, text = RemoteFileNotFoundError, f"status {status}: there is no such file"
    elif status == 412:
        kind, text = RemoteFileChangedError, "status 412: the file is not the one that was opened any longer"
        hint = hint or CHANGED_HINT
    elif status == 200:
        kind, text = (
            RangeRequestsUnsupportedError,
            "status 200: the server ignores Range requests and sends all of the file",
        )
        hint = hint or "on_no_range='download' fetches it once, whole"
    elif status == 416:
        text = "status 416: the server refuses the range"
    elif status == 304 or 300 <= status < 400:
        text = f"status {status}, which no request of hctef asks for"
    return kind(f"{where}: {text}" + (f" ({hint})" if hint else ""), status=status)


CHANGED_HINT = "open it again; where a CDN's ETag differs from node to node: validate='size'"


def check_version(seen: Validator, head: Head, where: str) -> None:
    """Raises RemoteFileChangedError: the response's validator is not the one `seen` on open, or is missing."""
    if not seen.agrees(head.validator):
        now = str(head.validator)[:100]
        message = f"{where}: the file changed: it was {str(seen)[:100]}, now it is {now} ({CHANGED_HINT})"
        raise RemoteFileChangedError(message, status=head.status)
