"""Huge pages: one fault for 2 MiB instead of 512, where they are to be had quickly.

A hypervisor that takes free memory away from its guest ("free page reporting" of virtio-balloon) takes it in just these
blocks, and gives them back in small pages: to fill 256 MiB took 630 ms in huge pages then, 105 in small ones; where the
memory was there still, 42. So each is made by itself, and timed.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable

HUGE = 2 * 1024 * 1024
"""Bytes of a huge page (x86-64, and arm64 with pages of 4 KiB)."""

HUGEPAGE, POPULATE_WRITE, COLLAPSE = 14, 23, 25
"""MADV_HUGEPAGE, MADV_POPULATE_WRITE (Linux 5.14), MADV_COLLAPSE (6.1)."""

Advise = Callable[[int, int, int], bool]
"""Gives the kernel an advice for memory from `start` on, `length` bytes. Whether it was taken."""


class HugePages:
    """Whether they pay in this process. Threads may all use it: a sample that is lost is no loss."""

    SLOW, NOTHING = 0.0025, 0.00005
    """Seconds. Small pages of 2 MiB take 1 to 2 ms, a huge one 0.3, or 4 to 5. What takes less says nothing: it was
    there."""
    LOSS, CREDIT = 4, 8
    """What a slow one loses, in what a quick one gains, and the most that these may have gained."""

    def __init__(self) -> None:
        self.pay = hasattr(mmap, "MADV_HUGEPAGE")
        self._gained = self.LOSS + 1

    def populate(self, advise: Advise, start: int) -> bool:
        """Have the 2 MiB from `start` on in a huge page, which take memory at once. Whether that was quick."""
        return self.pay and advise(HUGEPAGE, start, HUGE) and self._tried(advise, POPULATE_WRITE, start)

    def collapse(self, advise: Advise, start: int) -> bool:
        """Make a huge page of small ones, where there are some. Whether that was quick."""
        return self.pay and self._tried(advise, COLLAPSE, start)

    def _tried(self, advise: Advise, advice: int, start: int) -> bool:
        began = time.perf_counter()
        if not advise(advice, start, HUGE):
            return True  # nothing is there yet, or the kernel does not know it
        took = time.perf_counter() - began
        if took > self.NOTHING:
            self._gained = self._gained - self.LOSS if took > self.SLOW else min(self.CREDIT, self._gained + 1)
            self.pay = self._gained > 0
        return took <= self.SLOW


huge_pages = HugePages()
