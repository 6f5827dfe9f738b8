"""Progress: who waits for the network longer than a moment is told how far it is, and may end it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import io
import itertools
import logging
import pickle
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hctef
from hctef import _progress, cli
from hctef._async_driver import _outcome
from hctef._pages import PageTable
from hctef._progress import Bar, Told, Watch, checked_progress, load_tqdm, portable, short_name
from hctef._ranges import PAGE
from tests.helpers import by_fault, pattern, run_clean, wait_until
from tests.range_server import Gate, RangeServer, cut, ignore_range, slow, times, trickle, until_close

SIZE = (1 << 20) - 5
DATA = pattern(SIZE)
RATE = 4e6
QUIET: dict[str, Any] = {"prefetch_bytes": 0, "readahead": "off", "retries": 0}

PAGING = [pytest.param("fill"), pytest.param("fault", marks=by_fault)]


class Reports:
    """What a callable was told."""

    def __init__(self) -> None:
        self.all: list[tuple[int, int]] = []
        self.threads: set[int] = set()

    def __call__(self, done: int, total: int) -> None:
        self.all.append((done, total))
        self.threads.add(threading.get_ident())

    def check(self, total: int, *, least: int = 2) -> None:
        """One operation, which ended well, in this thread."""
        dones = [done for done, _ in self.all]
        assert {each for _, each in self.all} == {total}
        assert dones == sorted(dones)
        assert 0 <= dones[0] <= dones[-1] == total
        assert len(dones) >= least
        assert self.threads == {threading.get_ident()}
        self.all.clear()


class Enough(Exception):
    """What a callable raises."""


@pytest.fixture(autouse=True)
def short_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment is shorter than these tests' transfers, and long for what is in memory."""
    monkeypatch.setattr(_progress, "MOMENT", 0.05)
    monkeypatch.setattr(_progress, "INTERVAL", 0.01)


@pytest.fixture
def url(range_server: RangeServer) -> str:
    """Each response takes a quarter of a second where it brings all."""
    url = range_server.add("f", DATA)
    range_server.behave("f", trickle(RATE))
    return url


# the rule


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(_progress, "MOMENT", 0.5)
    monkeypatch.setattr(_progress, "INTERVAL", 0.1)
    return Clock()


def test_nothing_is_told_before_the_moment_and_nothing_of_hits(clock: Clock) -> None:
    """The moment begins with the first wait for the network."""
    reports = Reports()
    with Watch(Told(reports), lambda a, b: b - a, [(0, 10)], clock) as watch:
        clock.now += 100
        watch.tick()
        assert watch.patience is None
        watch.begin()
        assert watch.patience == 0.5
        clock.now += 0.49
        watch.tick()
    assert reports.all == []


def test_ten_reports_a_second(clock: Clock) -> None:
    """At the most, however often the driver ticks, and the last says that all is there."""
    reports = Reports()
    with Watch(Told(reports), lambda a, b: b - a, [(0, 10)], clock) as watch:
        watch.begin()
        for _ in range(2000):
            watch.tick()
            clock.now += 0.001
    assert 14 <= len(reports.all) <= 17
    assert reports.all[-1] == (10, 10)
    assert reports.all[-2] == (0, 10)


def test_the_last_report_comes_once(clock: Clock) -> None:
    """Also where one before it said the same."""
    reports = Reports()
    with Watch(Told(reports), lambda *_: 0, [(0, 10)], clock) as watch:
        watch.begin()
        clock.now += 1
        watch.tick()
        clock.now += 1
    assert reports.all == [(10, 10)]


def test_a_slow_callable_takes_a_tenth_of_the_time(clock: Clock) -> None:
    """The time that a report takes counts."""
    calls = []

    def report(done: int, total: int) -> None:
        calls.append(clock.now)
        clock.now += 1

    watch = Watch(Told(report), lambda a, b: b - a, [(0, 10)], clock)
    watch.begin()
    for _ in range(2100):
        watch.tick()
        clock.now += 0.01
    assert len(calls) == 3


@pytest.mark.parametrize("inner", [False, True])
def test_a_failure_has_no_last_report(clock: Clock, inner: bool) -> None:
    """Whoever shows it is told that it is over."""
    closed: list[bool] = []

    class Shown(Told):
        def close(self) -> None:
            closed.append(True)

    reports = Reports()
    watch = Watch(Shown(reports), lambda a, b: b - a, [(0, 10)], clock)
    with pytest.raises(OSError), watch:
        watch.begin()
        clock.now += 1
        watch.tick()
        with watch if inner else contextlib.nullcontext():
            pass
        assert not closed
        raise OSError
    assert reports.all == [(0, 10)]
    assert closed == [True]


def test_who_raises_is_told_nothing_more(clock: Clock) -> None:
    """Not in the steps that end the operation either."""
    calls = []

    def report(done: int, total: int) -> None:
        calls.append(done)
        raise Enough

    watch = Watch(Told(report), lambda a, b: b - a, [(0, 10)], clock)
    with pytest.raises(Enough), watch:
        watch.begin()
        clock.now += 1
        try:
            watch.tick()
        finally:
            clock.now += 1
            watch.tick()
    assert calls == [0]


@given(st.data())
def test_done_is_what_is_there_and_never_falls(data: st.DataObject) -> None:
    """Pages come and go, bytes are handed on, in any order: done is exact while none goes, and never beyond total."""
    pages = PageTable(data.draw(st.integers(1, 20 * PAGE)))
    inside = st.integers(0, pages.size)
    pairs = st.tuples(inside, inside).map(lambda pair: (min(pair), max(pair)))
    ranges = data.draw(st.lists(pairs, max_size=5))
    clock, reports = Clock(), Reports()
    total = sum(b - a for a, b in ranges)
    with Watch(Told(reports), pages.absent, ranges, clock) as watch:
        watch.begin()
        clock.now += 1
        there: set[int] = set()
        evicted, taken = False, 0
        for action in data.draw(st.lists(st.sampled_from(["come", "go", "take", "tick"]), max_size=20)):
            page = data.draw(st.integers(0, pages.count - 1))
            start, stop = page * PAGE, min(pages.size, (page + 1) * PAGE)
            if action == "come":
                pages.mark(start, stop)
                there.add(page)
            elif action == "go" and page in there:
                pages.clear(start, stop)
                there.discard(page)
                evicted = True
            elif action == "take":
                count = data.draw(st.integers(0, total - taken))
                watch.took(count)
                taken += count
            else:
                clock.now += 1
                watch.tick()
                if reports.all and not evicted:
                    offsets = [at for a, b in ranges for at in range(a, b)][taken:]
                    assert reports.all[-1][0] == taken + sum(at // PAGE in there for at in offsets)
        clock.now += 1
    dones = [done for done, _ in reports.all]
    assert dones == sorted(dones)
    if total:
        assert reports.all[-1] == (total, total)
        assert all(0 <= done <= total == each for done, each in reports.all)
    else:
        assert not reports.all


@pytest.mark.parametrize("value", [1, 0, "yes", [], np.True_])
def test_what_it_may_not_be(url: str, range_server: RangeServer, value: Any) -> None:
    """A TypeError that names the option, before any request."""
    for kind in (hctef.HttpFile, hctef.RemoteBuffer, hctef.AsyncHttpFile, hctef.AsyncRemoteBuffer):
        with pytest.raises(TypeError, match=r"^progress must be True, None or a callable"):
            kind(url, progress=value)
    assert range_server.requests == 0


def test_it_may_not_be_asynchronous() -> None:
    """Nobody would await it."""

    async def report(done: int, total: int) -> None:
        """Never called."""

    class Reporter:
        async def __call__(self, done: int, total: int) -> None:
            """Never called."""

    for value in (report, functools.partial(report), Reporter()):
        with pytest.raises(TypeError, match="progress must be a plain function"):
            checked_progress(value)
    assert checked_progress(False) is None


def test_names_of_bars() -> None:
    """No query, and not longer than a line."""
    assert short_name("http://h/a/b.npy?key=1") == "b.npy"
    assert short_name("http://h/a/") == "a"
    assert short_name("http://h") == "h"
    assert len(short_name("http://h/" + "x" * 100)) == _progress.NAME_LENGTH


# each operation

OPERATIONS: dict[str, tuple[Callable[[Any, Path], object], int]] = {
    "read": (lambda f, _: f.read(), SIZE),
    "read some": (lambda f, _: f.read(700_001), 700_001),
    "readinto": (lambda f, _: f.readinto(bytearray(800_000)), 800_000),
    "read_ranges": (lambda f, _: f.read_ranges([(600_000, 900_000), (5, 300_000), (7, 9)]), 599_997),
    "many ranges": (lambda f, _: f.read_ranges((at, at + 20_000) for at in range(0, 1_000_000, 20_000)), 1_000_000),
    "prefetch": (lambda f, _: f.prefetch([(100_000, 500_000), (0, 200_000)]), 600_000),
    "stream": (lambda f, _: b"".join(f.stream(1, 700_000)), 699_999),
    "copy_to": (lambda f, path: f.copy_to(path / "copy"), SIZE),
    "slice": (lambda f, _: f.buffer[10:900_000], 899_990),
    "strided": (lambda f, _: f.buffer[::5000], -(-SIZE // 5000)),
    "find": (lambda f, _: f.buffer.find(b"not there", 10), SIZE - 10),
    "rfind": (lambda f, _: f.buffer.rfind(b"not there", 10), SIZE - 10),
    "view": (lambda f, _: f.buffer.view(1, 900_000), 899_999),
    "views": (lambda f, _: f.buffer.read_ranges([(600_000, 900_000), (5, 300_000)]), 599_995),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(url: str, tmp_path: Path, name: str) -> None:
    """Each is told of as one, in bytes of its own, and not at all where all is in memory."""
    operation, total = OPERATIONS[name]
    reports = Reports()
    with hctef.HttpFile(url, progress=reports, **QUIET) as file:
        operation(file, tmp_path)
        reports.check(total)
        if name in ("copy_to", "stream"):
            file.read()
            reports.check(SIZE)
        file.seek(0)
        operation(file, tmp_path)
        assert reports.all == []


@pytest.mark.parametrize("bound", [256 << 10, 700_000])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_within_a_bound(url: str, tmp_path: Path, name: str, bound: int) -> None:
    """What was evicted behind the reader was there."""
    operation, total = OPERATIONS[name]
    if name in ("view", "views"):
        pytest.skip("a view that is larger than the bound")
    if name == "prefetch":
        total = min(total, bound // PAGE * PAGE)
    reports = Reports()
    with hctef.HttpFile(url, progress=reports, max_resident_bytes=bound, **QUIET) as file:
        operation(file, tmp_path)
    if total > max(bound, 400_000):  # something was evicted; else a pause of this machine would be all to be seen
        dones = [done for done, _ in reports.all]
        assert max(b - a for a, b in itertools.pairwise(dones)) < total / 2  # no leap at the end
    reports.check(total)


ASYNC_OPERATIONS: dict[str, tuple[Callable[[Any], Awaitable[object]], int]] = {
    "read": (lambda f: f.read(), SIZE),
    "readinto": (lambda f: f.readinto(bytearray(800_000)), 800_000),
    "read_ranges": (lambda f: f.read_ranges([(600_000, 900_000), (5, 300_000), (7, 9)]), 599_997),
    "many ranges": (lambda f: f.read_ranges((at, at + 20_000) for at in range(0, 1_000_000, 20_000)), 1_000_000),
    "prefetch": (lambda f: f.prefetch([(100_000, 500_000), (0, 200_000)]), 600_000),
    "stream": (lambda f: _joined(f.stream(1, 700_000)), 699_999),
    "slice": (lambda f: f.buffer[10:900_000], 899_990),
    "strided": (lambda f: f.buffer[::5000], -(-SIZE // 5000)),
    "load": (lambda f: f.buffer.load(1, 900_000), 899_999),
    "array": (lambda f: f.buffer.array("u1", 900_000), 900_000),
    "views": (lambda f: f.buffer.read_ranges([(600_000, 900_000), (5, 300_000)]), 599_995),
}


async def _joined(pieces: Any) -> bytes:
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("name", ASYNC_OPERATIONS)
def test_asynchronous_operations(url: str, name: str) -> None:
    """The same in the loop's thread."""
    operation, total = ASYNC_OPERATIONS[name]
    reports = Reports()

    async def main() -> None:
        async with hctef.AsyncHttpFile(url, progress=reports, **QUIET) as file:
            await operation(file)
            reports.check(total)
            if name == "stream":
                await file.read()
                reports.check(SIZE)
            file.seek(0)
            await operation(file)
            assert reports.all == []

    run_clean(main)


@pytest.mark.parametrize("name", ["read", "readinto", "many ranges", "stream", "slice"])
def test_asynchronous_operations_within_a_bound(url: str, name: str) -> None:
    """What was evicted behind the reader was there."""
    operation, total = ASYNC_OPERATIONS[name]
    reports = Reports()

    async def main() -> None:
        async with hctef.AsyncHttpFile(url, progress=reports, max_resident_bytes=256 << 10, **QUIET) as file:
            await operation(file)

    run_clean(main)
    dones = [done for done, _ in reports.all]
    assert max(b - a for a, b in itertools.pairwise(dones)) < total / 2
    reports.check(total)


@pytest.mark.parametrize("paging", PAGING)
def test_buffers(url: str, paging: Any) -> None:
    """Views and exports where they are filled; where pages come when they are touched, what a method waits for."""
    reports = Reports()
    with hctef.RemoteBuffer(url, progress=reports, paging=paging, **QUIET) as buf:
        if paging == "fault":
            assert len(memoryview(buf)) == SIZE  # from now on the pager fetches
            assert buf.array("u1").shape == (SIZE,)
            assert reports.all == []
        assert buf.view(0, 500_000) == DATA[:500_000]
        reports.check(500_000)
        buf.prefetch([(500_000, 300_000)])
        reports.check(300_000)
        if paging == "fault":
            assert buf[:] == DATA
        else:
            assert bytes(memoryview(buf)) == DATA
        reports.check(SIZE)
        assert bytes(memoryview(buf)) == DATA
        assert reports.all == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_download_of_all(range_server: RangeServer, asynchronous: bool) -> None:
    """The opening takes long: it is told of, also where it is cut and begins anew; without a length it is not."""
    url, reports = range_server.add("f", DATA), Reports()
    options: dict[str, Any] = {"progress": reports, "on_no_range": "download", "prefetch_direction": "START"}

    def opened() -> None:
        if asynchronous:
            asyncio.run(_open_and_close(hctef.AsyncHttpFile(url, **options)))
        else:
            hctef.HttpFile(url, **options).close()

    range_server.behave("f", ignore_range, trickle(RATE), times(1, cut(600_000)))
    opened()
    assert len({done for done, _ in reports.all}) > 3
    reports.check(SIZE)
    range_server.behave("f", ignore_range, trickle(RATE), until_close)
    opened()
    assert reports.all == []


async def _open_and_close(file: hctef.AsyncHttpFile) -> None:
    async with file:
        pass


def test_a_single_answer_that_is_late(range_server: RangeServer) -> None:
    """It is told of once."""
    url, reports = range_server.add("f", DATA), Reports()
    with hctef.HttpFile(url, progress=reports, **QUIET) as file:
        range_server.behave("f", slow(0.1))
        file.read(100)
    reports.check(100, least=1)


def test_readers_that_wait_for_another(url: str) -> None:
    """Each hears of its own operation, whoever fetches."""
    told: dict[int, list[tuple[int, int]]] = {}
    both = threading.Barrier(2)

    def report(done: int, total: int) -> None:
        told.setdefault(threading.get_ident(), []).append((done, total))

    with hctef.HttpFile(url, progress=report, **QUIET) as file:

        def read(stop: int) -> int:
            both.wait()
            assert file.clone().read(stop) == DATA[:stop]
            return threading.get_ident()

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(read, (SIZE, SIZE - 9))
        assert file.stats.bytes_fetched < SIZE + 50_000
    for ident, total in ((first, SIZE), (second, SIZE - 9)):
        dones = [done for done, each in told[ident] if each == total]
        assert len(dones) == len(told[ident]) > 1
        assert dones == sorted(dones)
        assert dones[-1] == total


def test_tasks_that_wait_for_another(url: str) -> None:
    """The same under asyncio."""
    reports = Reports()

    async def main() -> None:
        async with hctef.AsyncHttpFile(url, progress=reports, **QUIET) as file:
            await asyncio.gather(file.read(), file.clone().read(SIZE - 9), file.buffer.load(5))
            assert file.stats.bytes_fetched < SIZE + 50_000

    run_clean(main)
    for total in (SIZE, SIZE - 9, SIZE - 5):
        dones = [done for done, each in reports.all if each == total]
        assert len(dones) > 2
        assert dones == sorted(dones)
        assert dones[-1] == total


# ends


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_callable_that_raises(url: str, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets it as it is; nothing is lost, others read on, and it is no failure of a transfer."""
    operation, _ = OPERATIONS[name]
    left = 1

    def report(done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Enough(done, total)

    with hctef.HttpFile(url, progress=report, **QUIET) as file:
        with pytest.raises(Enough):
            operation(file, tmp_path)
        assert file.tell() == 0
        assert not list(tmp_path.iterdir())
        planner = file._open().planner
        wait_until(lambda: not planner.cache.all_claims())
        assert not _pinned(file)
        left = 1_000_000
        assert file.read() == DATA
    assert not caplog.records


def _pinned(file: hctef.HttpFile | hctef.AsyncHttpFile) -> bool:
    """Whether anything may not be evicted."""
    gc.collect()
    file.evict()
    return file.resident_bytes > 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_callable_that_raises_at_the_end(url: str, tmp_path: Path, name: str) -> None:
    """As any other time: no pin is left either."""
    operation, _ = OPERATIONS[name]

    def report(done: int, total: int) -> None:
        if done == total:
            raise Enough

    with hctef.HttpFile(url, progress=report, **QUIET) as file:
        with pytest.raises(Enough):
            operation(file, tmp_path)
        assert file.tell() == 0
        assert not list(tmp_path.iterdir())
        assert not _pinned(file)


@pytest.mark.parametrize("name", ASYNC_OPERATIONS)
def test_a_callable_that_raises_at_the_end_in_a_loop(url: str, name: str) -> None:
    """The same under asyncio."""
    operation, _ = ASYNC_OPERATIONS[name]

    def report(done: int, total: int) -> None:
        if done == total:
            raise Enough

    async def main() -> None:
        async with hctef.AsyncHttpFile(url, progress=report, **QUIET) as file:
            with pytest.raises(Enough):
                await operation(file)
            assert file.tell() == 0
            assert not _pinned(file)

    run_clean(main)


@pytest.mark.parametrize("paging", PAGING)
def test_a_callable_that_raises_harms_nobody_else(url: str, paging: Any) -> None:
    """Who waits for the same bytes gets them."""
    raising, begun = threading.get_ident(), threading.Event()

    def report(done: int, total: int) -> None:
        begun.set()
        if threading.get_ident() == raising:
            raise Enough

    with hctef.RemoteBuffer(url, progress=report, paging=paging, **QUIET) as buf, ThreadPoolExecutor(1) as pool:
        if paging == "fault":
            memoryview(buf).release()

        def follow() -> bytes:
            assert begun.wait(20)
            return bytes(buf.view(0, SIZE))

        other = pool.submit(follow)
        with pytest.raises(Enough):
            buf.view(0, SIZE)
        assert other.result(20) == DATA


@pytest.mark.parametrize("name", ASYNC_OPERATIONS)
def test_a_callable_that_raises_in_a_loop(url: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The same under asyncio, with another task that waits for the same bytes; no task is left."""
    operation, _ = ASYNC_OPERATIONS[name]
    armed = True

    def report(done: int, total: int) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Enough

    async def main() -> None:
        async with hctef.AsyncHttpFile(url, progress=report, **QUIET) as file:
            other = asyncio.ensure_future(file.clone().read())
            results = await asyncio.gather(operation(file), other, return_exceptions=True)
            assert [type(each) for each in results].count(Enough) == 1
            if isinstance(results[0], Enough):
                assert file.tell() == 0
            assert await file.buffer[:] == DATA

    run_clean(main)
    assert not caplog.records


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_callable_that_raises_before_its_turn(
    url: str, range_server: RangeServer, caplog: pytest.LogCaptureFixture, asynchronous: bool
) -> None:
    """Where all connections are taken, it ends the operation at once, not when each of its ranges had its turn; and no
    transfer is said to have failed."""
    armed, gate, before = True, Gate(), 0
    given: dict[str, Any] = {**QUIET, "max_connections": 1}
    wanted = [(at, at + 9000) for at in range(400_000, 1_000_000, 30_000)]

    def report(done: int, total: int) -> None:
        if armed and total == 9000 * len(wanted):
            raise Enough

    def check(file: Any) -> None:
        held = range_server.requests == before + 1
        gate.open()
        wait_until(lambda: not file._open().planner.cache.all_claims())
        assert held
        assert not caplog.records

    if not asynchronous:
        with hctef.HttpFile(url, progress=report, **given) as file, ThreadPoolExecutor(1) as pool:
            before = range_server.requests
            range_server.behave("f", gate)
            other = pool.submit(file.clone().read, 100_000)
            gate.wait_for(1)
            with pytest.raises(Enough):
                file.read_ranges(wanted)
            check(file)
            assert other.result(20) == DATA[:100_000]
            armed = False
            assert file.read() == DATA
        return

    async def main() -> None:
        nonlocal armed, before
        async with hctef.AsyncHttpFile(url, progress=report, **given) as file:
            before = range_server.requests
            range_server.behave("f", gate)
            other = asyncio.ensure_future(file.clone().read(100_000))
            await asyncio.to_thread(gate.wait_for, 1)
            with pytest.raises(Enough):
                await file.read_ranges(wanted)
            await asyncio.to_thread(check, file)
            assert await other == DATA[:100_000]
            armed = False
            assert await file.read() == DATA

    run_clean(main)


def test_who_gives_up_waiting_in_a_loop_says_so() -> None:
    """Whoever would have woken it need not."""

    def report(done: int, total: int) -> None:
        raise Enough

    async def main() -> None:
        future: Future[None] = Future()
        with pytest.raises(Enough):
            await _outcome(future, Watch(Told(report), lambda *_: 1, [(0, 10)]))
        await asyncio.sleep(0)  # the loop tells it
        assert future.cancelled()

    run_clean(main)


def test_an_abandoned_stream_ends_its_bar(url: str, bars: list[FakeBar]) -> None:
    """And what failed or was cancelled its own."""
    with hctef.HttpFile(url, progress=True, **QUIET) as file:
        pieces = file.stream()
        taken = 0
        while not bars:
            taken += len(next(pieces))
        del pieces
        gc.collect()
        assert bars[0].closed
        assert bars[0].n < SIZE

    async def main() -> None:
        async with hctef.AsyncHttpFile(url, progress=True, **QUIET) as other:
            reading = asyncio.ensure_future(other.read())
            await asyncio.to_thread(wait_until, lambda: len(bars) == 2)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert bars[1].closed
            assert bars[1].n < SIZE

    run_clean(main)


LONG = pattern(24 << 20)


@pytest.mark.parametrize("seconds", [0.0, 0.03])
def test_a_long_read(range_server: RangeServer, seconds: float) -> None:
    """What comes behind the copying, from threads that the reader waits for where the line is far, is told of; and who
    has enough of it need not end the file to stop it."""
    url, reports, enough = range_server.add("f", LONG), Reports(), 1 << 62

    def report(done: int, total: int) -> None:
        reports(done, total)
        if done > enough:
            raise Enough

    with hctef.HttpFile(url, progress=report, **{**QUIET, "readahead": "auto"}) as file:
        range_server.behave("f", slow(seconds), trickle(6e7))
        assert file.read() == LONG
        reports.check(len(LONG))
        file.evict()
        before, enough = file.stats.bytes_fetched, 1 << 20
        file.seek(0)
        with pytest.raises(Enough):
            file.read()
        wait_until(lambda: not file._open().planner.cache.all_claims())
        assert file.stats.bytes_fetched - before < len(LONG)
        enough = 1 << 62
        assert file.read() == LONG


# bars


class FakeBar:
    """Takes the place of tqdm's class."""

    def __init__(self, total: int, initial: int, desc: str, **look: Any) -> None:
        self.total, self.n, self.desc, self.look = total, initial, desc, look
        self.closed = False

    def update(self, count: int) -> None:
        assert count >= 0
        self.n += count

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[FakeBar]:
    """Those that were drawn."""
    drawn: list[FakeBar] = []

    def make(**given: Any) -> FakeBar:
        drawn.append(FakeBar(**given))
        return drawn[-1]

    monkeypatch.setattr("hctef._remote.load_tqdm", lambda: make)
    return drawn


def test_a_bar_for_each_operation(url: str, bars: list[FakeBar]) -> None:
    """Named after the file, without what is secret; closed when it is full."""
    secret = url.replace("http://", "http://user:word@") + "?key=secret"
    with hctef.HttpFile(secret, progress=True, **QUIET) as file:
        file.read(600_000)
        file.read()
        file.seek(0)
        file.read()
    assert [(bar.total, bar.n, bar.desc, bar.closed) for bar in bars] == [
        (600_000, 600_000, "f", True),
        (SIZE - 600_000, SIZE - 600_000, "f", True),
    ]
    look = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False, "miniters": 0, "mininterval": 0}
    assert bars[0].look == look


def test_tqdm_itself(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Draws on stderr, and leaves no thread behind."""
    pytest.importorskip("tqdm")
    with hctef.HttpFile(url, progress=True, **QUIET) as file:
        assert file.read() == DATA
    shown = capsys.readouterr()
    assert "f: " in shown.err
    assert "B/s" in shown.err
    assert shown.out == ""
    assert not [thread for thread in threading.enumerate() if "onitor" in type(thread).__name__]


class Stderr(io.StringIO):
    """Counts what is drawn; or fails, as a pipe that nobody reads does."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.error, self.drawn = error, 0

    def write(self, text: str) -> int:
        if self.error is not None and text:
            raise self.error
        self.drawn += bool(text.strip())
        return super().write(text)


@pytest.mark.parametrize("kind", ["none", "closed", "broken"])
def test_a_bar_that_nobody_can_see(url: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A service, or a program without a console, reads all the same; another thread of it too."""
    pytest.importorskip("tqdm")
    stderr = Stderr(BrokenPipeError(errno.EPIPE, "nobody"))
    if kind == "closed":
        stderr.close()
    monkeypatch.setattr(sys, "stderr", None if kind == "none" else stderr)
    with hctef.HttpFile(url, progress=True, **QUIET) as file, ThreadPoolExecutor(1) as pool:
        assert file.read(500_000) == DATA[:500_000]
        assert pool.submit(file.read).result(20) == DATA[500_000:]


def test_a_signal_handlers_error_is_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes through."""
    pytest.importorskip("tqdm")
    kind = load_tqdm()
    monkeypatch.setattr(kind, "refresh", lambda self, **_: self.display())  # which would keep tqdm's lock
    monkeypatch.setattr(sys, "stderr", Stderr(TimeoutError("of a handler")))
    bar = Bar(lambda: "f", lambda: kind)
    with pytest.raises(TimeoutError):
        bar(1, 2)


def test_a_bar_is_drawn_though_less_comes_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm by itself would wait for as many bytes as came between two draws at the best."""
    pytest.importorskip("tqdm")
    stderr = Stderr()
    monkeypatch.setattr(sys, "stderr", stderr)
    bar = Bar(lambda: "f", load_tqdm)
    for done in (*range(0, 10**9, 10**8), *range(10**9, 10**9 + 10)):
        bar(done, 10**10)
    assert stderr.drawn >= 20
    bar.close()


def test_without_tqdm(url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and all else is as ever."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(_progress, "_lacking", [])
    with caplog.at_level(logging.WARNING, "hctef"), hctef.HttpFile(url, progress=True, **QUIET) as file:
        assert file.read(500_000) + file.read() == DATA
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "progress=True shows nothing: pip install tqdm"
    ]


# copies


def module_report(done: int, total: int) -> None:
    """What a module has by its name."""


def test_pickles(url: str) -> None:
    """True and a module's function go with the file; a lambda or a method stays, and the file goes without."""
    reports = Reports()
    for value, expected in (
        (True, True),
        (module_report, module_report),
        (lambda *_: None, None),
        (reports.__call__, None),
        (reports, None),
    ):
        with hctef.HttpFile(url, progress=value, **QUIET) as file, pickle.loads(pickle.dumps(file)) as copy:
            assert copy.read(10) == DATA[:10]
            assert copy._options.progress is expected
    assert portable(None)
    assert portable(print)
    assert not portable([].append)  # type: ignore[arg-type]


def test_clones_and_buffers_tell_too(url: str) -> None:
    """They share the options."""
    reports = Reports()
    with hctef.HttpFile(url, progress=reports, **QUIET) as file:
        file.clone().read(500_000)
        reports.check(500_000)
        file.buffer.view(500_000, 800_000)
        reports.check(300_000)
        file.buffer.file().read()
        reports.check(SIZE)

    async def main() -> None:
        with hctef.RemoteBuffer(url, progress=reports, **QUIET) as buf:
            async with buf.aio() as other:
                await other.load(0, 500_000)
                reports.check(500_000)
                other.sync.view(500_000)
                reports.check(SIZE - 500_000)

    run_clean(main)


def test_cat_shows_it(url: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """On stderr."""
    assert cli.main(["cat", "--progress", url, "5:900000"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == DATA[5:900_000]
    assert err.count(b" of 878.9 KiB") >= 2
    assert err.rpartition(b"\r")[2].startswith(b"878.9 KiB in ")
