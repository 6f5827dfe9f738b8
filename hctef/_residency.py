"""Residency: what of one file is in memory, withheld or pinned, and what goes when room is short.

How bytes come is `_delivery.py`'s, and what is wanted `_planner.py`'s, which build on it. Whole pages are marked
resident only after their bytes are in the arena.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from hctef._arena import Arena
from hctef._disk import DiskCache
from hctef._gaps import Gaps
from hctef._intervals import Held, IntervalCache, Pin
from hctef._link import Link
from hctef._memory import free_memory
from hctef._options import Options
from hctef._pages import PageTable
from hctef._policy import Policy
from hctef._ranges import PAGE, ByteRange, coalesce
from hctef._steps import PlanGen, Wait
from hctef._transfer import Requester
from hctef._traps import Traps

log = logging.getLogger("hctef")

LOOK_EVERY = 1 << 30
"""Bytes of one file after which it is looked how much memory is left."""
SCARCE = 4
"""Where as much as one part in so many of what the file has taken is left, that is said."""
TOUCHED = 16
"""Pages that were touched last and stay under any bound: an instruction may need two at once, one of each thread."""


class Pager(Protocol):
    """Who fetches in place of this planner once pages are filled when they are touched: a planner in another process,
    where the claims are then. The futures raise what a transfer raises."""

    def read(self, wanted: ByteRange, hold: object) -> Future[None]:
        """Make a range resident; `hold`, where it is not None, keeps it so until `let_go` of the same."""

    def prefetch(self, ranges: Sequence[ByteRange], *, wait: bool) -> Future[int]:
        """See `Planner.prefetch`."""

    def evict(self, start: int, stop: int) -> Future[None]:
        """See `Planner.evict`."""

    def let_go(self, hold: object) -> None:
        """Never blocks."""

    def advise(self, hint: str) -> None:
        """See `Policy.advise`. Never blocks."""

    def cancel(self) -> None:
        """Nobody waits any longer: each future raises Cancelled."""


class Residency:
    """The state of one remote file."""

    def __init__(
        self,
        options: Options,
        requester: Requester,
        make_arena: Callable[[int], Arena],
        make_pages: Callable[[int], PageTable],
    ) -> None:
        self.options = options
        self.requester = requester
        self.link = requester.link
        self.stats = requester.stats
        self.cache = IntervalCache()
        self.epoch = [0]
        """Counts evictions. A copy made while it stood still, of pages that were resident before, is whole."""
        self.pager: Pager | None = None
        """Set by `hand_over`."""
        self.closed = False
        self._touched: deque[Pin] = deque()
        self._make_arena, self._make_pages = make_arena, make_pages
        self._traps = Traps()
        self.local: PageTable
        """Pages that need no request: those that are resident, and those on disk."""
        self.begin(0)

    @property
    def size(self) -> int:
        return self.requester.size

    @property
    def window(self) -> int:
        """The most bytes to pin for one read: under a bound on memory, an eighth of it, so that readers share it."""
        limit = self.options.max_resident_bytes
        return self.size or 1 if limit is None else max(PAGE, limit // 8 // PAGE * PAGE)

    def use_link(self, link: Link) -> None:
        """What other files of the same server have taught of the line is known here too. Before `begin`."""
        self.link = self.requester.link = link

    def begin(self, size: int, disk: DiskCache | None = None) -> None:
        """The size is known: make room. `disk`: what is kept of the file there. Raises OSError where there is no such
        room."""
        options, limit, readahead = self.options, self.options.max_resident_bytes, self.options.readahead
        self.requester.size = size
        self.arena = self._make_arena(size)
        self.pages = self.local = self._make_pages(size)
        self._look_at = LOOK_EVERY if limit is None else sys.maxsize
        self.disk = disk
        self._last_load = (0, 0)  # where the last read from the disk ended, and how long it was
        if disk is not None:
            self.local = PageTable(size)
            for run in disk.pages.runs():
                self.local.mark(*run)
        self._gaps = Gaps(self.local, self.cache, self._traps, options.minimum_range_request_bytes)
        self.policy = Policy(
            size,
            self.link,
            largest=readahead if isinstance(readahead, int) else None if readahead == "auto" else 0,
            least=options.minimum_range_request_bytes,
            window=size if limit is None or limit >= size else limit // 2,
            connections=options.max_connections,
            absent=self._gaps.absent,
            lacks=self._gaps.lacks,
            memory=free_memory,
        )

    def _arrived(self, start: int, stop: int, *, ahead: bool = False) -> None:
        """Whole pages `[start, stop)` were filled; `ahead`: of any reader. Raises ValueError: they are not whole, and
        none is shown to anybody."""
        self.pages.whole(start, stop)
        self.arena.publish(start, stop)
        if self.options.max_resident_bytes is not None:
            self.cache.fetched(ByteRange(start, stop), self.pages)
        for page in self._traps.came(start, stop):
            if page > start:
                self.mark(start, page)
            start = page + PAGE
        if start < stop:
            self.mark(start, stop)
            if ahead and self.options.max_resident_bytes is not None:
                self.pages.touch(start, stop)  # else it would go before what its reader has read already
        self.trim()
        if self.pages.resident_bytes >= self._look_at:
            self._look_at_memory()

    def _look_at_memory(self) -> None:
        """Say once that there will be no room for more: where nothing is evicted, the system ends a process for it."""
        resident, free = self.pages.resident_bytes, free_memory()
        self._look_at = resident + LOOK_EVERY
        if free < resident // SCARCE:
            self._look_at = sys.maxsize
            what = f"{self.requester.where()}: {resident >> 20} MiB of it are in memory, {free >> 20} MiB are free"
            log.warning("%s: max_resident_bytes=... bounds that, stream() keeps nothing", what)

    def mark(self, start: int, stop: int) -> None:
        """Whole pages `[start, stop)` are in the arena."""
        self.pages.mark(start, stop)
        if self.local is not self.pages:
            self.local.mark(start, stop)

    def clear(self, start: int, stop: int) -> None:
        """Resident pages `[start, stop)` are to leave the arena, or have left it."""
        self.pages.clear(start, stop)
        if self.disk is not None:
            self.local.clear(start, stop)
            for run in self.disk.pages.runs(start, stop):
                self.local.mark(*run)

    def took(self, extent: ByteRange) -> None:
        """Whole pages are in the arena, brought by another process."""
        self.mark(*extent)
        if self.options.max_resident_bytes is not None:
            self.cache.fetched(extent, self.pages)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    # traps

    def _spring(self, start: int, stop: int) -> bool:
        """Hand over what is withheld of `[start, stop)`, and forget the traps there. Whether anything was withheld."""
        if not self._traps or not self._traps.touches(start, stop):
            return False
        self.arena.unwatch(start, stop)
        pages = self._traps.disarm(start, stop)
        for page in pages:
            self.mark(page, min(page + PAGE, self.size))
        return bool(pages)

    def _withheld(self) -> list[ByteRange]:
        return [ByteRange(page, min(page + PAGE, self.size)) for page in self._traps.withheld(0, self.size)]

    # room

    @property
    def resident_bytes(self) -> int:
        """Bytes of the file that are in memory."""
        resident, pages = self.pages.resident_bytes, self._traps.withheld(0, self.size)
        if not pages:
            return resident
        return resident + len(pages) * PAGE - max(0, pages[-1] + PAGE - self.size)

    def resident_ranges(self) -> list[ByteRange]:
        """The runs of bytes that are in memory, whole pages, sorted."""
        return coalesce([*self.pages.runs(), *self._withheld()])

    def pin(self, start: int, stop: int, *, brief: bool = False) -> Pin:
        """Keep the pages of `[start, stop)` from being evicted until `unpin`; `brief`: for as long as a read takes."""
        return self.cache.pin(start - start % PAGE, -(-stop // PAGE) * PAGE, brief=brief)

    def unpin(self, pin: Pin | None) -> None:
        if pin is not None:
            self.let_go(pin.held)

    def let_go(self, held: Held) -> None:
        """Nobody keeps that from being evicted any longer."""
        if self.pager is not None:  # first: of what is let go here, no interrupt can remind anybody
            self.pager.let_go(held)
        self.cache.let_go(held)
        self.trim()

    def keep(self, start: int, stop: int) -> None:
        """Keep pages from being evicted for ever."""
        self.cache.hold(Held(start - start % PAGE, -(-stop // PAGE) * PAGE, brief=False))

    def keep_touched(self, at: int) -> None:
        """A thread is blocked at byte `at`: keep that page for a while. What it touches in the same instruction would
        push it out else, and it would never go on."""
        if self.options.max_resident_bytes is not None:
            self._touched.append(self.pin(at, at + 1, brief=True))
            if len(self._touched) > TOUCHED:
                self.cache.unpin(self._touched.popleft())

    def let_touched_go(self) -> None:
        """All of it may be evicted."""
        while self._touched:
            self.cache.unpin(self._touched.popleft())

    def trim(self) -> None:
        """Evict the least recently used extents while more is resident than `max_resident_bytes` allows."""
        limit = self.options.max_resident_bytes
        if limit is None or self.pager is not None:  # where there is a pager, it is the one to evict
            return
        limit = max(limit // 2, limit - self.arena.overhead)
        if self.resident_bytes <= limit:
            return
        for victim in self.cache.victims(self.pages):
            self.evict(*victim)
            if self.resident_bytes <= limit:
                return

    def discard(self, start: int, stop: int) -> PlanGen[None]:
        """`evict`, whoever is the one to do it."""
        if self.pager is not None:
            yield Wait(self.pager.evict(start, stop))
        else:
            self.evict(start, stop)

    def evict(self, start: int, stop: int) -> None:
        """Give back the pages of `[start, stop)` that are in memory and not pinned."""
        self._spring(start, stop)
        for run in list(self.pages.runs(start, stop)):
            for part in list(self.cache.unpinned(run)):
                self.clear(*part)
                self.epoch[0] += 1  # before the bytes go: who copied meanwhile will see that it changed
                self.arena.evict(*part)
                self.stats.evictions += 1
