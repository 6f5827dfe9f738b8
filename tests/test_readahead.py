"""Readahead: a sequential reader finds its bytes under way, a random one pays for nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hctef
from hctef._readahead import FIRST_WINDOW, LARGEST_WINDOW, Readahead
from tests.helpers import pattern, wait_until
from tests.range_server import RangeServer

DATA = pattern(8 << 20)


@given(st.lists(st.integers(1, 300_000), min_size=3, max_size=60), st.sampled_from(["auto", 100_000]))
def test_windows_lie_end_to_end(lengths: list[int], option: Any) -> None:
    """Whatever the lengths of sequential reads: what is asked for has no gap, no overlap, and bounded windows."""
    ahead, at, fetched = Readahead(option), 0, 0
    for length in lengths:
        start, at = at, at + length
        if at > fetched:
            fetched = ahead.missed(start, at)
            assert fetched >= at
        elif at > ahead.mark:
            extent = ahead.reached(at)
            assert extent is not None
            assert extent.start == fetched
            assert 0 < extent.length <= ahead.largest
            fetched = extent.stop
        assert fetched - at <= 2 * max(ahead.largest, FIRST_WINDOW)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10_000)), max_size=50))
def test_random_reads_get_what_they_ask_for(reads: list[tuple[int, int]]) -> None:
    """No window without a read that goes on where another ended."""
    ahead, ends = Readahead(), {-1}
    for start, length in reads:
        if start not in ends:
            assert ahead.missed(start, start + length) == start + length
            ends = {start + length}


def test_off() -> None:
    """Never a byte more."""
    ahead = Readahead("off")
    assert [ahead.missed(at, at + 10) for at in range(0, 100, 10)] == list(range(10, 110, 10))


def test_windows_double() -> None:
    """From 64 KiB to 4 MiB."""
    ahead, at, windows = Readahead(), 0, []
    for _ in range(9):
        stop = at + 10
        end = ahead.missed(at, stop)
        windows.append(end - stop)
        at = end
    assert windows == [0, *(min(LARGEST_WINDOW, FIRST_WINDOW << n) for n in range(8))]


@pytest.mark.parametrize("step", [4096, 65_536])
def test_the_next_window_comes_behind_the_reader(range_server: RangeServer, step: int) -> None:
    """Few requests, no byte twice, and one is in flight while the reader still has bytes at hand."""
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        range_server.forget()
        assert b"".join(iter(lambda: file.read(step), b"")) == DATA
        assert range_server.requests <= 14
    assert range_server.sent_twice() == []
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        while file.tell() < 1 << 20:
            file.read(step)
        wait_until(lambda: file.resident_bytes >= file.tell() + FIRST_WINDOW)  # though nobody reads on


def test_jumps_ask_for_no_window(range_server: RangeServer) -> None:
    """The minimum a read, whatever was read sequentially before."""
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        file.read(300_000)
        file.read(10_000)
        wait_until(lambda: file._remote is not None and not file._remote.planner.cache.all_claims())
        range_server.forget()
        for at in (4_000_000, 5_000_000, 3_000_000):
            file.seek(at)
            file.read(100)
        assert range_server.bytes_sent == 3 * 8192
