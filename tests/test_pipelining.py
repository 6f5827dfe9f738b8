"""Requests that are sent before the response in front of them has come: fewer round trips, the same bytes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st

import hctef
from hctef._heads import PlainHeaders
from hctef._http1 import PIPELINED_STAGING, PlainResponse
from hctef._options import Options
from hctef._pools import PlainPool, shared_pool
from hctef._ranges import ByteRange
from hctef._steps import Send
from hctef._urllib3 import Urllib3Transport, path
from hctef._workers import Workers
from tests.helpers import pattern
from tests.range_server import (
    Behaviour,
    Gate,
    RangeServer,
    Reply,
    Request,
    after,
    chunked,
    cut,
    etag,
    forgetful,
    hang_up,
    redirect,
    shift,
    slow,
    stale,
    status,
    times,
    trickle,
    until_close,
    when,
)
from tests.test_http1 import scripted

MIB = 1 << 20
DATA = pattern(8 * MIB)
RANGES = [(n * 32_768 + n % 7 * 1000, n * 32_768 + n % 7 * 1000 + 100 + n % 5 * 700) for n in range(250)]


@pytest.fixture
def url(range_server: RangeServer) -> Iterator[str]:
    """A file on a server of which nothing is known."""
    yield range_server.add("f", DATA)
    pool(range_server.url("f")).pipelines = None


def pool(url: str) -> PlainPool:
    found = shared_pool(None).connection_from_url(url)
    assert isinstance(found, PlainPool)
    return found


def read(url: str, **options: Any) -> None:
    """All ranges, in one call on a new file; their bytes are right."""
    with hctef.HttpFile(url, max_connections=4, readahead="off", **options) as file:
        assert file.read_ranges(RANGES) == [DATA[start:stop] for start, stop in RANGES]


def every(n: int) -> Callable[[Request], bool]:
    counter = itertools.count(1)
    return lambda _: next(counter) % n == 0


def test_ranges_are_pipelined(range_server: RangeServer, url: str) -> None:
    """On max_connections connections, each range once; the server is not asked more at once than it has connections."""
    with hctef.HttpFile(url, max_connections=4, readahead="off", prefetch_bytes=0) as file:
        range_server.forget()
        assert file.read_ranges(RANGES) == [DATA[start:stop] for start, stop in RANGES]
        assert file.stats.requests == range_server.requests + 1
    assert sum(request.ahead for request in range_server.log) > len(RANGES) // 2
    assert range_server.sent_twice() == []
    assert range_server.requests <= len(RANGES)
    assert range_server.most_in_flight <= 4
    assert pool(url).pipelines


SPOILT: dict[str, Callable[[], Behaviour]] = {
    "bodies that are cut": lambda: when(every(20), cut(100)),
    "connections that are reset": lambda: when(every(20), cut(100, reset=True)),
    "no answer": lambda: when(every(20), hang_up),
    "closed without a word": lambda: when(every(7), stale),
    "closed with a word": lambda: when(every(7), until_close),
    "errors that pass": lambda: when(every(20), status(503, Retry_After="0")),
    "chunked": lambda: when(every(3), chunked),
    "all chunked": lambda: chunked,
    "shorter ranges": lambda: when(every(3), shorter),
    "a redirect": lambda: when(every(50), redirect("f?moved")),
}


def shorter(_: Request, reply: Reply) -> None:
    if reply.status == 206:
        reply.part(reply.start, reply.start + max(1, len(reply.body) // 2))


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("known", [None, True])
def test_what_goes_wrong_in_between_changes_no_byte(
    range_server: RangeServer, url: str, name: str, known: bool | None
) -> None:
    """Whether the server was known to pipeline or not, and never is one request's failure another's."""
    range_server.behave("f", after(1, SPOILT[name]()))
    pool(url).pipelines = known
    for _ in range(2):
        read(url)


def test_a_readers_block_is_asked_for_at_once(range_server: RangeServer, url: str) -> None:
    """Over a near line, on the connection that he has: he waits for all of it."""
    with hctef.HttpFile(url, prefetch_bytes=0, minimum_range_request_bytes=1) as file:
        file.read_ranges([(at, at + 1) for at in range(MIB, 4 * MIB, 256 * 1024)])
        range_server.forget()
        file.seek(MIB)
        assert file.read(3 * MIB) == DATA[MIB : 4 * MIB]
    assert range_server.requests == 12
    assert sum(request.ahead for request in range_server.log) == 11
    assert range_server.sent_twice() == []


@pytest.mark.parametrize("what", sorted(SPOILT))
def test_what_goes_wrong_in_a_readers_block_changes_no_byte(range_server: RangeServer, url: str, what: str) -> None:
    range_server.behave("f", SPOILT[what]())
    with hctef.HttpFile(url, prefetch_bytes=0, minimum_range_request_bytes=1) as file:
        for at in range(0, len(DATA), 64 * 1024):
            file.seek(at + 20_000)
            assert file.read(1) == DATA[at + 20_000 : at + 20_001]
        file.seek(0)
        assert file.read() == DATA


def test_a_server_that_forgets_what_was_sent_ahead(range_server: RangeServer, url: str) -> None:
    """Some seconds are lost, once: it is asked one by one from then on."""
    range_server.behave("f", forgetful)
    read(url, timeout=20)
    assert pool(url).pipelines is False
    range_server.forget()
    read(url, timeout=20)
    assert not any(request.ahead for request in range_server.log)


def test_a_server_that_mixes_up_what_was_sent_ahead(range_server: RangeServer, url: str) -> None:
    """Its Content-Range tells, before any byte is taken."""
    range_server.behave("f", when(lambda request: request.ahead, shift(4096)))
    read(url)
    assert pool(url).pipelines is False


def test_a_server_that_answers_another_request_first(range_server: RangeServer, url: str) -> None:
    """Where it was not seen to bear others behind one, that is asked for again by itself."""
    with hctef.HttpFile(url, max_connections=1, readahead="off", prefetch_bytes=0) as file:
        range_server.behave("f", times(1, shift(4096)))
        assert file.read_ranges(RANGES) == [DATA[start:stop] for start, stop in RANGES]
    assert pool(url).persists is False


def test_wrong_ranges_are_an_error_all_the_same(range_server: RangeServer, url: str) -> None:
    """What is wrong when it is asked for by itself is not the pipelining's fault."""
    range_server.behave("f", after(5, shift(4096)))
    with pytest.raises(hctef.HctefNetworkError, match="instead"):
        read(url, prefetch_bytes=0)


def test_a_change_in_between_is_noticed(range_server: RangeServer, url: str) -> None:
    """No two versions in one result."""
    range_server.behave("f", after(100, etag('"v2"')))
    with pytest.raises(hctef.RemoteFileChangedError):
        read(url)


def test_headers_of_a_callable_are_asked_for_each_request(range_server: RangeServer, url: str) -> None:
    """So nothing is sent ahead with an old token."""
    numbers = itertools.count()
    read(url, headers=lambda: {"X-Token": str(next(numbers))})
    tokens = [request.headers["x-token"] for request in range_server.log]
    assert len(set(tokens)) == len(tokens)
    assert not any(request.ahead for request in range_server.log)


def test_over_tls(tls_range_server: RangeServer, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are no responses: what has come in whole is taken at once there too."""
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    url = tls_range_server.add("f", DATA)
    for _ in range(3):
        tls_range_server.forget()
        read(url, prefetch_bytes=0)  # else the file before may have asked for more of its end when it was closed
        assert tls_range_server.sent_twice() == []
    assert pool(url).pipelines


def test_a_callers_pool_is_used_as_it_is(range_server: RangeServer, url: str) -> None:
    """One request at a time on each of its connections."""
    with urllib3.PoolManager() as given:
        read(url, pool=given)
    assert not any(request.ahead for request in range_server.log)


# What is wished for behind a reader joins the connections under way. The line is long, so that this is done at all, and
# no faster than what it carries.
FAR = (slow(0.01), trickle(40e6))


def read_through(url: str, **options: Any) -> hctef.Stats:
    """A whole file, in order; its bytes are right."""
    with hctef.HttpFile(url, **options) as file:
        for at in range(0, len(DATA), 65_536):
            assert file.read(65_536) == DATA[at : at + 65_536]
        assert not file.read(1)
        return file.stats


def test_a_stream_is_asked_for_ahead(range_server: RangeServer, url: str) -> None:
    """Its connection always has something to bring, and each byte comes once."""
    range_server.behave("f", *FAR)
    read_through(url)
    ahead = sum(request.ahead for request in range_server.log)
    assert ahead > range_server.requests / 3
    assert range_server.sent_twice() == []
    assert pool(url).pipelines


@pytest.mark.parametrize("late", [False, True])
def test_a_whole_file_is_asked_for_behind_its_end(
    range_server: RangeServer, url: str, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """One call: what the opening asked for is still coming, and the rest comes behind it, however late the thread
    begins that brings it."""
    if late:
        work = Workers._work

        def begin_late(workers: Workers, patient: bool) -> None:
            time.sleep(0.1)
            work(workers, patient)

        monkeypatch.setattr(Workers, "_work", begin_late)
    range_server.behave("f", *FAR, times(1, trickle(2e5)))
    with hctef.HttpFile(url, prefetch_bytes=65_536) as file:
        assert not file._open().planner.link.near
        assert file.read() == DATA
    first = range_server.log[1]
    assert first.ahead, [(request.asked, request.connection, request.ahead) for request in range_server.log]
    assert first.connection == range_server.log[0].connection
    assert first.asked.startswith("bytes=0-")
    assert range_server.sent_twice() == []


def test_a_whole_file_comes_on_connections_that_are_under_way(
    range_server: RangeServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who copies it out waits for what will come, and asks for none of it on a cold connection."""
    monkeypatch.setattr("hctef._planner.FIRST_PIECE", 512 * 1024)
    monkeypatch.setattr("hctef._planner.LONG", 2 * 1024 * 1024)
    range_server.behave("f", *FAR, times(1, trickle(2e5)))
    with hctef.HttpFile(url, prefetch_bytes=65_536) as file:
        assert file.read() == DATA
    second = next(request for request in range_server.log if request.asked.startswith("bytes=524288-"))
    assert second.ahead
    assert range_server.sent_twice() == []


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("known", [None, True])
def test_what_goes_wrong_in_a_stream_changes_no_byte(
    range_server: RangeServer, url: str, name: str, known: bool | None
) -> None:
    """As above, with what joined the connection while it was under way."""
    range_server.behave("f", *FAR, after(1, SPOILT[name]()))
    pool(url).pipelines = known
    read_through(url)


def test_a_stream_from_a_server_that_forgets(range_server: RangeServer, url: str) -> None:
    """It waits a second, once, and is asked one by one from then on."""
    range_server.behave("f", *FAR, forgetful)
    read_through(url)
    assert pool(url).pipelines is False
    range_server.forget()
    read_through(url)
    assert not any(request.ahead for request in range_server.log)


def test_a_stream_whose_file_changes(range_server: RangeServer, url: str) -> None:
    """What was asked for ahead is of the new version: it is refused."""
    range_server.behave("f", *FAR, after(8, etag('"v2"')))
    with pytest.raises(hctef.RemoteFileChangedError):
        read_through(url)


def test_a_stream_with_one_connection_keeps_nobody_waiting(range_server: RangeServer, url: str) -> None:
    """Who needs bytes elsewhere has his turn after what is under way, not after all that the stream wishes for."""
    range_server.behave("f", slow(0.01), trickle(10e6))
    with hctef.HttpFile(url, max_connections=1, prefetch_bytes=0) as file:
        head = file.read(512 * 1024)
        rest: list[bytes] = []
        streaming = threading.Thread(target=lambda: rest.append(file.read()))
        streaming.start()
        with file.clone() as other:
            other.seek(-100_000, 2)
            assert other.read(100) == DATA[-100_000:-99_900]
        assert streaming.is_alive()
        streaming.join(30)
    assert head + rest[0] == DATA


def test_a_closed_stream_ends(range_server: RangeServer, url: str) -> None:
    """With requests ahead of the one under way: no thread stays, no connection is used again with answers to come."""
    range_server.behave("f", *FAR)
    with hctef.HttpFile(url) as file:
        for _ in range(20):
            file.read(65_536)
    range_server.behave("f")
    read_through(url)


def test_closing_ends_it(range_server: RangeServer, url: str) -> None:
    """A server that has stopped in the middle of a pipeline keeps nobody."""
    gate = Gate()
    file = hctef.HttpFile(url, max_connections=4, prefetch_bytes=0)
    range_server.behave("f", after(30, gate))
    caught: list[BaseException] = []

    def reader() -> None:
        try:
            file.read_ranges(RANGES)
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=reader)
    thread.start()
    gate.wait_for(4)
    file.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(caught) == 1
    gate.open()


@given(
    st.lists(st.integers(0, 3 * PIPELINED_STAGING), min_size=1, max_size=12),
    st.lists(st.integers(1, 2 * PIPELINED_STAGING), max_size=8),
    st.integers(1, 40_000),
)
@settings(max_examples=60, deadline=None)
def test_responses_are_told_apart_wherever_they_are_cut(sizes: list[int], cuts: list[int], step: int) -> None:
    """Bodies of any length, received in any pieces."""
    bodies = [pattern(size + 1)[:size] for size in sizes]
    answers = b"".join(
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\nX-N: %d\r\n\r\n%b" % (len(body), number, body)
        for number, body in enumerate(bodies)
    )
    at = [0, *itertools.accumulate(cuts), len(answers)]
    pieces = [answers[start:stop] for start, stop in itertools.pairwise(at) if answers[start:stop]]
    with scripted(pieces, *([] for _ in sizes[1:])) as server:
        headers = PlainHeaders()
        headers.following = [(path(server.url), {}) for _ in sizes[1:]]
        response: Any = Urllib3Transport(Options(timeout=10)).open(Send("GET", server.url, {}), headers)
        for number, body in enumerate(bodies):
            assert isinstance(response, PlainResponse)
            assert response.headers["x-n"] == str(number)
            assert response.unanswered == len(bodies) - 1 - number
            room, count = memoryview(bytearray(len(body) + 1)), 0
            while count < len(body):
                came = response.readinto(room[count : count + step], 1)
                assert came
                count += came
            assert bytes(room[:count]) == body
            assert response.left == 0
            if response.unanswered:
                response = response.follow(10, None)
        assert response.persistent
        response.release()
        assert server.connections == 1


ODD: dict[str, Callable[[bytes], bytes]] = {
    "another version": lambda head: head.replace(b'"v1"', b'"v2"'),
    "another size": lambda head: head.replace(b"/9999999", b"/9999998"),
    "other bytes": lambda head: head.replace(b"Content-Range: bytes ", b"Content-Range: bytes 1"),
    "another length": lambda head: head.replace(b"Content-Length: ", b"Content-Length: 1"),
    "another status": lambda head: head.replace(b"206", b"200"),
    "a field more": lambda head: head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
}


@given(
    st.lists(st.integers(1, 20_000), min_size=2, max_size=12),
    st.lists(st.integers(1, 2 * PIPELINED_STAGING), max_size=8),
    st.one_of(st.none(), st.tuples(st.integers(1, 11), st.sampled_from(sorted(ODD)))),
)
@settings(max_examples=100, deadline=None)
def test_what_has_come_in_whole_is_taken_at_once(
    sizes: list[int], cuts: list[int], odd: tuple[int, str] | None
) -> None:
    """Each body once, at its place, in order; from a response that says anything new on, nothing."""
    stops = [*itertools.accumulate(sizes)]
    extents = [ByteRange(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
    answers = []
    for number, (start, stop) in enumerate(extents):
        head = (
            f'HTTP/1.1 206 P\r\nETag: "v1"\r\nContent-Length: {stop - start}\r\n'
            f"Content-Range: bytes {start}-{stop - 1}/9999999\r\n\r\n"
        ).encode()
        answers.append((ODD[odd[1]](head) if odd and odd[0] == number else head) + DATA[start:stop])
    sent = b"".join(answers)
    at = [0, *itertools.accumulate(cuts), len(sent)]
    pieces = [sent[start:stop] for start, stop in itertools.pairwise(at) if sent[start:stop]]
    good = odd[0] if odd and odd[0] < len(sizes) else len(sizes)
    with scripted(pieces, *([] for _ in sizes[1:])) as server:
        headers = PlainHeaders()
        headers.following = [(path(server.url), {}) for _ in sizes[1:]]
        response: Any = Urllib3Transport(Options(timeout=10)).open(Send("GET", server.url, {}), headers)
        taken: list[ByteRange] = []

        def put(start: int, body: memoryview) -> None:
            assert body == DATA[start : start + len(body)]
            taken.append(ByteRange(start, start + len(body)))

        response.drain(10)
        taken.append(extents[0])
        until = time.monotonic() + 10
        while len(taken) < good and time.monotonic() < until:
            before = len(taken)
            assert response.collect(iter(extents[before:]), put) == len(taken) - before
            assert response.unanswered == len(sizes) - len(taken)
        assert taken == extents[:good]
        for _ in range(3):
            assert response.collect(iter(extents[good:]), put) == 0
            time.sleep(0.001)
        if good < len(sizes):
            following = response.follow(10, None)  # what is odd is there from its first byte
            assert following is None or following.unanswered == len(sizes) - good - 1
            response = following or response
        response.close()


def test_more_than_was_asked_for_is_no_response() -> None:
    """Behind the last that was taken at once: the connection is used for nothing else."""
    with scripted([ANSWERS[0] + ANSWERS[1] + ANSWERS[0]], [ANSWERS[0]], [ANSWERS[0]]) as server:
        headers = PlainHeaders()
        headers.following = [(path(server.url), {})]
        transport, taken = Urllib3Transport(Options(timeout=10)), list[int]()
        response: Any = transport.open(Send("GET", server.url, {}), headers)
        response.drain(10)
        assert response.collect(iter([ByteRange(10, 20)]), lambda start, _: taken.append(start)) == 1
        assert taken == [10]
        response.release()
        again: Any = transport.open(Send("GET", server.url, {}), PlainHeaders())
        again.drain(10)
        again.release()
        assert server.connections == 2


ANSWERS = [
    b"HTTP/1.1 206 P\r\nContent-Length: 10\r\nContent-Range: bytes %d-%d/20\r\n\r\n" % (at, at + 9) + DATA[at : at + 10]
    for at in (0, 10)
]
