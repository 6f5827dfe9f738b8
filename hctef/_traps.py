"""Traps: pages whose first touch is to be heard of.

A hit takes no lock and tells nobody. Where the policy must hear how far a reader has come, to have the next window
under way in time, it names a page that is on its way: when that page comes it is withheld (not marked resident, in the
pager's arena not even handed over), so that the first touch of it takes the slow way, which springs the trap. No
request, no copy: a sprung trap costs as much as a miss without the network.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from hctef._ranges import PAGE

MOST = 256
"""Traps at once: those of readers that went elsewhere are never sprung, and are the first to go."""


class _Pages:
    """Offsets of pages, by their order and by their age."""

    __slots__ = ("_ages", "order")

    def __init__(self) -> None:
        self._ages: dict[int, None] = {}
        self.order: list[int] = []
        """Sorted."""

    @property
    def oldest(self) -> int:
        return next(iter(self._ages))

    def add(self, page: int) -> None:
        if page not in self._ages:
            self._ages[page] = None
            insort(self.order, page)

    def touch(self, start: int, stop: int) -> bool:
        """Whether any is in `[start, stop)`."""
        order = self.order
        index = bisect_left(order, start)
        return index < len(order) and order[index] < stop

    def within(self, start: int, stop: int) -> list[int]:
        """Those in `[start, stop)`, sorted."""
        index = bisect_left(self.order, start)
        return self.order[index : bisect_left(self.order, stop, index)]

    def take(self, start: int, stop: int) -> list[int]:
        """Remove those in `[start, stop)`; return them, sorted."""
        index = bisect_left(self.order, start)
        end = bisect_left(self.order, stop, index)
        taken = self.order[index:end]
        for page in taken:
            self._ages.pop(page, None)  # an interrupt may have come here before
        del self.order[index:end]
        return taken


class Traps:
    """The traps of one file: offsets of pages. Not thread-safe: its owner holds the lock."""

    __slots__ = ("_armed", "_withheld")

    def __init__(self) -> None:
        self._armed, self._withheld = _Pages(), _Pages()

    def __bool__(self) -> bool:
        return bool(self._armed.order or self._withheld.order)

    def withheld(self, start: int, stop: int) -> list[int]:
        """The pages that begin in `[start, stop)`, have come, and were not touched yet, sorted."""
        return self._withheld.within(start, stop) if self._withheld.order else []

    def arm(self, page: int) -> int | None:
        """Withhold an absent page when it comes. Returns a page to disarm in its place, where there are too many."""
        self._armed.add(page)
        if len(self._armed.order) + len(self._withheld.order) <= MOST:
            return None
        return (self._withheld if self._withheld.order else self._armed).oldest

    def came(self, start: int, stop: int) -> list[int]:
        """Pages `[start, stop)` have come. Returns those of them to withhold, sorted."""
        found = self._armed.take(start, stop) if self._armed.order else []
        for page in found:
            self._withheld.add(page)
        return found

    def touches(self, start: int, stop: int) -> bool:
        """Whether there is any trap in `[start, stop)`."""
        first = start - start % PAGE
        return self._armed.touch(first, stop) or self._withheld.touch(first, stop)

    def disarm(self, start: int, stop: int) -> list[int]:
        """No trap is left in `[start, stop)`. Returns the pages that were withheld there: they are to be marked."""
        first = start - start % PAGE
        self._armed.take(first, stop)
        return self._withheld.take(first, stop)
