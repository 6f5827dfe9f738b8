"""What carries the bytes under asyncio: a caller's session, the environment, timeouts; what may never leave by it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import urllib3

import hctef
from hctef import _aiohttp
from hctef.aio import AsyncHttpFile, AsyncRemoteBuffer
from tests.helpers import pattern, run_clean
from tests.range_server import RangeServer, header, redirect, slow, status, times, trickle

DATA = pattern(300_000)


@pytest.fixture
def url(range_server: RangeServer) -> str:
    return range_server.add("f", DATA)


async def read_ten(url: str, **options: Any) -> bytes:
    async with AsyncHttpFile(url, **options) as file:
        file.seek(0)
        return await file.read(10)


def test_a_sessions_own_credentials_do_not_cross_hosts(range_server: RangeServer, url: str) -> None:
    """Its default headers and cookies go to the file's host only; its connector serves the redirect's target too."""

    async def main() -> None:
        with RangeServer() as origin:
            origin.add("f", b"")
            origin.behave("f", redirect(url))
            secrets = {"Authorization": "Bearer SECRET", "X-Api-Key": "SECRET"}
            async with aiohttp.ClientSession(headers=secrets, cookies={"sid": "SECRET"}) as session:
                assert await read_ten(origin.url("f"), session=session, prefetch_bytes=0) == DATA[:10]
                assert not session.closed
                assert session.connector is not None
                assert not session.connector.closed
            assert origin.log[0].headers["authorization"] == "Bearer SECRET"

    run_clean(main)
    assert range_server.requests == 2
    assert all("SECRET" not in str(request.headers) for request in range_server.log)


def test_a_session_that_raises_for_status_changes_nothing(range_server: RangeServer, url: str) -> None:
    """The core judges each status: retries, and its own errors."""
    range_server.behave("f", times(1, status(503)))

    async def main() -> None:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            assert await read_ten(url, session=session, retries=urllib3.Retry(2, backoff_factor=0)) == DATA[:10]
            with pytest.raises(hctef.RemoteFileNotFoundError):
                await read_ten(range_server.url("missing"), session=session)

    run_clean(main)


def test_a_session_that_was_closed(url: str) -> None:
    """An error of ours, at once."""

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            file = await AsyncHttpFile(url, session=session, prefetch_bytes=0).open()
        for reading in (file.read(10), AsyncHttpFile(url, session=session).open()):
            with pytest.raises(hctef.HctefNetworkError, match="session= is closed"):
                await reading
        assert file.stats.retries == 0
        await file.close()

    run_clean(main)


def test_a_session_that_is_closed_under_who_waits_for_it(range_server: RangeServer, url: str) -> None:
    """For a connection of its connector: an error, not a cancellation that nobody asked for."""
    big = range_server.add("g", pattern(8_000_000))

    async def main() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            file = await AsyncHttpFile(url, session=session, prefetch_bytes=0).open()
            async with session.get(big):
                reading = asyncio.ensure_future(file.read(10))
                await asyncio.sleep(0.1)
                await session.close()
        with pytest.raises(hctef.HctefNetworkError, match="session= is closed"):
            await reading
        await file.close()

    run_clean(main)


def test_what_the_session_refuses_is_final(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No attempt follows one that can never be made."""
    tried = []

    async def refuse(*_: Any, **__: Any) -> Any:
        tried.append(1)
        raise ValueError("SECRET")

    monkeypatch.setattr(aiohttp.ClientSession, "_request", refuse)
    with pytest.raises(hctef.HctefNetworkError, match="no request can be made") as caught:
        run_clean(lambda: read_ten(url))
    assert "SECRET" not in str(caught.value)
    assert tried == [1]


@pytest.mark.parametrize("timeout", [5, aiohttp.ClientTimeout(total=20, sock_read=5), urllib3.Timeout(5)])
def test_timeouts_of_all_kinds(url: str, timeout: Any) -> None:
    """Of aiohttp or urllib3, for the asynchronous file and the synchronous one on its pages."""

    async def main() -> None:
        async with AsyncRemoteBuffer(url, timeout=timeout) as buf:
            assert await buf[:10] == DATA[:10]
            with buf.sync as there:
                assert await asyncio.to_thread(lambda: there[100_000:100_010]) == DATA[100_000:100_010]

    run_clean(main)
    with hctef.HttpFile(url, timeout=timeout) as file:
        assert file.read(10) == DATA[:10]


def test_a_total_timeout_is_a_network_error(range_server: RangeServer, url: str) -> None:
    """What came before it is kept; the error is ours, and does not look like a cancellation."""

    async def main() -> None:
        timeout = aiohttp.ClientTimeout(total=4)  # a busy machine trickles slowly
        async with AsyncHttpFile(url, timeout=timeout, retries=0, prefetch_bytes=0) as file:
            range_server.behave("f", trickle(50_000))
            with pytest.raises(hctef.HctefNetworkError, match="within the timeout"):
                await file.read(200_000)
            assert file.tell() == 0
            assert file.resident_bytes > 8192

    run_clean(main)


def test_a_session_without_a_free_connection(range_server: RangeServer) -> None:
    """A read that needs a second one while a stream holds the first: an error in time, which names the limit."""
    url = range_server.add("g", pattern(8_000_000))  # more than lies ready in buffers

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit_per_host=1)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            AsyncHttpFile(url, session=session, prefetch_bytes=0, timeout=0.5, retries=0) as file,
        ):
            clone = file.clone()
            clone.seek(7_000_000)
            with pytest.raises(hctef.HctefNetworkError, match=r"no connection: timeout .*limit_per_host=1"):
                async for _ in file.stream():
                    await clone.read(10)

    run_clean(main)


def test_no_more_requests_than_the_session_has_connections(range_server: RangeServer, url: str) -> None:
    """None waits in its connector, where `timeout` would count."""
    range_server.behave("f", slow(0.5))

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit_per_host=1)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            AsyncHttpFile(url, session=session, prefetch_bytes=0, timeout=2, retries=0, readahead="off") as file,
        ):
            parts = await asyncio.gather(*(file.read_ranges([(at, at + 10)]) for at in range(0, 300_000, 50_000)))
            assert parts == [[DATA[at : at + 10]] for at in range(0, 300_000, 50_000)]

    run_clean(main)


def test_proxies_of_the_environment(range_server: RangeServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for HttpFile: http_proxy and no_proxy are honoured, the proxy's credentials are sent to it alone."""
    range_server.files["http://example.test/f"] = range_server.files["f"]
    monkeypatch.setenv("http_proxy", f"http://user:SECRET@127.0.0.1:{range_server.port}")
    assert run_clean(lambda: read_ten("http://example.test/f")) == DATA[:10]
    assert range_server.log[0].target == "http://example.test/f"
    assert "proxy-authorization" in range_server.log[0].headers
    range_server.forget()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert run_clean(lambda: read_ten(url)) == DATA[:10]
    assert "proxy-authorization" not in range_server.log[0].headers
    monkeypatch.setenv("http_proxy", "http://user:SECRET@127.0.0.1:9")
    with pytest.raises(hctef.HctefNetworkError, match="proxy cannot be reached") as caught:
        run_clean(lambda: read_ten("http://example.test/f", retries=0))
    assert "SECRET" not in str(caught.value)


def test_netrc_is_not_read(
    range_server: RangeServer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for HttpFile: nobody's password goes out unasked, and none clashes with a header of the caller's."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password SECRET\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert run_clean(lambda: read_ten(url)) == DATA[:10]
    assert run_clean(lambda: read_ten(url, headers={"Authorization": "Bearer x"})) == DATA[:10]
    assert {request.headers.get("authorization") for request in range_server.log} == {None, "Bearer x"}


def test_long_headers(range_server: RangeServer, url: str) -> None:
    """A head that HttpFile takes, the asynchronous file takes."""
    range_server.behave("f", header("X-Policy", "x" * 20_000))
    assert run_clean(lambda: read_ten(url)) == DATA[:10]


def test_a_whole_file_without_a_length(range_server: RangeServer) -> None:
    """`on_no_range='download'`, chunked: it comes in pieces, and is all there."""
    data = pattern(2_000_001)
    url = range_server.add("g", data)

    def all_of_it(_: Any, reply: Any) -> None:
        reply.whole()
        reply.chunked = True

    async def main() -> None:
        range_server.behave("g", all_of_it)
        async with AsyncHttpFile(url, on_no_range="download") as file:
            assert await file.read() == data

    run_clean(main)
    assert range_server.requests == 1


@pytest.mark.parametrize(
    ("error", "words", "connect", "final"),
    [
        (aiohttp.ServerFingerprintMismatch(b"a", b"b", "h", 1), "expects", False, True),
        (aiohttp.ServerDisconnectedError(), "the connection broke", False, False),
        (aiohttp.ClientPayloadError("http://SECRET"), "the connection broke", False, False),
        (ConnectionResetError(104, "SECRET"), "the connection broke: Connection reset", False, False),
        (aiohttp.ConnectionTimeoutError("SECRET"), "no connection: timeout", True, False),
        (aiohttp.SocketTimeoutError("SECRET"), "within the timeout", False, False),
        (aiohttp.InvalidURL("http://SECRET"), "no request can be made", False, True),
    ],
)
def test_translation(error: Exception, words: str, connect: bool, final: bool) -> None:
    """aiohttp's errors in our words, without what theirs may show."""
    mine = _aiohttp.translate(error)
    assert words in str(mine)
    assert "SECRET" not in str(mine)
    assert (mine.connect, mine.final) == (connect, final)


def test_several_addresses_that_all_fail() -> None:
    """The error says so, not 'Success'."""
    key: Any = type("Key", (), {"host": "h", "port": 1, "ssl": True, "is_ssl": False})()
    assert str(_aiohttp.translate(aiohttp.ClientConnectorError(key, OSError("Multiple exceptions")))).endswith(
        "unreachable"
    )


def test_a_name_that_aiohttp_takes_for_an_address() -> None:
    """It is looked up late, with an error number that is none of the operating system's."""
    with pytest.raises(hctef.HctefNetworkError, match="name cannot be resolved"):
        run_clean(lambda: read_ten("http://[::1%nowhere]/f", retries=0))


def test_paging_by_fault_is_refused(url: str) -> None:
    """A fault would stop the event loop."""
    options: dict[str, Any] = {"paging": "fault"}
    with pytest.raises(hctef.PagerError, match="event loop"):
        AsyncRemoteBuffer(url, **options)
