"""What a server may write on the wire that no library would, and what the asynchronous classes make of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
import urllib3

import hctef
from hctef import _aiohttp
from hctef.aio import AsyncHttpFile, AsyncRemoteBuffer
from tests.helpers import pattern, run_clean

DATA = pattern(400_000)


class RawServer:
    """Answers each request with the bytes that `answer(head, connection)` returns; b'' closes the connection."""

    def __init__(self, answer: Callable[[bytes, socket.socket], bytes]) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/f"
        self._sockets = [self._socket]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                self._sockets.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        with contextlib.suppress(OSError), connection:
            while True:
                while b"\r\n\r\n" not in received:
                    piece = connection.recv(65_536)
                    if not piece:
                        return
                    received += piece
                head, _, received = received.partition(b"\r\n\r\n")
                self.heads.append(head)
                reply = self.answer(head, connection)
                if not reply:
                    return
                connection.sendall(reply)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    """Start a RawServer."""
    servers = []

    def start(answer: Callable[[bytes, socket.socket], bytes]) -> RawServer:
        servers.append(RawServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def asked(head: bytes) -> tuple[int, int]:
    """The half-open range of DATA that a request asks for."""
    found = re.search(rb"(?im)^range: bytes=(\d*)-(\d*)", head)
    assert found, head
    first, last = found.groups()
    if not first:
        return len(DATA) - int(last), len(DATA)
    return int(first), min(len(DATA), int(last) + 1)


def part(start: int, stop: int, body: bytes | None = None, etag: bytes = b'"v1"') -> bytes:
    """A 206 with `[start, stop)`."""
    head = (
        b"HTTP/1.1 206 Partial Content\r\nETag: %s\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n"
        % (etag, start, stop - 1, len(DATA), stop - start)
    )
    return head + (DATA[start:stop] if body is None else body)


def related(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from or in the handling of, shown or not."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("word", [b"103 Early Hints", b"100 Continue"])
@pytest.mark.parametrize("own", [True, False])
def test_an_answer_that_is_only_on_its_way(serve: Any, word: bytes, own: bool) -> None:
    """aiohttp waits for what follows it without a timeout."""
    server = serve(lambda *_: b"HTTP/1.1 " + word + b"\r\n\r\n")

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            session = None if own else await stack.enter_async_context(aiohttp.ClientSession())
            with pytest.raises(hctef.HctefNetworkError, match="timeout"):
                await AsyncHttpFile(server.url, session=session, retries=0, timeout=0.3).open()

    run_clean(lambda: asyncio.wait_for(main(), 20))


def test_no_attempt_is_made_that_is_not_counted(serve: Any) -> None:
    """aiohttp sends a GET again by itself."""
    server = serve(lambda *_: b"")

    async def main() -> None:
        with pytest.raises(hctef.HctefNetworkError):
            await AsyncHttpFile(server.url, retries=0).open()

    run_clean(main)
    assert len(server.heads) == 1


@pytest.mark.parametrize("late", [False, True])
def test_no_secret_in_a_traceback(serve: Any, late: bool) -> None:
    """Nor within reach of what prints more than Python: aiohttp's errors hold the URL and the request's headers."""

    def answer(head: bytes, _: socket.socket) -> bytes:
        if late:
            return (
                b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-9/10\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdefg\r\n"
            )
        return b"HTTP/1.1 206 P\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"

    url = serve(answer).url.replace("http://", "http://user:PASSWORD@") + "?X-Amz-Signature=SIGNATURE"
    headers = {"X-Api-Key": "TOKEN"}

    async def main() -> None:
        await AsyncHttpFile(url, headers=headers, retries=0).open()

    with pytest.raises(hctef.HctefNetworkError) as caught:
        run_clean(main)
    text = "".join(traceback.format_exception(caught.value)) + "".join(map(repr, related(caught.value)))
    assert not [word for word in ("SIGNATURE", "PASSWORD", "TOKEN", "dXNlcjpQQVNTV09SRA") if word in text]


@pytest.mark.parametrize("timeout", [0.5, urllib3.Timeout(connect=0.5)])
def test_a_proxy_that_never_answers(serve: Any, monkeypatch: pytest.MonkeyPatch, timeout: Any) -> None:
    """An error within the timeout: the request for a tunnel is part of connecting."""
    held = threading.Event()

    def never(*_: Any) -> bytes:
        held.wait(60)
        return b""

    server = serve(never)
    monkeypatch.setenv("https_proxy", server.url)

    async def main() -> None:
        async with asyncio.timeout(20):
            with pytest.raises(hctef.HctefNetworkError, match=r"no connection: timeout$"):
                await AsyncHttpFile("https://example.test/f", timeout=timeout, retries=0).open()

    run_clean(main)
    held.set()
    assert server.heads[0].startswith(b"CONNECT example.test:443 ")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("own", [True, False])
def test_surplus_is_no_response(serve: Any, *, own: bool, late: bool) -> None:
    """What a server sends after a response's end, with it or later, is never taken for the answer to what follows."""
    at = 262_144
    forged = part(at, at + 8192, b"E" * 8192)
    spoilt: list[socket.socket] = []

    def answer(head: bytes, connection: socket.socket) -> bytes:
        start, stop = asked(head)
        if spoilt or stop - start < 100_000:
            return part(start, stop)
        spoilt.append(connection)
        return part(start, stop) + (b"" if late else forged)

    server: RawServer = serve(answer)

    async def main() -> None:
        options: dict[str, Any] = {"prefetch_bytes": 0, "readahead": "off", "max_connections": 1}
        async with contextlib.AsyncExitStack() as stack:
            if not own:
                options["session"] = await stack.enter_async_context(aiohttp.ClientSession())
            file = await stack.enter_async_context(AsyncHttpFile(server.url, **options))
            assert await file.read(131_072) == DATA[:131_072]
            if late:
                spoilt[0].sendall(forged)
            await asyncio.sleep(0.1)
            file.seek(at)
            assert await file.read(100) == DATA[at : at + 100]
            assert server.connections == 2
            other = await stack.enter_async_context(AsyncHttpFile(server.url, **options))
            assert await other.read(100) == DATA[:100]

    run_clean(main)


@pytest.mark.parametrize("etag", [b'"caf\xe9"', '"café"'.encode()])
def test_both_worlds_read_the_same_headers(serve: Any, etag: bytes) -> None:
    """Whatever bytes stand in them: a validator that one of them saw is no change to the other."""
    server = serve(lambda head, _: part(*asked(head), etag=etag))

    async def main() -> None:
        async with AsyncRemoteBuffer(server.url, retries=0) as buf:
            assert buf.validator == f"ETag {etag.decode('latin-1')}"
            with buf.sync as there:
                assert await asyncio.to_thread(lambda: there[100_000:100_010]) == DATA[100_000:100_010]

    run_clean(main)


def test_repeated_headers(serve: Any) -> None:
    """They are joined by commas, as HTTP has it; blanks around a value are none of it."""
    more = b'\r\nETag:   "v1" \t\r\nCache-Control: a\r\ncache-control: b\r\n'
    server = serve(lambda head, _: part(*asked(head)).replace(b'\r\nETag: "v1"\r\n', more))

    async def main() -> None:
        async with aiohttp.ClientSession() as session, session.get(server.url, headers={"Range": "bytes=0-9"}) as got:
            headers = _aiohttp._head(got).headers
            assert (headers["etag"], headers["cache-control"]) == ('"v1"', "a, b")

    run_clean(main)
