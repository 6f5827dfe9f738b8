"""The asynchronous classes: what a read takes from the event loop, and many reads at once over a latency.

    pytest benchmarks/bench_async.py -s

The server is a process of its own: its work would pass for the loop's otherwise.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from hctef.aio import AsyncRemoteBuffer
from tests.helpers import pattern
from tests.range_server import RangeServer, slow

SIZE = 64 * 1024 * 1024
LATENCY = 0.02


def _serve(pipe: Connection) -> None:
    with RangeServer() as server:
        near, far = server.add("near", pattern(SIZE)), server.add("far", pattern(SIZE))
        server.behave("far", slow(LATENCY))
        pipe.send((near, far))
        pipe.recv()


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    """A file without latency, and one whose responses begin 20 ms late."""
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    process.start()
    yield mine.recv()
    mine.send(None)
    process.join()


def test_ticker(urls: tuple[str, str]) -> None:
    """Prints the longest time that a ticker of 1 ms was kept waiting while `await buf[a:b]` fetches 64 MiB (bar: 20
    ms)."""

    async def main() -> float:
        longest, last = 0.0, time.perf_counter()

        async def ticker() -> None:
            nonlocal longest, last
            while True:
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                longest, last = max(longest, now - last - 0.001), now

        async with AsyncRemoteBuffer(urls[0]) as buf:
            task = asyncio.create_task(ticker())
            await asyncio.sleep(0.01)
            assert len(await buf[0:SIZE]) == SIZE
            task.cancel()
        return longest

    taken = [asyncio.run(main()) * 1000 for _ in range(5)]
    print(
        f"\nlongest wait of the ticker: median {statistics.median(taken):.1f} ms, worst {max(taken):.1f} ms (bar: 20)"
    )


def test_gather(urls: tuple[str, str]) -> None:
    """Prints how many latencies 64 disjoint reads of 64 KiB take, opening included (bar: 8)."""

    async def main() -> float:
        begin = time.perf_counter()
        async with AsyncRemoteBuffer(urls[1]) as buf:
            await asyncio.gather(*(buf[at : at + 65_536] for at in range(0, SIZE, SIZE // 64)))
        return time.perf_counter() - begin

    taken = [asyncio.run(main()) / LATENCY for _ in range(5)]
    print(f"\n64 reads by gather: median {statistics.median(taken):.1f} latencies (bar: 8)")
