"""The rules of HTTP that hctef lives by: request headers, response heads. Pure: strings in, values out.

Sources: RFC 9110 (HTTP semantics: sections 8.8 validators, 13 conditions, 14 ranges, 15 status codes).
Only this module knows that HTTP's last position is inclusive; everything that leaves it is half-open.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urljoin

from hctef._ranges import ByteRange
from hctef._urls import Url, parse_url
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
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_VISIBLE = re.compile(r"(?!W/)[\x20-\x7e]+")
_SATISFIED = re.compile(r"bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes\s+\*/([0-9]{1,19})", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]{1,19}")


def redirect_target(base: Url, head: Head) -> Url:
    """Where a redirect leads (RFC 9110 section 10.2.2).

    Raises:
        HctefNetworkError: it names no target, or one that is not http(s).
    """
    location = head.headers.get("location")
    if not location:
        raise HctefNetworkError(f"{base.safe}: status {head.status} without a Location", status=head.status)
    # A server that does not percent-encode means these bytes, in whatever encoding.
    raw = _BEYOND_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), location.strip().encode("latin-1", "replace"))
    try:
        return parse_url(urljoin(base.request, raw.decode("ascii").replace(" ", "%20")))
    except ValueError:
        message = f"{base.safe}: status {head.status} redirects to what is no http(s) URL"
        raise HctefNetworkError(message, status=head.status) from None


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
        if _CONTROLS.search(value):
            raise HctefUrlError(f"the value of header {name!r} holds a control character")
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

    __slots__ = ("ahead", "block", "expected", "headers", "pipelines", "seconds", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        *,
        ahead: bool = False,
        pipelines: bool = False,
        seconds: float | None = None,
        block: bytes | None = None,
        expected: bool = False,
    ) -> None:
        """`ahead`: its request was sent before the response in front of it had come: how long it took says nothing of
        the line. `pipelines`: more requests may be sent before its body has come. `seconds`: that it took, where the
        transport can tell them from those of a handshake. `block`: as it came, without its empty line, where that is
        known; `expected`: it is what its request expected."""
        self.status, self.headers, self.ahead, self.pipelines = status, headers or {}, ahead, pipelines
        self.seconds, self.block, self.expected = seconds, block, expected

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

    @property
    def framed(self) -> bool:
        """Whether its end can be told from a connection that was cut (RFC 9112 section 8)."""
        return self.length is not None or self.chunked

    @property
    def chunked(self) -> bool:
        """Whether its body comes in chunks, taken apart by the transport. Any other coding, nobody has undone."""
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    def unsatisfied_size(self) -> int | None:
        """The size that `Content-Range: bytes */size` of a 416 tells."""
        match = _UNSATISFIED.fullmatch(self.headers.get("content-range", "").strip())
        return int(match[1]) if match and int(match[1]) <= MAX_SIZE else None


class Validator(NamedTuple):
    """What tells two versions of a file apart (RFC 9110 section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    def __str__(self) -> str:
        if self.etag and self.etag.startswith("W/") and self.last_modified:
            return f"ETag {self.etag} of {self.last_modified}"
        if self.etag:
            return f"ETag {self.etag}"
        return f"Last-Modified {self.last_modified}" if self.last_modified else "none"

    def __bool__(self) -> bool:
        return bool(self.etag or self.last_modified)

    @property
    def conditions(self) -> dict[str, str]:
        """The headers that make a server refuse another version: a weak ETag never stands in If-Match (section
        13.1.1), nor one that not every client would send as it came; the date stands in for them."""
        if self.etag and _VISIBLE.fullmatch(self.etag):
            return {"If-Match": self.etag}
        return {"If-Unmodified-Since": self.last_modified} if self.last_modified else {}

    def agrees(self, other: Validator) -> bool:
        """Whether `other` (of a later response) is the same version, as far as this one can tell. Where a weak ETag
        stays, the bytes may be others (section 8.8.1): the date is not to be another one."""
        if self.etag and (other.etag != self.etag or not self.etag.startswith("W/")):
            return other.etag == self.etag
        if self.etag and other.last_modified is None:
            return True
        return self.last_modified is None or other.last_modified == self.last_modified

    def contradicts(self, other: Validator) -> bool:
        """Whether `other`, of a response that need not have any, is of another version."""
        kind = 0 if self.etag and other.etag else 1
        return None not in (self[kind], other[kind]) and self[kind] != other[kind]


def settles_in(head: Head) -> float | None:
    """Seconds until a response's validator stands for just one version of the file, now and later (RFC 9110 section
    8.8.1); None: it never does.

    A Last-Modified does, and an ETag that is made of it, as nginx makes it, once its second is over (section 8.8.2.2):
    until then the file may change again, and keep them. Any other strong ETag does, but for that second: some servers
    make theirs of the date in a way that does not show.
    """
    etag, modified = head.validator
    if etag is not None and not etag.startswith('"'):
        return None
    changed, now = _seconds(modified), _seconds(head.headers.get("date"))
    wait = math.nan if math.isnan(changed - now) else max(0.0, changed + 1 - now)
    if etag is not None and (math.isnan(changed) or not etag.startswith(f'"{int(changed):x}-')):
        return min(1.0, wait) if wait > 0 else 0.0
    return None if math.isnan(wait) else wait


def _seconds(date: str | None) -> float:
    """An HTTP-date (RFC 9110 section 5.6.7) as seconds; NaN where it is none."""
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return math.nan


class Part(NamedTuple):
    """What a 206 says it brings."""

    extent: ByteRange
    size: int | None
    """Of the whole file; None where the server says `*`."""


def check_whole(head: Head, where: str) -> None:
    """Raises HctefNetworkError: the bytes of a 200 are coded, or its length cannot be believed."""
    if head.coded:
        raise HctefNetworkError(f"{where}: the whole file comes with a Content-Encoding", status=head.status)
    _check_transfer(head, where)
    if "content-length" in head.headers and head.length is None:
        length = head.headers["content-length"][:40]
        raise HctefNetworkError(f"{where}: the Content-Length makes no sense: {length!r}", status=head.status)


def _check_transfer(head: Head, where: str) -> None:
    """Raises HctefNetworkError: the body has a transfer coding that nobody has undone, or a length besides, as where
    one answer is smuggled into another (RFC 9112 sections 6.1 and 6.3)."""
    coding, both = head.headers.get("transfer-encoding"), "content-length" in head.headers
    if coding is not None and coding.lower() != "identity" and (both or not head.chunked):  # as HTTP had it until 2014
        what = ", and a Content-Length" if both else ", which nobody asked for"
        message = f"{where}: status {head.status} with Transfer-Encoding {coding[:40]!r}{what}"
        raise HctefNetworkError(message, status=head.status)


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
    _check_transfer(head, where)
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
