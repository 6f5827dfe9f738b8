"""Views whose pages are filled when they are touched: what a touch costs.

    pytest benchmarks/bench_faults.py -s

A touch of a page that is there must cost what it costs on a local mmap (bar: 1.05). A touch of one that isn't costs a
fault, a helper process's work and a request; beside it stands a miss of `HttpFile.read` on the same server.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hctef
from tests.helpers import pattern
from tests.range_server import RangeServer

SIZE = 64 << 20
ROUNDS = 3 if os.environ.get("HCTEF_BENCH_QUICK") else 15


def _serve(pipe: Connection) -> None:
    with RangeServer() as server:
        pipe.send(server.add("data", pattern(SIZE)))
        pipe.recv()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Served by a process of its own: its work would pass for ours otherwise."""
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    process.start()
    yield mine.recv()
    mine.send(None)
    process.join()


def _array(buf: hctef.RemoteBuffer) -> Any:
    array = np.frombuffer(buf, np.uint8)
    if buf.paging != "fault":
        pytest.skip(f"paging is {buf.paging!r} here: {hctef.paging_support()}")
    return array


def _in_turns(*works: Callable[[], object]) -> list[float]:
    """The median of each one's seconds."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, times in zip(works, taken, strict=True):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
    return [statistics.median(times) for times in taken]


def test_resident(url: str, tmp_path: Path) -> None:
    """Prints how much longer than on a local mmap a touch of a page takes that is there (bar: 1.05)."""
    path = tmp_path / "data"
    path.write_bytes(pattern(SIZE))
    with path.open("rb") as file:
        local = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
    with hctef.RemoteBuffer(url) as buf:
        remote = _array(buf)
        buf.prefetch([(0, SIZE)])
        assert int(remote.sum(dtype=np.int64)) == int(local.sum(dtype=np.int64))
        wanted = np.random.default_rng(3).integers(0, SIZE, 100_000).tolist()

        def touch(array: Any) -> None:
            for at in wanted:
                array[at]

        mine, theirs = _in_turns(lambda: touch(remote), lambda: touch(local))
        nanoseconds, ratio = mine / len(wanted) * 1e9, mine / theirs
        print(f"\none element: {nanoseconds:.0f} ns, {ratio:.3f} x mmap (bar: 1.05)")
        mine, theirs = _in_turns(remote.max, local.max)
        print(f"64 MiB max(): {mine * 1e3:.2f} ms, {mine / theirs:.3f} x mmap (bar: 1.05)")


def test_absent(url: str) -> None:
    """Prints what a touch of an absent page costs, and what a miss of `HttpFile.read(1)` does."""
    count = 64
    wanted = (np.random.default_rng(4).permutation(count) * (SIZE // count)).tolist()
    with (
        hctef.RemoteBuffer(url, readahead="off") as buf,
        hctef.HttpFile(url, readahead="off", prefetch_bytes=0) as file,
    ):
        array = _array(buf)
        array[SIZE - 1]  # the helper process is there, and connected
        file.evict()
        faults, misses = [], []
        for at in wanted:
            begin = time.perf_counter()
            array[at]
            between = time.perf_counter()
            file.seek(at)
            file.read(1)
            faults.append(between - begin)
            misses.append(time.perf_counter() - between)
        fault, miss = statistics.median(faults), statistics.median(misses)
        print(f"\nan absent page: fault {fault * 1e6:.0f} us, read {miss * 1e6:.0f} us: {(fault - miss) * 1e6:+.0f} us")
