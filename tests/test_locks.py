"""Locks, and who is interrupted, forks, or throws away what held or wanted one."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3

import hctef
from hctef import _remote
from hctef._locks import Condition, Event, Waiter, if_free, patience, release_all, take
from tests.helpers import pattern
from tests.nginx_server import NginxServer
from tests.range_server import Gate, RangeServer, when

ROOT = Path(__file__).parents[1]
DATA = pattern(1 << 20)


@pytest.fixture
def url(range_server: RangeServer) -> str:
    return range_server.add("f", DATA)


def run_program(name: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run a function of this module in a process of its own: what hangs would hang the tests too."""
    command = [sys.executable, "-c", f"import sys; from tests.test_locks import {name}; {name}(sys.argv[1])", url]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=100)


# what they are built of


@pytest.mark.parametrize("made", [Condition(), Event()._cond, Waiter()._condition])
def test_a_with_calls_the_lock_itself(made: Any) -> None:
    """In Python's own code an interrupt could come."""
    assert isinstance(made.__enter__, types.BuiltinMethodType)
    assert isinstance(made.__exit__, types.BuiltinMethodType)
    with made:
        assert made._is_owned()


def test_they_wait_and_wake() -> None:
    """As threading has them."""
    condition, event, waiter = Condition(), Event(), Waiter()
    with ThreadPoolExecutor(3) as threads:
        with condition:
            told = threads.submit(lambda: condition.__class__ is Condition)
            assert not condition.wait(0.01)
        assert told.result()
        waits = [threads.submit(event.wait, 10), threads.submit(waiter.result, 10)]
        event.set()
        waiter.set_result(5)
        assert [wait.result() for wait in waits] == [True, 5]


def test_a_wait_that_is_interrupted_leaves_the_lock_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it is a RuntimeError where its block ends, in place of the interrupt."""
    condition = Condition()

    def interrupted() -> None:
        condition._lock.release()  # type: ignore[attr-defined]  # threading's
        raise KeyboardInterrupt

    monkeypatch.setattr(condition, "_release_save", interrupted)
    with pytest.raises(KeyboardInterrupt), condition:
        condition.wait(1)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(condition.acquire, timeout=5).result()


def test_if_free() -> None:
    """Done under the lock, where that is free; and free afterwards, also where it failed."""
    lock, done = threading.Lock(), list[bool]()
    assert if_free(lock, lambda: done.append(lock.locked()))
    assert done == [True]
    with lock:
        assert not if_free(lock, lambda: done.append(True))
    with pytest.raises(ZeroDivisionError):
        if_free(lock, lambda: 1 // 0)
    assert done == [True]
    assert not lock.locked()


def test_a_lock_that_is_soon_free() -> None:
    """Is waited for as long as is said."""
    lock, done = threading.Lock(), list[bool]()
    lock.acquire()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(if_free, lock, lambda: done.append(True), 60.0)
        assert not done
        lock.release()
        assert waiting.result()
    assert done == [True]


def test_who_throws_a_generator_away_does_not_wait_for_its_own_lock() -> None:
    """As the garbage collector does, in the midst of anything; whoever ends it otherwise waits as long as it takes."""
    seconds: list[float] = []

    def generator() -> Generator[None]:
        try:
            yield
        finally:
            seconds.append(patience())

    for _ in generator():
        break  # it is thrown away
    for _ in generator():
        pass
    with pytest.raises(KeyboardInterrupt):
        interrupted = generator()
        next(interrupted)
        interrupted.throw(KeyboardInterrupt)
    assert seconds[1:] == [-1, -1]
    assert 0 < seconds[0] < 1


def test_what_is_taken_is_released_once() -> None:
    """Each of them, whatever came in between."""
    locks, held = [threading.Lock() for _ in range(3)], list[Any]()
    for lock in locks[:2]:
        take(lock, held)
    assert [lock.locked() for lock in locks] == [True, True, False]
    release_all(held)
    release_all(held)
    assert not held
    assert not any(lock.locked() for lock in locks)


# interrupts


def interrupts(url: str) -> None:
    """A program: it is interrupted at random while it misses and takes views; then another thread must read right."""
    armed = [False]

    def interrupt(*_: object) -> None:
        if armed[0]:
            raise KeyboardInterrupt

    data, chance = pattern(8 << 20), random.Random(1)
    sys.unraisablehook = lambda _: None  # what interrupts a __release_buffer__ is shown, and lost
    signal.signal(signal.SIGALRM, interrupt)
    for options in ({}, {"readahead": "off"}, {"max_resident_bytes": 2 << 20}):
        given: Any = options
        buf, until = hctef.RemoteBuffer(url, paging="fill", **given), time.monotonic() + 2
        buf.prefetch([(0, 4096)])
        other = ThreadPoolExecutor(1)
        while time.monotonic() < until:
            try:
                # Again and again, for one that comes into a __release_buffer__ is lost.
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 2e-3), 0.01)
                armed[0] = True
                while True:
                    at = chance.randrange(len(data) - 9000)
                    if chance.random() < 0.5:
                        buf.prefetch([(at, 9000)], wait=False)  # that another thread brings is waited for
                    assert buf[at : at + 9000] == data[at : at + 9000]
                    assert bytes(buf.view(at, at + 100)) == data[at : at + 100]
                    if chance.random() < 0.1:
                        buf.evict()
            except KeyboardInterrupt:
                armed[0] = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for at in (0, 3_000_000, 7_000_000):
            other.submit(buf.evict).result(20)
            assert other.submit(lambda at=at: buf[at : at + 9000]).result(20) == data[at : at + 9000]  # type: ignore[misc]  # noqa: B023
        other.shutdown()
    print("right")  # noqa: T201  # that is what it is for


def test_interrupts_leave_no_lock_held(nginx: NginxServer) -> None:
    """Futures, the pool and the file itself: whoever wanted one of their locks hung."""
    done = run_program("interrupts", nginx.add("interrupts", pattern(8 << 20)))
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["right"]), done.stderr


# forks


def test_a_fork_that_is_interrupted_releases_what_it_has_locked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python shows what `before` raises, and forks."""
    with hctef.HttpFile(url, prefetch_bytes=0) as file, hctef.HttpFile(url, prefetch_bytes=0) as another:
        taken: list[Any] = []

        def interrupted(lock: Any, held: list[Any]) -> None:
            if len(taken) == 2:
                raise KeyboardInterrupt
            taken.append(lock)
            take(lock, held)

        monkeypatch.setattr(_remote, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _remote._before_fork()
        _remote._after_fork_in_parent()
        assert len(taken) == 2
        with ThreadPoolExecutor(1) as thread:
            for each in (file, another):
                assert thread.submit(each.read, 10).result(10) == DATA[:10]
            thread.submit(lambda: hctef.HttpFile(url).close()).result(10)
    assert not _remote._forking


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # that is what is tested
def test_unpickled_files_do_not_wait_for_each_other(range_server: RangeServer, url: str) -> None:
    """Nor does a forked child, for a thread that it has not."""
    gate = Gate()
    with hctef.HttpFile(range_server.add("stalls", DATA)) as file:
        stalling = pickle.dumps(file)
    with hctef.HttpFile(url) as file:
        copies = [pickle.loads(pickle.dumps(file)) for _ in range(2)]
    range_server.behave("stalls", gate)
    first = pickle.loads(stalling)
    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(first.read, 10)
        gate.wait_for(1)
        assert threads.submit(copies[0].read, 10).result(10) == DATA[:10]
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os._exit(0 if copies[1].read(10) == DATA[:10] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        gate.open()
        assert reading.result(10) == DATA[:10]
    for each in (first, *copies):
        each.close()


# garbage


def collected(url: str) -> None:
    """A program: a coroutine that waits is collected inside of a step of its own thread."""
    import hctef._planner

    loop = asyncio.new_event_loop()
    buf = hctef.RemoteBuffer(url, readahead="off", paging="fill")
    buf.prefetch([(1_998_848, 8192)], wait=False)  # it waits at the server
    tasks = buf.aio()

    async def start() -> None:
        task = asyncio.create_task(tasks.load(2_000_000, 2_000_100))
        await asyncio.sleep(0.2)
        circle: list[Any] = [task]
        circle.append(circle)

    loop.run_until_complete(start())
    loop.close()
    start = loop = tasks = None  # type: ignore[assignment]  # nothing refers to them
    read = hctef._planner.Planner._read

    def collecting(self: Any, wanted: Any) -> Any:
        gc.collect()  # as any allocation may
        return read(self, wanted)

    hctef._planner.Planner._read = collecting  # type: ignore[method-assign]  # that is what is tested
    assert buf[0:10_000] == pattern(10_000)
    os.write(1, b"right\n")
    os._exit(0)  # whatever waits at the server


def test_a_coroutine_is_collected_inside_of_a_step(range_server: RangeServer) -> None:
    """It has no lock to wait for: its thread has it."""
    url, gate = range_server.add("large", pattern(4 << 20)), Gate()
    range_server.behave("large", when(lambda request: request.asked.startswith("bytes=1"), gate))
    done = run_program("collected", url)
    gate.open()
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
    assert "already running" not in done.stderr


# what grows


def test_nothing_is_kept_of_what_is_over(range_server: RangeServer, url: str) -> None:
    """Closed clones, loops that ended, and what a caller evicted."""
    with hctef.RemoteBuffer(url, max_resident_bytes=1 << 19, readahead="off", paging="fill") as buf:
        remote: Any = buf._remote
        file = buf.file()
        before = buf.stats.hits
        buf[0:100]
        for _ in range(1000):
            with file.clone() as clone:
                assert clone.read(100) == DATA[:100]
        assert buf.stats.hits == before + 1000

        async def read(at: int) -> bytes:
            async with buf.aio() as there:
                return await there[at : at + 10]

        for at in (300_000, 400_000, 500_000):
            assert asyncio.run(read(at)) == DATA[at : at + 10]
        assert len(remote.async_drivers) <= 1
        for n in range(3000):
            buf[n * 300 : n * 300 + 10]
            buf.evict()
        assert len(remote.planner.cache._resident) <= 1025
        assert buf[:] == DATA
        assert buf.resident_bytes <= 1 << 19
    transport = remote.driver.transport
    for n in range(50):
        transport.host(f"http://host{n}.example/f")
    assert len(transport._hosts) <= 16


def test_the_umask_is_left_alone(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads make files meanwhile. A new file gets the permissions that open() gives, another keeps its own."""
    ask = os.umask
    usual = ask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda _: pytest.fail("for all threads"))
        with hctef.HttpFile(url) as file:
            file.copy_to(tmp_path / "new")
            (tmp_path / "old").touch()
            (tmp_path / "old").chmod(0o604)
            file.copy_to(tmp_path / "old")
    finally:
        ask(usual)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("new", "old")] == [0o640, 0o604]
    assert (tmp_path / "old").read_bytes() == DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_pool_is_not_silently_left_aside(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio cannot use it, nor the other half a session: what they are for, a proxy perhaps, is missed."""
    with urllib3.PoolManager() as pool, hctef.RemoteBuffer(url, pool=pool) as buf:
        buf.aio()
    assert "your pool" in caplog.text
    with hctef.RemoteBuffer(url) as buf:
        caplog.clear()
        buf.aio()
    assert not caplog.text


def test_the_other_half_of_an_asynchronous_file_pickles(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """And opens again: its session is no option of it."""
    import aiohttp

    async def main() -> tuple[bytes, hctef.HttpFile]:
        async with (
            aiohttp.ClientSession() as session,
            hctef.AsyncRemoteBuffer(url, session=session, prefetch_bytes=0) as buf,
        ):
            file = await asyncio.to_thread(lambda: buf.sync.file())
            return pickle.dumps(file), file

    data, file = asyncio.run(main())
    assert "your session" in caplog.text
    file.close()
    for each in (pickle.loads(data), file.open()):
        with each:
            assert each.read(100) == DATA[:100]
