"""A range server that does all that RFC 9110 asks for, misbehaves on demand, and counts what it sends.

    server.add('f', data)                       -> its URL
    server.behave('f', cut(1000))               each response
    server.behave('f', times(2, status(503)))   the first two responses
    server.behave('f', after(1, etag('"v2"')))  all but the first

A behaviour is a function of the `Request` and of the right `Reply`, which it spoils. They are applied in their order.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Self

PIECE = 16 * 1024


@dataclass
class File:
    data: bytes
    etag: str | None = '"v1"'
    last_modified: str | None = "Wed, 21 Oct 2015 07:28:00 GMT"


@dataclass
class Request:
    """A request, and what became of it."""

    method: str
    target: str
    headers: dict[str, str]
    connection: int
    status: int = 0
    range: tuple[int, int] | None = None
    """The bytes of the file that the body was made of, half-open."""
    sent: int = 0
    """Bytes of the body that were handed to the socket."""
    ahead: bool = False
    """It came before all of the response to the one in front of it was sent: it was pipelined."""

    @property
    def name(self) -> str:
        return self.target.partition("?")[0].lstrip("/")

    @property
    def asked(self) -> str:
        return self.headers.get("range", "")

    @property
    def suffix(self) -> bool:
        return self.asked.startswith("bytes=-")


@dataclass
class Reply:
    """The right response, to be spoilt."""

    file: File
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    start: int = 0
    cut: int | None = None
    """Close the connection after this many bytes of the body."""
    reset: bool = False
    """Close by RST rather than FIN."""
    chunked: bool = False
    until_close: bool = False
    """No Content-Length: the body ends with the connection."""
    hang_up: bool = False
    """Close without a response."""
    stale: bool = False
    """Say keep-alive, and close once the response is sent."""
    head_delay: float = 0.0
    rate: float = 0.0
    """Bytes of the body a second, one at a time; 0: at once."""
    early_hints: bool = False
    forget: bool = False
    """Throw away what has come behind this request."""

    def whole(self) -> None:
        """The whole file with 200."""
        self.status, self.body, self.start = 200, self.file.data, 0
        self.headers.pop("Content-Range", None)

    def part(self, start: int, stop: int, *, total: str | None = None) -> None:
        """206 with `[start, stop)`."""
        self.status, self.body, self.start = 206, self.file.data[start:stop], start
        self.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total or len(self.file.data)}"

    def fail(self, status: int, **headers: str) -> None:
        self.status, self.body = status, b"no\n"
        self.headers.pop("Content-Range", None)
        self.headers |= {name.replace("_", "-"): value for name, value in headers.items()}


Behaviour = Callable[[Request, Reply], None]


# which responses


def times(count: int, behaviour: Behaviour) -> Behaviour:
    """The first `count` responses only."""
    left = [count]

    def apply(request: Request, reply: Reply) -> None:
        if left[0] > 0:
            left[0] -= 1
            behaviour(request, reply)

    return apply


def after(count: int, behaviour: Behaviour) -> Behaviour:
    """All responses but the first `count`."""
    left = [count]

    def apply(request: Request, reply: Reply) -> None:
        if left[0] > 0:
            left[0] -= 1
        else:
            behaviour(request, reply)

    return apply


def when(predicate: Callable[[Request], bool], behaviour: Behaviour) -> Behaviour:
    """Responses to the requests that the predicate chooses."""
    return lambda request, reply: behaviour(request, reply) if predicate(request) else None


# what goes wrong


def ignore_range(_: Request, reply: Reply) -> None:
    """200 with the whole file."""
    if reply.status in (206, 416):
        reply.whole()


def clamp(count: int) -> Behaviour:
    """A shorter range than asked for, and says so."""

    def apply(_: Request, reply: Reply) -> None:
        if reply.status == 206:
            reply.part(reply.start, reply.start + min(count, len(reply.body)))

    return apply


def shift(count: int) -> Behaviour:
    """Another range than asked for, and says so."""

    def apply(_: Request, reply: Reply) -> None:
        if reply.status == 206:
            start = max(0, reply.start + count)
            reply.part(start, min(len(reply.file.data), start + len(reply.body)))

    return apply


def longer(count: int) -> Behaviour:
    """More than asked for, and says so."""

    def apply(_: Request, reply: Reply) -> None:
        if reply.status == 206:
            reply.part(reply.start, min(len(reply.file.data), reply.start + len(reply.body) + count))

    return apply


def header(name: str, value: str | None) -> Behaviour:
    """A header set, or left out."""

    def apply(_: Request, reply: Reply) -> None:
        reply.headers.pop(name, None)
        if value is not None:
            reply.headers[name] = value

    return apply


def hide_total(_: Request, reply: Reply) -> None:
    """`Content-Range: bytes 0-99/*`, and `*/*`-like nothing on a 416."""
    value = reply.headers.get("Content-Range", "")
    if reply.status == 206:
        reply.headers["Content-Range"] = value.rpartition("/")[0] + "/*"
    elif reply.status == 416:
        reply.headers.pop("Content-Range")


def etag(value: str | None) -> Behaviour:
    return header("ETag", value)


def chunked(_: Request, reply: Reply) -> None:
    """No Content-Length."""
    reply.chunked = True


def until_close(_: Request, reply: Reply) -> None:
    """Neither Content-Length nor chunked."""
    reply.until_close = True


def extra(count: int) -> Behaviour:
    """More bytes in the body than the head says; chunked, for otherwise nobody would see them."""

    def apply(_: Request, reply: Reply) -> None:
        reply.chunked = True
        reply.body += b"x" * count

    return apply


def cut(count: int, *, reset: bool = False) -> Behaviour:
    """The connection breaks after `count` bytes of the body."""

    def apply(_: Request, reply: Reply) -> None:
        reply.cut, reply.reset = count, reset

    return apply


def hang_up(_: Request, reply: Reply) -> None:
    """No response at all."""
    reply.hang_up = True


def stale(_: Request, reply: Reply) -> None:
    """The connection is closed once the client believes it idle."""
    reply.stale = True


def status(code: int, **headers: str) -> Behaviour:
    return lambda _, reply: reply.fail(code, **headers)


def redirect(location: str, code: int = 302) -> Behaviour:
    return lambda _, reply: reply.fail(code, Location=location)


def slow(seconds: float) -> Behaviour:
    """Latency before the head."""

    def apply(_: Request, reply: Reply) -> None:
        reply.head_delay = seconds

    return apply


def trickle(rate: float) -> Behaviour:
    """`rate` bytes a second."""

    def apply(_: Request, reply: Reply) -> None:
        reply.rate = rate

    return apply


def early_hints(_: Request, reply: Reply) -> None:
    """103 before the response (RFC 8297)."""
    reply.early_hints = True


def forgetful(_: Request, reply: Reply) -> None:
    """What has come before its response is sent is thrown away: no server of pipelined requests."""
    reply.forget = True


def expects(name: str, value: Callable[[], str], code: int = 401) -> Behaviour:
    """`code` where the request's header is not what `value()` says."""

    def apply(request: Request, reply: Reply) -> None:
        if request.headers.get(name.lower()) != value():
            reply.fail(code)

    return apply


def expires(query: Callable[[], str], code: int = 403) -> Behaviour:
    """`code` where the request's query is not what `query()` says."""

    def apply(request: Request, reply: Reply) -> None:
        if request.target.partition("?")[2] != query():
            reply.fail(code)

    return apply


class Gate:
    """Holds responses back until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._waiting = 0
        self._changed = threading.Condition()

    def __call__(self, _: Request, __: Reply) -> None:
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
        self._open.wait(60)

    def wait_for(self, count: int) -> None:
        """Until so many requests are held."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting >= count, 60), "the requests did not come"

    def open(self) -> None:
        self._open.set()


class RangeServer:
    """The server. A context manager; on 127.0.0.1, or `localhost` with TLS."""

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.files: dict[str, File] = {}
        self.log: list[Request] = []
        self.connections = 0
        self.most_in_flight = 0
        self._behaviours: dict[str, tuple[Behaviour, ...]] = {}
        self._lock = threading.Lock()
        self._in_flight = 0
        self._pipelining: set[int] = set()  # connections
        self._sockets: set[socket.socket] = set()
        self._closing = threading.Event()
        self._scheme, self._host = ("https", "localhost") if tls else ("http", "127.0.0.1")
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            request_queue_size = 128
            daemon_threads = True
            allow_reuse_address = True

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                if tls:
                    try:
                        request = tls.wrap_socket(request, server_side=True)
                    except (OSError, ssl.SSLError):  # a client that does not trust us
                        request.close()
                        return
                super().process_request_thread(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is what some tests are about."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    # files and behaviours

    def add(self, name: str, data: bytes, **validators: str | None) -> str:
        """Serve `data` as `name`; `etag`, `last_modified`: other ones, or none. Returns the URL."""
        self.files[name] = File(data, **validators)
        return self.url(name)

    def url(self, name: str) -> str:
        return f"{self._scheme}://{self._host}:{self.port}/{name}"

    def behave(self, name: str, *behaviours: Behaviour) -> None:
        self._behaviours[name] = behaviours

    # what was sent

    @property
    def requests(self) -> int:
        return len(self.log)

    @property
    def bytes_sent(self) -> int:
        return sum(request.sent for request in self.log)

    def sent_ranges(self) -> list[tuple[int, int]]:
        """The ranges of the file that were sent, in the order of the requests."""
        with self._lock:
            return [(r.range[0], r.range[0] + r.sent) for r in self.log if r.range and r.sent]

    def asked_ranges(self) -> list[tuple[int, int]]:
        with self._lock:
            return [r.range for r in self.log if r.range]

    def sent_twice(self) -> list[tuple[int, int]]:
        """Ranges of the file that were sent more than once."""
        again, reach = [], 0
        for start, stop in sorted(self.sent_ranges()):
            if start < reach:
                again.append((start, min(stop, reach)))
            reach = max(reach, stop)
        return again

    def forget(self) -> None:
        """Begin counting anew."""
        with self._lock:
            self.log.clear()
            self.most_in_flight = 0

    # serving

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            number = self.connections
            self._sockets.add(connection)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection.makefile("rb") as stream, contextlib.suppress(OSError, ValueError):
                while self._exchange(connection, stream, number):
                    pass
        finally:
            with self._lock:
                self._sockets.discard(connection)
            with contextlib.suppress(OSError):
                connection.close()

    def _exchange(self, connection: socket.socket, stream: Any, number: int) -> bool:
        """Answer one request. Returns whether the connection stays open."""
        line = stream.readline().decode("latin-1").split()
        if len(line) < 2:
            return False
        headers = {}
        while (text := stream.readline().decode("latin-1").strip()) != "":
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        request = Request(line[0], line[1], headers, number, ahead=number in self._pipelining)
        with self._lock:
            self.log.append(request)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            reply = self._reply(request)
            for behaviour in self._behaviours.get(request.name, ()):
                behaviour(request, reply)
            tls = isinstance(connection, ssl.SSLSocket)
            return self._send(connection, request, reply, None if tls else functools.partial(self._look_ahead, stream))
        finally:
            with self._lock:
                self._in_flight -= 1

    def _look_ahead(self, stream: Any, connection: socket.socket, request: Request, *, forget: bool) -> None:
        """See what has come behind a request that is not wholly answered yet."""
        connection.setblocking(False)
        while forget and stream.read1(PIECE):
            pass
        (self._pipelining.add if stream.peek(1) else self._pipelining.discard)(request.connection)
        connection.setblocking(True)

    def _reply(self, request: Request) -> Reply:
        file = self.files.get(request.name)
        if file is None:
            reply = Reply(File(b""))
            reply.fail(404)
            return reply
        reply = Reply(file, headers={"Accept-Ranges": "bytes"})
        if file.etag:
            reply.headers["ETag"] = file.etag
        if file.last_modified:
            reply.headers["Last-Modified"] = file.last_modified
        wanted = request.headers.get("if-match")
        since = request.headers.get("if-unmodified-since")
        if (wanted and wanted != file.etag) or (since and since != file.last_modified):
            reply.fail(412)
            return reply
        reply.body = file.data
        first, dash, last = request.asked.removeprefix("bytes=").partition("-")
        if dash:
            size = len(file.data)
            start = int(first) if first else max(0, size - int(last))
            stop = size if not first else min(size, int(last) + 1 if last else size)
            if start >= stop:
                reply.fail(416, Content_Range=f"bytes */{size}")
                reply.headers["Content-Range"] = f"bytes */{size}"
            else:
                reply.part(start, stop)
        return reply

    def _send(
        self, connection: socket.socket, request: Request, reply: Reply, look: Callable[..., None] | None
    ) -> bool:
        request.status = reply.status
        if reply.status in (200, 206):
            request.range = (reply.start, reply.start + len(reply.body))
        if reply.head_delay:
            self._closing.wait(reply.head_delay)
        if reply.hang_up:
            return False
        lines = [f"HTTP/1.1 {reply.status} Status", f"Date: {formatdate(usegmt=True)}"]
        headers = dict(reply.headers)
        if reply.until_close:
            headers["Connection"] = "close"
        elif reply.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers.setdefault("Content-Length", str(len(reply.body)))
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if reply.early_hints:
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            self._closing.wait(0.3)  # the response proper comes later, as it does in life
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if request.method == "HEAD":
            return True
        body = memoryview(reply.body)
        end = len(body) if reply.cut is None else min(len(body), reply.cut)
        at, step = 0, max(1, int(reply.rate / 500)) if reply.rate else PIECE
        if look is not None and (reply.forget or end == 0):
            look(connection, request, forget=reply.forget)
        while at < end:
            if look is not None and at + step >= end:
                look(connection, request, forget=reply.forget)
            piece = body[at : min(end, at + step)]
            request.sent += len(piece)  # before it goes: who has received it finds it counted
            try:
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if reply.chunked else piece)
            except OSError:
                request.sent -= len(piece)
                raise
            at += len(piece)
            if reply.rate and self._closing.wait(step / reply.rate):
                return False
        if end < len(body):
            if reply.reset:
                time.sleep(0.05)  # else the RST overtakes what was sent
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if reply.chunked:
            connection.sendall(b"0\r\n\r\n")
        return not (reply.stale or reply.until_close)

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        with self._lock:
            sockets = list(self._sockets)
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
