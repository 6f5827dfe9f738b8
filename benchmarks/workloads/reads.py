"""W2, W3, W4, W10: a reader who seeks and reads, one range after the other. W14: the same through views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.adapters import Adapter
from benchmarks.files import Range
from benchmarks.workloads.base import Workload, WrongBytesError, check

PAGE = 4096
PIECE = 64 << 10
KEPT = 16
"""Of long sequential reads, one part in so many is kept and checked: keeping all would cost time."""


def uniform(_: Path) -> list[Range]:
    """1,000 ranges of 4 KiB anywhere, not aligned."""
    return [(at, at + PAGE) for at in np.random.default_rng(5).integers(0, data.FLAT_SIZE - PAGE, 1000).tolist()]


def regions(_: Path) -> list[Range]:
    """5,000 of 4 KiB in 64 regions of 256 KiB, the n-th of which is read 1/n times as often as the first."""
    random = np.random.default_rng(6)
    size = 256 << 10
    starts = random.permutation(data.FLAT_SIZE // size)[:64] * size
    weights = 1 / np.arange(1, 65)
    chosen = starts[random.choice(64, 5000, p=weights / weights.sum())]
    return [(at, at + PAGE) for at in (chosen + random.integers(0, size - PAGE, 5000)).tolist()]


def sequential(_: Path) -> list[Range]:
    """256 MiB in pieces of 64 KiB."""
    return [(at, at + PIECE) for at in range(0, data.FLAT_SIZE, PIECE)]


def strided(_: Path) -> list[Range]:
    """One float32 every MiB."""
    return [(at, at + 4) for at in range(0, data.FLAT_SIZE, data.MIB)]


class Reads(Workload):
    """Seek and read, for each range in turn."""

    def __init__(
        self, name: str, title: str, ranges: Callable[[Path], list[Range]], file: str = data.FLAT, *, every: int = 1
    ) -> None:
        super().__init__(name, title, file)
        self._make = ranges
        self._every = every

    def ranges(self, path: Path) -> Sequence[Range]:
        return self._make(path)

    def prepare(self, path: Path) -> None:
        self._ranges = self._make(path)

    def run(self, adapter: Adapter, file: Any) -> Any:
        read, seek, every = file.read, file.seek, self._every
        kept = []
        total = 0
        for n, (start, stop) in enumerate(self._ranges):
            seek(start)
            part = read(stop - start)
            total += len(part)
            if n % every == 0:
                kept.append(part)
        return kept, total

    def verify(self, output: Any, path: Path) -> None:
        kept, total = output
        if total != sum(stop - start for start, stop in self._ranges):
            raise WrongBytesError(f"{total} bytes came back")
        check(zip(self._ranges[:: self._every], kept, strict=True), path)


class Sequential(Reads):
    """Reads of one size, from the first byte to the last; nobody seeks."""

    def accepts(self, adapter: Adapter) -> bool:
        if adapter.kind == "limit":  # curl, which has no file, stands for the one who knows what comes
            return adapter.name in {"curl", "sockets", "local"}
        return super().accepts(adapter)

    def open(self, adapter: Adapter, url: str) -> Any:
        return url if adapter.name == "curl" else super().open(adapter, url)

    def run(self, adapter: Adapter, file: Any) -> Any:
        if adapter.name == "curl":
            return adapter.whole(file)
        read, every = file.read, self._every
        kept = []
        total = 0
        for n in range(len(self._ranges)):
            part = read(PIECE)
            total += len(part)
            if n % every == 0:
                kept.append(part)
        return kept, total

    def verify(self, output: Any, path: Path) -> None:
        if output is not None:  # curl's bytes went to /dev/null
            super().verify(output, path)


class Views(Reads):
    """The same ranges out of `np.frombuffer(buf)`, or for a file by seek and read: what the views are compared with."""

    family = "views"

    def run(self, adapter: Adapter, file: Any) -> Any:
        if not adapter.slices:
            return super().run(adapter, file)
        array, every = np.frombuffer(file, np.uint8), self._every
        kept = []
        total = 0
        for n, (start, stop) in enumerate(self._ranges):
            part = array[start:stop].tobytes()
            total += len(part)
            if n % every == 0:
                kept.append(part)
        return kept, total


class Whole(Workload):
    """All of the file by one call."""

    family = "whole"

    def open(self, adapter: Adapter, url: str) -> Any:
        return url

    def run(self, adapter: Adapter, file: Any) -> Any:
        return adapter.whole(file)

    def verify(self, output: Any, path: Path) -> None:
        if output is not None:  # curl's bytes went to /dev/null
            check([((0, data.FLAT_SIZE), output)], path)


WORKLOADS = (
    Reads("W2", "1,000 random reads of 4 KiB, uniform over 256 MiB", uniform),
    Reads("W3", "5,000 random reads of 4 KiB, zipf over 64 regions of 256 KiB", regions),
    Sequential("W4", "256 MiB in sequential reads of 64 KiB", sequential, every=KEPT),
    Whole("W5", "256 MiB in one call"),
    Reads("W10", "one float every MiB, 256 times", strided),
)
VIEWS = (
    Views("W14-W2", "W2's ranges through np.frombuffer(buf)", uniform),
    Views("W14-W3", "W3's ranges through np.frombuffer(buf)", regions),
    Views("W14-W4", "W4's ranges through np.frombuffer(buf)", sequential, every=KEPT),
    Views("W14-W10", "W10's ranges through np.frombuffer(buf)", strided),
)
