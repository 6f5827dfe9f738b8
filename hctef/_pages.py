"""PageTable: which pages of the file are resident. One byte a page; every question is one scan at C speed.

    0  absent
    1  resident
    2  resident, and read since the last look for something to evict (the reference bit of the CLOCK algorithm)

The table is an anonymous mapping, so it takes memory only where it was written: the table of a file of 1 TiB costs
nothing until pages arrive. `rows` is the mapping itself: the readers' hit path indexes it without a lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hctef._memory import anonymous
from hctef._ranges import PAGE, ByteRange

ABSENT, RESIDENT, REFERENCED = 0, 1, 2

_ABSENT_RUN = re.compile(rb"\x00+")
_BLOCK = 1 << 16  # pages per block of `_used`: 64 KiB of table, 256 MiB of file


class PageTable:
    """The pages of a file of `size` bytes. Offsets are bytes; only whole pages are marked (the last may be short)."""

    __slots__ = ("_used", "count", "resident_bytes", "rows", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = -(-size // PAGE)
        self.rows = anonymous(self.count)
        self.resident_bytes = 0
        self._used: set[int] = set()

    def resident(self, start: int, stop: int) -> bool:
        """Whether every byte of `[start, stop)` is there. An empty range is."""
        return stop <= start or self.rows.find(b"\0", start // PAGE, -(-stop // PAGE)) < 0

    def missing(self, start: int, stop: int) -> list[ByteRange]:
        """The runs of absent pages that `[start, stop)` touches, as byte ranges of whole pages, in order."""
        runs = _ABSENT_RUN.finditer(self.rows, start // PAGE, -(-stop // PAGE))
        return [self._bytes(*run.span()) for run in runs]

    def missing_bytes(self, start: int, stop: int) -> int:
        """How many bytes of the pages of `[start, stop)` are absent."""
        if start == 0 and stop == self.size:
            return stop - self.resident_bytes  # to count takes 10 ms for 64 GiB
        return self._absent_bytes(start // PAGE, -(-stop // PAGE)) if start < stop else 0

    def absent(self, start: int, stop: int) -> int:
        """How many of the bytes `[start, stop)` are absent."""
        if start >= stop:
            return 0
        first, last = start // PAGE, (stop - 1) // PAGE
        before = 0 if self.rows[first] else start - first * PAGE
        behind = 0 if self.rows[last] else min(self.size, (last + 1) * PAGE) - stop
        return self._absent_bytes(first, last + 1) - before - behind

    def runs(self, start: int = 0, stop: int | None = None) -> Iterator[ByteRange]:
        """The runs of resident pages that `[start, stop)` touches, as byte ranges of whole pages, in order."""
        first, last = start // PAGE, self.count if stop is None else -(-stop // PAGE)
        open_run: tuple[int, int] | None = None
        used, blocks = self._used, range(first // _BLOCK, (last - 1) // _BLOCK + 1)
        for block in (each for each in blocks if each in used) if len(blocks) <= len(used) else sorted(used):
            a, b = max(first, block * _BLOCK), min(last, (block + 1) * _BLOCK)
            for begin, end in resident_runs(self.rows[a:b]) if a < b else ():
                if open_run and open_run[1] == a + begin:  # a run goes on across two blocks
                    open_run = (open_run[0], a + end)
                    continue
                if open_run:
                    yield self._bytes(*open_run)
                open_run = (a + begin, a + end)
        if open_run:
            yield self._bytes(*open_run)

    def first_missing(self, start: int, stop: int) -> int:
        """Where the first absent page of `[start, stop)` begins, `stop` where there is none."""
        page = self.rows.find(b"\0", start // PAGE, -(-stop // PAGE))
        return stop if page < 0 else max(start, page * PAGE)

    def missing_end(self, start: int, limit: int) -> int:
        """Where the run of absent pages that begins at page boundary `start` ends, at most `limit`."""
        run = _ABSENT_RUN.match(self.rows, start // PAGE, -(-limit // PAGE))
        return start if run is None else min(limit, self.size, run.end() * PAGE)

    def resident_end(self, start: int, limit: int) -> int:
        """Where the run of resident bytes that holds byte `start` ends, at most `limit`; `start` where it is absent."""
        if start >= limit:
            return start
        hole = self.rows.find(b"\0", start // PAGE, -(-limit // PAGE))
        return limit if hole < 0 else max(start, hole * PAGE)

    def missing_start(self, stop: int, limit: int) -> int:
        """Where the run of absent pages that ends at page boundary `stop` begins, not before `limit`."""
        first, page = limit // PAGE, -(-stop // PAGE)
        while page > first and not self.rows[page - 1]:
            page -= 1
        return page * PAGE

    def whole(self, start: int, stop: int) -> tuple[int, int]:
        """The numbers of whole pages, the first and the one behind the last. Raises ValueError: they are not whole."""
        if start % PAGE or (stop % PAGE and stop != self.size):
            raise ValueError(f"[{start}, {stop}) are not whole pages of a file of {self.size} bytes")
        return start // PAGE, -(-stop // PAGE)

    def mark(self, start: int, stop: int) -> None:
        """Whole pages `[start, stop)` are in the arena now. Call it after their bytes are, never before.

        Raises ValueError: they are not whole pages, so that somebody would read what is not there.
        """
        first, last = self.whole(start, stop)
        self.resident_bytes += self._absent_bytes(first, last)
        self.rows[first:last] = b"\1" * (last - first)
        low, high = first // _BLOCK, (last - 1) // _BLOCK
        if low != high or low not in self._used:
            self._used.update(range(low, high + 1))

    def clear(self, start: int, stop: int) -> None:
        """Resident run `[start, stop)` (as `runs` gave it) is about to leave the arena: call it before it does. Raises
        ValueError: as `mark`."""
        first, last = self.whole(start, stop)
        self.rows[first:last] = bytes(last - first)
        self.resident_bytes -= self._absent_bytes(first, last)

    def touch(self, start: int, stop: int) -> None:
        """Set the reference bit of the pages of `[start, stop)`, which are resident."""
        first, last = start // PAGE, -(-stop // PAGE)
        self.rows[first:last] = b"\2" * (last - first)

    def referenced(self, start: int, stop: int) -> bool:
        """Whether a page of `[start, stop)` was read since the last call; clears the bits."""
        first, last = start // PAGE, -(-stop // PAGE)
        if self.rows.find(b"\2", first, last) < 0:
            return False
        self.rows[first:last] = self.rows[first:last].replace(b"\2", b"\1")
        return True

    def counters(self) -> dict[str, int]:
        """What another process has counted: see `Stats`."""
        return {}

    def _bytes(self, first: int, last: int) -> ByteRange:
        return ByteRange(first * PAGE, min(self.size, last * PAGE))

    def _absent_bytes(self, first: int, last: int) -> int:
        """How many bytes of the file lie in the absent ones of pages `first` to `last`; the last page may be short."""
        lacking = self.count * PAGE - self.size if last == self.count and not self.rows[last - 1] else 0
        return self.rows[first:last].count(0) * PAGE - lacking


def resident_runs(rows: bytes) -> Iterator[tuple[int, int]]:
    """The runs of pages that are not absent, in order."""
    rows = rows.replace(b"\2", b"\1")
    begin = rows.find(RESIDENT)
    while begin >= 0:
        end = rows.find(ABSENT, begin)
        end = len(rows) if end < 0 else end
        yield begin, end
        begin = rows.find(RESIDENT, end)
