"""What many tests need."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


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
