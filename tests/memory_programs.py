"""Programs that fork: each a process of its own, run by test_pager_memory.py as `python -m tests.memory_programs NAME
URL`. They print nothing but "right" at their end; what goes wrong is an exception, or a signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import mmap
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import hctef
from hctef._faulting import mappings
from hctef.pager.client import the_client
from tests.hammer import the_hammer
from tests.helpers import wait_until
from tests.pager_programs import helpers

FACTOR = 0x9E3779B97F4A7C15
PAGE_WORDS = 512


def right(words: Any, places: Any) -> bool:
    """Whether words at `places` are the pattern's."""
    places = np.asarray(places, "u8")
    return bool(np.array_equal(words[places], places * np.uint64(FACTOR)))


def places(count: int, limit: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(limit), count)


def array_of(buf: hctef.RemoteBuffer) -> Any:
    return np.frombuffer(buf, "<u8", count=len(buf) // 8)


def forked(run: Callable[[], object]) -> int:
    """Run it in a forked child; an exception there is status 1. Returns the child."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run()
            status = 0
        except BaseException:  # noqa: BLE001  # shown; the parent sees the status
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """The status of a child, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(run: Callable[[], object]) -> int:
    """Run it in a forked child, as `forked`. Returns the status, or minus the signal."""
    return ended(forked(run))


def check(condition: object) -> None:
    """assert, with a child's status."""
    assert condition


@contextlib.contextmanager
def hammering(words: Any, threads: int = 4) -> Iterator[None]:
    """Threads that fault all the while. At the end: none of them saw a wrong word."""
    stop, hammer = threading.Event(), the_hammer()

    def run(seed: int) -> int:
        wrong = 0
        while not stop.is_set():
            seed += 100
            wrong += hammer.random(words, 20, seed)
        return wrong

    with ThreadPoolExecutor(threads) as pool:
        runs = [pool.submit(run, seed) for seed in range(threads)]
        try:
            yield
        finally:
            stop.set()
        assert [run.result(30) for run in runs] == [0] * threads


# a view made before the fork

_words: Any = None


def _read_there(place: int) -> bool:
    return right(_words, [place])


def _read_in_a_grandchild(seed: int) -> int:
    return in_child(lambda: check(right(_words, places(50, len(_words), seed))))


def pool(url: str) -> None:
    """4,000 random offsets, by four children and by children of theirs."""
    global _words  # noqa: PLW0603  # what a fork inherits is global
    with hctef.RemoteBuffer(url) as buf:
        _words = array_of(buf)
        check(right(_words, places(100, len(_words), 0)))
        with multiprocessing.get_context("fork").Pool(4) as workers:
            check(all(workers.map(_read_there, places(4000, len(_words), 1), chunksize=50)))
        with ThreadPoolExecutor(4) as threads:
            check(not any(threads.map(_read_in_a_grandchild_of_ours, range(4))))
        check(right(_words, places(200, len(_words), 2)))


def _read_in_a_grandchild_of_ours(seed: int) -> int:
    return in_child(lambda: check(_read_in_a_grandchild(seed) == 0))


def child(url: str) -> None:
    """Old views, new views, slices and new buffers in a child; afterwards the parent goes on."""
    with hctef.RemoteBuffer(url, max_resident_bytes=8 << 20) as buf:
        words, view = array_of(buf), buf.view(8000, 16000)
        check(right(words, range(20)))

        def run() -> None:
            check(right(words, places(200, len(words), 1)))
            check(right(words, range(1000, 2000)))
            check(bytes(view) == words[1000:2000].tobytes())
            check(right(np.frombuffer(buf, "<u8", count=len(words)), places(50, len(words), 2)))
            check(buf[800_000:800_008] == words[100_000].tobytes())
            check(buf.view(1_600_000, 1_600_008) == words[200_000].tobytes())
            buf.prefetch([(3_000_000, 100_000)])
            with hctef.RemoteBuffer(url) as other:
                check(right(array_of(other), places(20, len(words), 3)))
                check(other.stats.faults > 0)
            buf.evict()
            check(right(words, places(50, len(words), 4)))
            buf.close()
            check(right(words, places(50, len(words), 5)))

        check(in_child(run) == 0)
        check(in_child(lambda: check(in_child(run) == 0)) == 0)
        check(right(words, places(200, len(words), 6)))
        check(bytes(view) == words[1000:2000].tobytes())
        buf.evict()
        check(right(words, places(200, len(words), 7)))


def child_goes_first(url: str) -> None:
    """The parent closes and lets go while a child still reads, and a child's end is not the parent's."""
    buf = hctef.RemoteBuffer(url)
    words: Any = array_of(buf)
    begin, go = os.pipe()

    def run(words: Any) -> None:
        os.close(go)
        os.read(begin, 1)
        check(right(words, places(100, len(words), 1)))

    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            run(words)
            status = 0
        os._exit(status)
    buf.close()
    del buf, words
    gc.collect()
    wait_until(lambda: not mappings())
    time.sleep(1.2)  # seconds: the helpers would have been left by now, were there no child
    os.close(go)
    check(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0)


def parent_lets_go_at_once(url: str) -> None:
    """What the parent says of its end is heard before what the child says of its beginning, or after: both are well."""
    for place in range(100_000, 110_000, 1000):
        buf = hctef.RemoteBuffer(url)
        words: Any = array_of(buf)
        check(right(words, [5]))
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # seconds: with the GIL in a fault nothing else ends it
            os._exit(0 if words[place] == place * FACTOR % 2**64 else 1)
        buf.close()
        del buf, words
        check(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0)


def view_in_the_child(url: str) -> None:
    """What a view of before the fork shows is there for the child's system calls, though the parent lets go of its own;
    and no longer than the child has the view."""
    buf = hctef.RemoteBuffer(url, readahead="off", max_resident_bytes=4 << 20)
    words, view = array_of(buf), buf.view(80_000, 160_000)
    check(right(words, [5]))
    expected, (begin, go), file = bytes(view), os.pipe(), os.memfd_create("file")
    held = mappings()[0].mode == "user-mode-only"

    def resident(to: int = 80_001) -> bool:
        return any(start <= 80_000 and to <= stop for start, stop in buf.resident_ranges())

    def run() -> None:
        os.read(begin, 1)
        wait_until(lambda: resident(160_000) if held else not resident())
        check(os.write(file, view) == len(view))
        check(os.pread(file, len(view), 0) == expected)
        view.release()
        buf.evict()
        wait_until(lambda: not resident())

    pid = forked(run)
    view.release()
    buf.evict()
    os.write(go, b"x")
    check(ended(pid) == 0)


def raw_fork(url: str) -> None:
    """A fork that Python does not see: a touch is SIGSEGV, of what is there and of what is not, never zeros."""
    libc = ctypes.CDLL(None)
    hammer = the_hammer()
    with hctef.RemoteBuffer(url) as buf:
        words = array_of(buf)
        check(right(words, range(20)))
        for place in (0, 100_000, len(words) - 1):
            pid = libc.fork()
            if pid == 0:
                hammer.sequential(words, place, place + 1)
                os._exit(0)
            check(os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV)
        check(hammer.sequential(words) == 0)


def while_faulting(url: str) -> None:
    """Children of a process in which other threads are blocked by faults."""
    with hctef.RemoteBuffer(url, max_resident_bytes=2 << 20) as buf:
        words, hammer = array_of(buf), the_hammer()
        with hammering(words):
            for seed in range(8):
                check(in_child(lambda seed=seed: check(hammer.random(words, 20, seed) == 0)) == 0)  # type: ignore[misc]


def while_exporting(url: str) -> None:
    """Children of a process in which another thread has buffers attached, and lets them go."""
    stop = threading.Event()

    def run() -> int:
        count = 0
        while not stop.is_set():
            with hctef.RemoteBuffer(url) as buf:
                check(right(array_of(buf), [count * 1000]))
                count += 1
        return count

    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(run) for _ in range(2)]
        try:
            for _ in range(15):
                check(in_child(lambda: None) == 0)
        finally:
            stop.set()
        check(all(run.result(30) > 0 for run in runs))


def many_buffers(url: str) -> None:
    """Thirty mappings are there again in a child, each with its own bytes."""
    buffers = [hctef.RemoteBuffer(url) for _ in range(30)]
    arrays = [array_of(buf) for buf in buffers]

    def run() -> None:
        check(all(right(words, places(2, len(words), seed)) for seed, words in enumerate(arrays)))

    run()
    check(in_child(run) == 0)
    for buf in buffers[::2]:
        buf.close()
    del arrays[::2]
    gc.collect()
    check(in_child(run) == 0)
    run()


def _remote_words(job: tuple[hctef.RemoteBuffer, int]) -> bool:
    buf, place = job
    return right(array_of(buf), [place])


def pickled(url: str) -> None:
    """A buffer that is sent to processes of each kind opens there, and pages there."""
    with hctef.RemoteBuffer(url) as buf:
        check(right(array_of(buf), [0]))
        for method in ("spawn", "forkserver", "fork"):
            with multiprocessing.get_context(method).Pool(2) as workers:
                check(all(workers.map(_remote_words, [(buf, place) for place in places(6, len(buf) // 8, 1)])))


class Dataset:
    """As a data loader's workers use it: made in the parent, read in forked children."""

    def __init__(self, url: str) -> None:
        self.buf = hctef.RemoteBuffer(url)
        self.words = array_of(self.buf)

    def __getitem__(self, index: int) -> Any:
        return np.array(self.words[index * PAGE_WORDS : (index + 1) * PAGE_WORDS])


def _work(dataset: Dataset, todo: Any, done: Any) -> None:
    for index in iter(todo.get, None):
        done.put((index, dataset[index]))


def loader(url: str) -> None:
    """Long-lived workers that are asked for samples, for two epochs."""
    dataset, context = Dataset(url), multiprocessing.get_context("fork")
    for epoch in range(2):
        todo, done = context.Queue(), context.Queue()
        workers = [context.Process(target=_work, args=(dataset, todo, done), daemon=True) for _ in range(3)]
        for worker in workers:
            worker.start()
        for index in places(100, len(dataset.words) // PAGE_WORDS, epoch):
            todo.put(index)
        for _ in range(100):
            index, sample = done.get(timeout=30)
            first = index * PAGE_WORDS
            check(np.array_equal(sample, np.arange(first, first + PAGE_WORDS, dtype="u8") * np.uint64(FACTOR)))
        for _ in workers:
            todo.put(None)
        for worker in workers:
            worker.join(30)
            check(worker.exitcode == 0)


def beside_programs(url: str) -> None:
    """Programs are started while threads fault: by vfork, and by fork with a function of Python's before the exec."""
    with hctef.RemoteBuffer(url, max_resident_bytes=2 << 20) as buf:
        words = array_of(buf)
        with hammering(words):
            for _ in range(15):
                subprocess.run(["true"], check=True)
            for _ in range(3):
                subprocess.run(["true"], check=True, preexec_fn=os.getpid)  # that is the test
        check(right(words, places(50, len(words), 1)))


def not_allowed_in_the_child(url: str) -> None:
    """Where a child may not have userfaultfd, a touch is SIGSEGV; the parent's pages stay right, its holes holes."""
    from tests.sandbox import refuse_userfaultfd

    with hctef.RemoteBuffer(url) as buf:
        words, hammer = array_of(buf), the_hammer()
        check(right(words, range(20)))
        refuse_userfaultfd(1)
        for place in (0, len(words) - 1):
            check(in_child(lambda place=place: hammer.sequential(words, place, place + 1)) == -signal.SIGSEGV)  # type: ignore[misc]
        check(in_child(lambda: None) == 0)
        check(hammer.sequential(words) == 0)


_occupied: list[int] = []


def _occupy() -> None:
    """In a child, before hctef: something else takes the address."""
    from hctef._shared_memory import reserve

    for at in _occupied:
        reserve(at, mmap.PAGESIZE)


def taken_in_the_child(url: str) -> None:  # not run as the others: `_occupy` is registered before hctef is imported
    """A child in whose memory something else lies where the view was ends at once; the parent goes on."""
    with hctef.RemoteBuffer(url) as buf:
        words = array_of(buf)
        _occupied.append(words.ctypes.data + 5 * mmap.PAGESIZE)
        check(in_child(lambda: None) == -signal.SIGABRT)
        _occupied.clear()
        check(in_child(lambda: check(right(words, range(20)))) == 0)
        check(right(words, places(200, len(words), 1)))


def room_in_the_child(url: str) -> None:
    """What a child maps first lies elsewhere: a mapping leaves room above itself."""
    with hctef.RemoteBuffer(url) as buf:
        words = array_of(buf)
        check(in_child(lambda: check(right(words, range(20)))) == 0)
        hole = range(words.ctypes.data, words.ctypes.data + words.nbytes)

        def run() -> None:
            from hctef._raw import address

            found = [mmap.mmap(-1, len(hole)) for _ in range(20)]
            os._exit(any(address(item) in hole for item in found))

        pid = ctypes.CDLL(None).fork()  # nothing is mapped again here
        if pid == 0:
            run()
        check(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0)


def while_helpers_die(url: str) -> None:
    """A child touches pages with the GIL held, so that none of its threads runs: its helpers know of it before it goes
    on, or it has started others."""
    words = array_of(hctef.RemoteBuffer(url, paging="fault", readahead="off", max_resident_bytes=1 << 20))
    for seed, (delay, both) in enumerate(itertools.product((0.0, 0.001, 0.003, 0.01, 0.03), (False, True))):
        wait_until(lambda: the_client()._is_settled() and helpers(os.getpid()) is not None)
        for pid in (helpers(os.getpid()) or ())[0 if both else 1 :]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(delay)

        def read(seed: int = seed) -> None:
            check(the_client()._is_settled())
            check(right(words, places(20, len(words), seed)))

        check(in_child(read) == 0)


def closed_descriptors(url: str) -> None:
    """A child closes what it did not open, as daemons do: its pages come, and its parent's. Then the parent does: by a
    next worker too, and what asks for more is told so."""
    buf = hctef.RemoteBuffer(url, paging="fault", readahead="off", max_resident_bytes=1 << 20)
    words = array_of(buf)
    check(right(words, range(20)))

    def daemon() -> None:
        os.setsid()
        pid = forked(grandchild)
        os._exit(ended(pid))

    def grandchild() -> None:
        os.closerange(3, 1024)
        time.sleep(0.3)
        check(right(words, places(30, len(words), 1)))
        time.sleep(1.5)  # as long as it takes to look again whether somebody is there
        check(right(words, places(30, len(words), 2)))

    check(in_child(daemon) == 0)
    check(right(words, places(30, len(words), 1)))
    check(right(words, places(30, len(words), 3)))
    before = helpers(os.getpid())
    assert before is not None
    os.closerange(3, 1024)
    time.sleep(0.1)
    check(right(words, places(30, len(words), 4)))
    os.kill(before[1], signal.SIGKILL)
    check(right(words, places(30, len(words), 5)))
    try:
        buf[len(buf) // 2 : len(buf) // 2 + 10]
    except hctef.PagerError:
        pass
    else:
        check(condition=False)


def at_exit(url: str) -> None:
    """What reads as the interpreter ends, when modules are gone, reads right bytes."""

    class Late:
        def __init__(self, words: Any) -> None:
            self.words, self.expected, self.write = words, 400_000 * FACTOR % 2**64, os.write

        def __del__(self) -> None:
            self.write(1, b"" if int(self.words[400_000]) == self.expected else b"wrong\n")

    buf = hctef.RemoteBuffer(url)
    late = Late(array_of(buf))
    late.circle = late  # type: ignore[attr-defined]
    sys.modules["late"] = late  # type: ignore[assignment]


def across_pages(url: str) -> None:
    """A load of bytes of two pages goes on under a bound of one, or where pinned views fill the bound; threads too."""
    with hctef.RemoteBuffer(url) as whole:
        size = len(whole)

    def crossing(buf: hctef.RemoteBuffer, seed: int) -> bool:
        data = np.frombuffer(buf, "u1")
        for page in random.Random(seed).sample(range(1, size // 4096), 30):
            at = 4096 * page - 4
            word = np.frombuffer(data, "<u8", 1, at)  # not aligned: one instruction, two pages
            first, second = (n * FACTOR % 2**64 for n in (at // 8, at // 8 + 1))
            if int(word[0]) != (first >> 32) | (second & 0xFFFFFFFF) << 32:
                return False
        return True

    for readahead in ("off", "auto"):
        options: Any = {"minimum_range_request_bytes": 1, "readahead": readahead, "paging": "fault"}
        with hctef.RemoteBuffer(url, max_resident_bytes=4096, **options) as buf:
            assert crossing(buf, 1)
            with ThreadPoolExecutor(4) as threads:
                assert all(threads.map(lambda n: crossing(buf, n), range(4)))  # all of them, here
        with hctef.RemoteBuffer(url, max_resident_bytes=300_000, **options) as buf:
            view = buf.view(7_000_001, 7_400_001)
            assert crossing(buf, 2)
            target = bytearray(400_000)
            assert buf.file().readinto(target) == len(target)
            assert right(np.frombuffer(target, "<u8"), range(0, 50_000, 77))
            assert int(np.frombuffer(view[7:15], "<u8")[0]) == 875_001 * FACTOR % 2**64
            del view


PROGRAMS: dict[str, Callable[[str], None]] = {
    run.__name__: run
    for run in (
        pool,
        child,
        child_goes_first,
        parent_lets_go_at_once,
        view_in_the_child,
        raw_fork,
        while_faulting,
        while_exporting,
        many_buffers,
        pickled,
        loader,
        beside_programs,
        not_allowed_in_the_child,
        room_in_the_child,
        while_helpers_die,
        closed_descriptors,
        at_exit,
        across_pages,
    )
}


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2])
    sys.stdout.write("right\n")
