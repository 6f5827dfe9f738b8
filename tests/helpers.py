"""What many tests need."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import hctef

by_fault = pytest.mark.skipif(not hctef.paging_support(), reason=f"no demand paging: {hctef.paging_support().reason}")

needs_address_space = pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY,
    reason="ulimit -v: there is no address space for a file of any size, or it is given as the reason",
)


def pattern(size: int, seed: int = 0) -> bytes:
    """`size` bytes, the same each time, in which each word of 8 bytes is found at one place only."""
    words = np.arange(seed, seed + -(-size // 8), dtype="<u8") * np.uint64(0x9E3779B97F4A7C15)
    return words.tobytes()[:size]


def wait_until(predicate: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait for what another thread or process does. Raises AssertionError: it did not within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def descriptors() -> list[str]:
    """What this process has open, as number and name."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by another thread at this moment
            found.append(f"{path.name} {path.readlink()}")
    return sorted(found)


def mapped_ranges() -> Iterator[tuple[int, int, str]]:
    """What this process has mapped: from where, to where, and all that the kernel says of it (proc_pid_smaps(5))."""
    for entry in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
        first, last = (int(part, 16) for part in entry.split(" ", 1)[0].split("-"))
        yield first, last, entry


def run_clean[T](main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function in a loop of its own, which it must leave clean: no task, no warning."""

    async def body() -> T:
        result = await main()
        gc.collect()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for _ in range(200):  # what is fetched behind a file that ended as garbage is cancelled: let it end
            if left:
                await asyncio.sleep(0.001)
                left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    return asyncio.run(body(), debug=False)
