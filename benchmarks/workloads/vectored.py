"""W11, W13: many ranges, all known at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.adapters import Adapter
from benchmarks.files import Range
from benchmarks.workloads.base import Workload, check
from benchmarks.workloads.reads import PIECE, uniform


def scattered(_: Path) -> list[Range]:
    """64 disjoint ranges of 64 KiB, one somewhere in each 4 MiB."""
    slot = data.FLAT_SIZE // 64
    return [
        (n * slot + at, n * slot + at + PIECE)
        for n, at in enumerate(np.random.default_rng(8).integers(0, slot - PIECE, 64).tolist())
    ]


class Together(Workload):
    """All ranges in one call; `serial` also lets those in that have no such call, who then seek and read."""

    family = "vectored"

    def __init__(
        self, name: str, title: str, ranges: Callable[[Path], list[Range]], *, after_open: bool, serial: bool
    ) -> None:
        super().__init__(name, title)
        self._make = ranges
        self.after_open = after_open
        self._serial = serial

    def accepts(self, adapter: Adapter) -> bool:
        return super().accepts(adapter) or (self._serial and "reads" in adapter.families)

    def ranges(self, path: Path) -> Sequence[Range]:
        return self._make(path)

    def prepare(self, path: Path) -> None:
        self._ranges = self._make(path)

    def run(self, adapter: Adapter, file: Any) -> Any:
        return adapter.read_ranges(file, self._ranges)

    def verify(self, output: Any, path: Path) -> None:
        check(zip(self._ranges, output, strict=True), path)


WORKLOADS = (
    Together("W11", "64 disjoint reads of 64 KiB at once on an open file", scattered, after_open=True, serial=True),
    Together("W13", "W2's ranges in one vectored call", uniform, after_open=False, serial=False),
)
