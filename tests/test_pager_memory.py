"""The memory side of demand paging: right bytes or a signal, never zeros; bounded; nothing left behind.

nginx serves: a server in this process could not answer while a thread that faults holds the GIL.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import inspect
import io
import itertools
import mmap
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import hctef
from tests import sandbox
from tests.hammer import the_hammer
from tests.helpers import descriptors, pattern, wait_until
from tests.nginx_server import NginxServer

if not hctef.paging_support():
    pytest.skip(f"no demand paging: {hctef.paging_support().reason}", allow_module_level=True)

from hctef._faulting import Mapping, mappings

ROOT = Path(__file__).parents[1]
SIZE = (16 << 20) + 5
DATA = pattern(SIZE)
SHMEM_HUGE = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
MIB = 1 << 20


@pytest.fixture(scope="session")
def url(nginx: NginxServer) -> str:
    return nginx.add("memory", DATA)


@pytest.fixture(params=["full", "user-mode-only"], autouse=True)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs in both modes."""
    if request.param == "user-mode-only":
        monkeypatch.setenv("HCTEF_PAGING", "user-mode-only")
    elif hctef.paging_support().mode != "full":
        pytest.skip("this user may have userfaultfd for user mode only")
    return str(request.param)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No test leaves a mapping."""
    yield
    wait_until(lambda: gc.collect() >= 0 and not mappings())


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


def fault(url: str, **options: Any) -> hctef.RemoteBuffer:
    return hctef.RemoteBuffer(url, paging="fault", **options)


def words(buf: hctef.RemoteBuffer) -> Any:
    return np.frombuffer(buf, "<u8", count=len(buf) // 8)


def sent(nginx: NginxServer, name: str) -> int:
    return sum(entry.sent for entry in nginx.log(name))


def charged(mapping: Mapping) -> int:
    """Bytes of memory that the kernel charges for an arena: pages of the memfd, and this process's page tables."""
    status = Path("/proc/self/status").read_text()
    tables = int(re.findall(r"VmPTE:\s+(\d+)", status)[0]) * 1024
    return os.fstat(mapping.memfd).st_blocks * 512 + tables


# right bytes


@pytest.mark.usefixtures("huge_pages")
def test_every_byte_is_right_under_eight_threads_and_eviction(url: str) -> None:
    """Random and sequential readers, while the bound evicts, and a reader by slices, and evict()."""
    hammer = the_hammer()
    with fault(url, max_resident_bytes=4 * MIB) as buf:
        array = words(buf)
        with ThreadPoolExecutor(10) as pool:
            runs = [pool.submit(hammer.random, array, 100, seed) for seed in range(6)]
            runs += [pool.submit(hammer.sequential, array, seed * len(array) // 2, None, 100) for seed in range(2)]
            while not all(run.done() for run in runs):
                buf.evict(5 * MIB, 9 * MIB)
                assert buf[6_000_000:6_000_100] == DATA[6_000_000:6_000_100]
            assert [run.result() for run in runs] == [0] * 8
        assert buf.stats.faults > 500
        assert buf.stats.evictions > 100


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 100_003, MIB + 1])
def test_a_view_is_as_long_as_the_file(nginx: NginxServer, size: int) -> None:
    """Its last page is padded with zeros, which nobody sees."""
    content = pattern(size, 5)
    with fault(nginx.add(f"size-{size}", content)) as buf:
        view = memoryview(buf)
        assert len(view) == view.nbytes == np.frombuffer(buf, "u1").size == size
        assert view[-1] == content[-1]
        assert view[-5:] == content[-5:]
        assert view == content
        assert np.frombuffer(buf, "u1").tobytes() == content
        with pytest.raises(IndexError):
            view[size]
        with pytest.raises(ValueError, match="smaller"):
            np.frombuffer(buf, "u1", count=size + 1)
        del view


def test_an_empty_file(nginx: NginxServer) -> None:
    """As an empty bytes object."""
    with fault(nginx.add("empty", b"")) as buf:
        assert len(buf) == 0
        assert bytes(memoryview(buf)) == bytes(buf) == buf[:] == b""
        assert buf.array("u1").size == 0
        assert len(buf.view()) == 0
        for empty in (buf, b""):
            with pytest.raises(ValueError, match="smaller than requested"):
                np.frombuffer(empty, "u1", count=1)


def test_who_takes_a_buffer(url: str, nginx: NginxServer) -> None:
    """memoryview, numpy, struct, re, hashlib, zlib, pyarrow and PIL, each without a copy."""
    with fault(url) as buf:
        assert memoryview(buf)[5_000_000:5_000_010] == DATA[5_000_000:5_000_010]
        assert struct.unpack_from("<Q", buf, 9_000_000) == struct.unpack_from("<Q", DATA, 9_000_000)
        assert buf.resident_bytes < SIZE / 2  # lazy
        arrow = pa.py_buffer(buf)
        assert arrow.size == SIZE
        assert arrow.slice(12_000_000, 100).to_pybytes() == DATA[12_000_000:12_000_100]
        column = pa.Array.from_buffers(pa.uint64(), 1000, [None, arrow])
        assert column[999].as_py() == int.from_bytes(DATA[7992:8000], "little")
        assert buf.resident_bytes < SIZE / 2
        expected = re.search(re.escape(DATA[3_000_000:3_000_020]), DATA)
        found = re.search(re.escape(DATA[3_000_000:3_000_020]), buf)
        assert found is not None
        assert expected is not None
        assert found.span() == expected.span()
        pixels: Any = buf  # an object with a buffer, which its types do not know
        assert Image.frombuffer("L", (4096, 4096), pixels, "raw", "L", 0, 1).tobytes() == DATA[: 1 << 24]
        assert hashlib.sha256(buf).digest() == hashlib.sha256(DATA).digest()
        assert zlib.crc32(buf) == zlib.crc32(DATA)
        array = np.ndarray((2, 1000), "<u4", buffer=buf, offset=4)
        assert array.tobytes() == DATA[4:8004]
        assert bytes(buf) == DATA
        del arrow, column, array, found
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for n in range(50):
            archive.writestr(f"{n}", pattern(20_000, n))
    with fault(nginx.add("packed", packed.getvalue())) as buf, zipfile.ZipFile(buf.file()) as archive:
        assert bytes(memoryview(buf)[:4]) == b"PK\3\4"
        assert archive.read("33") == pattern(20_000, 33)


def test_nobody_writes(url: str) -> None:
    """An attempt is an error of whoever tries; nothing is copied on write."""
    with fault(url) as buf:
        array, view = np.frombuffer(buf, "u1"), memoryview(buf)
        assert view.readonly
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(TypeError, match="read-only"):
            view[0] = 1
        with pytest.raises(TypeError, match="bytes-like"):
            io.BytesIO(b"bytes").readinto(buf)
        with pytest.raises(BufferError, match="read-only"):
            buf.__buffer__(inspect.BufferFlags.WRITABLE)
        assert view[0] == DATA[0]
        del view


def test_madvise(url: str) -> None:
    """WILLNEED fetches behind the caller, DONTNEED evicts under live views; both as mmap has them."""
    with fault(url) as buf:
        view = memoryview(buf)
        buf.madvise(mmap.MADV_WILLNEED, 1 * MIB, 2 * MIB)
        wait_until(lambda: buf.resident_bytes >= 2 * MIB)
        buf.madvise(mmap.MADV_DONTNEED)
        assert buf.resident_bytes == 0
        assert os.fstat(mappings()[0].memfd).st_blocks == 0
        for advice in (mmap.MADV_RANDOM, mmap.MADV_SEQUENTIAL, mmap.MADV_NORMAL):
            buf.madvise(advice)
            assert view[MIB : 2 * MIB] == DATA[MIB : 2 * MIB]
        del view


# system calls

WRITERS: dict[str, Callable[[Any, memoryview], int | None]] = {
    "os.write": lambda file, view: os.write(file.fileno(), view),
    "os.pwrite": lambda file, view: os.pwrite(file.fileno(), view, 0),
    "file.write": lambda file, view: file.write(view),
    "buffered": lambda file, view: io.BufferedWriter(io.FileIO(file.fileno(), "w", closefd=False)).write(view),
    "tofile": lambda file, view: np.frombuffer(view, "u1").tofile(file),
    "send": lambda _, view: send(view),
}


def send(view: memoryview) -> int:
    left, right = socket.socketpair()
    with left, right:
        count = left.send(view[:1000])
        assert right.recv(1000) == view[:count]
        return count if count < 1000 else len(view)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_a_system_call_that_is_given_an_absent_page(
    url: str, mode: str, write: Callable[[Any, memoryview], int | None]
) -> None:
    """In full mode it waits for the page. In user mode it is EFAULT, or writes less, unless the range was fetched."""
    limits = slice(1_000_000, 1_300_000)
    with tempfile.TemporaryFile(buffering=0) as file:

        def written(view: memoryview) -> bool:
            """Whether all was; and what was, is right."""
            file.truncate(0)
            file.seek(0)
            count = write(file, view)
            found = os.pread(file.fileno(), len(view), 0)
            assert found == DATA[limits][: len(found)]
            return count in (None, len(view))

        with fault(url, readahead="off") as buf:
            view = memoryview(buf)[limits]
            if mode == "full":
                assert written(view)
            else:
                for _ in range(2):  # absent; the first page there, later ones not
                    try:
                        assert not written(view) or write is WRITERS["send"]
                    except OSError as error:
                        assert error.errno in (errno.EFAULT, None)  # noqa: PT017  # numpy's has no number
                    assert view[0] == DATA[limits][0]
            del view
        with fault(url, max_resident_bytes=MIB) as buf:
            array, view = words(buf), buf.view(limits.start, limits.stop)
            assert the_hammer().random(array, 50, 1) == 0
            buf.evict()
            assert written(view)  # what a view was made for stays while it lives
            del view, array
        with fault(url) as buf:
            view = memoryview(buf)[limits]
            buf.prefetch([(limits.start, limits.stop - limits.start)])
            assert written(view)
            del view


# forks: each program is a process of its own


PROGRAMS = [
    "pool",
    "child",
    "raw_fork",
    "not_allowed_in_the_child",
    "view_in_the_child",
    "while_faulting",
    "child_goes_first",
    "parent_lets_go_at_once",
    "while_exporting",
    "many_buffers",
    "pickled",
    "loader",
    "beside_programs",
    "room_in_the_child",
    "while_helpers_die",
    "closed_descriptors",
    "at_exit",
    "across_pages",
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_forks(url: str, mode: str, program: str) -> None:
    """What `memory_programs.py` says at each program: right bytes or a signal, never zeros."""
    if mode != "full" and program not in PROGRAMS[:5]:
        pytest.skip("nothing in it depends on the mode, and it takes seconds")
    if program == "not_allowed_in_the_child" and (why := sandbox.why_not("eperm")) is not None:
        pytest.skip(why)
    run([sys.executable, "-W", "ignore", "-m", "tests.memory_programs", program, url])


def test_a_child_whose_memory_lies_where_the_view_was(url: str) -> None:
    """It ends by SIGABRT, and says why; the parent and other children go on."""
    code = (
        "import os, sys\n"
        "occupy = lambda: _occupy()\n"
        "os.register_at_fork(after_in_child=occupy)\n"  # before hctef's, as an earlier import's may be
        "from tests.memory_programs import _occupy, taken_in_the_child\n"
        "taken_in_the_child(sys.argv[1])\n"
        "print('right')\n"
    )
    assert "is taken in this forked process" in run([sys.executable, "-W", "ignore", "-c", code, url])


def test_an_unprivileged_user_forks(url: str, mode: str) -> None:
    """For real: who may have userfaultfd for user mode only, pages there, and so do the children."""
    if mode != "user-mode-only":
        pytest.skip("that user has no other mode")
    if (why := sandbox.why_not("nobody")) is not None:
        pytest.skip(why)
    run(sandbox.command("nobody", ["-B", "-W", "ignore", "-m", "tests.memory_programs", "many_buffers", url]))


def run(command: list[str]) -> str:
    """Run a program that prints 'right'. Returns its stderr."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=100)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
    return done.stderr


# lifetimes


def test_what_was_there_when_it_was_exported_can_be_evicted(url: str) -> None:
    """It needed no pager then, and was held for ever: also beyond a bound on memory."""
    with hctef.RemoteBuffer(url) as buf:
        buf.prefetch([(0, SIZE)])
        array = np.frombuffer(buf, "u1")
        buf.evict()
        assert buf.resident_bytes == 0
        assert array[::4097].tobytes() == DATA[::4097]
        buf.madvise(mmap.MADV_DONTNEED)
        assert buf.resident_bytes == 0
    with hctef.HttpFile(url, max_resident_bytes=MIB) as file:
        view = file.buffer.view()
        export = memoryview(file.buffer)
        del view
        assert bytes(export[5_000_000:5_000_100]) == DATA[5_000_000:5_000_100]
        wait_until(lambda: file.resident_bytes <= MIB)


@pytest.mark.parametrize("paging", ["fault", "fill"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=lambda order: "".join(map(str, order)))
def test_any_order_of_ends(nginx: NginxServer, mode: str, paging: Any, order: tuple[int, ...]) -> None:
    """The buffer, an array, a memoryview and an array that keeps no view: each shows right bytes until it goes."""
    if mode != "full":
        pytest.skip("nothing in it depends on the mode, and it takes seconds")
    content = DATA[: 2 * MIB + 5]
    buf: Any = hctef.RemoteBuffer(nginx.add("ends", content), paging=paging)
    things: list[Any] = [buf, np.frombuffer(buf, "u1"), memoryview(buf), np.ndarray((len(content),), "u1", buffer=buf)]
    del buf
    for index in order:
        thing, things[index] = things[index], None
        if index == 0:
            thing.close()
        elif index == 2 and order[0] < 2:
            thing.release()
        del thing
        gc.collect()
        for left in things[1:]:
            if left is not None:
                at = 500_000 * (index + 1)
                assert bytes(left[at : at + 5000]) == content[at : at + 5000]
                assert bytes(left[-3:]) == content[-3:]


@pytest.mark.parametrize("paging", ["fault", "fill"])
def test_an_array_that_keeps_no_view_outlives_close_and_eviction(url: str, paging: Any) -> None:
    """np.ndarray(buffer=buf) keeps the buffer itself, which keeps the memory."""
    buf = hctef.RemoteBuffer(url, paging=paging)
    array, other = np.ndarray((SIZE,), "u1", buffer=buf), buf.file()
    buf.evict()
    buf.close()
    del buf
    gc.collect()
    other.evict()
    assert array.tobytes() == DATA
    other.close()
    gc.collect()
    assert array.tobytes() == DATA


@pytest.mark.parametrize("paging", ["fault", "fill"])
def test_an_array_pins_its_bytes(url: str, paging: Any) -> None:
    """What `array` shows is there after an eviction: the same bytes, or, by fault, the same bytes again."""
    with hctef.RemoteBuffer(url, paging=paging, max_resident_bytes=MIB, readahead="off") as buf:
        arrays = [buf.array("<u4", (50, 100), offset=8 * n) for n in range(5)]
        arrays += [buf.array("u1", (100, 3), offset=1000, order="F"), buf.array("V8", 10), buf.array("u1", 0)]
        view = buf.view(10, 20)
        buf.evict()
        assert buf[5_000_000:7_000_000] == DATA[5_000_000:7_000_000]
        buf.evict()
        for n in range(5):
            assert arrays[n].tobytes() == DATA[8 * n : 8 * n + 20_000]
        assert arrays[5].tobytes("F") == DATA[1000:1300]
        assert arrays[6].tobytes() == DATA[:80]
        assert view == DATA[10:20]
        assert not any(array.flags.writeable for array in arrays)
        del arrays, view
        buf.evict()
        assert buf.resident_bytes == 0


def test_with_never_raises_for_a_live_view(url: str) -> None:
    """It stays valid, and lazily filled, after the block."""
    with fault(url) as buf:
        view = memoryview(buf)
        array = buf.array("u1")
    assert view[7_000_000:7_000_100] == DATA[7_000_000:7_000_100]
    assert array[9_000_000] == DATA[9_000_000]
    with pytest.raises(ValueError, match="closed"):
        memoryview(buf)
    view.release()
    assert array[10_000_000] == DATA[10_000_000]


def test_a_view_in_a_circle_of_garbage(url: str) -> None:
    """A finalizer in the circle still reads right bytes; the pin goes though the exporter was cleared before."""
    found = []

    class Node:
        view: memoryview
        me: Any
        also: Any

        def __del__(self) -> None:
            found.append(self.view[-100:] == DATA[900_000 - 100 : 900_000] or self.view[-100:] == DATA[-100:])

    for pinned, keep_buffer, slice_too in itertools.product((True, False), repeat=3):
        buf = fault(url)
        other = buf.file()
        view = buf.view(0, 900_000) if pinned else memoryview(buf)
        node = Node()
        node.me, node.view = node, view
        node.also = (buf if keep_buffer else None, view[3:] if slice_too else None)
        buf.close()
        del node, buf, view
        gc.collect()
        other.evict()
        assert other.resident_bytes == 0  # nothing is pinned
        other.close()
    assert found == [True] * 8


def test_no_descriptor_is_left(url: str) -> None:
    """When the last view is gone and the helpers have ended, this process is as it was."""

    def ours() -> list[str]:
        return [name for name in descriptors() if "hctef" in name or "userfault" in name]

    wait_until(lambda: not ours())
    buffers = [fault(url) for _ in range(5)]
    views = [memoryview(buf) for buf in buffers]
    assert [view[n * MIB] for n, view in enumerate(views)] == [DATA[n * MIB] for n in range(5)]
    assert ours()
    for buf in buffers:
        buf.close()
    assert ours()
    del views, buffers, buf
    wait_until(lambda: not ours())


@pytest.mark.parametrize("paging", ["auto", "fault"])
def test_a_failed_attach_leaves_all_as_it_was(
    url: str, monkeypatch: pytest.MonkeyPatch, paging: Any, caplog: Any
) -> None:
    """'auto' fills from then on, and logs why; 'fault' raises, and works when it is possible again."""
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "hctef-pager"])
    with hctef.RemoteBuffer(url, paging=paging) as buf, monkeypatch.context() as patch:
        assert buf[100:200] == DATA[100:200]
        held = buf.view(1000, 2000)
        patch.setattr(sys, "executable", "/bin/false")
        if paging == "fault":
            with pytest.raises(hctef.PagerError, match="pager"):
                memoryview(buf)
        else:
            assert buf.array("u1", 10, 5_000_000).tobytes() == DATA[5_000_000:5_000_010]
            assert buf.paging == "fill"
            assert "filled first" in caplog.text
            assert buf.resident_bytes < MIB  # a part was asked for
            assert memoryview(buf) == DATA
        assert held == DATA[1000:2000]
        assert buf[3000:4000] == DATA[3000:4000]
        gc.collect()
        assert not mappings()
        patch.undo()
        assert memoryview(buf)[SIZE - 5 :] == DATA[-5:]
        assert buf.paging == ("fill" if paging == "auto" else "fault")
        del held


def test_the_handover_keeps_what_is_resident(nginx: NginxServer, mode: str) -> None:
    """No byte comes twice, and views of before stay as they are."""
    name = f"handover-{mode}"
    url = nginx.add(name, DATA)
    with fault(url) as buf:
        before = buf.view(100, 5_000_000)
        buf.prefetch([(8_000_000, 2_000_000)], wait=False)
        array = words(buf)
        assert the_hammer().sequential(array) == 0
        assert before == DATA[100:5_000_000]
        assert buf.view(8_000_000, 9_000_000) == DATA[8_000_000:9_000_000]
        del array
    times = np.zeros(SIZE, "u1")
    for entry in nginx.log(name):
        first, last = entry.range.removeprefix("bytes=").split("-")
        start = int(first) if first else SIZE - int(last)
        times[start : start + entry.sent] += 1
    assert times.min() == 1
    times[8_000_000 - 8_000_000 % 4096 : 10_002_432] = 1  # a transfer that was cut short is begun again
    times[:4096] = times[-8192:] = 1  # the opening's: parts of pages
    assert times.max() == 1


def test_exports_while_others_read(url: str) -> None:
    """Readers by slices and by a file's cursor see right bytes before, during and after a handover."""
    for _ in range(5):
        with fault(url) as buf:
            stop = threading.Event()

            def read(seed: int, buf: hctef.RemoteBuffer = buf, stop: threading.Event = stop) -> int:
                count, file = 0, buf.file()
                while not stop.is_set() or count < 50:
                    at = (seed * 7_654_321 + count * 54_321) % (SIZE - 20_000)
                    assert buf[at : at + 100] == DATA[at : at + 100]
                    file.seek(at)
                    assert file.read(20_000) == DATA[at : at + 20_000]
                    count += 1
                return count

            with ThreadPoolExecutor(4) as pool:
                runs = [pool.submit(read, seed) for seed in range(3)]
                views = [pool.submit(lambda buf=buf: memoryview(buf)).result(30) for _ in range(2)]  # type: ignore[misc]
                array = words(buf)
                assert the_hammer().random(array, 100, 1) == 0
                stop.set()
                assert all(run.result(60) >= 50 for run in runs)
            del array, views


def test_one_export_for_all(url: str) -> None:
    """Threads that export at once get views of one arena."""
    with fault(url) as buf, ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(lambda _: words(buf), range(16)))
        assert len({array.ctypes.data for array in arrays}) == 1
        assert len(mappings()) == 1
        del arrays


# how much


def test_a_sparse_look_at_64_gib(nginx: NginxServer, mode: str) -> None:
    """A byte of each GiB costs a page's surroundings of each, and no memory beyond that."""
    with tempfile.TemporaryDirectory(dir=nginx.root) as folder:
        path = Path(folder) / "large"
        with path.open("wb") as file:
            file.truncate(64 << 30)
        url = nginx.add(f"large-{mode}", path)
        with fault(url) as buf:
            before = memory()
            array = np.frombuffer(buf, "u1")
            assert array[:: 2**30].sum() == 0
            grown = memory() - before
            assert grown < 40 * MIB
            del array
    assert sent(nginx, f"large-{mode}") <= 64 * 64 * 1024 + MIB


def memory() -> int:
    """Bytes that this process has in memory, and its page tables."""
    status = Path("/proc/self/status").read_text()
    return sum(int(found) for found in re.findall(r"(?:VmRSS|VmPTE):\s+(\d+)", status)) * 1024


def test_a_terabyte(nginx: NginxServer) -> None:
    """It opens, and its ends can be looked at."""
    with tempfile.TemporaryDirectory(dir=nginx.root) as folder:
        path = Path(folder) / "terabyte"
        with path.open("wb") as file:
            file.truncate((1 << 40) - 3)
            file.write(b"begin")
            file.seek((1 << 40) - 6)
            file.write(b"end")
        with fault(nginx.add("terabyte", path)) as buf:
            view = memoryview(buf)
            assert len(view) == (1 << 40) - 3
            assert (bytes(view[:5]), bytes(view[-3:])) == (b"begin", b"end")
            assert os.fstat(mappings()[0].memfd).st_blocks * 512 < 3 * MIB
            del view


def test_a_bound_holds_while_a_gibibyte_passes(nginx: NginxServer, mode: str) -> None:
    """What the kernel charges for the arena, its pages and page tables, stays under 80 MiB for a bound of 64."""
    if mode != "full":
        pytest.skip("the same as in full mode, and it takes seconds")
    size, limit, step = 1 << 30, 64 * MIB, 8 * MIB
    with tempfile.TemporaryDirectory(dir=nginx.root) as folder:
        path = Path(folder) / "long"
        with path.open("wb") as file:
            for first in range(0, size, step):
                file.write(pattern(step, first // 8))
        with fault(nginx.add("long", path), max_resident_bytes=limit) as buf:
            array, hammer = words(buf), the_hammer()
            mapping, before = mappings()[0], charged(mappings()[0])
            most = 0
            for first in range(0, size // 8, step // 8):
                part = array[first : first + step // 8]
                assert np.array_equal(part, np.frombuffer(pattern(step, first), "<u8"))
                most = max(most, charged(mapping) - before)
            assert hammer.random(array, 20, 1) == 0
            assert most < 80 * MIB
            del array, part
