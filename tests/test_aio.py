"""The asynchronous classes: one set of pages, one core, no byte twice, and nobody harmed by a cancelled task."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
import urllib3
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

import hctef
from hctef import _aiohttp
from hctef._options import Options
from hctef.aio import AsyncHttpFile, AsyncRemoteBuffer
from tests.helpers import pattern, run_clean, wait_until
from tests.nginx_server import NginxServer
from tests.range_server import Gate, RangeServer, after, chunked, cut, etag, ignore_range, redirect, slow, status, times

MIB = 1 << 20
DATA = pattern(2 * MIB)
LINES = b"".join(b"line %d\n" % n for n in range(40_000))
NOW = urllib3.Retry(total=5, backoff_factor=0)


@pytest.fixture
def url(range_server: RangeServer) -> str:
    return range_server.add("f", DATA)


# the same cases for both worlds


class Sync:
    """A driver of cases: HttpFile."""

    def __init__(self, url: Any, **options: Any) -> None:
        self.file = hctef.HttpFile(url, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def close(self) -> None:
        self.file.close()


class Async:
    """A driver of cases: AsyncHttpFile, each call awaited in one loop."""

    def __init__(self, url: Any, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        try:
            self.file = AsyncHttpFile(url, **options)
            self.loop.run_until_complete(self.file.open())
        except BaseException:
            self.loop.close()
            raise

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.file, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            value = found(*arguments, **options)
            return self.loop.run_until_complete(value) if asyncio.iscoroutine(value) else value

        return call

    def close(self) -> None:
        self.loop.run_until_complete(self.file.aclose())
        self.loop.close()


def moved(server: RangeServer) -> None:
    server.add("g", DATA)
    server.behave("f", redirect("/g"))


CASES: dict[str, tuple[Callable[[RangeServer], object], type[Exception] | None]] = {
    "good": (lambda server: None, None),
    "chunked": (lambda server: server.behave("f", chunked), None),
    "cut": (lambda server: server.behave("f", times(3, cut(10_000))), None),
    "reset": (lambda server: server.behave("f", times(3, cut(10_000, reset=True))), None),
    "cut and chunked": (lambda server: server.behave("f", chunked, times(3, cut(10_000))), None),
    "503": (lambda server: server.behave("f", times(2, status(503))), None),
    "redirect": (moved, None),
    "500 for ever": (lambda server: server.behave("f", status(500)), hctef.HctefNetworkError),
    "404": (lambda server: server.behave("f", status(404)), hctef.RemoteFileNotFoundError),
    "403": (lambda server: server.behave("f", status(403)), hctef.RemotePermissionError),
    "200": (lambda server: server.behave("f", ignore_range), hctef.RangeRequestsUnsupportedError),
    "changed": (lambda server: server.behave("f", after(1, etag('"v2"'))), hctef.RemoteFileChangedError),
}


@pytest.mark.parametrize("world", [Sync, Async])
@pytest.mark.parametrize("name", CASES)
def test_cases(range_server: RangeServer, url: str, world: Any, name: str) -> None:
    """The same server, the same bytes, the same errors, in both worlds; no byte comes twice."""
    spoil, error = CASES[name]
    spoil(range_server)
    file = None
    try:
        file = world(url, retries=NOW, prefetch_bytes=50_000, readahead="off")
        file.seek(100_000)
        assert file.read(1000) == DATA[100_000:101_000]
        target = bytearray(5000)
        assert file.readinto(target) == 5000
        assert target == DATA[101_000:106_000]
        file.seek(-10, 2)
        assert file.read() == DATA[-10:]
        assert file.read(5) == b""
        assert file.read_ranges([(5, 10), (900_000, 900_010)]) == [DATA[5:10], DATA[900_000:900_010]]
        file.seek(0)
        assert file.read() == DATA
        assert error is None
    except hctef.HctefError as raised:
        assert type(raised) is error  # noqa: PT017
    finally:
        if file is not None:
            file.close()
    if name not in ("reset", "200"):
        assert range_server.sent_twice() == []


@pytest.mark.parametrize("world", [Sync, Async])
def test_the_file_interface(range_server: RangeServer, world: Any) -> None:
    """Against io.BytesIO: any sequence of calls."""
    url = range_server.add("lines", LINES)
    chance = random.Random(5)
    for options in ({}, {"prefetch_bytes": 0}, {"prefetch_bytes": 0, "max_resident_bytes": 65_536}):
        file, model = world(url, **options), io.BytesIO(LINES)
        for _ in range(300):
            kind = chance.randrange(5)
            if kind == 0:
                at = chance.randrange(len(LINES) + 100)
                assert file.seek(at) == model.seek(at)
            elif kind == 1:
                n = chance.choice([-1, 0, 1, 100, 5000, 200_000])
                assert file.read(n) == model.read(n)
            elif kind == 2:
                mine, theirs = bytearray(3000), bytearray(3000)
                assert file.readinto(mine) == model.readinto(theirs)
                assert mine == theirs
            elif kind == 3:
                assert file.readline() == model.readline()
            assert file.tell() == model.tell()
        file.close()


@pytest.mark.parametrize("world", [Sync, Async])
def test_errors_before_any_request(range_server: RangeServer, url: str, world: Any) -> None:
    """Bad URLs, options and ranges."""
    for bad in ("ftp://x/y", "", "http://"):
        with pytest.raises(hctef.HctefUrlError):
            world(bad)
    with pytest.raises(TypeError):
        world(url, no_such_option=1)
    with pytest.raises(ValueError, match="prefetch_direction"):
        world(url, prefetch_direction="x")
    assert range_server.requests == 0
    file = world(url, prefetch_bytes=0)  # the rest of a prefetch comes behind the reader, at some time
    requests = range_server.requests
    call: Callable[[], Any]
    for call in (
        lambda: file.seek(-1),
        lambda: file.prefetch([(0, len(DATA) + 1)]),
        lambda: file.read_ranges([(5, 2)]),
        lambda: file.stream(-1),
    ):
        with pytest.raises(ValueError):
            call()
    assert range_server.requests == requests
    file.close()


class Form:
    """An object with the attributes that it is given."""

    def __init__(self, *names: str) -> None:
        for name in names:
            setattr(self, name, None)


@pytest.mark.parametrize("kind", [hctef.HttpFile, hctef.RemoteBuffer, AsyncHttpFile, AsyncRemoteBuffer])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("timeout", ["x", True, [1], urllib3.Timeout, complex(1)]),
        ("retries", ["x", None, 2.5, True, urllib3.Retry]),
        ("prefetch_bytes", ["x", None, 1.0, True]),
        ("minimum_range_request_bytes", [None, "8K"]),
        ("max_connections", [None, 2.0]),
        ("max_resident_bytes", ["1G", 1e9]),
        ("readahead", [None, 1.5, True]),
        ("fault_timeout", [None, "x", True]),
        ("max_export_bytes", [None, "1G"]),
        ("pool", ["x", 5, Form("request"), urllib3.PoolManager]),
        ("session", ["x", 5, Form("request"), aiohttp.ClientSession]),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_name(
    range_server: RangeServer, url: str, kind: Any, name: str, values: list[Any]
) -> None:
    """On construction, before any request, by a TypeError that names the option."""
    for value in values:
        with pytest.raises(TypeError, match=name):
            kind(url, **{name: value})
    assert range_server.requests == 0


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf"), 10**400, np.float32(0), np.int64(-3)])
@pytest.mark.parametrize("name", ["timeout", "fault_timeout"])
def test_seconds_are_positive_and_finite(name: str, value: Any) -> None:
    """A ValueError names the option."""
    with pytest.raises(ValueError, match=name):
        Options(**{name: value})


def test_more_than_a_lifetime_is_for_ever(url: str) -> None:
    """No socket counts so far."""
    with hctef.RemoteBuffer(url, timeout=1e30, fault_timeout=1e30) as buf:
        assert buf[:10] == DATA[:10]


def test_as_many_connections_as_you_like(url: str) -> None:
    """A number alone takes no memory."""
    with hctef.HttpFile(url, max_connections=10**30) as file:
        assert len(file._open().planner.policy._warm) < 2000
        assert file.read(10) == DATA[:10]


def test_numbers_of_numpy_are_numbers() -> None:
    """They become ints and floats, which pickle and JSON know."""
    given: dict[str, Any] = {
        "timeout": np.float32(2.5),
        "fault_timeout": np.int64(5),
        "retries": np.uint8(3),
        "readahead": np.int32(4096),
        "max_resident_bytes": np.int64(10_000),
    }
    options = Options(**given)
    taken = [getattr(options, name) for name in given]
    assert taken == [2.5, 5.0, 3, 4096, 10_000]
    assert [type(value) for value in taken] == [float, float, int, int, int]


@pytest.mark.parametrize("world", [Sync, Async])
@pytest.mark.parametrize("timeout", [None, 20, np.float32(20), urllib3.Timeout(20), aiohttp.ClientTimeout(total=20)])
def test_each_form_of_timeout_is_taken_by_both_worlds(url: str, world: Any, timeout: Any) -> None:
    """None, a number, urllib3's and aiohttp's."""
    file = world(url, timeout=timeout)
    assert file.read(10) == DATA[:10]
    file.close()


def test_a_paging_that_does_not_exist_is_no_error_of_the_pager(url: str) -> None:
    """Only 'fault', which exists for RemoteBuffer, is a PagerError."""
    for kind in (hctef.RemoteBuffer, AsyncRemoteBuffer):
        value: Any
        for value in ("x", None, 5):
            with pytest.raises(ValueError, match="paging"):
                kind(url, paging=value)
    with pytest.raises(hctef.PagerError, match="event loop"):
        AsyncRemoteBuffer(url, paging="fault")  # type: ignore[arg-type]  # that is what is tested


# the classes


def test_three_cursors_share_one_session(range_server: RangeServer, url: str) -> None:
    """Positions 100, 1100, 2100, and no byte fetched twice."""

    async def main() -> None:
        async with AsyncHttpFile(url, prefetch_bytes=0) as file:
            cursors = [file, file.clone(), file.clone()]
            for n, cursor in enumerate(cursors):
                cursor.seek(1000 * n)
            parts = await asyncio.gather(*(cursor.read(100) for cursor in cursors))
            assert parts == [DATA[1000 * n : 1000 * n + 100] for n in range(3)]
            assert [cursor.tell() for cursor in cursors] == [100, 1100, 2100]

    run_clean(main)
    assert range_server.sent_twice() == []
    assert range_server.connections == 1


def test_buffer(url: str) -> None:
    """Items, slices, strides, views, arrays, cursors."""

    async def main() -> None:
        async with AsyncRemoteBuffer(url) as buf:
            assert len(buf) == len(DATA)
            assert await buf[5] == DATA[5]
            assert await buf[-1] == DATA[-1]
            assert await buf[100:200] == DATA[100:200]
            assert await buf[200:100] == b""
            assert await buf[5000:100:-3] == DATA[5000:100:-3]
            assert await buf[::100_000] == DATA[::100_000]
            with pytest.raises(IndexError):
                await buf[len(DATA)]
            view = await buf.load(1000, 2000)
            buf.evict()
            assert view == DATA[1000:2000]
            assert view.readonly
            array = await buf.array("<u4", (10, 5), offset=400)
            assert array.tobytes() == DATA[400:600]
            assert not array.flags.writeable
            cursor = buf.cursor()
            assert await cursor.read(10) == DATA[:10]
            assert await cursor.clone().read(10) == DATA[10:20]
            assert [bytes(part) for part in await buf.read_ranges([(0, 5), (9, 12)])] == [DATA[:5], DATA[9:12]]
            assert await buf.prefetch([(500_000, 10)]) == 8192
            with pytest.raises(TypeError):
                memoryview(buf)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="closed"):
            await buf[0]
        assert view == DATA[1000:2000]

    run_clean(main)


def test_no_loop_goes_over_coroutines(url: str) -> None:
    """Iteration and `in` are TypeErrors at once, not loops without an end: `buf[i]` is awaited."""

    async def main() -> None:
        async with AsyncRemoteBuffer(url) as buf, AsyncHttpFile(url) as file:
            call: Callable[[Any], object]
            it: Any
            for it in (buf, file):
                for call in (list, reversed, lambda it: 5 in it, lambda it: b"x" in it):
                    with pytest.raises(TypeError):
                        call(it)
            assert len(buf) == len(DATA)

    run_clean(main)


def test_each_line_goes_to_one_task(range_server: RangeServer) -> None:
    """Tasks that share a file share its lines, whether they are in memory or not."""
    text = b"".join(b"%08d line\n" % n for n in range(30_000))
    url = range_server.add("shared-lines", text)

    async def main() -> None:
        for prefetch_bytes in (0, len(text)):
            async with AsyncHttpFile(url, prefetch_bytes=prefetch_bytes, readahead="off") as file:
                got: list[bytes] = []

                async def work(file: AsyncHttpFile = file, got: list[bytes] = got) -> None:
                    while found := await file.readline():
                        got.append(found)

                await asyncio.gather(*(work() for _ in range(8)))
                assert sorted(got) == text.splitlines(keepends=True)

    run_clean(main)


def test_lines_and_streams(range_server: RangeServer) -> None:
    """`async for` over both."""
    url = range_server.add("lines", LINES)

    async def main() -> None:
        async with AsyncHttpFile(url, prefetch_bytes=0) as file:
            assert [line async for line in file] == LINES.splitlines(keepends=True)
            assert b"".join([piece async for piece in file.stream(5, 400_000)]) == LINES[5:400_000]
            async for _ in file.stream():
                break  # a stream that is left is no leak

    run_clean(main)


def test_a_consumers_own_time_is_no_waiting(url: str) -> None:
    """What it does between the pieces of a stream."""

    async def main() -> None:
        async with AsyncHttpFile(url, prefetch_bytes=0) as file:
            begin = time.perf_counter()
            slept = 0.0
            async for _ in file.stream():
                before = time.perf_counter()
                await asyncio.sleep(0.02)
                slept += time.perf_counter() - before
            assert file.stats.seconds_waited <= time.perf_counter() - begin - slept + 0.01

    run_clean(main)


def test_one_set_of_pages_for_both_worlds(range_server: RangeServer, url: str) -> None:
    """A thread and a task that want the same bytes: one request, whoever came first."""

    async def main() -> None:
        buf = hctef.RemoteBuffer(url)
        there = buf.aio()
        assert await there[5000:5010] == DATA[5000:5010]
        requests = range_server.requests
        assert buf[5000:5010] == DATA[5000:5010]
        assert range_server.requests == requests
        for first_is_thread in (True, False):
            at = 500_000 + 100_000 * first_is_thread
            gate = Gate()
            range_server.behave("f", gate)
            reads = [asyncio.to_thread(buf.__getitem__, slice(at, at + 10)), there[at : at + 10]]
            tasks = [asyncio.ensure_future(read) for read in (reads if first_is_thread else reads[::-1])]
            await asyncio.sleep(0.1)
            await asyncio.to_thread(gate.wait_for, 1)
            await asyncio.sleep(0.1)
            gate.open()
            assert await asyncio.gather(*tasks) == [DATA[at : at + 10]] * 2
        assert there.sync[5:10] == DATA[5:10]
        await there.close()
        assert buf[0:10] == DATA[:10]
        buf.close()

    run_clean(main)
    assert range_server.sent_twice() == []


def test_a_thousand_tasks(range_server: RangeServer, url: str) -> None:
    """Overlapping reads of 64 KiB: no byte twice, and max_connections over all cursors."""

    async def main() -> None:
        async with AsyncHttpFile(url, prefetch_bytes=0, max_connections=7) as file:

            async def read(n: int) -> bool:
                at = n * 7919 % (len(DATA) - 65_536)
                cursor = file.clone()
                cursor.seek(at)
                return await cursor.read(65_536) == DATA[at : at + 65_536]

            assert all(await asyncio.gather(*(read(n) for n in range(1000))))

    run_clean(main)
    assert range_server.sent_twice() == []
    assert range_server.most_in_flight <= 7


def test_clones_cost_next_to_nothing(range_server: RangeServer, url: str) -> None:
    """No request, and less than 2 KiB."""

    async def main() -> None:
        import tracemalloc

        async with AsyncHttpFile(url) as file:
            requests = range_server.requests
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            clones = [file.clone() for _ in range(1000)]
            each = (tracemalloc.get_traced_memory()[0] - before) / len(clones)
            tracemalloc.stop()
            assert each < 2048
            assert range_server.requests == requests

    run_clean(main)


# cancellation


def test_cancelled_at_every_step(range_server: RangeServer, url: str) -> None:
    """Wherever a task is cancelled: its claims are given back, those who wait get their bytes, nothing is left."""

    async def main(steps: int) -> bool:
        async with AsyncHttpFile(url, prefetch_bytes=0, readahead="off") as file:
            first = asyncio.ensure_future(file.clone().read(300_000))
            second = asyncio.ensure_future(file.clone().read(200_000))
            for _ in range(steps):
                await asyncio.sleep(0)
            first.cancel()
            assert await second == DATA[:200_000]
            with contextlib.suppress(asyncio.CancelledError):
                assert await first == DATA[:300_000]
            assert await file.read(300_000) == DATA[:300_000]
            remote = file._remote
            assert remote is not None
            assert remote.planner.cache.all_claims() == []
            return first.cancelled()

    outcomes = [run_clean(lambda steps=steps: main(steps)) for steps in range(60)]  # type: ignore[misc]
    assert outcomes[0]


def test_a_timeout_is_a_cancellation(range_server: RangeServer, url: str) -> None:
    """The position stays, others of the same bytes don't fail."""

    async def main() -> None:
        async with AsyncHttpFile(url, prefetch_bytes=0) as file:
            gate = Gate()
            range_server.behave("f", gate)
            other = asyncio.ensure_future(file.clone().read(10))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await file.read(10)
            assert file.tell() == 0
            range_server.behave("f")
            gate.open()
            assert await other == DATA[:10]
            assert await file.read(10) == DATA[:10]

    run_clean(main)


def test_closing_while_reads_are_in_flight(range_server: RangeServer, url: str) -> None:
    """They end with a ValueError, at once; no task or connection is left."""

    async def main() -> None:
        file = await AsyncHttpFile(url, prefetch_bytes=0).open()
        range_server.behave("f", slow(60))
        reads: list[asyncio.Future[Any]] = [asyncio.ensure_future(file.read(10))]
        reads.append(asyncio.ensure_future(file.read_ranges([(0, 5), (900_000, 900_005)])))
        background = await file.prefetch([(1_500_000, 10)], wait=False)
        assert background == 8192
        await asyncio.sleep(0.1)
        await file.close()
        await file.aclose()
        for read in reads:
            with pytest.raises(ValueError, match="closed"):
                await read

    begin = time.monotonic()
    run_clean(main)
    assert time.monotonic() - begin < 50  # the server would take 60: it is a hang that is looked for, not a speed


def test_no_prefetch_outlives_its_file(range_server: RangeServer, url: str) -> None:
    """Though a clone is open: no task is left, and a clone that waited for those bytes asks for them itself."""

    async def main() -> None:
        file = await AsyncHttpFile(url, prefetch_bytes=0).open()
        clone = file.clone()
        gate = Gate()
        range_server.behave("f", gate)
        await file.prefetch([(0, 10), (500_000, 10)], wait=False)
        reading = asyncio.ensure_future(clone.read(10))
        await asyncio.to_thread(gate.wait_for, 2)
        range_server.behave("f")
        await file.close()
        assert await reading == DATA[:10]
        gate.open()

    run_clean(main)


def test_clones_live_on(range_server: RangeServer, url: str) -> None:
    """After the file that they came from was closed, and after that, by connections of their own."""

    async def main() -> None:
        file = await AsyncHttpFile(url, prefetch_bytes=0).open()
        clone = file.clone()
        await file.close()
        assert await clone.read(10) == DATA[:10]
        clone.seek(1_000_000)
        assert await clone.read(10) == DATA[1_000_000:1_000_010]
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            await file.read(1)

    run_clean(main)


def test_open_again(url: str) -> None:
    """A file that was closed begins at its start, as HttpFile does; one that is open stays where it is."""

    async def main() -> None:
        file = AsyncHttpFile(url)
        for _ in range(2):
            async with file:
                assert await file.read(100) == DATA[:100]
                assert await file.open() is file
                assert file.tell() == 100

    run_clean(main)


@pytest.mark.parametrize("closed", [True, False])
def test_a_clone_keeps_its_connection(range_server: RangeServer, url: str, *, closed: bool) -> None:
    """When the file that it came from was closed, until it is closed itself, or garbage."""

    async def main() -> None:
        file = await AsyncHttpFile(url, prefetch_bytes=0, readahead="off").open()
        clones = [file.clone(), file.clone()]
        await file.close()
        before = range_server.connections
        for at in range(0, 2_000_000, 100_000):
            for clone in clones:
                clone.seek(at)
                assert await clone.read(10) == DATA[at : at + 10]
        assert range_server.connections == before + 1
        while clones:
            clone = clones.pop()
            if closed:
                await clone.close()
            del clone
            gc.collect()
            await asyncio.sleep(0.05)
            assert (asyncio.get_running_loop() in _aiohttp._sessions) == bool(clones)

    run_clean(main)


# loops


def test_two_loops_one_after_the_other(url: str) -> None:
    """Each opens for itself; a file of another loop says so."""
    kept: list[AsyncHttpFile] = []

    async def main() -> None:
        async with AsyncHttpFile(url, prefetch_bytes=0) as file:
            assert await file.read(10) == DATA[:10]

    async def leave_open() -> None:
        kept.append(await AsyncHttpFile(url, prefetch_bytes=0).open())

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await kept[0].read(10)

    run_clean(main)
    run_clean(main)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_open())
    run_clean(elsewhere)
    loop.run_until_complete(kept[0].close())
    loop.close()


def test_not_open_yet(url: str) -> None:
    """The error says what to write."""
    file = AsyncHttpFile(url)
    assert "not open yet" in repr(file)
    with pytest.raises(ValueError, match="await"):
        file.tell()
    with pytest.raises(TypeError, match="async with"), file:
        pass
    with pytest.raises(TypeError, match="pickled"):
        __import__("pickle").dumps(file)


# the transport


def test_a_callers_session_is_used_and_never_closed(range_server: RangeServer, url: str) -> None:
    """Its headers and its connector."""

    async def main() -> None:
        async with aiohttp.ClientSession(headers={"X-Mine": "yes"}) as session:
            async with AsyncHttpFile(url, session=session) as file:
                assert await file.read(10) == DATA[:10]
            assert not session.closed
        assert range_server.log[0].headers["x-mine"] == "yes"

    run_clean(main)


def test_files_of_a_loop_share_connections(range_server: RangeServer) -> None:
    """The tenth file costs no handshake, while one is open."""

    async def main() -> None:
        async with AsyncHttpFile(range_server.add("f0", DATA[:50_000]), prefetch_bytes=0):
            for n in range(1, 10):
                async with AsyncHttpFile(range_server.add(f"f{n}", DATA[:50_000]), prefetch_bytes=0) as file:
                    assert await file.read(10) == DATA[:10]

    run_clean(main)
    assert range_server.connections == 1


def test_asynchronous_callables(range_server: RangeServer, url: str) -> None:
    """`headers` and `url` may be coroutine functions here."""

    async def headers() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"X-Token": "t"}

    async def presigned() -> str:
        return url

    async def main() -> None:
        async with AsyncHttpFile(presigned, headers=headers) as file:  # type: ignore[arg-type]
            assert await file.read(10) == DATA[:10]

    run_clean(main)
    assert range_server.log[0].headers["x-token"] == "t"


def test_credentials_do_not_cross_hosts(range_server: RangeServer, url: str) -> None:
    """The rule is the core's; this shows that aiohttp adds none of its own."""

    async def main() -> None:
        with RangeServer() as origin:
            origin.add("f", b"")
            origin.behave("f", redirect(url))
            secret = origin.url("f").replace("http://", "http://user:SECRET@")
            async with AsyncHttpFile(secret, headers={"X-Api-Key": "SECRET"}) as file:
                assert await file.read(10) == DATA[:10]
            assert "authorization" in origin.log[0].headers

    run_clean(main)
    assert all("SECRET" not in str(r.headers) and "authorization" not in r.headers for r in range_server.log)


def test_tls(tls_range_server: RangeServer, ca_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verified by default; SSL_CERT_FILE is honoured."""
    url = tls_range_server.add("f", DATA)

    async def main() -> None:
        async with AsyncHttpFile(url) as file:
            assert await file.read(10) == DATA[:10]

    with pytest.raises(hctef.HctefNetworkError, match="not trusted"):
        run_clean(main)
    code = f"""
import asyncio, hctef
async def main():
    async with hctef.AsyncHttpFile({url!r}) as file:
        print(len(await file.read()))
asyncio.run(main())
"""
    environment = {"SSL_CERT_FILE": str(ca_file), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(len(DATA))


def test_unreachable_and_unresolvable() -> None:
    """Clear errors."""

    async def main(url: str) -> None:
        await AsyncHttpFile(url, retries=0).open()

    with pytest.raises(hctef.HctefNetworkError, match="refused"):
        run_clean(lambda: main("http://127.0.0.1:9/f"))


def test_aiohttps_own_server() -> None:
    """Another real server: aiohttp's FileResponse."""

    async def main(folder: Any) -> None:
        app = web.Application()
        app.router.add_static("/", folder)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with AsyncHttpFile(f"http://127.0.0.1:{runner.addresses[0][1]}/f") as file:
            assert await file.read() == DATA
            assert file.stats.bytes_fetched == len(DATA)
        await runner.cleanup()

    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "f").write_bytes(DATA)
        run_clean(lambda: main(folder))


def test_many_disjoint_reads_by_gather(nginx: NginxServer) -> None:
    """64 reads of 64 KiB: each byte once, by nginx's count."""
    data = pattern(16 * MIB)
    url = nginx.add("gather.bin", data)

    async def main() -> None:
        async with AsyncRemoteBuffer(url, readahead="off") as buf:
            starts = [n * 262_144 for n in range(64)]
            parts = await asyncio.gather(*(buf[at : at + 65_536] for at in starts))
            assert parts == [data[at : at + 65_536] for at in starts]

    run_clean(main)
    assert sum(entry.sent for entry in nginx.log("gather.bin")) <= 64 * 65_536 + 8192


def test_lines_that_are_there_let_others_run(range_server: RangeServer) -> None:
    """A long file's would keep all other tasks waiting; and one that is cancelled loses no line."""
    lines = [b"%d\n" % n for n in range(100_000)]
    url = range_server.add("lines", b"".join(lines))

    async def main() -> None:
        async with AsyncHttpFile(url) as file:
            await file.read()
            file.seek(0)
            turns, found = [0], list[bytes]()

            async def others() -> None:
                while True:
                    turns[0] += 1
                    await asyncio.sleep(0)

            async def read() -> None:
                async for line in file:
                    found.append(line)
                    if len(found) == 10_000:
                        some.set()

            some = asyncio.Event()
            task = asyncio.create_task(others())
            reading = asyncio.create_task(read())
            await some.wait()
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            assert 0 < len(found) < len(lines)
            await read()
            assert found == lines
            assert turns[0] >= 30
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    run_clean(main)


def test_without_aiohttp_the_error_names_the_extra() -> None:
    """And the synchronous half works."""
    code = """
import sys
sys.modules['aiohttp'] = None
import hctef
try:
    hctef.AsyncHttpFile
except ImportError as error:
    print(error)
from hctef import *
import inspect
print(sorted(name for name, _ in inspect.getmembers(hctef) if "Async" in name))
help(hctef)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    message, names, *helped = done.stdout.splitlines()
    assert "pip install aiohttp" in message
    assert names == "[]"
    assert any("class HttpFile" in line for line in helped)
    assert {"AsyncHttpFile", "AsyncRemoteBuffer", "HttpFile", "exceptions"} <= set(dir(hctef))
    assert not {"logging", "annotations", "importlib"} & set(dir(hctef))


def test_garbage(range_server: RangeServer, url: str) -> None:
    """A file that nobody closed gives its connections back in its loop."""

    async def main() -> None:
        file = await AsyncHttpFile(url, prefetch_bytes=0).open()
        assert await file.read(5) == DATA[:5]
        del file
        gc.collect()
        for _ in range(10):
            await asyncio.sleep(0.01)

    run_clean(main)
    wait_until(lambda: threading.active_count() < 100)


@pytest.mark.parametrize("left", ["file", "file.stream()", "file.clone()", "raise SystemExit"])
def test_a_file_that_outlives_its_loop_makes_one_warning(url: str, left: str) -> None:
    """Of ours, which Python shows where it is asked to: neither aiohttp nor asyncio logs anything."""
    keep = left if left.startswith("raise") else f"globals()['kept'] = {left}"
    code = f"""
import asyncio, hctef
async def main():
    file = await hctef.AsyncHttpFile({url!r}).open()
    globals()['kept_too'] = file
    await file.prefetch([(0, 1_000_000)], wait=False)
    await file.read(10)
    {keep}
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    run = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.count("neither closed nor in a running event loop") == 1
    assert "Unclosed" not in done.stderr


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_interleaved_cursors(nginx: NginxServer, seed: int) -> None:
    """Tasks that read, seek, cancel and evict in any order: each sees the file's bytes."""
    url = nginx.add("cursors.bin", DATA)

    async def main() -> None:
        chance = random.Random(seed)
        bound = chance.choice([None, 65_536, 400_000])
        async with AsyncHttpFile(url, prefetch_bytes=0, max_resident_bytes=bound, max_connections=3) as file:

            async def reader(own: random.Random) -> None:
                cursor, model = file.clone(), io.BytesIO(DATA)
                for _ in range(8):
                    at, n = own.randrange(len(DATA)), own.choice([1, 100, 5000, 100_000])
                    cursor.seek(at)
                    model.seek(at)
                    if own.random() < 0.2:
                        task = asyncio.ensure_future(cursor.read(n))
                        await asyncio.sleep(own.choice([0, 0, 0.001]))
                        task.cancel()
                        with contextlib.suppress(asyncio.CancelledError):
                            await task
                        continue
                    assert await cursor.read(n) == model.read(n)
                    assert cursor.tell() == model.tell()
                    if own.random() < 0.1:
                        file.evict()

            await asyncio.gather(*(reader(random.Random(chance.random())) for _ in range(6)))

    run_clean(main)
