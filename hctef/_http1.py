"""HTTP/1.1 responses of the plain kind, read straight from urllib3's connections.

urllib3 makes the connections, keeps them, and speaks TLS on them. What it and `http.client` do for a request beyond
that (parse the head as e-mail, build it anew, wrap the socket in a buffered file, copy the body) takes longer than the
request itself on a near server. Here a GET goes out in one piece, and where its answer is plain (HTTP/1.1, 200 or 206,
one Content-Length, no Transfer-Encoding, lines that end as RFC 9112 section 2.2 has them) its head is taken apart here
and its body received where it belongs. Whatever is not plain is replayed to `http.client` from its first byte.

Requests may be pipelined (RFC 9112 section 9.3.2): sent behind another before its response has come. A server answers
them in their order; whether it really does is for the caller to see, by their Content-Range. A connection with
requests that were not answered is never used for anything else.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import math
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from hctef._heads import Expected, PlainHead, PlainHeaders, alike, head_end, plain_head, template
from hctef._interrupts import called
from hctef._ranges import ByteRange
from hctef._replay import drained, replayed, stop_receiving

STAGING = 20 * 1024
"""Bytes of a connection's buffer: a head, and the smallest block with it."""
PIPELINED_STAGING = 132 * 1024
"""The same where responses come one behind the other: several at once, for each receive may wait for the GIL, and two
blocks of the usual size."""
IDLE_SECONDS = 1.0
"""After about so long without anything to send (a retransmission timeout) a sender begins slowly again (RFC 5681
section 4.1)."""

WAKE_LEAST, WAKE_MOST = 2 * 1024, 256 * 1024
"""Bytes that are waited for by the kernel, so that this process wakes once for them (SO_RCVLOWAT, socket(7))."""

SEGMENT = 64 * 1024
"""Bytes: the longest segment (over loopback), the last of which a sender may hold back."""

_LINUX = sys.platform == "linux"


class TimedOut(TimeoutError):
    """A receive's own timeout is over, and nothing was lost."""


class PlainResponse:
    """The answer to a request, as far as urllib3's pool looks at it, and its body."""

    __slots__ = (
        "_ahead",
        "_connection",
        "_length",
        "_pool",
        "block",
        "expected",
        "headers",
        "left",
        "persistent",
        "retries",
        "sock",
        "status",
    )

    version_string = "HTTP/1.1"

    def __init__(
        self, sock: Any, block: bytes, head: PlainHead, ahead: memoryview, *, clean: bool, expected: bool
    ) -> None:
        """`block`: `head` as it came; `ahead`: bytes of the body that came with it; `clean`: and nothing else came;
        `expected`: the head is what its request expected."""
        self.sock, self.block, self.expected = sock, block, expected
        self.status, self.headers, self.left = head
        self._ahead, self._length = ahead, self.left
        self._connection: Any = None  # these are set by urllib3
        self._pool: Any = None
        self.retries: Any = None
        self.persistent = clean and "close" not in self.headers.get("connection", "").lower()
        """Whether another response may follow on this connection."""

    @property
    def length_remaining(self) -> int:
        return self.left

    @property
    def unanswered(self) -> int:
        """How many requests were sent behind this one."""
        count: int = self._connection.unanswered
        return count

    def readinto(self, room: memoryview, least: int) -> int:
        """Receive bytes of the body, `least` of them at least, where so many are left and fit. 0: nothing is left, or
        the connection ended early."""
        room = room[: self.left]
        most, count, ahead = len(room), 0, self._ahead
        if ahead:
            count = min(most, len(ahead))
            room[:count] = ahead[:count]
            self._ahead = ahead[count:]
        least = min(max(1, least), most)
        while count < least:
            if self.left - count <= SEGMENT:
                _acknowledge(self.sock)
            try:
                came = self._connection.receive(room[count:], least - count)
            except TimedOut:
                if not count:
                    raise
                break  # what came, though it came slowly
            if not came:
                self.persistent = False
                break
            count += came
            if came < self._connection.wakes_at:  # the timeout was over, or the connection ended
                break
        self.left -= count
        return count

    def read(self, limit: int) -> bytes:
        """Receive at least one byte of the body, and at most `limit`; b'' where `readinto` returns 0."""
        room = bytearray(min(limit, self.left, STAGING * 16))
        count = self.readinto(memoryview(room), 1)
        return bytes(memoryview(room)[:count])

    def drain(self, seconds: float) -> None:
        """Read the rest, as far as it comes within so many seconds."""
        drained(self, self.sock, seconds)

    def release(self) -> None:
        """Give the connection back, for the next request where this one's body was read to its end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self.left or not self.persistent or connection.unanswered or not connection.rest():
                connection.close()
            else:
                connection.carry(self._length)
            self._pool._put_conn(connection)

    def send(self, requests: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        """Send more requests on the connection, each a path and headers."""
        self._connection.send_ahead(requests)

    def follow(self, timeout: float, expects: Expected | None) -> PlainResponse | None:
        """The answer to the next of the requests that were sent already; this one's body was read to its end. None:
        it is not plain. `timeout`: seconds to wait for it, between bytes, where it is shorter than the connection's;
        `expects`: its head, perhaps."""
        connection = self._connection
        following: PlainResponse | None = connection.receive_following(timeout, expects)
        if following is not None:
            connection.carry(self._length)
            following._connection, self._connection = connection, None
            following._pool = self._pool
        return following

    def collect(self, extents: Iterable[ByteRange], put: Callable[[int, memoryview], object]) -> int:
        """Take the answers to the requests behind this one, whose body was read to its end, that have come in whole:
        as long as each brings the bytes of the next of `extents`, with a head that says nothing else new. Returns how
        many. What else has come stays for `follow`."""
        like = template(self.block) if self.persistent and not self.left else None
        if like is None:
            return 0
        count: int = self._connection.collect(like, extents, put)
        self.persistent = self._connection.is_clean
        return count

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def shutdown(self) -> None:
        """Make a receive that waits in another thread fail."""
        stop_receiving(self.sock)


def _acknowledge(sock: Any) -> None:
    """Acknowledge what came. A sender may hold back the last segment of a response until then (Nagle's algorithm, RFC
    896), and who does not send, acknowledges 40 ms later (RFC 9293 section 3.8.6.3)."""
    if _LINUX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _wait_at_most(sock: Any, seconds: float | None) -> None:
    """Set the timeout of a socket, which is a system call, where it has another."""
    if sock.gettimeout() != seconds:
        sock.settimeout(seconds)


class _Plain:
    """What is put before urllib3's connections."""

    _asked: str | None = None
    """The URL of a plain request that was sent and not answered."""
    _expects: Expected | None = None
    """The head of its response, perhaps."""
    unanswered = 0
    """Requests that were sent behind it."""
    carried = 0
    """Bytes of responses since the connection was last idle for long."""
    used = 0.0
    """When the last of them ended."""
    _staging: bytearray | None = None
    _over = (0, 0)
    """Where in it bytes of the next response are."""
    wakes_at = 1
    """How many bytes must have come for a receive to return."""

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        connection: Any = self
        if isinstance(headers, PlainHeaders) and headers.target is not None:
            url = headers.target
        if method != "GET" or body is not None or options.get("preload_content", True):
            self._asked = None
            super().request(method, url, body=body, headers=headers, **options)  # type: ignore[misc]  # a mixin: urllib3's
            return
        self._asked = url
        if connection.sock is None:
            connection.connect()
        _wait_at_most(connection.sock, connection.timeout)
        following: list[bytes] = []
        self._expects = None
        if isinstance(headers, PlainHeaders):
            self._expects = headers.expects
            following += (self._head(*request) for request in headers.following)
            if headers.started is not None:
                headers.started(connection.sock)
        self.unanswered = len(following)
        called(connection.sock.sendall, b"".join([self._head(url, headers), *following]))

    def send_ahead(self, requests: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        """Send requests before the response to that before them has come."""
        connection: Any = self
        heads = [self._head(*request) for request in requests]
        self.unanswered += len(heads)
        called(connection.sock.sendall, b"".join(heads))

    def warmth(self, now: float) -> int:
        """How many of these bytes still tell of its congestion window."""
        return self.carried if now - self.used < IDLE_SECONDS else 0

    def carry(self, count: int) -> None:
        """A response of `count` bytes came."""
        now = time.monotonic()
        self.carried, self.used = count + self.warmth(now), now

    def rest(self) -> bool:
        """Have a connection on which nothing is to come wait for the next request: what comes before that is seen by
        whoever looks whether it is still there. False: something has come already, which TLS keeps to itself."""
        sock: Any = self.sock  # type: ignore[attr-defined]  # urllib3's
        self._wake_at(sock, 1)  # poll too sees no fewer bytes
        return not (isinstance(sock, ssl.SSLSocket) and sock.pending())

    def _wake_at(self, sock: Any, least: int) -> None:
        if least != self.wakes_at:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            self.wakes_at = least

    def receive(self, room: memoryview, least: int) -> int:
        """Receive into `room`; wake when `least` bytes have come, or no more will. 0: the connection ended."""
        sock: Any = self.sock  # type: ignore[attr-defined]  # urllib3's
        gathers = _LINUX and least >= WAKE_LEAST and type(sock) is socket.socket  # TLS has records of its own
        # Without a timeout it is recv that waits, which is woken only by so many bytes beyond those that it has taken.
        gathers = gathers and sock.gettimeout() is not None
        # Not for the last segment: what is not taken yet is not acknowledged, where it is shorter than one, and it may
        # be held back until then.
        least = min(least, WAKE_MOST) - sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) if gathers else 1
        least = least if least >= WAKE_LEAST else 1
        self._wake_at(sock, least)
        began = time.monotonic()
        try:
            count: int = called(sock.recv_into, room)
        except TimeoutError:
            if time.monotonic() - began < 0.9 * (sock.gettimeout() or math.inf):
                raise  # a handler's, of which nothing else shows: bytes may be lost with it
            if least == 1:
                raise TimedOut("timed out") from None
            try:
                count = self._receive_now(room)  # what came, though it came slowly
            except BlockingIOError:
                raise TimedOut("timed out") from None
        return count

    def close(self) -> None:
        self.unanswered, self._over, self.wakes_at = 0, (0, 0), 1
        self.carried = 0
        super().close()  # type: ignore[misc]  # as above

    def _head(self, url: str, headers: Mapping[str, str]) -> bytes:
        """A request. Raises ValueError: it holds line breaks of its own."""
        connection: Any = self
        host = f"[{connection.host}]" if ":" in connection.host else connection.host
        if connection.port != connection.default_port:
            host = f"{host}:{connection.port}"
        lines = [f"GET {url} HTTP/1.1", f"Host: {host}"]
        if "\nuser-agent\n" not in "\n".join(("", *headers, "")).lower():  # in a third of the time of a loop
            lines.append(f"User-Agent: {_USER_AGENT}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        text = "\r\n".join(lines)
        if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1 or " " in url:
            raise ValueError("a line break in a request")
        return text.encode("latin-1") + b"\r\n\r\n"

    def getresponse(self) -> Any:
        connection: Any = self
        asked, self._asked = self._asked, None
        if asked is None:
            return super().getresponse()  # type: ignore[misc]  # as above
        _wait_at_most(connection.sock, connection.timeout)
        expects, self._expects = self._expects, None
        response, came = self._receive(expects)
        return replayed(connection, asked, bytes(came)) if response is None else response

    def receive_following(self, timeout: float, expects: Expected | None) -> PlainResponse | None:
        """See `PlainResponse.follow`."""
        connection: Any = self
        self.unanswered -= 1
        if self._over != (0, 0) and head_end(self._staging or bytearray(), *self._over):
            return self._receive(expects)[0]
        usual = connection.timeout
        connection.sock.settimeout(timeout if usual is None else min(timeout, usual))
        _acknowledge(connection.sock)
        response, _ = self._receive(expects)
        connection.sock.settimeout(usual)
        return response

    def collect(self, like: bytes, extents: Iterable[ByteRange], put: Callable[[int, memoryview], object]) -> int:
        """See `PlainResponse.collect`."""
        connection: Any = self
        staging, (begin, end) = self._staging or bytearray(), self._over
        count, length, view = 0, 0, memoryview(staging)
        for start, stop in itertools.islice(extents, self.unanswered):
            head = alike(like, start, stop)
            whole = len(head) + stop - start
            while end - begin < whole <= len(view):
                view[: end - begin] = view[begin:end]
                begin, end = 0, end - begin
                _acknowledge(connection.sock)
                came = 0
                try:
                    came = self._receive_now(view[end:])
                except (BlockingIOError, ssl.SSLWantReadError):
                    pass  # nothing is there
                except OSError:  # bytes may be lost with it: the next receive is to fail
                    with contextlib.suppress(OSError):
                        stop_receiving(connection.sock)
                if not came:
                    break
                end += came
            if end - begin < whole or not staging.startswith(head, begin):
                break
            put(start, view[begin + len(head) : begin + whole])
            begin, count, length = begin + whole, count + 1, length + whole
        self._over = (begin, end) if begin < end else (0, 0)
        if count:
            self.unanswered -= count
            self.carry(length)
        return count

    @property
    def is_clean(self) -> bool:
        """Whether nothing has come that was not asked for: it might pass for the next response."""
        return self.unanswered > 0 or self._over == (0, 0)

    def _receive_now(self, room: memoryview) -> int:
        """Receive what is there. 0: the connection ended. Raises OSError, BlockingIOError where nothing is there."""
        sock: Any = self.sock  # type: ignore[attr-defined]  # urllib3's
        usual = sock.gettimeout()
        sock.settimeout(0)
        try:
            count: int = called(sock.recv_into, room)
        finally:
            sock.settimeout(usual)
        return count

    def _receive(self, expects: Expected | None = None) -> tuple[PlainResponse | None, memoryview]:
        """The next response, where it is plain, and what has been received of it. `expects`: its head, perhaps."""
        connection: Any = self
        sock, staging = connection.sock, self._staging
        size = PIPELINED_STAGING if self.unanswered else STAGING
        begin, end = self._over
        if staging is None or len(staging) < size:
            before = b"" if staging is None else staging[begin:end]
            staging = self._staging = bytearray(size)
            staging[: len(before)] = before
            begin, end = 0, len(before)
        self._over, view = (0, 0), memoryview(staging)
        head = head_end(staging, begin, end)
        if not head:
            view[: end - begin] = view[begin:end]
            begin, end = 0, end - begin
        while not head and end < len(view):
            if end:
                _acknowledge(sock)
            came = self.receive(view[end:], 1)
            if not came:  # http.client would take what came for the whole head
                raise http.client.RemoteDisconnected("the connection ended before the end of the response's head")
            head = head_end(staging, max(0, end - 3), end + came)
            end += came
        if head > 0:
            block = bytes(view[begin : head - 4])
            known = expects if expects is not None and staging.startswith(expects.text, begin) else None
            plain = plain_head(block) if known is None else known.head
            if plain is not None:
                stop = min(end, head + plain.length)
                self._over = (stop, end) if self.unanswered else (0, 0)
                # More than was announced may pass for the next response, where none is to come.
                clean = stop == end or self.unanswered > 0
                ahead, expected = view[head:stop], known is not None
                return PlainResponse(sock, block, plain, ahead, clean=clean, expected=expected), view[begin:end]
        return None, view[begin:end]


_USER_AGENT = f"python-urllib3/{urllib3.__version__}"  # type: ignore[attr-defined]  # not in its __all__


class PlainHTTPConnection(_Plain, HTTPConnection):
    pass


class PlainHTTPSConnection(_Plain, HTTPSConnection):
    pass
