"""Heads of HTTP/1.1: of requests, and of responses as far as they are plain: 200 or 206, a length, fields of a line
each. Pure.

Whatever else a head may hold (RFC 9112 section 5), `http.client` reads from its first byte: what is not plain is no
error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_PLAIN = re.compile(rb"HTTP/1\.1 20[06] [^\r\n]*(?:\r\n|\Z)")
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\r\n]*)")
_LENGTH = re.compile(r"[0-9]{1,19}")
_LENGTHS = re.compile(rb"(?i)(\r\nContent-Length:[ \t]*)[0-9]+(?=[ \t]*(?:\r\n|\Z))")
_EXTENTS = re.compile(rb"(?i)(\r\nContent-Range:[ \t]*bytes )[0-9]+-[0-9]+(/[0-9]+[ \t]*(?:\r\n|\Z))")
SURPRISES = 8
"""Heads one after the other that were not as expected, after which none is: such as name the request."""
_HEADERS_MOST = 100  # as http.client has it


class PlainHeaders(dict[str, str]):
    """Headers of a request, and what else its connection is to know of it."""

    following: Iterable[tuple[str, Mapping[str, str]]] = ()
    """More requests to send with it, each a path and headers."""
    started: Callable[[Any], None] | None = None
    """Is told the connection's socket before the request goes out."""
    expects: Expected | None = None
    """The response's head, if it says nothing new."""
    target: str | None = None
    """What to ask for, byte for byte, in place of what urllib3 was told: it writes some characters in another way."""

    def copy(self) -> PlainHeaders:
        """urllib3 adds a proxy's to a copy."""
        copied = PlainHeaders(self)
        copied.following, copied.started = self.following, self.started
        copied.expects, copied.target = self.expects, self.target
        return copied


class PlainHead(NamedTuple):
    """What a plain response's head says."""

    status: int
    headers: dict[str, str]
    """Names in lower case, repeated ones joined by commas."""
    length: int
    """Content-Length."""


class Expected(NamedTuple):
    """A head that is known before it has come."""

    text: bytes
    """All of it, with the empty line at its end."""
    head: PlainHead


def plain_head(block: bytes) -> PlainHead | None:
    """What a response's head says, without the empty line at its end; None where it is not plain."""
    # Two fields differ from response to response: the others are most often those of the one before.
    length, block = _without(block, b"\r\nContent-Length:")
    extent, block = _without(block, b"\r\nContent-Range:")
    others = _plain_fields(block)
    if others is None:
        return None
    status, headers = others
    if length is None or not _LENGTH.fullmatch(length) or "content-length" in headers or "content-range" in headers:
        return None
    headers = {**headers, "content-length": length}
    if extent is not None:
        headers["content-range"] = extent
    return PlainHead(status, headers, int(length))


@functools.lru_cache(64)
def template(block: bytes) -> bytes | None:
    """What `alike` makes of a plain head. None where it does not name bytes, and how many of them, once each."""
    length, extent = (fields.findall(block) for fields in (_LENGTHS, _EXTENTS))
    if len(length) != 1 or len(extent) != 1:
        return None
    block = _LENGTHS.sub(rb"\1%(length)d", block.replace(b"%", b"%%"))
    return _EXTENTS.sub(rb"\1%(first)d-%(last)d\2", block) + b"\r\n\r\n"


def alike(like: bytes, start: int, stop: int) -> bytes:
    """The head that a server sends with the bytes `[start, stop)` of the same file, with the empty line at its end, if
    nothing else has changed. `like`: a `template`."""
    return like % {b"length": stop - start, b"first": start, b"last": stop - 1}


class Likeness:
    """What the responses for one file say, as long as they say nothing new but which bytes they bring.

    To compare a head with what is expected takes a tenth of the time of taking it apart and checking each field.
    """

    __slots__ = ("_headers", "_size", "_surprises", "_template")

    def __init__(self) -> None:
        self._template: bytes | None = None
        self._headers: dict[str, str] = {}
        self._size = ""
        self._surprises = 0

    def learn(self, block: bytes, headers: Mapping[str, str]) -> None:
        """A 206's head, without its empty line, that was checked for the file, and was not as expected."""
        self._surprises += 1
        if self._surprises > SURPRISES:
            self._template = None
            return
        self._template = template(block)
        self._headers = dict(headers)
        self._size = self._headers.get("content-range", "").rpartition("/")[2]

    def expected(self, start: int, stop: int) -> Expected | None:
        """The head of a response that brings just `[start, stop)`."""
        if self._template is None:
            return None
        length = stop - start
        headers = {**self._headers, "content-length": str(length)}
        headers["content-range"] = f"bytes {start}-{stop - 1}/{self._size}"
        return Expected(alike(self._template, start, stop), PlainHead(206, headers, length))

    def confirmed(self) -> None:
        """One was as expected."""
        self._surprises = 0


def _without(block: bytes, name: bytes) -> tuple[str | None, bytes]:
    """The value of the first field that begins so, None where there is none, and the other lines."""
    start = block.find(name)
    if start < 0:
        start = block.find(name.lower())  # as some proxies write them all
    if start < 0:
        return None, block
    value, separator, rest = block[start + len(name) :].partition(b"\r\n")
    if b"\n" in value or b"\r" in value:
        return None, block
    return value.decode("latin-1").strip(" \t"), block[:start] + separator + rest


@functools.lru_cache(64)
def _plain_fields(block: bytes) -> tuple[int, dict[str, str]] | None:
    """Status and headers; nobody changes them."""
    if not _PLAIN.match(block):
        return None
    lines = block.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        match = _FIELD.fullmatch(line)
        if match is None:
            return None
        name, value = match[1].lower(), match[2].strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if len(lines) > _HEADERS_MOST - 2 or "transfer-encoding" in headers:
        return None
    return int(block[9:12]), headers


def head_end(data: bytearray, start: int, stop: int) -> int:
    """Where a head in `data[start:stop]` ends; 0: it does not yet, -1: not as a plain one does."""
    end = data.find(b"\r\n\r\n", start, stop)
    if end < 0:
        return -1 if _HEAD_END.search(data, start, stop) else 0
    return end + 4
