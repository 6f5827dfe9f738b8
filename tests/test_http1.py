"""Plain responses, read straight from the connection, and all others, which http.client reads: the same bytes."""

from __future__ import annotations

import http.client
import io
import signal
import socket
import ssl
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

import hctef
from hctef._heads import SURPRISES, Likeness, alike, plain_head, template
from hctef._http1 import STAGING, _Plain
from hctef._lanes import PIPELINED_MOST
from hctef._options import Options
from hctef._pools import plain_pools
from hctef._ranges import ByteRange
from hctef._retries import TransportError
from hctef._steps import Send
from hctef._urllib3 import Urllib3Exchange, Urllib3Transport
from hctef._urllib3_errors import translate
from tests.helpers import pattern
from tests.nginx_server import NginxServer

BODY = bytes(range(10))
HEAD = (
    b"HTTP/1.1 206 Partial Content\r\nServer: s\r\nContent-Range: bytes 0-9/10\r\n"
    b'Content-Length: 10\r\nETag: "x"\r\nX-Two: a\r\nx-two: b\r\n'
)


class Scripted:
    """A server that answers the n-th request with the n-th list of pieces, each sent by itself; None: it hangs up."""

    def __init__(self, answers: Sequence[Sequence[bytes | None]]) -> None:
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []
        self.followed: list[bool] = []
        """Whether more had come with each request, before it was answered."""
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/file"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                try:
                    more = sock.recv(65536)
                except OSError:
                    return
                if not more:
                    return
                received += more
            request, _, received = received.partition(b"\r\n\r\n")
            self.requests.append(request)
            self.followed.append(bool(received))
            for piece in self._answers.pop(0):
                if piece is None:
                    sock.close()
                    return
                try:
                    sock.sendall(piece)
                except OSError:
                    return
                time.sleep(0.001)

    def close(self) -> None:
        # Closing alone leaves a blocked accept() listening, and what it accepts after that nobody would close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for sock in self._sockets:
            sock.close()


@contextmanager
def scripted(*answers: Sequence[bytes | None]) -> Iterator[Scripted]:
    server = Scripted(answers)
    try:
        yield server
    finally:
        server.close()


def get(exchange: Urllib3Exchange, url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer; of the body no more than was announced."""
    head = exchange.send(Send("GET", url, {"Range": "bytes=0-9", **headers}))
    room, count = memoryview(bytearray(64)), 0
    while came := exchange.receive_into(room[count:], 1):
        count += came
    exchange.drop()
    return head.status, dict(head.headers), bytes(room[:count])


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


KEPT: dict[str, list[bytes | None]] = {
    "at once": [HEAD + b"\r\n" + BODY],
    "head, then body": [HEAD + b"\r\n", BODY],
    "byte by byte": [*one_by_one(HEAD + b"\r\n" + BODY)],
    "lines that end with a line feed only": [HEAD.replace(b"\r\n", b"\n") + b"\n" + BODY],
    "a folded line": [HEAD + b"X-Fold: a\r\n  b\r\n\r\n" + BODY],
    "chunked": [
        HEAD.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked") + b"\r\n4\r\n" + BODY[:4],
        b"\r\n6\r\n" + BODY[4:] + b"\r\n0\r\n\r\n",
    ],
    "a head that is longer than the buffer": [HEAD + b"X-Pad: " + b"p" * STAGING + b"\r\n\r\n" + BODY],
}
CLOSED: dict[str, list[bytes | None]] = {
    "Connection: close": [HEAD + b"Connection: close\r\n\r\n" + BODY],
    "HTTP/1.0": [HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + BODY, None],
    "more bytes than were announced": [HEAD + b"\r\n" + BODY + b"HTTP/1.1 206 garbage"],
}


@pytest.mark.parametrize("name", [*KEPT, *CLOSED])
def test_any_answer_is_read(name: str) -> None:
    """Its bytes, its headers, and the next answer on the same connection where that may be."""
    pieces = {**KEPT, **CLOSED}[name]
    with scripted(pieces, pieces) as server:
        transport = Urllib3Transport(Options())
        for _ in range(2):
            status, headers, body = get(transport.exchange(), server.url)
            assert (status, body) == (206, BODY)
            assert headers["content-range"] == "bytes 0-9/10"
            assert headers["etag"] == '"x"'
            assert headers["x-two"] == "a, b"
        assert server.connections == (1 if name in KEPT else 2)


LONG = bytes(range(256)) * 40
LONG_HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-10239/10240\r\nContent-Length: 10240\r\n\r\n"


def received(exchange: Urllib3Exchange, url: str, least: int) -> Generator[bytes]:
    """What each receive of an answer of `LONG` brings."""
    exchange.send(Send("GET", url, {"Range": "bytes=0-10239"}))
    room, count = memoryview(bytearray(len(LONG))), 0
    try:
        while count < len(LONG):
            came = exchange.receive_into(room[count:], least)
            yield bytes(room[count : count + came])
            count += came
    finally:
        exchange.drop()


@pytest.mark.parametrize("step", [100, 1400, 3000])
def test_so_many_bytes_are_waited_for(step: int) -> None:
    """`least`, and all that is left where that is less; the connection then wakes for the next answer's first byte."""
    pieces = [LONG_HEAD, *(LONG[at : at + step] for at in range(0, len(LONG), step))]
    with scripted(pieces, pieces, [HEAD + b"\r\n" + BODY]) as server:
        transport = Urllib3Transport(Options(timeout=5))
        for least in (3000, len(LONG)):
            parts = list(received(transport.exchange(), server.url, least))
            assert b"".join(parts) == LONG
            assert all(len(part) >= least for part in parts[:-1])
        assert get(transport.exchange(), server.url)[2] == BODY
        assert server.connections == 1


def test_what_came_before_a_pause_is_not_lost() -> None:
    """A server that pauses for longer than the timeout: first its bytes, though fewer than were waited for."""
    with scripted([LONG_HEAD, LONG[:3000]]) as server:
        parts = received(Urllib3Transport(Options(timeout=0.3)).exchange(), server.url, len(LONG))
        assert next(parts) == LONG[:3000]
        with pytest.raises(TransportError, match="within the timeout"):
            next(parts)


def test_a_cut_ends_the_waiting_for_many_bytes() -> None:
    with scripted([LONG_HEAD, LONG[:3000], None]) as server:
        parts = received(Urllib3Transport(Options(timeout=30)).exchange(), server.url, len(LONG))
        assert next(parts) == LONG[:3000]
        assert next(parts) == b""
        parts.close()


def test_what_tls_says_of_itself() -> None:
    """The ssl module's errors are OSErrors whose numbers are none of the system's."""
    error = ssl.SSLError(1, "[SSL: BAD_RECORD] bad record (_ssl.c:1)")
    assert str(translate(error)).startswith("TLS failed")
    untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed")
    untrusted.verify_message = "self-signed certificate"
    assert translate(untrusted).final


def test_fields_that_come_twice_are_left_to_http_client() -> None:
    assert plain_head(HEAD.rstrip() + b"\r\nContent-Range: bytes 0-9/11") is None
    assert plain_head(HEAD.rstrip() + b"\r\ncontent-length: 10") is None


def test_a_cut_body_is_noticed() -> None:
    """Fewer bytes, then none; the connection is not used again."""
    whole = [HEAD + b"\r\n" + BODY]
    with scripted([HEAD + b"\r\n" + BODY[:4], None], whole) as server:
        transport = Urllib3Transport(Options())
        assert get(transport.exchange(), server.url)[2] == BODY[:4]
        assert get(transport.exchange(), server.url)[2] == BODY
        assert server.connections == 2


@pytest.mark.parametrize("pieces", [[None], [HEAD[:40], None], [b"no HTTP at all\r\n\r\n", None]])
def test_no_answer_is_an_error_of_the_transport(pieces: list[bytes | None]) -> None:
    """Of ours, with words that hold no URL."""
    with scripted(pieces) as server, pytest.raises(TransportError, match="connection broke") as raised:
        get(Urllib3Transport(Options()).exchange(), server.url + "?secret=1")
    assert "secret" not in str(raised.value)


def test_a_silent_server_is_a_timeout() -> None:
    """Before the head, in the middle of it, and in the body."""
    for pieces in ([], [HEAD[:40]], [HEAD + b"\r\n" + BODY[:4]]):
        with scripted(pieces) as server, pytest.raises(TransportError, match="timeout"):
            get(Urllib3Transport(Options(timeout=0.2)).exchange(), server.url)


def test_the_request() -> None:
    """One Host, one User-Agent (the caller's, where he has one), what was given, and nothing that was smuggled in."""
    answer = [HEAD + b"\r\n" + BODY]
    with scripted(answer, answer) as server:
        transport, host = Urllib3Transport(Options()), server.url.split("/")[2]
        get(transport.exchange(), server.url)
        get(transport.exchange(), server.url, **{"User-Agent": "me/1", "X-Name": "blåbær"})
        with pytest.raises(TransportError, match="no request can be made"):
            get(transport.exchange(), server.url, **{"If-Match": '"a"\r\nX-Evil: 1'})
        with pytest.raises(TransportError, match="no request can be made"):
            get(transport.exchange(), server.url, **{"X-Name": "日本"})
    first, second = ([line.decode("latin-1") for line in request.split(b"\r\n")] for request in server.requests)
    agent = f"User-Agent: python-urllib3/{urllib3.__version__}"  # type: ignore[attr-defined]  # not listed in __all__
    assert first == ["GET /file HTTP/1.1", f"Host: {host}", agent, "Range: bytes=0-9"]
    assert second == [first[0], first[1], "Range: bytes=0-9", "User-Agent: me/1", "X-Name: blåbær"]


def test_what_is_no_plain_request_goes_urllib3s_way() -> None:
    """The pools serve whoever has them, HEAD and bodies too."""
    head = HEAD.replace(b"206 Partial Content", b"200 OK") + b"\r\n"
    with scripted([head], [head + BODY]) as server:
        pool = plain_pools()
        assert pool.request("HEAD", server.url).status == 200
        assert pool.request("POST", server.url, body=b"1234").data == BODY
        assert server.connections == 1
    assert server.requests[1].startswith(b"POST /file")


NAMES = st.sampled_from(
    ["Content-Length", "content-length", "ETag", "Connection", "Transfer-Encoding", "X-A", "X a", ""]
)
VALUES = st.one_of(
    st.integers(-1, 10**20).map(str),
    st.text("ab ,\t:;\r\n\x00é", max_size=6),
    st.sampled_from(["10", "chunked", "10, 10"]),
)


@given(
    st.sampled_from(["HTTP/1.1 206 P", "HTTP/1.1 200 OK", "HTTP/1.1 404 N", "HTTP/1.0 200 OK", "HTTP/1.1 206", "x"]),
    st.lists(st.tuples(NAMES, VALUES), max_size=5),
    st.sampled_from([": ", ":", " : "]),
)
def test_a_plain_head_means_what_http_client_reads(line: str, lines: list[tuple[str, str]], colon: str) -> None:
    """Against http.client; what is not understood here is left to it."""
    text = "\r\n".join([line, *(name + colon + value for name, value in lines)])
    plain = plain_head(text.encode("latin-1"))
    if plain is None:
        return
    status, headers, length = plain
    file = io.BytesIO((text + "\r\n\r\n").encode("latin-1"))
    assert file.readline().startswith(f"HTTP/1.1 {status} ".encode())
    message = http.client.parse_headers(file)
    assert status in (200, 206)
    assert headers == {
        name.lower(): ", ".join(value.strip(" \t") for value in message.get_all(name, [])) for name in message
    }
    assert length == int(message["content-length"])
    assert "transfer-encoding" not in message


def test_plain_heads_are_understood_here() -> None:
    """nginx's, for one: else all of this would be for nothing."""
    assert plain_head(HEAD.rstrip()) == (
        206,
        {"server": "s", "content-range": "bytes 0-9/10", "content-length": "10", "etag": '"x"', "x-two": "a, b"},
        10,
    )


@given(
    st.lists(
        st.one_of(
            st.tuples(NAMES, VALUES),
            st.tuples(
                st.sampled_from(["Content-Range", "content-range"]),
                st.sampled_from(["bytes 0-9/20", "bytes 0-9/*", " bytes 3-4/5 ", "bytes */5", "x"]),
            ),
            st.just(("X-Rate", "10%(length)d%%")),
            st.just(("Content-Length", "10")),
        ),
        max_size=6,
    ),
    st.integers(0, 10**12),
    st.integers(1, 10**9),
)
def test_a_head_for_other_bytes_says_nothing_else(lines: list[tuple[str, str]], start: int, length: int) -> None:
    """What `alike` makes is read as the head before it, but for the bytes."""
    block = "\r\n".join(["HTTP/1.1 206 P", *(f"{name}: {value}" for name, value in lines)]).encode("latin-1")
    plain, like = plain_head(block), template(block)
    if plain is None or like is None:
        return
    made = alike(like, start, start + length)
    assert made.endswith(b"\r\n\r\n")
    other = plain_head(made[:-4])
    assert other is not None
    size = plain.headers["content-range"].rpartition("/")[2]
    bytes_named = {"content-range": f"bytes {start}-{start + length - 1}/{size}", "content-length": str(length)}
    assert other == (206, plain.headers | bytes_named, length)
    likeness = Likeness()
    likeness.learn(block, plain.headers)
    assert likeness.expected(start, start + length) == (made, other)


def test_heads_that_always_differ_are_not_expected() -> None:
    """As those that name the request: to learn each would take longer than to check it."""
    likeness, block = Likeness(), HEAD.rstrip()
    head = plain_head(block)
    assert head is not None
    assert likeness.expected(0, 10) is None
    for confirmed in (True, False):
        for _ in range(SURPRISES):
            likeness.learn(block, head.headers)
            assert likeness.expected(0, 10) == (HEAD + b"\r\n", head)
        if confirmed:
            likeness.confirmed()
    likeness.learn(block, head.headers)
    assert likeness.expected(0, 10) is None


def test_a_head_as_expected_is_not_looked_into(nginx: NginxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a near line, where that takes longer than to wait for it."""
    monkeypatch.setattr("hctef._link.NEARBY", 1.0)
    heads: list[bytes] = []

    def counted(block: bytes) -> Any:
        heads.append(block)
        return plain_head(block)

    monkeypatch.setattr("hctef._http1.plain_head", counted)
    data = pattern(1024 * 1024)
    with hctef.HttpFile(nginx.add("heads.bin", data), prefetch_bytes=0, readahead="off") as file:
        for at in range(0, len(data), 16 * 1024):
            file.seek(at)
            assert file.read(100) == data[at : at + 100]
        assert file.stats.requests == 65
    assert len(heads) < 20  # one or two each second, for the Date


@pytest.mark.parametrize("change", [(b'"x"', b'"y"'), (b"/40961", b"/40962"), (b"206 P", b"200 P")])
def test_a_head_that_says_something_new_is_checked(
    change: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it was as expected before."""
    monkeypatch.setattr("hctef._link.NEARBY", 1.0)
    size, body = 5 * 8192 + 1, bytes(8192)
    head = b'HTTP/1.1 206 P\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\nETag: "x"\r\n\r\n'
    answers: list[list[bytes | None]] = [[head % (n * 8192, n * 8192 + 8191, size, 8192) + body] for n in range(4)]
    last = head % (4 * 8192, 5 * 8192 - 1, size, 8192)
    assert last.replace(*change) != last
    answers.append([last.replace(*change) + body])
    with scripted(*answers) as server:
        file = hctef.HttpFile(server.url, prefetch_bytes=8192, prefetch_direction="START", readahead="off", retries=0)
        for n in range(1, 4):
            file.seek(n * 8192)
            assert file.read(100) == bytes(100)
        file.seek(4 * 8192)
        with pytest.raises(hctef.HctefNetworkError, match=r"changed|ignores"):
            file.read(100)
        file.close()


def test_heads_that_name_bytes_have_a_template() -> None:
    """Else nothing would ever be collected."""
    assert alike(template(HEAD.rstrip()) or b"", 0, 10) == HEAD + b"\r\n"
    assert template(HEAD.rstrip().replace(b"/10", b"/*")) is None
    assert template(HEAD.rstrip() + b"\r\nContent-Length: 10") is None


ONE, TWO = ByteRange(0, 10), ByteRange(10, 20)
FULL = [HEAD.replace(b"/10", b"/20") + b"\r\n" + BODY]
NEXT = [HEAD.replace(b"0-9/10", b"10-19/20") + b"\r\n" + BODY]
REFUSED: dict[str, list[bytes | None]] = {
    "400": [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", None],
    "503": [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", None],
    "no word": [None],
}


def asked(url: str, extent: ByteRange, *then: ByteRange) -> Send:
    following = [asked(url, each) for each in then]
    return Send("GET", url, {"Range": f"bytes={extent.start}-{extent.stop - 1}"}, then=lambda: following)


def fetch(exchange: Urllib3Exchange, request: Send) -> int:
    """Status; the body is read."""
    head = exchange.send(request)
    while exchange.receive_into(memoryview(bytearray(64)), 1):
        pass
    return head.status


def told(url: str, timeout: float) -> Urllib3Transport:
    """One that a first response has told that connections persist."""
    transport = Urllib3Transport(Options(timeout=timeout))
    exchange = transport.exchange()
    assert fetch(exchange, asked(url, ONE)) == 206
    exchange.drop()
    return transport


def test_a_server_whose_connections_persist_is_asked_at_once() -> None:
    """What follows goes out with the first request of a connection, once any response has told so."""
    with scripted(FULL, FULL, NEXT) as server:
        transport = told(server.url, 10)
        exchange = transport.exchange()
        request = asked(server.url, ONE, TWO)
        assert fetch(exchange, request) == 206
        assert request.then is not None
        assert fetch(exchange, request.then()[0]) == 206
        exchange.drop()
        assert server.followed == [False, True, False]
        assert len(server.requests) == 3


@pytest.mark.parametrize("name", REFUSED)
def test_a_server_that_refuses_several_requests_is_asked_for_one(name: str) -> None:
    """At once, without an error; and by itself from then on, until it was seen to bear more."""
    with scripted(FULL, REFUSED[name], FULL, NEXT) as server:
        transport = told(server.url, 10)
        request = asked(server.url, ONE, TWO)
        exchange = transport.exchange()
        assert fetch(exchange, request) == 206
        assert request.then is not None
        assert fetch(exchange, request.then()[0]) == 206
        exchange.drop()
        assert server.followed == [False, True, False, False]


def test_a_server_that_is_silent_when_several_requests_come_is_waited_for_once() -> None:
    """As long as for any other; the next attempt, which is the retry policy's, asks for one."""
    with scripted(FULL, [], []) as server:
        transport = told(server.url, 0.3)
        request = asked(server.url, ONE, TWO)
        exchange = transport.exchange()
        with pytest.raises(TransportError, match="timeout"):
            exchange.send(request)
        pool: Any = transport.host(server.url)
        assert pool.persists is False


def test_what_is_taken_at_once_proves_a_server() -> None:
    """As much as what is read one by one does."""
    with scripted(FULL, [FULL[0] + NEXT[0]], []) as server:
        transport, taken = told(server.url, 10), list[int]()
        pool: Any = transport.host(server.url)
        exchange = transport.exchange()
        assert fetch(exchange, asked(server.url, ONE, TWO)) == 206
        assert exchange.collect(iter([ONE]), lambda start, _: taken.append(start)) == 0
        assert pool.pipelines is None
        assert exchange.collect(iter([TWO]), lambda start, _: taken.append(start)) == 1
        assert pool.pipelines
        assert taken == [10]
        exchange.drop()


@pytest.mark.parametrize("known", [None, True])
def test_a_body_that_is_cut_may_be_the_fault_of_what_follows(known: bool | None) -> None:
    """A server that closes with requests unread loses what it had sent: it is sent no more than one, unless it was seen
    to bear them."""
    with scripted(FULL, [FULL[0][:-4], None], FULL, NEXT) as server:
        transport = told(server.url, 10)
        pool: Any = transport.host(server.url)
        pool.pipelines = known
        exchange = transport.exchange()
        exchange.send(asked(server.url, ONE, TWO))
        room = memoryview(bytearray(64))
        assert exchange.receive_into(room, 10) == 6
        assert exchange.receive_into(room, 4) == 0
        assert pool.pipelines is bool(known)
        assert fetch(exchange, asked(server.url, ONE, TWO)) == 206  # and by itself at first, whatever was seen
        exchange.drop()
        assert server.followed[:3] == [False, True, False]


def test_one_that_was_seen_to_bear_them_is_believed() -> None:
    """Its error is an error."""
    with scripted(FULL, REFUSED["400"]) as server:
        transport = told(server.url, 10)
        pool: Any = transport.host(server.url)
        pool.pipelines = True
        assert transport.exchange().send(asked(server.url, ONE, TWO)).status == 400


# whoever is interrupted, and what nobody reads any more


class Interrupt(BaseException):
    """As KeyboardInterrupt."""


@contextmanager
def interrupted(after: float) -> Iterator[None]:
    """The main thread is, whatever it waits for then."""

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(after, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_an_answer_that_nobody_waited_for_is_not_the_next_request_s() -> None:
    """An interrupt while what was sent ahead is answered: that connection serves nobody any more."""
    with scripted(FULL, FULL, [], FULL) as server:
        transport = told(server.url, 10)
        exchange = transport.exchange()
        request = asked(server.url, ONE, TWO)
        assert fetch(exchange, request) == 206
        assert request.then is not None
        with interrupted(0.2), pytest.raises(Interrupt):
            exchange.send(request.then()[0])
        exchange.drop()
        another = transport.exchange()
        assert fetch(another, asked(server.url, ONE)) == 206
        another.drop()
        assert server.connections == 2


@pytest.mark.parametrize("head", [HEAD, HEAD.replace(b"206 Partial Content", b"503 Busy")], ids=["plain", "other"])
def test_a_body_that_nobody_reads_is_not_waited_for(head: bytes) -> None:
    """Its end does not come, and no timeout is set."""
    with scripted([head + b"\r\n" + BODY[:4]], FULL) as server:
        transport = Urllib3Transport(Options(timeout=None))
        exchange = transport.exchange()
        exchange.send(asked(server.url, ONE))
        exchange.drop()
        assert fetch(exchange, asked(server.url, ONE)) == 206
        exchange.drop()
        assert server.connections == 2


def test_fewer_requests_are_sent_behind_one_where_answers_among_them_are_odd() -> None:
    """The server has worked for those behind it in vain; where it goes well, they become more again."""
    with scripted(FULL, FULL, REFUSED["503"], FULL, NEXT) as server:
        transport = told(server.url, 10)
        pool: Any = transport.host(server.url)
        exchange = transport.exchange()
        request = asked(server.url, ONE, TWO)
        assert fetch(exchange, request) == 206
        assert request.then is not None
        assert fetch(exchange, request.then()[0]) == 206
        assert pool.depth == PIPELINED_MOST // 2
        pool.proved(3)
        assert pool.depth == PIPELINED_MOST // 2 + 3
        exchange.drop()


def test_bytes_that_are_gathered_come_without_a_timeout_too() -> None:
    """Though some of them are there when they are waited for: who waits in recv is woken by so many beyond those."""
    head = HEAD.replace(b"0-9/10", b"0-39999/40000").replace(b"Content-Length: 10", b"Content-Length: 40000")
    with scripted([head + b"\r\n", *[bytes(1000)] * 40]) as server:
        exchange = Urllib3Transport(Options(timeout=None)).exchange()
        exchange.send(asked(server.url, ByteRange(0, 40000)))
        time.sleep(0.01)
        room, count = memoryview(bytearray(40000)), 0
        while count < 40000:
            count += exchange.receive_into(room[count:], 40000 - count)
        exchange.drop()


def test_the_last_segment_is_not_waited_for(nginx: NginxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not taken yet is not acknowledged, and nginx (tcp_nopush) holds the rest back for that: for 40 ms."""
    seen: list[tuple[int, int, int]] = []
    receive = _Plain.receive

    def recorded(self: Any, room: memoryview, least: int) -> int:
        count = receive(self, room, least)
        seen.append((least, self.wakes_at, self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)))
        return count

    monkeypatch.setattr(_Plain, "receive", recorded)
    data = pattern(3_000_000)
    with hctef.HttpFile(nginx.add("segments", data)) as file:
        assert file.read() == data
    assert all(wakes == 1 or wakes + segment <= least for least, wakes, segment in seen)
    assert any(wakes > 1 for _, wakes, _ in seen)
