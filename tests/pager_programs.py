"""Programs that touch remote pages: each runs in a process of its own, for a fault that hangs would hang the tests too.

    python -m tests.pager_programs NAME [argument …]

They say what they did on stdout, and wait for a line on stdin where the test has something to do meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np

import hctef
from tests.helpers import pattern, wait_until

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
PAGE = 4096


# what others look at


def children(pid: int) -> list[int]:
    """The processes that were started by any thread of `pid`, zombies too."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def named(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def state(pid: int) -> str:
    """'Z' for a zombie, '' where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def helpers(pid: int) -> tuple[int, int] | None:
    """The supervisor and the worker of a process, None while there is no such pair."""
    for supervisor in children(pid):
        if named(supervisor) == "hctef-pager" and state(supervisor) != "Z":
            for worker in children(supervisor):
                if named(worker) == "hctef-worker" and state(worker) != "Z":
                    return supervisor, worker
    return None


def pair(pid: int = 0) -> tuple[int, int]:
    """The same, waited for."""
    wait_until(lambda: helpers(pid or os.getpid()) is not None)
    found = helpers(pid or os.getpid())
    return found if found is not None else pair(pid)


def descriptors(pid: int | None = None) -> int:
    return len(os.listdir(f"/proc/{pid or 'self'}/fd"))  # noqa: PTH208  # numbers, not paths


def arenas(pid: int) -> int:
    """The descriptors of memory that is filled; idle connections are not counted."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(path))  # noqa: PTH115  # text, not a path
    return sum("hctef" in link or "userfaultfd" in link for link in found)


# what programs have in common


def say(word: object = "ready") -> None:
    os.write(1, f"{word}\n".encode())


def wait() -> str:
    return sys.stdin.readline().strip()


def impatient(after: float = 0.1) -> None:
    """What is said on stderr is said soon."""
    from hctef.pager import wire  # starts nothing

    wire.SAY_AFTER = wire.SAY_EVERY = after


def words(buf: Any, at: int, count: int) -> bool:
    """Whether words `[at, at + count)` of a buffer are the pattern's."""
    array = np.frombuffer(buf, "<u8")[at : at + count]
    return bool((array == np.arange(at, at + count, dtype="<u8") * MULTIPLIER).all())


def gather(array: Any, seed: int, rounds: int) -> Iterator[bool]:
    """Words at random places: numpy holds the GIL in each fault."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        at = rng.integers(0, len(array), 8, dtype=np.int64)
        yield bool((array[at] == at.astype(np.uint64) * MULTIPLIER).all())


def compare(array: Any, expected: Any, seed: int, rounds: int) -> Iterator[bool]:
    """Bytes at random places by memcmp: ctypes lets the GIL go, so that other threads run while this one is blocked."""
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    here, there = array.ctypes.data, expected.ctypes.data
    rng = random.Random(seed)
    for _ in range(rounds):
        at = rng.randrange(array.nbytes - 64)
        yield memcmp(here + at, there + at, 64) == 0


FOREVER = 1 << 60


def stress(url: str, size: str, counters: str, kind: str) -> None:
    """Four threads read at random places until they are told to end; how far they are stands in a file."""
    expected = np.frombuffer(pattern(int(size)), "<u8")
    buf = hctef.RemoteBuffer(url, paging="fault", max_resident_bytes=int(size) // 4, readahead="off")
    array = np.frombuffer(buf, "<u8")
    count = np.memmap(counters, "<u8", "r+", shape=(4, 2))
    going = threading.Event()

    def read(index: int) -> None:
        for good in gather(array, index, FOREVER) if kind == "gather" else compare(array, expected, index, FOREVER):
            count[index, 0 if good else 1] += 1
            if going.is_set():
                return

    threads = [threading.Thread(target=read, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    say()
    wait()
    going.set()
    for thread in threads:
        thread.join()
    say(json.dumps([int(count[:, 0].sum()), int(count[:, 1].sum())]))


def interrupted(url: str, size: str) -> None:
    """A signal each millisecond, while every page is touched."""
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    buf = hctef.RemoteBuffer(url, paging="fault", readahead="off", max_resident_bytes=int(size) // 4)
    array = np.frombuffer(buf, "<u8")
    expected = np.frombuffer(pattern(int(size)), "<u8")
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    good = all(compare(array, expected, 1, 300)) and all(gather(array, 1, 40)) and words(buf, 0, len(array))
    signal.setitimer(signal.ITIMER_REAL, 0)
    say(json.dumps([good, len(seen) > 5]))


def touch_once(url: str, size: str) -> None:
    """Export, and touch a page in the middle when told to."""
    impatient()
    buf = hctef.RemoteBuffer(url, paging="fault", retries=0, fault_timeout=float(os.environ.get("FAULT_TIMEOUT", "60")))
    view = memoryview(buf)
    say()
    wait()
    at = int(size) // 2 // PAGE * PAGE
    say(view[at : at + 8] == pattern(int(size))[at : at + 8])


def poisoned(url: str, size: str) -> None:
    """A forked child touches a page that cannot be had, and dies; then its parent asks for the page in words."""
    impatient()
    buf = hctef.RemoteBuffer(url, paging="fault", retries=0, fault_timeout=0.3)
    view, at = memoryview(buf), 8 * PAGE
    say()
    wait()
    pid = os.fork()
    if pid == 0:
        os._exit(view[at])
    say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    try:
        buf[at : at + 8]
    except hctef.HctefNetworkError as error:
        say(type(error).__name__)
    say()
    wait()
    expected = pattern(int(size))[at : at + 8]
    say([buf[at : at + 8] == expected, view[at : at + 8] == expected, buf.prefetch([(at, 8)])])
    view.release()  # not left to the garbage collector: CPython 3.12.1 crashes on a cycle that holds one


def changed(url: str, size: str) -> None:
    """The file is another one: those who ask are told, who touches is killed."""
    buf = hctef.RemoteBuffer(url, paging="fault", readahead="off")
    view = memoryview(buf)
    say(view[0:8] == pattern(int(size))[0:8])
    wait()
    at = int(size) // 2
    for call in (
        lambda: buf[at : at + 10],
        lambda: buf.view(at, at + 10),
        lambda: buf.prefetch([(at, 10)]),
        lambda: buf.read_ranges([(at, at + 10), (at + 50_000, at + 50_010)]),
    ):
        try:
            call()
        except hctef.RemoteFileChangedError:
            say("changed")
    say(view[at])


def same_errors(url: str, size: str) -> None:
    """What calls raise in 'fill' and in 'fault', for each way of a server's to fail."""
    at = int(size) // 2
    buffers = {paging: hctef.RemoteBuffer(url, paging=paging, retries=0) for paging in ("fill", "fault")}
    view = memoryview(buffers["fault"])

    async def load(buf: Any) -> None:
        async with buf.aio() as other:
            await other[at : at + 10]

    def outcome(call: Callable[[Any], object], buf: Any) -> list[str]:
        try:
            call(buf)
        except Exception as error:  # noqa: BLE001  # compared
            return [type(error).__name__, str(error), str(getattr(error, "status", None))]
        return ["nothing was raised"]

    say()
    while wait():
        for call in (
            lambda buf: buf[at : at + 10],
            lambda buf: buf.view(at, at + 10),
            lambda buf: buf.prefetch([(at, 10)]),
            lambda buf: buf.read_ranges([(at, at + 10), (at + 50_000, at + 50_010)]),
            lambda buf: asyncio.run(load(buf)),
        ):
            say(json.dumps([outcome(call, buffers[paging]) for paging in ("fill", "fault")]))
        say("done")
    view.release()


# lives


def lives(url: str, size: str) -> None:
    """When helpers are there, and when not."""
    buf = hctef.RemoteBuffer(url, paging="fault")
    assert buf[0:10] == pattern(10)
    assert buf.view(5000, 5010) == pattern(int(size))[5000:5010]
    buf.prefetch([(100_000, 10)])
    assert not children(os.getpid())
    assert "hctef.pager.client" not in sys.modules
    view = memoryview(buf)
    other = hctef.RemoteBuffer(url, paging="fault")
    array = np.frombuffer(other, "<u8")
    assert array[30_000].tobytes() == pattern(240_008)[240_000:]
    first = pair()
    assert len(children(os.getpid())) == 1
    buf.close()
    other.close()
    assert bytes(view[400_000:400_010]) == pattern(int(size))[400_000:400_010]
    del array, other
    view.release()
    del buf, view
    gc.collect()
    wait_until(lambda: not children(os.getpid()))
    wait_until(lambda: not any(thread.name == "hctef-pager" for thread in threading.enumerate()))
    assert not any(map(state, first))
    again = hctef.RemoteBuffer(url, paging="fault")
    assert words(again, 1000, 1000)
    assert pair() != first
    say("good")


def rounds(url: str, size: str) -> None:
    """Twenty times open, export, close; what is open afterwards, here and in the worker."""

    def once(n: int) -> None:
        with hctef.RemoteBuffer(url, paging="fault", max_resident_bytes=1 << 20) as buf:
            assert words(buf, n * 1000, 5000)
            view = memoryview(buf)
        assert view[n] == pattern(64)[n]

    keeper = memoryview(hctef.RemoteBuffer(url, paging="fault"))
    once(0)
    worker = pair()[1]

    def quiet() -> None:  # transfers' threads and idle connections apart
        gc.collect()
        wait_until(lambda: not links() - 1)

    def links() -> int:
        from hctef.pager.client import the_client  # as the helpers, only once it is needed

        return len(the_client()._links) + len(the_client()._asked)

    quiet()
    before = descriptors(), arenas(worker), threading.active_count()
    for n in range(20):
        once(n)
    quiet()
    wait_until(lambda: arenas(worker) <= before[1])
    assert pair()[1] == worker
    assert descriptors() <= before[0]
    assert threading.active_count() <= before[2]
    assert keeper[100] == pattern(128)[100]
    del keeper
    gc.collect()
    wait_until(lambda: not children(os.getpid()))
    say("good")


def orders(url: str, size: str) -> None:
    """Buffer, view and array are let go in any order; what is left reads on."""
    expected = pattern(int(size))
    for order in itertools.permutations(range(3)):
        buf = hctef.RemoteBuffer(url, paging="fault")
        things: list[Any] = [buf, memoryview(buf)[100:], np.ndarray(len(expected), "u1", buffer=buf)]
        del buf
        for n, index in enumerate(order):
            if isinstance(things[0], hctef.RemoteBuffer) and n % 2:
                things[0].close()
            things[index] = None
            gc.collect()
            at = 50_000 * n + 777
            if things[1] is not None:
                assert things[1][at : at + 9] == expected[at + 100 : at + 109]
            if things[2] is not None:
                assert things[2][at : at + 9].tobytes() == expected[at : at + 9]
    wait_until(lambda: not children(os.getpid()))
    say("good")


def ends_with_views(url: str, size: str) -> None:
    """The interpreter ends while views live."""
    global kept  # noqa: PLW0603  # at the end it is there
    buf = hctef.RemoteBuffer(url, paging="fault")
    kept = memoryview(buf), np.frombuffer(buf, "u1"), buf.view(0, 10)
    assert kept[0][int(size) - 1] == pattern(int(size))[-1]
    say(json.dumps(pair()))


kept: Any = None


def ends_while_blocked(url: str, size: str) -> None:
    """The interpreter ends while a thread waits for a page that does not come."""
    buf = hctef.RemoteBuffer(url, paging="fault")
    array = np.frombuffer(buf, "u1")
    say()
    wait()
    threading.Thread(target=lambda: list(compare(array, array, 1, 1)), daemon=True).start()
    wait()
    say(json.dumps(pair()))


def waits_for_all(url: str, size: str) -> None:
    """A program with a SIGCHLD handler that waits for every child, and the subprocess module."""
    reaped = []

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                reaped.append(found)

    for disposition in (signal.SIG_DFL, reap, signal.SIG_IGN):
        signal.signal(signal.SIGCHLD, disposition)
        buf = hctef.RemoteBuffer(url, paging="fault")
        view = memoryview(buf)
        assert view[100] == pattern(128)[100]
        supervisor, worker = pair()
        if disposition is reap:
            child = os.posix_spawn("/bin/true", ["true"], os.environ)
            wait_until(lambda child=child: (child, 0) in reaped)  # type: ignore[misc]
        else:
            assert subprocess.run(["true"], check=False).returncode == 0
        os.kill(worker, signal.SIGKILL)
        assert bytes(view[300_000:300_010]) == pattern(int(size))[300_000:300_010]
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda old=supervisor: (helpers(os.getpid()) or (old,))[0] != old)  # type: ignore[misc]
        assert bytes(view[500_000:500_010]) == pattern(int(size))[500_000:500_010]
        view.release()
        del buf, view
        gc.collect()
        wait_until(lambda: not children(os.getpid()))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    say("good")


def reads(url: str, size: str, *where: str) -> None:
    """Read all through a view; the answer goes to a file where there is no stdout."""
    pool = None
    if os.environ.get("POOL"):
        import urllib3  # only here

        pool = urllib3.PoolManager(ca_certs=os.environ["POOL"], source_address=("127.0.0.1", 0))
    headers = json.loads(os.environ.get("HEADERS", "null"))
    buf = hctef.RemoteBuffer(url, paging="fault", pool=pool, headers=headers)
    good = words(buf, 0, int(size) // 8)
    seen = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for pid in pair() for name in ("cmdline", "environ"))
    answer = json.dumps([good, b"SECRET" in seen, hctef.__file__])
    if where:
        Path(where[0]).write_text(answer)
    else:
        say(answer)


def without_directory(url: str, size: str, directory: str) -> None:
    """The working directory is gone."""
    os.chdir(directory)
    Path(directory).rmdir()
    say(words(hctef.RemoteBuffer(url, paging="fault"), 0, int(size) // 8))


def in_child(url: str, size: str) -> bool:
    """In a process of multiprocessing's."""
    return words(hctef.RemoteBuffer(url, paging="fault"), 0, int(size) // 8)


def unpickled(buf: Any, size: str) -> bool:
    good = words(buf, 0, int(size) // 8)
    assert pair()
    return good


def spawned(url: str, size: str, method: str) -> None:
    """Children with buffers of their own, and with ones that came by pickle."""
    buf = hctef.RemoteBuffer(url, paging="fault")
    view = memoryview(buf)
    with multiprocessing.get_context(method).Pool(1) as pool:
        good = [pool.apply(in_child, (url, size)), pool.apply(unpickled, (buf, size))]
        assert view[70_000] == pattern(int(size))[70_000]
        assert words(pickle.loads(pickle.dumps(buf)), 10, 10)
        pool.close()
        pool.join()
    say(json.dumps(good))


def without_buffering(url: str, size: str) -> None:
    """url and headers that are callables: 'auto' fills, 'fault' says why it cannot be."""
    answers: list[object] = []
    for source, options in ((lambda: url, {}), (url, {"headers": lambda: {"X-A": "b"}})):
        buf = hctef.RemoteBuffer(source, **options)  # type: ignore[arg-type]
        answers.append([buf.paging, words(buf, 0, 100)])
        buf = hctef.RemoteBuffer(source, paging="fault", **options)  # type: ignore[arg-type]
        try:
            memoryview(buf)
        except hctef.PagerError as error:
            answers.append(str(error))
        assert buf.view(0, 10) == pattern(10)
    assert not children(os.getpid())
    assert int(size) == len(buf)
    say(json.dumps(answers))


# at once


def closes(url: str, size: str) -> None:
    """A file is closed while threads wait for it in words."""
    buf = hctef.RemoteBuffer(url, paging="fault")
    view = memoryview(buf)
    outcomes: list[str] = []

    def read(call: Callable[[], object]) -> None:
        try:
            call()
        except ValueError as error:
            outcomes.append(str(error))

    say()
    wait()
    at = int(size) // 2
    threads = [
        threading.Thread(target=read, args=(call,))
        for call in (
            lambda: buf.view(at, at + 10),
            lambda: buf[at : at + 10],
            lambda: buf.prefetch([(at + 100_000, 10)]),
            lambda: buf.read_ranges([(at, at + 10), (at + 50_000, at + 50_010)]),
        )
    ]
    for thread in threads:
        thread.start()
    wait()
    buf.close()
    for thread in threads:
        thread.join(20)
    say(json.dumps(outcomes))
    wait()
    say(view[at : at + 8] == pattern(int(size))[at : at + 8])


def cancels(url: str, size: str) -> None:
    """One of two tasks that wait for the same bytes is cancelled."""
    at = int(size) // 2
    buf = hctef.RemoteBuffer(url, paging="fault", max_resident_bytes=1 << 20)
    view = memoryview(buf)

    async def main() -> list[object]:
        async with buf.aio() as other:
            say()
            wait()
            one = asyncio.ensure_future(other.load(at, at + 10))
            two = asyncio.ensure_future(other[at : at + 10])
            await asyncio.to_thread(wait)
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError, CancelledError):
                await one
            say()
            data = await two
            again = await other.load(at, at + 10)
            return [one.cancelled(), data == pattern(int(size))[at : at + 10], bytes(again) == data]

    answer = asyncio.run(main())
    say(json.dumps([*answer, view[at] == pattern(int(size))[at]]))


def floods(url: str, size: str) -> None:
    """Ten thousand ranges in one call, and a thousand calls at once."""
    expected = pattern(int(size))
    buf = hctef.RemoteBuffer(url, paging="fault")
    view = memoryview(buf)
    count = buf.prefetch([(n * 80 % (int(size) - 10), 10) for n in range(10_000)])

    async def many() -> list[bytes]:
        async with buf.aio() as other:
            return list(await asyncio.gather(*(other[n : n + 10] for n in range(0, 100_000, 100))))

    parts = asyncio.run(many())
    good = all(part == expected[n * 100 : n * 100 + 10] for n, part in enumerate(parts))
    say(json.dumps([count > 0, good, bytes(view[5:50]) == expected[5:50]]))


def forks_while_reading(url: str, size: str) -> None:
    """Threads read in words and through a view while the process forks."""
    buf = hctef.RemoteBuffer(url, paging="fault", max_resident_bytes=1 << 20)
    array, going, good = np.frombuffer(buf, "<u8"), threading.Event(), []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        while not going.is_set():
            at = rng.randrange(int(size) // 8 - 600)
            expected = np.arange(at, at + 600, dtype="<u8") * MULTIPLIER
            good.append(buf[at * 8 : at * 8 + 4800] == expected.tobytes())
            good.append(bool((array[at : at + 600] == expected).all()))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    codes = []
    for n in range(15):
        other = hctef.RemoteBuffer(url, paging="fault")
        exporting = threading.Thread(target=memoryview, args=(other,))  # attaches while we fork
        exporting.start()
        pid = os.fork()
        if pid == 0:
            fine = words(array, n * 1000, 600) and buf[100:200] == pattern(200)[100:]
            os._exit(0 if fine else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        exporting.join()
    going.set()
    for thread in threads:
        thread.join()
    say(json.dumps([all(good), len(good) > 10, codes == [0] * 15]))


# trouble


def client_fails(url: str, size: str) -> None:
    """The client's thread meets an exception that nobody thought of: who asked is told, the rest goes on."""
    from hctef.pager.client import Client  # to be spoilt

    buf = hctef.RemoteBuffer(url, paging="fault", readahead="off")
    view, fresh = memoryview(buf), iter(range(200_000, int(size) - 10, 70_000))
    for name in ("_hear", "_flush", "_take", "_begin"):
        right = getattr(Client, name)

        def wrong(*_: Any, name: str = name, right: Any = right) -> Any:
            setattr(Client, name, right)
            raise ZeroDivisionError(f"in {name}")

        setattr(Client, name, wrong)
        if name == "_begin":
            for pid in children(os.getpid()):
                os.kill(pid, signal.SIGKILL)
        for n in fresh:
            try:
                assert buf[n : n + 5] == pattern(int(size))[n : n + 5]
                break
            except hctef.PagerError as error:
                say(str(error))
        wait_until(lambda name=name, right=right: getattr(Client, name) is right)  # type: ignore[misc]
        at = next(fresh)
        assert view[at] == pattern(int(size))[at]
    assert words(buf, 0, int(size) // 8)
    say("good")


def cannot_start(url: str, size: str) -> None:
    """No helper can be started: 'fault' raises, 'auto' fills."""
    sys.executable = "/bin/false"
    try:
        memoryview(hctef.RemoteBuffer(url, paging="fault"))
    except hctef.PagerError as error:
        say(str(error))
    buf = hctef.RemoteBuffer(url)
    say([buf.paging, words(buf, 0, int(size) // 8)])


def cannot_start_again(url: str, size: str) -> None:
    """Both helpers die, and for a while no others start: words raise, touches wait."""
    buf = hctef.RemoteBuffer(url, paging="fault")
    view, right = memoryview(buf), sys.executable
    found = pair()
    sys.executable = "/bin/false"
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    try:
        while True:
            buf[300_000:300_005]
            buf.evict(300_000, 310_000)
            time.sleep(0.01)
    except hctef.PagerError as error:
        say(str(error))
    threading.Timer(0.2, lambda: setattr(sys, "executable", right)).start()
    array = np.frombuffer(view, "u1")
    say(all(compare(array, np.frombuffer(pattern(int(size)), "u1"), 1, 20)))  # without the GIL, which a start needs
    say(buf[300_000:300_005] == pattern(int(size))[300_000:300_005])


def holds(url: str, size: str) -> None:
    """What view() shows stays in memory: under a bound, over the death of workers, and no longer than it lives."""
    buf = hctef.RemoteBuffer(url, paging="fault", max_resident_bytes=1 << 20)
    array, view = np.frombuffer(buf, "<u8"), buf.view(0, 100_000)
    for _ in range(3):
        os.kill(pair()[1], signal.SIGKILL)
        assert bool((array[100_000:400_000] == np.arange(100_000, 400_000, dtype="<u8") * MULTIPLIER).all())
        assert buf[200_000:200_010] == pattern(int(size))[200_000:200_010]
        assert view == pattern(100_000)
    with Path(os.devnull).open("wb") as null:
        os.write(null.fileno(), view)
    view.release()
    buf.evict()
    wait_until(lambda: buf.resident_bytes < 50_000)
    say("good")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
