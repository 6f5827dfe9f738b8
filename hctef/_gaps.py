"""Gaps: what is absent of one file and fetched by nobody, and the requests that are worth making for it. No I/O.

It joins the page table (what is resident), the claims (what is being fetched) and the traps (what is withheld).
"""

from __future__ import annotations

from collections.abc import Iterable

from hctef._intervals import IntervalCache
from hctef._pages import PageTable
from hctef._ranges import PAGE, ByteRange, align, subtract
from hctef._traps import Traps


class Gaps:
    """The gaps of a file of `size` bytes. Not thread-safe: its owner holds the lock."""

    __slots__ = ("_cache", "_least", "_pages", "_size", "_traps")

    def __init__(self, pages: PageTable, cache: IntervalCache, traps: Traps, least: int) -> None:
        """`least`: bytes that a request asks for, where the gap allows it."""
        self._pages, self._cache, self._traps = pages, cache, traps
        self._size, self._least = pages.size, least

    def absent(self, start: int, stop: int) -> int:
        """Bytes of the pages of `[start, stop)` that are neither resident nor being fetched."""
        # Counted, not listed: a region that was read at random has thousands of gaps.
        pages = self._pages
        absent, at = pages.missing_bytes(start, stop), start - start % PAGE
        claims = self._cache.claims(at, stop) if absent else ()
        for claim in claims:
            absent -= pages.missing_bytes(max(at, claim.at), min(stop, claim.stop))
        for page in self._traps.withheld(at, stop) if absent else ():
            if not any(claim.at <= page < claim.stop for claim in claims):
                absent -= min(PAGE, self._size - page)
        return absent

    def lacks(self, start: int, stop: int) -> bool:
        """Whether any of these is."""
        at = self._pages.first_missing(start, stop)
        if at >= stop:
            return False
        is_free = not self._cache.claims(at, stop) and not self._traps.withheld(at - at % PAGE, stop)
        return is_free or self.first(at, stop, stop - at) is not None

    def unclaimed(self, start: int, stop: int) -> list[ByteRange]:
        """The runs of whole pages in `[start, stop)` that are absent and that nobody fetches, in order."""
        return [part for gap in self._pages.missing(start, stop) for part in self.free(gap)]

    def free(self, gap: ByteRange) -> Iterable[ByteRange]:
        """The parts of a run of absent pages that nobody fetches, in order."""
        taken = [(claim.at, claim.stop) for claim in self._cache.claims(*gap)]
        taken += [(page, page + PAGE) for page in self._traps.withheld(*gap)]
        return subtract(gap, sorted(taken)) if taken else (gap,)

    def first(self, start: int, stop: int, most: int) -> ByteRange | None:
        """The first gap in `[start, stop)`, of whole pages, cut to those that hold `most` bytes: it costs what lies
        before the gap, not behind it."""
        at, stop = align(start, stop, self._size)
        while at < stop:
            at = self._pages.first_missing(at, stop)
            if at >= stop:
                return None
            end = self._pages.missing_end(at, align(at, min(stop, at + most), self._size).stop)
            for gap in self.free(ByteRange(at, end)):
                return gap
            at = end
        return None

    def extents(self, gaps: list[ByteRange]) -> list[ByteRange]:
        """The requests that fetch the gaps: near ones merged, short ones made `least` long.

        Only pages that are absent and not claimed are added: no byte is asked for twice.
        """
        least = self._least
        if len(gaps) == 1 and gaps[0].length >= least:
            return gaps
        merged: list[ByteRange] = []
        for gap in gaps:
            if (
                merged
                and gap.start - merged[-1].stop < least
                and self._free_end(merged[-1].stop, gap.start) == gap.start
            ):
                merged[-1] = ByteRange(merged[-1].start, gap.stop)
            else:
                merged.append(gap)
        before = 0
        found: list[ByteRange] = []
        after = [extent.start for extent in merged[1:]] + [self._size]
        for extent, limit in zip(merged, after, strict=False):
            start, stop = extent
            if stop - start < least:
                stop = self._free_end(stop, min(limit, align(start, start + least, self._size).stop))
            if stop - start < least:
                start = self._free_start(start, max(before, (stop - least) // PAGE * PAGE, 0))
            before = stop
            found.append(ByteRange(start, stop))
        return found

    def _free_end(self, start: int, limit: int) -> int:
        """How far from page boundary `start` pages are absent and unclaimed, at most `limit`."""
        if start >= limit:
            return start
        end = self._pages.missing_end(start, limit)
        taken = [claim.at for claim in self._cache.claims(start, end)] if end > start else []
        taken += self._traps.withheld(start, end)
        return max(start, min([end, *taken]))

    def _free_start(self, stop: int, limit: int) -> int:
        """How far back from page boundary `stop` pages are absent and unclaimed, not before `limit`."""
        start = self._pages.missing_start(stop, limit) if stop > limit else stop
        taken = [claim.stop for claim in self._cache.claims(start, stop)] if stop > start else []
        taken += [page + PAGE for page in self._traps.withheld(start, stop)]
        return min(stop, max([start, *taken]))
