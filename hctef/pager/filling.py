"""The pager's side of an arena: it is filled in other processes' memory, and never mapped here.

A mapping of the memfd that is not registered with userfaultfd would make zeros of holes, so bytes go the other way:
they are copied from this process's memory (`_uffd.copy`) into absent pages of whoever has them mapped. Whole pages are
copied from the network's own buffer; parts of pages wait in a private mapping until the rest has come (`publish`).
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator

from hctef import _uffd
from hctef._arena import Buffer
from hctef._memory import anonymous
from hctef._pages import PageTable
from hctef._ranges import PAGE
from hctef._raw import address
from hctef._shared_memory import populated, punch

REGION = 2 * 1024 * 1024
"""The memory that one page of page tables maps, on x86-64 and with 4 KiB pages on others."""


class Uses:
    """Around calls with descriptors: none of them is closed meanwhile, for its number may be another's then."""

    __slots__ = ("_count", "_guard", "_later", "close")

    def __init__(self) -> None:
        self.close: Callable[[int], None] = os.close
        """Closes a descriptor that is of no use any more. The loop that waits for it sets its own."""
        self._guard = threading.Lock()
        self._count = 0
        self._later: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        with self._guard:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._count -= 1
            if self._count or not self._later:
                return
            later, self._later = self._later, []
        for action in later:
            action()

    def then(self, action: Callable[[], None]) -> None:
        """Do it, in any thread, once every call that is under way now has ended."""
        with self:
            self._later.append(action)

    def condemn(self, fds: Iterable[int]) -> None:
        """Close these once no call uses any."""
        for fd in fds:
            self.then(functools.partial(self._close, fd))

    def _close(self, fd: int) -> None:
        self.close(fd)


class FillingArena:
    """See `hctef._arena.Arena`. Thread-safe where the ranges are disjoint."""

    bytes: mmap.mmap

    def __init__(self, size: int, base: int, memfd: int) -> None:
        """`base`: where the arena lies in each of the processes. Takes over the descriptor."""
        self.size = size
        self.base = base
        self.memfd = memfd
        self.uffds: list[int] = []
        """Of the processes that map it: the parent's, and forked children's. All of them share the pages."""
        self.bytes = anonymous(size)
        self._staging = address(self.bytes)
        self._staged: set[int] = set()
        self._watched: set[int] = set()
        self.withheld: dict[int, Buffer] = {}
        """Pages that came and are not handed over yet: a reader's fault there tells how far it is."""
        self._regions: set[int] = set()
        self._guard = threading.Lock()
        self.uses = Uses()
        self._closed = False

    @property
    def overhead(self) -> int:
        """Page tables, which stay until the mapping goes."""
        return len(self._regions) * PAGE * len(self.uffds)

    def fill(self, start: int, data: Buffer) -> None:
        stop = start + len(data)
        first, last = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
        if first > last:  # inside one page
            first = last = start
        self._stage(start, data, 0, min(first, stop) - start)
        if first < last:
            self._copy(first, last, data, first - start)
        if last < stop and last >= first:
            self._stage(last, data, last - start, stop - start)

    def _stage(self, at: int, data: Buffer, begin: int, end: int) -> None:
        """`data[begin:end]`, a part of the page of `at`, waits for the rest."""
        if begin < end:
            self.bytes[at : at + end - begin] = data[begin:end]
            self._staged.add(at // PAGE * PAGE)

    def _unstage(self, page: int) -> None:
        self._staged.discard(page)
        self.bytes.madvise(mmap.MADV_DONTNEED, page, PAGE)

    def _copy(self, start: int, stop: int, data: Buffer, offset: int) -> None:
        """Hand over whole pages `[start, stop)`, which lie at `offset` of `data`, but for one that is watched."""
        if self._staged:  # parts of them, of a transfer that broke off: `publish` is not to find those
            for page in [page for page in list(self._staged) if start <= page < stop]:
                self._unstage(page)
        if self._watched:
            for page in sorted(page for page in list(self._watched) if start <= page < stop):
                at = page - start + offset
                if self._withhold(page, bytes(data[at : at + PAGE])):
                    self._send(start, page, data, offset)
                    offset, start = at + PAGE, page + PAGE
        self._send(start, stop, data, offset)

    def _withhold(self, page: int, data: Buffer) -> bool:
        """Keep a page back, unless it is no longer watched: whoever unwatches it looks here only once."""
        with self._guard:
            if page not in self._watched:
                return False
            self._watched.discard(page)
            self.withheld[page] = data
            return True

    def _send(self, start: int, stop: int, data: Buffer, offset: int) -> None:
        if start < stop:
            self._copy_from(start, stop, address(data) + offset)

    def _copy_from(self, start: int, stop: int, source: int) -> None:
        self._regions.update(range(start // REGION, -(-stop // REGION)))
        length = -(-(stop - start) // PAGE) * PAGE
        todo = [(0, length)]
        with self.uses:
            for number, uffd in enumerate(list(self.uffds)):
                if number > 0:
                    _uffd.wake(uffd, self.base + start, length)  # the pages are shared: it finds them
                try:
                    todo = [
                        (begin + first, begin + last)
                        for begin, end in todo  # what no process before this one has mapped
                        for first, last in _uffd.copy(uffd, self.base + start + begin, source + begin, end - begin)
                    ]
                except ProcessLookupError:
                    self.drop(uffd)

    def publish(self, start: int, stop: int) -> None:
        for page in [page for page in list(self._staged) if start <= page < stop]:
            if page not in self._watched or not self._withhold(page, self.bytes[page : page + PAGE].ljust(PAGE, b"\0")):
                self._copy_from(page, page + PAGE, self._staging + page)
            self._unstage(page)

    def room(self, start: int, stop: int, end: int = 0) -> memoryview | None:
        """Nowhere: this process does not map it."""
        return None

    def gather(self, start: int, stop: int) -> None:
        """Nothing: what is not staged takes no memory here."""

    # the reader's own fault tells how far it is

    def watch(self, page: int) -> None:
        self._watched.add(page)

    def unwatch(self, start: int, stop: int) -> None:
        start -= start % PAGE
        with self._guard:
            self._watched -= {page for page in self._watched if start <= page < stop}
            found = {page: self.withheld.pop(page) for page in list(self.withheld) if start <= page < stop}
        for page, data in found.items():
            self._send(page, page + PAGE, data, 0)

    # whoever is blocked

    def holds(self, page: int) -> bool:
        """Whether the page is in the memfd: the truth, which the page tables follow."""
        return any(True for _ in populated(self.memfd, page, page + PAGE))

    def found(self) -> Iterator[tuple[int, int]]:
        """The runs of pages that are in the memfd."""
        for start, stop in populated(self.memfd, 0, -(-self.size // PAGE) * PAGE):
            self._regions.update(range(start // REGION, -(-stop // REGION)))
            yield start, stop

    def wake(self, start: int, stop: int) -> None:
        with self.uses:
            for uffd in list(self.uffds):
                _uffd.wake(uffd, self.base + start, -(-(stop - start) // PAGE) * PAGE)

    def poison(self, start: int, stop: int) -> None:
        """A touch of the absent pages of `[start, stop)` is a SIGBUS from now on, as after an I/O error of mmap's."""
        try:
            with self.uses:
                for uffd in list(self.uffds):
                    _uffd.poison(uffd, self.base + start, stop - start)
        except OSError:  # before Linux 6.6: all of the arena goes, for what is beyond a file's end is a SIGBUS too
            os.ftruncate(self.memfd, 0)
        self.wake(start, stop)

    def add(self, uffd: int) -> None:
        """One more process has it mapped."""
        self.uffds.append(uffd)

    def drop(self, uffd: int) -> None:
        """The process of `uffd` is gone."""
        with self.uses:
            if uffd in self.uffds:
                self.uffds.remove(uffd)
                self.uses.condemn([uffd])

    def view(self, start: int, stop: int) -> memoryview:
        """Never: the pager does not see the bytes that it brought."""
        raise NotImplementedError

    def evict(self, start: int, stop: int) -> None:
        for page in [page for page in list(self.withheld) if start <= page < stop]:
            self.withheld.pop(page, None)
        with self.uses:
            if not self._closed:
                punch(self.memfd, start, -(-(stop - start) // PAGE) * PAGE)

    def close(self) -> None:
        with self.uses:
            if not self._closed:
                self._closed = True
                self.uses.condemn([*self.uffds, self.memfd])
                self.uffds.clear()


COUNTERS = ("resident_bytes", "requests", "bytes_fetched", "bytes_loaded", "retries", "waits", "evictions", "faults")
_COUNTERS = struct.Struct(f"<{len(COUNTERS)}q")


def table_bytes(size: int) -> int:
    """The length of a shared page table: a byte a page, and the counters."""
    return -(-size // PAGE) + _COUNTERS.size


class MirroredPageTable(PageTable):
    """The pager's own page table, and a copy of it that other processes look at. The copy is a hint: who finds a page
    in it that was just evicted faults, and gets it."""

    __slots__ = ("_mirror", "came")

    def __init__(self, size: int, mirror: mmap.mmap) -> None:
        super().__init__(size)
        self._mirror = mirror
        self.came: Callable[[int, int], None] = lambda start, stop: None
        """Told of pages that are there, in whatever thread brought them."""

    def mark(self, start: int, stop: int) -> None:
        super().mark(start, stop)
        self._copy(start, stop)
        self.came(start, stop)

    def clear(self, start: int, stop: int) -> None:
        super().clear(start, stop)
        self._copy(start, stop)

    def _copy(self, start: int, stop: int) -> None:
        first, last = start // PAGE, -(-stop // PAGE)
        self._mirror[first:last] = self.rows[first:last]

    def count_up(self, **counters: int) -> None:
        """Show the counters."""
        _COUNTERS.pack_into(self._mirror, self.count, *(counters[name] for name in COUNTERS))

    def counted(self) -> dict[str, int]:
        """What a pager before this one counted."""
        return read_counters(self._mirror, self.count)


def read_counters(table: mmap.mmap, count: int) -> dict[str, int]:
    """The counters of the shared table of a file of `count` pages."""
    return dict(zip(COUNTERS, _COUNTERS.unpack_from(table, count), strict=True))
