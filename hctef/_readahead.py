"""Access-pattern detection: how far beyond what was asked to fetch. Pure.

So far it knows one pattern, the sequential one, and treats it as Linux does (`mm/readahead.c`): the window begins
small and
doubles while reads go on where the ones before ended; when a read crosses the mark at the last window's beginning,
the next
window is asked for behind the reader, so that the network and the reader work at the same time. A jump ends it.
"""

from __future__ import annotations

from hctef._ranges import ByteRange

FIRST_WINDOW = 64 * 1024
LARGEST_WINDOW = 4 * 1024 * 1024
"""About bandwidth times latency of a fast line (1 Gbit/s, 32 ms); two windows are in flight at the most."""

NEVER = 1 << 63


class Readahead:
    """What one cursor has read, as far as it tells what it will."""

    __slots__ = ("_next", "_seen", "_slack", "_window", "largest", "mark")

    def __init__(self, option: str | int = "auto", slack: int = 0) -> None:
        """`slack`: bytes that one request brings beyond a short read; a reader of them is sequential, though it
        hits."""
        self._slack = slack
        self.largest = LARGEST_WINDOW if option == "auto" else 0 if isinstance(option, str) else option
        """Bytes; 0: none is done."""
        self.mark = NEVER
        """A read that ends beyond it is worth a call of `reached`."""
        self._next = self._seen = NEVER
        self._window = 0

    def missed(self, start: int, stop: int) -> int:
        """A read of `[start, stop)` found bytes missing. Returns to where it is worth fetching, at least `stop`."""
        goes_on = self._seen <= start <= self._next + self._slack and bool(self.largest)
        self._seen = stop
        if not goes_on:
            self._next, self._window, self.mark = stop, 0, NEVER
            return stop
        if stop <= self.mark < NEVER:
            return stop  # its bytes are under way
        self._ask(max(stop, self._next))
        return self._next

    def reached(self, stop: int) -> ByteRange | None:
        """A read that ends at `stop` beyond the mark was a hit. Returns what to fetch behind it, if anything."""
        if not self.mark < stop <= self._next or not self.largest:
            self.mark = NEVER  # a read elsewhere: the next miss tells whether the sequence goes on
            return None
        self._seen = stop
        begin = self._next
        self._ask(begin)
        return ByteRange(begin, self._next)

    def _ask(self, begin: int) -> None:
        """The next window, at `begin`. The mark is its middle: the one after it is asked for when half of it is
        there, so
        that one ends while the other goes on. Two that begin together would end together, and leave the line idle."""
        self._window = min(self.largest, max(FIRST_WINDOW, 2 * self._window))
        self._next = begin + self._window
        self.mark = begin + self._window // 2
