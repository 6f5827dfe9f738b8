"""Responses that are not plain: read by `http.client` and urllib3, which know all there is.

Where our own connection has begun to receive one, it is replayed to them from its first byte.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import socket
import time
from typing import Any, Protocol

import urllib3
from urllib3.util.response import assert_header_parsing

from hctef._interrupts import is_handlers


def stop_receiving(sock: Any) -> None:
    """Make a receive that waits in another thread fail. Not by `SSLSocket.shutdown`, which takes TLS away first: that
    thread would send and receive in the clear."""
    socket.socket.shutdown(sock, socket.SHUT_RD)


class _Replayed(io.RawIOBase):
    """A socket's bytes, after some that were received already."""

    def __init__(self, sock: Any, before: bytes) -> None:
        self._raw, self._before = sock.makefile("rb", buffering=0), before

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int | None:
        if self._before:
            count = min(len(target), len(self._before))
            target[:count], self._before = self._before[:count], self._before[count:]
            return count
        received: int | None = self._raw.readinto(target)
        return received

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Replay:
    """What `http.client` asks of a socket."""

    def __init__(self, sock: Any, before: bytes) -> None:
        self._file = io.BufferedReader(_Replayed(sock, before))

    def makefile(self, _: str) -> Any:
        return self._file


def _see_cuts(answer: Any, sock: Any) -> None:
    """What ends with its connection, anybody on the way can cut: TLS is to tell that."""
    if answer.length is None and not answer.chunked and hasattr(sock, "suppress_ragged_eofs"):
        sock.suppress_ragged_eofs = False


def replayed(connection: Any, url: str, before: bytes) -> urllib3.HTTPResponse:
    """The response to the request under way on urllib3's `connection`, of which `before` was received already."""
    replay: Any = _Replay(connection.sock, before)  # as much of a socket as is asked of
    answer = http.client.HTTPResponse(replay, method="GET")
    shutdown = functools.partial(stop_receiving, connection.sock)
    try:
        answer.begin()
    except BaseException:  # raised again
        answer.close()
        raise
    _see_cuts(answer, connection.sock)
    if answer.will_close or connection.unanswered:
        connection.close()  # the response holds the socket's file
    return urllib3.HTTPResponse(
        body=answer,
        headers=urllib3.HTTPHeaderDict(answer.msg.items()),
        status=answer.status,
        version=answer.version,
        reason=answer.reason,
        preload_content=False,
        decode_content=False,
        original_response=answer,
        request_method="GET",
        request_url=url,
        sock_shutdown=shutdown,
    )


class _Body(Protocol):
    @property
    def left(self) -> int | None: ...
    def read(self, limit: int) -> bytes: ...


def drained(body: _Body, sock: Any, seconds: float) -> None:
    """Read the rest of a body that comes by `sock`, as far as it comes within so many seconds."""
    until, usual = time.monotonic() + seconds, sock.gettimeout()
    try:
        while (left := body.left) and (remaining := until - time.monotonic()) > 0:
            sock.settimeout(remaining)
            if not body.read(left):
                return
    except TimeoutError as error:
        if is_handlers(error):
            raise
    finally:
        with contextlib.suppress(OSError):  # it was closed
            sock.settimeout(usual)


class Urllib3Response:
    """A response as urllib3 reads it: of a caller's pool, by a proxy, or not plain; used as a `PlainResponse` is."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        """Raises HeaderParsingError: a line of its head is malformed, which hides what stands behind it."""
        self._response: Any = response
        head = getattr(getattr(response, "_original_response", None), "msg", None)
        if head is not None:
            try:
                assert_header_parsing(head)
            except BaseException:  # raised again
                self.close()
                raise
        answer = getattr(response, "_original_response", None)
        if answer is not None and not answer.isclosed():
            _see_cuts(answer, getattr(getattr(answer.fp, "raw", None), "_sock", None))
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.itermerged()}

    @property
    def left(self) -> int | None:
        """Bytes of the body that were not read; None where nobody knows."""
        response = self._response
        left: int | None = None if response.chunked else response.length_remaining
        if left is None and response._fp is not None and response._fp.isclosed():
            return 0
        return left

    def readinto(self, room: memoryview, least: int) -> int:
        response = self._response
        body = response._fp  # http.client's; urllib3's own readinto reads into bytes first, and copies them
        if response.chunked or body is None or not body.length or body.fp is None:
            data = self.read(len(room))
            room[: len(data)] = data
            return len(data)
        count: int = (body.fp.readinto if least >= len(room) else body.fp.readinto1)(room[: body.length])
        body.length -= count
        response.length_remaining = body.length  # else urllib3 takes the body for cut, and closes
        if not body.length:
            body.read(0)  # the end: the connection is free
        return count

    def read(self, limit: int) -> bytes:
        data: bytes = self._response.read1(limit, decode_content=False)
        return data

    def drain(self, seconds: float) -> None:
        sock = getattr(self._response.connection, "sock", None)
        if sock is not None:  # else nobody knows how to wait for so long only
            drained(self, sock, seconds)

    def release(self) -> None:
        self._response.release_conn()

    def close(self) -> None:
        self._response.close()

    def shutdown(self) -> None:
        sock = getattr(self._response._sock_shutdown, "__self__", None)
        if isinstance(sock, socket.socket) and self._response.connection is not None:
            stop_receiving(sock)  # urllib3 takes TLS away from whoever waits there
        else:
            self._response.shutdown()
