"""File objects for adapters whose library gives none, or an incomplete one; and a link's limit, in raw sockets."""

from __future__ import annotations

import asyncio
import io
import mmap
import selectors
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

Range = tuple[int, int]
"""Half-open: start, stop."""


class PeerFile(io.RawIOBase):
    """A whole open file around one function that reads a range.

    Args:
        pread: bytes of [start, stop), which lies within the file.
        size: of the file; where it is a callable, called when first needed.
        raw: the library's own object, for what measures its own methods.
    """

    def __init__(self, pread: Callable[[int, int], Any], size: int | Callable[[], int], raw: object = None) -> None:
        super().__init__()
        self._pread = pread
        self._size = size
        self._at = 0
        self.raw = raw

    @property
    def size(self) -> int:
        if not isinstance(self._size, int):
            self._size = self._size()
        return self._size

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (self.size if whence == 2 else self._at if whence == 1 else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1, /) -> Any:
        start = self._at
        stop = self.size if size is None or size < 0 else min(start + size, self.size)
        if stop <= start:
            return b""
        data = self._pread(start, stop)
        self._at = start + len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer).cast("B")
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def completed(raw: Any, size: int) -> PeerFile:
    """An object with just seek() and read(n), as a whole open file."""

    def pread(start: int, stop: int) -> Any:
        raw.seek(start)
        return raw.read(stop - start)

    return PeerFile(pread, size, raw)


def blocking(loop: asyncio.AbstractEventLoop, cursor: Any, size: int) -> PeerFile:
    """An asynchronous cursor as a file for one reader, in a loop that runs while it reads."""

    async def pread(start: int, stop: int) -> Any:
        cursor.seek(start)
        return await cursor.read(stop - start)

    return PeerFile(lambda start, stop: loop.run_until_complete(pread(start, stop)), size, cursor)


def _request(parts: Any, start: int | str, last: int | str) -> bytes:
    return f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nRange: bytes={start}-{last}\r\n\r\n".encode()


def _connect(parts: Any) -> socket.socket:
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Connection:
    """One kept socket and as little HTTP as a range needs: what a serial reader can't be faster than."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._socket = _connect(self._parts)

    def get(self, start: int | str, last: int | str) -> bytearray:
        """A range, as HTTP writes it: `last` is inclusive, and start "" asks for the last bytes."""
        self._socket.sendall(_request(self._parts, start, last))
        head = b""
        while (end := head.find(b"\r\n\r\n")) < 0:
            head += self._received()
        body = bytearray(_length(head[:end]))
        begun = head[end + 4 :]
        body[: len(begun)] = begun
        rest = memoryview(body)[len(begun) :]
        while rest:
            rest = rest[self._socket.recv_into(rest) or self._ended() :]
        return body

    def size(self) -> int:
        self._socket.sendall(_request(self._parts, 0, 0).replace(b"GET", b"HEAD", 1).replace(b"Range", b"X-Range"))
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._received()
        return _length(head)

    def _received(self) -> bytes:
        return self._socket.recv(1 << 16) or bytes(self._ended())

    @staticmethod
    def _ended() -> int:
        raise ConnectionError("the server closed the connection")


def _length(head: bytes) -> int:
    at = head.lower().index(b"content-length:") + 15
    return int(head[at:].split(b"\r\n", 1)[0])


class _Stream:
    """A connection of a Clairvoyant: requests in a row, and where their answers go."""

    def __init__(self, connection: socket.socket, target: memoryview) -> None:
        self.connection = connection
        self._target = target
        self.ranges: list[Range] = []
        self._next = 0
        self._head = b""
        self._at = self._stop = 0

    def advance(self) -> bool:
        """Take what has arrived; false once there is nothing left to come."""
        if self._stop - self._at > 1 << 16:
            self._at += self.connection.recv_into(self._target[self._at : self._stop])
        else:
            data = self.connection.recv(1 << 18)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._take(data)
        return self._at < self._stop or self._next < len(self.ranges)

    def _take(self, data: bytes) -> None:
        while data:
            if self._at < self._stop:
                piece = min(self._stop - self._at, len(data))
                self._target[self._at : self._at + piece] = data[:piece]
                self._at += piece
                data = data[piece:]
                continue
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            data = self._head[end + 4 :]
            self._head = b""
            self._at, self._stop = self.ranges[self._next]
            self._next += 1


class Clairvoyant:
    """Knows all ranges beforehand and asks for them at once, over connections that are established already."""

    GAP = 16 << 10  # bytes between ranges that are cheaper to fetch than to ask around
    PIECE = 256 << 10
    CONNECTIONS = 64

    def __init__(self, url: str, ranges: Iterable[Range], size: int) -> None:
        self._parts = urlsplit(url)
        self._memory = mmap.mmap(-1, max(size, 1))
        self._size = size
        pieces = list(self._split(merged(ranges, self.GAP)))
        target = memoryview(self._memory)
        count = min(self.CONNECTIONS, len(pieces))
        self._streams = [_Stream(_connect(self._parts), target) for _ in range(count)]
        for n, piece in enumerate(pieces):
            self._streams[n % count].ranges.append(piece)

    def _split(self, ranges: Iterable[Range]) -> Iterable[Range]:
        for start, stop in ranges:
            for at in range(start, stop, self.PIECE):
                yield at, min(stop, at + self.PIECE)

    def fetch(self) -> PeerFile:
        """All of it; the file that comes back has holes where nobody was going to read."""
        with selectors.DefaultSelector() as selector:
            for stream in self._streams:
                stream.connection.sendall(b"".join(_request(self._parts, a, b - 1) for a, b in stream.ranges))
                selector.register(stream.connection, selectors.EVENT_READ, stream)
            while selector.get_map():
                for key, _ in selector.select(60):
                    if not key.data.advance():
                        selector.unregister(key.fileobj)
        memory = self._memory
        return PeerFile(lambda start, stop: memory[start:stop], self._size)


def merged(ranges: Iterable[Range], gap: int) -> Sequence[Range]:
    """Sorted and disjoint, those closer than `gap` joined."""
    result: list[Range] = []
    for start, stop in sorted(ranges):
        if result and start <= result[-1][1] + gap:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result
