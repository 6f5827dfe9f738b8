"""Traps: pages whose first touch is to be heard of.

A hit takes no lock and tells nobody. Where the policy must hear how far a reader has come, to have the next window
under way in time, it names a page that is on its way: when that page comes it is withheld (not marked resident, in the
pager's arena not even handed over), so that the first touch of it takes the slow way, which springs the trap. No
request, no copy: a sprung trap costs as much as a miss without the network.
"""

from __future__ import annotations

from hctef._ranges import PAGE

MOST = 256
"""Traps at once: those of readers that went elsewhere are never sprung, and are the first to go."""


class Traps:
    """The traps of one file: offsets of pages. Not thread-safe: its owner holds the lock."""

    __slots__ = ("_armed", "_withheld")

    def __init__(self) -> None:
        self._armed: dict[int, None] = {}
        self._withheld: dict[int, None] = {}

    def __bool__(self) -> bool:
        return bool(self._armed or self._withheld)

    @property
    def withheld(self) -> list[int]:
        """The pages that have come and were not touched yet, sorted."""
        return sorted(self._withheld) if self._withheld else []

    def arm(self, page: int) -> int | None:
        """Withhold an absent page when it comes. Returns a page to disarm in its place, where there are too many."""
        self._armed[page] = None
        if len(self._armed) + len(self._withheld) <= MOST:
            return None
        return next(iter(self._withheld or self._armed))

    def came(self, start: int, stop: int) -> list[int]:
        """Pages `[start, stop)` have come. Returns those of them to withhold, sorted."""
        if not self._armed:
            return []
        found = sorted(page for page in self._armed if start <= page < stop)
        for page in found:
            del self._armed[page]
            self._withheld[page] = None
        return found

    def touches(self, start: int, stop: int) -> bool:
        """Whether there is any trap in `[start, stop)`."""
        first = start - start % PAGE
        return any(first <= page < stop for page in (*self._armed, *self._withheld))

    def disarm(self, start: int, stop: int) -> list[int]:
        """No trap is left in `[start, stop)`. Returns the pages that were withheld there: they are to be marked."""
        first = start - start % PAGE
        for page in [page for page in self._armed if first <= page < stop]:
            del self._armed[page]
        found = [page for page in self._withheld if first <= page < stop]
        for page in found:
            del self._withheld[page]
        return found
