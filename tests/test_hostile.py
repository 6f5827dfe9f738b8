"""Answers that are not what they say: framing, codings, heads; and what of a URL or a proxy goes where."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3

import hctef
from hctef._heads import plain_head
from hctef._http import Head, Validator, redirect_target
from hctef._pools import plain_pools
from hctef._urls import parse_url
from hctef.aio import AsyncHttpFile
from tests.helpers import pattern, run_clean
from tests.range_server import (
    Behaviour,
    RangeServer,
    Reply,
    Request,
    after,
    clamp,
    cut,
    extra,
    header,
    ignore_range,
    redirect,
    status,
    times,
    until_close,
    when,
)

SIZE = 1 << 20
DATA = pattern(SIZE)


@pytest.fixture
def url(range_server: RangeServer) -> str:
    return range_server.add("f", DATA)


def opened(url: str, **options: Any) -> hctef.HttpFile:
    return hctef.HttpFile(url, **{"prefetch_bytes": 4096, "readahead": "off", "retries": 0, **options})


def opened_either(url: str, *, asynchronous: bool, **options: Any) -> object:
    """By either transport."""
    if asynchronous:
        return asyncio.run(hctef.AsyncHttpFile(url, **{"retries": 0, **options}).open())
    return opened(url, **options)


def read(file: hctef.HttpFile, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


# what follows a body


def forging(at: int) -> Behaviour:
    """Behind the body that was announced comes what looks like the answer to the next request."""

    def apply(_: Request, reply: Reply) -> None:
        reply.headers["Content-Length"] = str(len(reply.body))
        head = f"HTTP/1.1 206 Status\r\nContent-Length: 8192\r\nContent-Range: bytes {at}-{at + 8191}/{SIZE}\r\n"
        reply.body += f"{head}ETag: {reply.headers['ETag']}\r\n\r\n".encode() + b"E" * 8192

    return apply


@pytest.mark.parametrize("count", [4096, 100_000, 300_000])
@pytest.mark.parametrize("tls", [False, True])
def test_what_was_not_asked_for_answers_nothing(
    range_server: RangeServer, tls_range_server: RangeServer, ca_file: Path, count: int, tls: bool
) -> None:
    """The connection is used for nothing else. Of what TLS has decrypted nobody hears who asks the socket."""
    server = tls_range_server if tls else range_server
    at = 512 * 1024
    server.behave("f", after(1, times(1, forging(at))))
    pool = plain_pools(ca_certs=str(ca_file))
    with opened(server.add("f", DATA), pool=pool if tls else None) as file:
        file.prefetch([(0, count)])
        assert read(file, 0, count) == DATA[:count]
        assert read(file, at, 4096) == DATA[at : at + 4096]
    pool.clear()


# codings


CODINGS = ["chunked", "gzip, chunked", "identity, chunked", "chunked,", "x", "chunked, chunked"]


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("coding", CODINGS)
def test_a_transfer_coding_that_nobody_undoes_is_an_error(
    range_server: RangeServer, url: str, coding: str, pool: bool
) -> None:
    """RFC 9112 section 6.1: what came in its frames is not the file."""
    range_server.behave("f", after(1, times(1, header("Transfer-Encoding", coding))))
    with opened(url, pool=urllib3.PoolManager() if pool else None) as file:
        with pytest.raises(hctef.HctefNetworkError, match="Transfer-Encoding"):
            read(file, 0, 4096)
        assert read(file, 0, 4096) == DATA[:4096]


def test_no_coding_may_be_named(range_server: RangeServer, url: str) -> None:
    """RFC 2616 section 3.6 had one of that name; RFC 7230 has taken it back."""
    range_server.behave("f", header("Transfer-Encoding", "identity"))
    with opened(url) as file:
        assert read(file, 0, 5000) == DATA[:5000]


def fewer(count: int) -> Behaviour:
    """A body in chunks that ends as it should, and too early."""

    def apply(_: Request, reply: Reply) -> None:
        reply.chunked = True
        reply.body = reply.body[:-count]

    return apply


@pytest.mark.parametrize("spoil", [extra(5), fewer(5)], ids=["more", "fewer"])
def test_what_was_refused_is_not_kept(range_server: RangeServer, url: str, spoil: Behaviour) -> None:
    """Only the end of a body in chunks tells that it has the bytes it says."""
    range_server.behave("f", after(1, times(2, spoil)))
    with opened(url) as file, file.buffer as buf:
        for _ in range(2):
            with pytest.raises(hctef.HctefNetworkError, match=r"(more|fewer) bytes than it says"):
                read(file, 0, 500_000)
            assert all(start >= 500_000 for start, _ in file.resident_ranges())
        assert buf[:500_000] == DATA[:500_000]


def test_a_stream_in_chunks_is_not_held_back(range_server: RangeServer, url: str) -> None:
    """It comes piece by piece, and what is wrong with it is said at its end."""
    range_server.behave("f", after(1, extra(5)))
    with opened(url) as file:
        pieces = file.stream(0, 900_000)
        assert len(next(pieces)) < 900_000
        with pytest.raises(hctef.HctefNetworkError, match="more bytes than it says"):
            list(pieces)


# heads


@pytest.mark.parametrize("line", ["X-Foo : bar", "no colon", "X-\xe9: y"])
@pytest.mark.parametrize("pool", [False, True])
def test_a_malformed_line_hides_nothing(range_server: RangeServer, url: str, line: str, pool: bool) -> None:
    """What stands behind it may say that the bytes are others than the file's."""

    def spoil(_: Request, reply: Reply) -> None:
        name, colon, value = line.partition(":")
        reply.headers = {name: value, **reply.headers} if colon else {f"X\r\n{line}\r\nY": "z", **reply.headers}

    range_server.behave("f", after(1, spoil))
    with (
        opened(url, pool=urllib3.PoolManager() if pool else None) as file,
        pytest.raises(hctef.HctefNetworkError, match="head is malformed"),
    ):
        read(file, 0, 4096)


def test_names_in_lower_case_are_plain() -> None:
    """As some proxies write them."""
    block = b"HTTP/1.1 206 Partial Content\r\ncontent-length: 5\r\ncontent-range: bytes 0-4/9\r\netag: x"
    head = plain_head(block)
    assert head is not None
    assert (head.length, head.headers["content-range"]) == (5, "bytes 0-4/9")
    assert plain_head(block + b"\r\nContent-Length: 6") is None


# downloads of all


@pytest.mark.parametrize("length", ["-5", "10000x", "+7", "1_0", "9" * 40])
def test_a_length_that_makes_no_sense_is_no_length(range_server: RangeServer, url: str, length: str) -> None:
    range_server.behave("f", ignore_range, header("Content-Length", length))
    with pytest.raises(hctef.HctefNetworkError, match="Content-Length"):
        opened(url, on_no_range="download")


def test_a_download_that_gets_nowhere_ends(range_server: RangeServer, url: str) -> None:
    """Each attempt begins anew: bytes that came before are no progress."""
    range_server.behave("f", ignore_range, cut(500_000))
    with pytest.raises(hctef.HctefNetworkError, match="early"):
        opened(url, on_no_range="download", retries=urllib3.Retry(3, backoff_factor=0))
    assert range_server.requests == 1 + 4  # the first asked for its end only


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_body_that_a_reset_ends_is_cut(range_server: RangeServer, url: str, asynchronous: bool) -> None:
    """Where HEAD tells nothing, the connection does."""
    head = when(lambda request: request.method == "HEAD", status(405))
    range_server.behave("f", ignore_range, until_close, head, cut(5000, reset=True))

    async def read() -> bytes:
        async with AsyncHttpFile(url, on_no_range="download", retries=0) as file:
            return await file.read()

    with pytest.raises(hctef.HctefNetworkError, match="broke"):
        if asynchronous:
            run_clean(read)
        else:
            opened(url, on_no_range="download", retries=0)


@pytest.mark.parametrize("host", ["[v1.x]", "a%zz.invalid", "127.0.0.1%00.x", "%"])
def test_a_host_that_is_none(range_server: RangeServer, url: str, host: str) -> None:
    """Neither from the caller nor from a server does one raise what is urllib3's."""
    with pytest.raises(hctef.HctefUrlError):
        hctef.HttpFile(f"http://{host}/")
    range_server.behave("f", redirect(f"http://{host}/"))
    with pytest.raises(hctef.HctefNetworkError, match="redirects to"):
        opened(url)


def test_a_body_that_ends_with_its_connection_is_compared_with_a_head(range_server: RangeServer, url: str) -> None:
    """Nothing else tells whether it was cut."""
    until = when(lambda request: request.method == "GET", until_close)
    range_server.behave("f", ignore_range, until, times(1, cut(500_000)))
    with opened(url, on_no_range="download", retries=urllib3.Retry(3, backoff_factor=0)) as file:
        assert file.read() == DATA


@pytest.mark.parametrize("pools", [plain_pools, urllib3.PoolManager])
def test_what_tls_was_not_told_the_end_of_is_cut(ca: Any, ca_file: Path, pools: Any) -> None:
    """RFC 8446 section 6.1: without close_notify anybody on the way may have ended the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock = context.wrap_socket(listener.accept()[0], server_side=True)
            except OSError:
                return
            while not sock.recv(65536).endswith(b"\r\n\r\n"):
                pass
            sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + DATA[:5000])
            socket.socket(fileno=sock.detach()).close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with pytest.raises(hctef.HctefNetworkError, match="TLS failed"):
        opened(
            f"https://localhost:{listener.getsockname()[1]}/f",
            pool=pools(ca_certs=str(ca_file)),
            on_no_range="download",
        )
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


# a slice


def test_a_part_is_not_answered_with_all(range_server: RangeServer, url: str) -> None:
    """Nor is what looked as if ranges were known, and is no longer."""
    range_server.behave("f", after(1, ignore_range))
    with opened(url) as file, pytest.raises(hctef.RangeRequestsUnsupportedError):
        read(file, 0, 4096)


# URLs


@pytest.mark.parametrize("target", ["/f?sig=a%2fb", "/f?x=a|b&y=[1]", "/f?x=100%", "/a/../f", "/%7euser/f", "/f?a=b?c"])
def test_a_url_is_sent_as_it_is(range_server: RangeServer, target: str) -> None:
    """On each connection's first request as on the others: signatures are of these bytes."""
    name = target.partition("?")[0].lstrip("/")
    url = range_server.add(name, DATA) + target[1 + len(name) :]
    range_server.behave(name, clamp(10_000))
    with opened(url) as file:
        assert read(file, 0, 30_000) == DATA[:30_000]
    assert {request.target for request in range_server.log} == {target}
    assert range_server.requests > 2


def test_no_log_shows_a_signature(range_server: RangeServer, caplog: pytest.LogCaptureFixture) -> None:
    """urllib3's neither."""
    with caplog.at_level(logging.DEBUG), opened(range_server.add("f", DATA) + "?sig=SIGNATURE") as file:
        file.read(5)
    assert caplog.records
    assert "SIGNATURE" not in caplog.text


@pytest.mark.parametrize("password", ["s3cr/et", "s3cr#et", "s3cr?et", "s3cret\u2100", "s3cr[et", "s3cret\udcff"])
def test_no_part_of_a_password_is_shown(password: str) -> None:
    """By no error that stands behind ours either."""
    with pytest.raises(hctef.HctefUrlError) as caught:
        hctef.HttpFile(f"http://user:{password}@127.0.0.1:1/f")
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3cr" not in shown.replace(f"user:{password}", "")
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("sent", "asked"), [("/caf\xc3\xa9", "/caf%C3%A9"), ("/caf\xe9 1", "/caf%E9%201")])
def test_a_location_beyond_ascii_means_its_bytes(range_server: RangeServer, url: str, sent: str, asked: str) -> None:
    """Whatever encoding the server's names have."""
    assert redirect_target(parse_url(url), Head(302, {"location": sent})).request == url.replace("/f", asked)
    range_server.add(asked[1:], DATA)
    range_server.behave("f", redirect(sent))
    with opened(url) as file:
        assert read(file, 0, 10) == DATA[:10]


@pytest.mark.parametrize("etag", ['W/"x"', '"caf\xe9"', '"a\x01"', '"a\x7f"'])
def test_an_etag_that_not_every_client_can_send_is_compared_only(etag: str) -> None:
    assert Validator(etag).conditions == {}
    assert Validator('"x y"').conditions == {"If-Match": '"x y"'}


# whose headers


def test_a_pool_s_own_headers_are_sent_to_its_server_alone(range_server: RangeServer, url: str) -> None:
    """As by the pool itself; but none that decides which bytes come."""
    theirs = {"Authorization": "Bearer T", "range": "bytes=0-1", "X-Mine": "pool"}
    with RangeServer() as other:
        other.add("f", DATA)
        range_server.behave("f", after(2, redirect(other.url("f"))))
        with opened(url, pool=urllib3.PoolManager(headers=theirs), headers={"x-mine": "own"}) as file:
            assert read(file, 0, 4096) == DATA[:4096]
            assert read(file, 500_000, 4096) == DATA[500_000:504_096]
        for request in range_server.log:
            assert request.headers["authorization"] == "Bearer T"
            assert request.headers["x-mine"] == "own"
            assert request.headers["range"] != "bytes=0-1"
        assert "authorization" not in other.log[0].headers


# proxies


@contextmanager
def proxy(want: str, refusal: int = 407) -> Iterator[tuple[int, list[bytes]]]:
    """One that tunnels nothing, and says so to who has the credentials too. Yields its port, and what it was asked."""
    listener, asked = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def serve() -> None:
        while True:
            try:
                sock = listener.accept()[0]
            except OSError:
                return
            with sock:
                asked.append(sock.recv(65536))
                found = re.search(rb"(?i)proxy-authorization: basic (\S+)", asked[-1])
                right = found is not None and base64.b64decode(found[1]).decode() == want
                sock.sendall(b"HTTP/1.1 %d Status\r\nContent-Length: 0\r\n\r\n" % (502 if right else refusal))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_proxy_s_password_is_decoded(monkeypatch: pytest.MonkeyPatch, asynchronous: bool) -> None:
    """RFC 3986 section 2.1, RFC 7617."""
    with proxy("user:s3cr@t/") as (port, asked):
        monkeypatch.setenv("https_proxy", f"http://user:s3cr%40t%2F@127.0.0.1:{port}")
        with pytest.raises(hctef.HctefNetworkError, match="proxy") as caught:
            opened_either("https://example.test/f", asynchronous=asynchronous)
        assert "refuses: status" not in str(caught.value)  # it was let in, and 502 may pass
        assert asked[0].startswith(b"CONNECT example.test:443")
        assert "s3cr" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_proxy_that_refuses_is_asked_once(monkeypatch: pytest.MonkeyPatch, asynchronous: bool) -> None:
    with proxy("x:y") as (port, asked):
        monkeypatch.setenv("https_proxy", f"http://user:s3cret@127.0.0.1:{port}")
        with pytest.raises(hctef.HctefNetworkError, match="proxy refuses: status 407"):
            opened_either("https://example.test/f", asynchronous=asynchronous, retries=5)
        assert len(asked) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("value", ["socks5://user:s3cret@127.0.0.1:1", "http://user:s3cr/et@127.0.0.1:1"])
def test_a_proxy_that_cannot_be_spoken_to_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str, asynchronous: bool
) -> None:
    """By its variable; its value may hold a password."""
    monkeypatch.setenv("all_proxy", value)
    with pytest.raises(hctef.HctefUrlError, match="all_proxy") as caught:
        opened_either("http://example.test/f", asynchronous=asynchronous)
    assert "s3cr" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("exempt", ["::1", "[::1]"])
def test_no_proxy_knows_ipv6_addresses(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    """curl's way, and urllib's."""
    from hctef._proxies import environment_proxy  # this test's alone

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", exempt)
    assert environment_proxy("http://[::1]:8000/f") is None
    found = environment_proxy("http://[::2]:8000/f")
    assert found is not None
    assert found.request == "http://127.0.0.1:1/"
