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

from hctef._memory import anonymous
from hctef._ranges import PAGE

_DONTNEED_LOCKED, _COLLAPSE = 24, 25
"""MADV_DONTNEED_LOCKED and MADV_COLLAPSE, which the mmap module does not have."""
HUGE = 2 * 1024 * 1024
"""Bytes of a huge page (x86-64, and arm64 with pages of 4 KiB)."""

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

    def room(self, start: int, stop: int) -> memoryview | None:
        """Where bytes `[start, stop)` may be received in place of `fill`; None: nowhere, they are to be filled in."""

    def publish(self, start: int, stop: int) -> None:
        """All bytes of pages `[start, stop)` were given to `fill`: have them there, before they are marked resident."""

    def expect(self, start: int, stop: int) -> None:
        """All of page-aligned `[start, stop)` will be filled: a hint."""

    def gather(self, start: int, stop: int) -> None:
        """The same where some of its pages are there already."""

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

    def room(self, start: int, stop: int) -> memoryview | None:
        return memoryview(self.bytes)[start:stop]

    def publish(self, start: int, stop: int) -> None:
        """They are there."""

    def watch(self, page: int) -> None:
        """The page table is all that readers look at."""

    def unwatch(self, start: int, stop: int) -> None:
        """As `watch`."""

    def expect(self, start: int, stop: int) -> None:
        # One fault for 2 MiB instead of 512: filling 256 MiB takes half the time. Never by default: a page that is read
        # alone would take 2 MiB of memory.
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                self.bytes.madvise(mmap.MADV_HUGEPAGE, start, stop - start)

    def gather(self, start: int, stop: int) -> None:
        self.expect(start, stop)
        # A fault makes no huge page where small ones are. To fill 4 MiB with one page in each half took 3.6 ms, so 0.8.
        # One by one: a call ends at the first that is empty.
        for low in range(-(-start // HUGE) * HUGE, stop - HUGE + 1, HUGE):
            with contextlib.suppress(OSError):  # nothing is there yet, or a kernel before Linux 6.1
                self.bytes.madvise(_COLLAPSE, low, HUGE)

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
