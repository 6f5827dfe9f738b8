"""Arenas: the address range that holds a file's bytes, as large as the file, sparse.

Every arena has the same interface: `fill`, `view`, `evict`, `close`, and `bytes`, the mapping that a hit slices.
`AnonymousArena` is a private anonymous mapping: an absent page reads as zeros, so nobody may be handed a range of it
that is not resident. Pages are unmapped only when the last view is gone: mmap refuses to close while exports live.
`FaultingArena` (`_faulting.py`) fills a page when it is touched.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Protocol

from hctef._huge import HUGE, huge_pages
from hctef._memory import anonymous
from hctef._ranges import PAGE

_DONTNEED_LOCKED = 24
"""MADV_DONTNEED_LOCKED, which the mmap module does not have."""

Buffer = bytes | bytearray | memoryview


class Arena(Protocol):
    """Room for a file of `size` bytes."""

    bytes: mmap.mmap
    """The mapping. `bytes[a:b]` copies out what is resident."""

    @property
    def overhead(self) -> int:
        """Bytes of memory that it takes beyond its resident pages."""

    def fill(self, start: int, data: Buffer) -> None:
        """Put `data` at byte `start`. Any thread may, for bytes that it has claimed; no lock is needed."""

    def room(self, start: int, stop: int, end: int = 0) -> memoryview | None:
        """Where bytes `[start, stop)` may be received in place of `fill`; None: nowhere, they are to be filled in.
        `end`: up to there all will come behind them, in order."""

    def publish(self, start: int, stop: int) -> None:
        """All bytes of pages `[start, stop)` were given to `fill`: have them there, before they are marked resident."""

    def gather(self, start: int, stop: int) -> None:
        """All of page-aligned `[start, stop)` will be filled, and some of its pages are there already: a hint."""

    def watch(self, page: int) -> None:
        """The first touch of an absent page is to be heard of: where touches are faults, withhold it when it comes."""

    def unwatch(self, start: int, stop: int) -> None:
        """Hand over what was withheld of `[start, stop)`, and withhold nothing there any longer."""

    def view(self, start: int, stop: int) -> memoryview:
        """`[start, stop)` without a copy, read-only."""

    def evict(self, start: int, stop: int) -> None:
        """Give the memory of whole pages `[start, stop)` back to the system. The page table was cleared before."""

    def close(self) -> None:
        """Unmap, or, where views live, leave that to the last of them."""


class AnonymousArena:
    """A private anonymous mapping, filled by copying into it. Raises OSError where there is no such room."""

    __slots__ = ("bytes", "size")

    overhead = 0

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = anonymous(size)

    def fill(self, start: int, data: Buffer) -> None:
        self.bytes[start : start + len(data)] = data

    def room(self, start: int, stop: int, end: int = 0) -> memoryview | None:
        # Never by default: a page that is read alone would take 2 MiB of memory. Each when the bytes before it have
        # come: memory that was cleared just now is in the processor's cache still.
        for low in range(-(-start // HUGE) * HUGE, min(stop, end - HUGE + 1), HUGE):
            if not huge_pages.populate(self._advise, low):
                break
        return memoryview(self.bytes)[start:stop]

    def publish(self, start: int, stop: int) -> None:
        """They are there."""

    def watch(self, page: int) -> None:
        """The page table is all that readers look at."""

    def unwatch(self, start: int, stop: int) -> None:
        """As `watch`."""

    def gather(self, start: int, stop: int) -> None:
        # A fault makes no huge page where small ones are. To fill 4 MiB with one page in each half took 3.6 ms, so 0.8.
        # One by one: a call ends at the first that is empty.
        for low in range(-(-start // HUGE) * HUGE, stop - HUGE + 1, HUGE):
            if not huge_pages.collapse(self._advise, low):
                return

    def _advise(self, advice: int, start: int, length: int) -> bool:
        with contextlib.suppress(OSError):
            self.bytes.madvise(advice, start, length)
            return True
        return False

    def view(self, start: int, stop: int) -> memoryview:
        return memoryview(self.bytes).toreadonly()[start:stop]

    def evict(self, start: int, stop: int) -> None:
        length = -(-(stop - start) // PAGE) * PAGE
        if hasattr(mmap, "MADV_DONTNEED"):
            length = min(length, len(self.bytes) - start)
            for advice in (mmap.MADV_DONTNEED, _DONTNEED_LOCKED):  # the second for mlock'ed memory
                with contextlib.suppress(OSError):  # before Linux 5.18 that stays as it is until it is filled again
                    self.bytes.madvise(advice, start, length)
                    break

    def close(self) -> None:
        with contextlib.suppress(BufferError):  # a view lives: it keeps the mapping, and unmaps it when it goes
            self.bytes.close()
