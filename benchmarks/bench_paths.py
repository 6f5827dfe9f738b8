"""Hot paths without a network: what a miss costs besides its bytes, the page table, many ranges in one call.

    pytest benchmarks/bench_paths.py --benchmark-enable

The transport is a null one: it answers from memory at once, so what is measured is hctef's own work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest

import hctef
from hctef._drivers import Exchange
from hctef._http import Head
from hctef._pages import PageTable
from hctef._ranges import ByteRange
from hctef._steps import Send
from hctef._urllib3 import Urllib3Transport

MIB = 1 << 20
SIZE = 64 * MIB
PAGE = 4096
DATA = np.random.default_rng(1).bytes(SIZE)
URL = "http://null.invalid/data"
TIMES = 200


class _Exchange:
    """A server in no time."""

    def __init__(self) -> None:
        self._body = memoryview(b"")

    def send(self, request: Send) -> Head:
        first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
        start, stop = (int(first), min(SIZE, int(last) + 1)) if first else (SIZE - int(last), SIZE)
        self._body = memoryview(DATA)[start:stop]
        headers = {"content-range": f"bytes {start}-{stop - 1}/{SIZE}", "content-length": str(stop - start)}
        return Head(206, headers | {"etag": '"1"'})

    def send_ahead(self, requests: Sequence[Send]) -> None:
        """It cannot."""

    def collect(self, extents: Iterable[ByteRange], put: Callable[[int, memoryview], object]) -> int:
        return 0

    def receive(self, limit: int) -> bytes:
        data, self._body = bytes(self._body[:limit]), self._body[limit:]
        return data

    def receive_into(self, room: memoryview, least: int) -> int:
        count = min(len(room), len(self._body))
        room[:count] = self._body[:count]
        self._body = self._body[count:]
        return count

    def drop(self) -> None:
        self._body = memoryview(b"")

    def abort(self) -> None:
        self.drop()


@pytest.fixture(autouse=True)
def null_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(_: Urllib3Transport) -> Exchange:
        return _Exchange()

    monkeypatch.setattr(Urllib3Transport, "exchange", exchange)


def offsets(count: int) -> list[int]:
    """Pages here and there, none twice."""
    pages: Sequence[int] = np.random.default_rng(2).choice(SIZE // PAGE, count, replace=False).tolist()
    return [page * PAGE for page in pages]


def fresh(**options: Any) -> tuple[tuple[hctef.HttpFile], dict[str, Any]]:
    """A file of which nothing is there, as pedantic's `setup` gives arguments."""
    return (hctef.HttpFile(URL, prefetch_bytes=0, **options),), {}


def test_open(benchmark: Any) -> None:
    """Open and close, without a prefetch."""
    benchmark(lambda: hctef.HttpFile(URL, prefetch_bytes=0).close())


@pytest.mark.parametrize("readahead", ["off", "auto"])
def test_miss(benchmark: Any, readahead: Any) -> None:
    """200 misses of 4 KiB: planned, fetched from a null transport, committed, copied out."""
    wanted = offsets(TIMES)

    def work(file: hctef.HttpFile) -> None:
        for at in wanted:
            file.seek(at)
            file.read(PAGE)

    benchmark.pedantic(work, setup=lambda: fresh(readahead=readahead), rounds=10)


def test_sequential(benchmark: Any) -> None:
    """64 MiB in reads of 64 KiB."""

    def work(file: hctef.HttpFile) -> None:
        while file.read(64 << 10):
            pass

    benchmark.pedantic(work, setup=fresh, rounds=5)


@pytest.mark.parametrize("count", [64, 1000])
def test_read_ranges(benchmark: Any, count: int) -> None:
    """Ranges of 4 KiB in one call, of which nothing is there."""
    ranges = [(at, at + PAGE) for at in offsets(count)]
    benchmark.pedantic(lambda file: file.read_ranges(ranges), setup=fresh, rounds=10)


def test_read_ranges_again(benchmark: Any) -> None:
    """A thousand ranges of 4 KiB in one call, all of them there."""
    ranges = [(at, at + PAGE) for at in offsets(1000)]
    (file,), _ = fresh()
    file.read_ranges(ranges)
    benchmark(file.read_ranges, ranges)


@pytest.fixture
def table() -> PageTable:
    """64 GiB, of whose last GiB every other page is there."""
    table = PageTable(64 << 30)
    for at in range(63 << 30, 64 << 30, 2 * PAGE):
        table.mark(at, at + PAGE)
    return table


def test_table_hit(benchmark: Any, table: PageTable) -> None:
    """Is a resident page resident?"""
    at = 63 << 30
    benchmark(table.resident, at, at + PAGE)


def test_table_scan(benchmark: Any, table: PageTable) -> None:
    """Are 256 MiB resident, whose last page is not?"""
    start = 1 << 30
    table.mark(start, start + 256 * MIB - PAGE)
    benchmark(table.resident, start, start + 256 * MIB)


def test_table_missing(benchmark: Any, table: PageTable) -> None:
    """The 2,048 gaps of 16 MiB of which every other page is there."""
    start = 63 << 30
    found = benchmark(lambda: list(table.missing(start, start + 16 * MIB)))
    assert len(found) == 16 * MIB // (2 * PAGE)
