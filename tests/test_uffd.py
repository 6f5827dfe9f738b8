"""userfaultfd itself, and the arena on it: no bytes of a network, no process but this one.

A thread of this process resolves the faults; only the hammer, which lets go of the GIL, may cause them.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hctef
from hctef._ranges import PAGE, ByteRange
from tests.hammer import the_hammer
from tests.helpers import descriptors, mapped_ranges, pattern

if not hctef.paging_support():
    pytest.skip(f"no demand paging: {hctef.paging_support().reason}", allow_module_level=True)

from hctef import _uffd
from hctef._faulting import FaultingArena, Mapping, mappings
from hctef._memory import anonymous
from hctef._raw import address
from hctef._shared_memory import populated, reserve

SHMEM_HUGE = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


@pytest.fixture(params=["full", "user-mode-only"])
def user_mode_only(request: pytest.FixtureRequest) -> bool:
    """Both modes, where both are to be had."""
    if request.param == "full" and hctef.paging_support().mode != "full":
        pytest.skip("this user may have userfaultfd for user mode only")
    return bool(request.param == "user-mode-only")


@pytest.fixture(params=["never", "always"])
def huge_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Huge pages for shared memory, off and on; put back as it was."""
    try:
        before = SHMEM_HUGE.read_text().split("[")[1].split("]")[0]
        SHMEM_HUGE.write_text(request.param)
    except OSError as error:
        pytest.skip(f"only root may set {SHMEM_HUGE}, where it is: {error.strerror}")
    yield
    SHMEM_HUGE.write_text(before)


def source_of(data: bytes) -> Any:
    """Whole pages of `data`, padded with zeros, at a page's boundary."""
    found = anonymous(-(-len(data) // PAGE) * PAGE)
    found[: len(data)] = data
    return found


@contextmanager
def resolving(arena: FaultingArena, data: bytes, block: int = PAGE) -> Iterator[list[int]]:
    """A thread fills what is touched, a block at a time. The value has the addresses of the faults, as they come."""
    source, seen, stop = source_of(data), [], threading.Event()
    at, mapping = address(source), arena.mapping

    def resolve() -> None:
        while not stop.is_set():
            for fault in _uffd.faults(mapping.uffd):
                seen.append(fault.address)
                begin = (fault.address - mapping.base) // block * block
                length = min(block, mapping.length - begin)
                _uffd.copy(mapping.uffd, mapping.base + begin, at + begin, length)

    thread = threading.Thread(target=resolve)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def words(arena: FaultingArena) -> Any:
    return np.frombuffer(arena.bytes, "<u8", count=arena.size // 8)


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize("block", [PAGE, 16 * PAGE], ids=["4K", "64K"])
def test_every_byte_is_right_under_eight_threads_and_eviction(user_mode_only: bool, block: int) -> None:
    """13,000 faults and more, each of a page that was evicted, or never there."""
    size = 1000 * PAGE + 8
    arena, hammer = FaultingArena(size, user_mode_only=user_mode_only), the_hammer()
    array, stop = words(arena), threading.Event()
    choice = random.Random(1)

    def evict() -> None:
        while not stop.is_set():
            first = choice.randrange(1001)
            arena.evict(first * PAGE, min(size, (first + choice.randrange(1, 64)) * PAGE))

    evictor = threading.Thread(target=evict)
    with resolving(arena, pattern(size), block) as seen, ThreadPoolExecutor(8) as pool:
        evictor.start()
        wrong, round_ = 0, 0
        while len(seen) < 13_000:
            round_ += 1
            wrong += sum(pool.map(lambda seed: hammer.random(array, 2000, seed), range(8 * round_, 8 * round_ + 8)))
        stop.set()
        evictor.join()
        wrong += hammer.sequential(array)
    assert wrong == 0


def test_two_who_copy_the_same_pages_end_with_all_awake(user_mode_only: bool) -> None:
    """EEXIST is a wake and a step: no thread stays blocked, and the first bytes stay."""
    size = 256 * PAGE
    source, hammer = source_of(pattern(size)), the_hammer()

    def fill(mapping: Mapping, length: int) -> None:
        for at in reversed(range(0, size, length)):
            _uffd.copy(mapping.uffd, mapping.base + at, address(source) + at, length)

    with ThreadPoolExecutor(6) as pool:
        for _ in range(30):
            arena = FaultingArena(size, user_mode_only=user_mode_only)
            array = words(arena)
            readers = [pool.submit(hammer.random, array, 500, seed) for seed in range(4)]
            for filler in [pool.submit(fill, arena.mapping, length) for length in (size, 4 * PAGE)]:
                filler.result(20)
            assert [reader.result(20) for reader in readers] == [0] * 4
            assert hammer.sequential(array) == 0


def test_a_copy_in_parts_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """EAGAIN: from where it stopped, or from the same place where nothing was done; then EEXIST: from the next page."""
    size = 4 * PAGE
    arena, data = FaultingArena(size), pattern(size)
    source, libc = source_of(data), _uffd._libc
    arena.populate([ByteRange(PAGE, 2 * PAGE)], source)
    asked: list[tuple[int, int]] = []

    class Interrupted:
        """The kernel's answers while the mapping changes."""

        def ioctl(self, fd: int, request: int, argument: Any) -> int:
            if request != _uffd._COPY:
                asked.append((-1, 0))
                return int(libc.ioctl(fd, request, argument))
            found = argument._obj
            asked.append((found.dst - arena.mapping.base, found.len))
            if len(asked) == 1:  # nothing was done
                found.copy = -errno.EAGAIN
                ctypes.set_errno(errno.EAGAIN)
                return -1
            return int(libc.ioctl(fd, request, argument))

    monkeypatch.setattr(_uffd, "_libc", Interrupted())
    _uffd.copy(arena.mapping.uffd, arena.mapping.base, address(source), size)
    assert asked == [
        (0, size),
        (0, size),  # one page was copied, then one was there: EAGAIN
        (PAGE, 3 * PAGE),  # EEXIST
        (-1, 0),  # the wake
        (2 * PAGE, 2 * PAGE),
    ]
    assert arena.bytes[:] == data


def test_what_is_gone_is_said() -> None:
    """A copy to what is unmapped says so, a wake there is nothing."""
    arena = FaultingArena(2 * PAGE)
    mapping, source = arena.mapping, source_of(pattern(PAGE))
    uffd, base = os.dup(mapping.uffd), mapping.base
    del arena
    assert _uffd.copy(uffd, base, address(source), PAGE) == [(0, PAGE)]
    _uffd.wake(uffd, base, PAGE)
    _uffd.poison(uffd, base, PAGE)
    with pytest.raises(OSError, match="COPY"):
        _uffd.copy(uffd, base + 1, address(source), PAGE)
    os.close(uffd)
    assert mapping not in mappings()
    assert mapping.uffd == mapping.memfd == -1


def test_an_address_stays_taken_until_nobody_fills_it() -> None:
    """The kernel lets any userfaultfd of a process fill what is registered with another: so nothing is mapped where a
    file was, until whoever filled it lets go."""
    arena, kept = FaultingArena(64 * PAGE), []
    mapping, source = arena.mapping, source_of(b"a" * 64 * PAGE)
    mapping.closed = lambda _, room: kept.append(room)
    uffd = os.dup(mapping.uffd)
    _uffd.copy(uffd, mapping.base, address(source), PAGE)
    del arena
    assert mapping not in mappings()
    others = [FaultingArena(64 * PAGE) for _ in range(5)]
    assert _uffd.copy(uffd, mapping.base, address(source), 64 * PAGE) == [(0, 64 * PAGE)]
    assert not any(os.fstat(other.mapping.memfd).st_blocks for other in others)
    with pytest.raises(OSError, match="exists"):
        reserve(mapping.base, mapping.length)
    pid = os.fork()
    if pid == 0:  # it has nothing there that it can read
        faulthandler.disable()
        ctypes.string_at(mapping.base, 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSEGV
    kept.clear()
    again = FaultingArena(64 * PAGE)
    assert again.mapping.base == mapping.base
    os.close(uffd)


def test_a_process_that_is_gone_is_said() -> None:
    """What is copied there is a ProcessLookupError, a wake there nothing."""
    mine, its = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        arena = FaultingArena(PAGE)
        socket.send_fds(its, [str(arena.mapping.base).encode()], [arena.mapping.uffd])
        os._exit(0)
    base, (uffd,), _, _ = socket.recv_fds(mine, 100, 1)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        _uffd.copy(uffd, int(base), address(source_of(pattern(PAGE))), PAGE)
    _uffd.wake(uffd, int(base), PAGE)
    for end in (mine, its):
        end.close()
    os.close(uffd)


@pytest.mark.parametrize("how", ["advised", "locked", "unmapped"])
def test_a_mapping_in_parts_is_filled_in_parts(how: str) -> None:
    """Advice and locks for a part of it have the kernel make it several, and a copy goes into one at a time."""
    size = 256 * PAGE
    arena, data = FaultingArena(size), pattern(size)
    source, base, libc = address(keep := source_of(data)), arena.mapping.base, ctypes.CDLL(None)
    for page in (7, 8, 100):
        arguments = ctypes.c_void_p(base + page * PAGE), ctypes.c_size_t(PAGE)
        if how == "advised":
            assert libc.madvise(*arguments, 16) == 0  # MADV_DONTDUMP
        elif how == "locked":
            assert libc.mlock2(*arguments, 1) == 0  # MLOCK_ONFAULT
        else:
            assert libc.munmap(*arguments) == 0
    gone = [(7 * PAGE, 9 * PAGE), (100 * PAGE, 101 * PAGE)] if how == "unmapped" else []
    assert _uffd.copy(arena.mapping.uffd, base, source, size) == gone
    begin = 0
    for start, stop in [*gone, (size, size)]:
        assert arena.bytes[begin:start] == data[begin:start]
        begin = stop
    del keep


PROGRAM = """
import os, sys
from hctef import _uffd
from hctef._faulting import FaultingArena
from hctef._ranges import PAGE
from tests.hammer import the_hammer
from tests.helpers import descriptors, pattern
from tests.test_uffd import address, source_of, words
arena = FaultingArena(2 * PAGE, user_mode_only=sys.argv[1] == "True")
mapping, source = arena.mapping, source_of(pattern(2 * PAGE))
_uffd.poison(mapping.uffd, mapping.base, 2 * PAGE)
_uffd.copy(mapping.uffd, mapping.base, address(source), PAGE)
assert the_hammer().sequential(words(arena), 0, PAGE // 8) == 0
print("the copied page is right", flush=True)
the_hammer().sequential(words(arena))
print("a poisoned page was read")
"""


def test_poison_is_a_signal_and_a_copy_recovers(user_mode_only: bool) -> None:
    """SIGBUS for the page that stays poisoned; the other reads as if nothing had been."""
    if "poison" not in hctef.paging_support().features:
        pytest.skip("this kernel has no UFFDIO_POISON: Linux 6.6 has")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(user_mode_only)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "the copied page is right\n", done.stderr
    assert done.returncode == -7


def test_poison_skips_what_is_there(user_mode_only: bool) -> None:
    """Pages that are resident stay so, wherever they lie in the range."""
    if "poison" not in hctef.paging_support().features:
        pytest.skip("this kernel has no UFFDIO_POISON: Linux 6.6 has")
    size = 8 * PAGE
    arena, data = FaultingArena(size, user_mode_only=user_mode_only), pattern(size)
    arena.populate([ByteRange(0, PAGE), ByteRange(3 * PAGE, 5 * PAGE)], source_of(data))
    _uffd.poison(arena.mapping.uffd, arena.mapping.base, size)
    assert arena.bytes[:PAGE] == data[:PAGE]
    assert arena.bytes[3 * PAGE : 5 * PAGE] == data[3 * PAGE : 5 * PAGE]


def test_a_fault_says_where_and_who() -> None:
    """The byte and the thread, each where the kernel tells it."""
    arena, hammer, threads = FaultingArena(4 * PAGE), the_hammer(), []

    def touch() -> None:
        threads.append(threading.get_native_id())
        hammer.sequential(words(arena), 515, 516)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(touch)
        found: list[_uffd.Fault] = []
        while not found:
            found += _uffd.faults(arena.mapping.uffd)
        source = source_of(pattern(4 * PAGE))
        _uffd.copy(arena.mapping.uffd, arena.mapping.base, address(source), 4 * PAGE)
        done.result(20)
    features = arena.mapping.features
    exact = 515 * 8 if "exact-address" in features else PAGE
    assert found[0].address == arena.mapping.base + exact
    assert found[0].thread == (threads[0] if "thread-id" in features else 0)


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 5, 1 << 40])
def test_an_arena_takes_memory_only_where_it_is_filled(size: int) -> None:
    """Whatever its size; the last page is padded with zeros, which no view shows."""
    arena = FaultingArena(size)
    assert len(arena.bytes) == len(arena.view(0, size)) == size
    assert list(populated(arena.mapping.memfd, 0, arena.mapping.length)) == []
    tail = size - size % PAGE if size % PAGE else size - PAGE
    data = pattern(size - tail)
    source = source_of(data)
    _uffd.copy(arena.mapping.uffd, arena.mapping.base + tail, address(source), PAGE)
    assert arena.bytes[tail:size] == data
    assert ctypes.string_at(arena.mapping.base + size, arena.mapping.length - size) == bytes(
        arena.mapping.length - size
    )
    assert os.fstat(arena.mapping.memfd).st_blocks * 512 == PAGE
    arena.evict(tail, size)
    assert os.fstat(arena.mapping.memfd).st_blocks == 0


def flags(at: int) -> list[str]:
    """What the kernel says of the mapping that an address lies in."""
    for first, last, entry in mapped_ranges():
        if first <= at < last:
            return entry.split("VmFlags:")[1].split()
    return []


def test_no_core_dump_has_what_is_mapped(user_mode_only: bool) -> None:
    """The kernel would look at every page of a file, however large: it took minutes."""
    arena, other = FaultingArena(1 << 30, user_mode_only=user_mode_only), anonymous(1 << 30)
    assert "dd" in flags(arena.mapping.base)
    assert "dd" in flags(address(other))


LOCKED = """
import ctypes, mmap, sys
from hctef._arena import AnonymousArena
from hctef._faulting import FaultingArena
from hctef._shared_memory import populated
if ctypes.CDLL(None).mlockall(2):  # MCL_FUTURE
    sys.exit(77)
arena = FaultingArena(16384, user_mode_only=sys.argv[1] == "True")
assert list(populated(arena.mapping.memfd, 0, 16384)) == []
other = AnonymousArena(16384)
other.fill(0, bytes(range(256)) * 64)
arena.populate([(0, 16384)], other.bytes)
assert arena.bytes[:] == other.bytes[:] == bytes(range(256)) * 64
other.evict(4096, 8192)
assert other.bytes[4096:8192] in (bytes(4096), bytes(range(256)) * 16)
assert other.bytes[8192:] == arena.bytes[8192:]
arena.evict(4096, 8192)
assert list(populated(arena.mapping.memfd, 0, 16384)) == [(0, 4096), (8192, 16384)]
"""


def test_locked_memory(user_mode_only: bool) -> None:
    """mlockall(MCL_FUTURE) has the kernel read what is mapped at once: nothing can be read before it is registered.
    What is locked is evicted all the same, or stays as it is."""
    done = subprocess.run(
        [sys.executable, "-c", LOCKED, str(user_mode_only)], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("this user may not lock memory")
    assert (done.stderr, done.returncode) == ("", 0)


LOW = """
import os
from hctef._faulting import FaultingArena, mappings
from hctef._shared_memory import memfd, shared
from hctef._uffd import open_uffd
from hctef.pager import client, wire
import mmap
said = os.dup(2)
os.closerange(0, 3)
kept = FaultingArena(10), shared(memfd("table", 10), 10, mmap.mmap), wire.pair(), client.Client(), open_uffd()
found = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in range(3) if os.path.exists(f"/proc/self/fd/{fd}")}
os.write(said, f"{found} {len(os.listdir('/proc/self/fd')) - 1}".encode())
"""


def test_no_descriptor_is_a_standard_stream() -> None:
    """Where 0, 1 and 2 are closed they stay so: what a program writes there all the same is not for our pages."""
    done = subprocess.run([sys.executable, "-c", LOW], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("{} 9", 0)  # and what says so


def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by arenas that go nor by those that cannot be made."""
    gc.collect()  # other tests' arenas, in circles
    before = descriptors()
    for size in (1, 5 * PAGE, 1 << 40):
        FaultingArena(size).view(0, 1)
    with pytest.raises(OSError, match=r"memory|large"):
        FaultingArena(1 << 60)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "refused")

    monkeypatch.setattr(_uffd, "register", refuse)
    with pytest.raises(OSError, match="refused"):
        FaultingArena(PAGE)
    monkeypatch.setattr(_uffd, "open_uffd", refuse)
    with pytest.raises(OSError, match="refused"):
        FaultingArena(PAGE)
    assert descriptors() == before
    assert not [mapping for mapping in mappings() if mapping.uffd < 0]
