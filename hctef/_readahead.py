"""Access-pattern detection: how far beyond what was asked to fetch. Pure.

So far it knows one pattern, the sequential one, as operating systems do (Linux `mm/readahead.c`): the window begins
small,
doubles while reads go on where the one before ended, and is gone with the first jump.
"""

from __future__ import annotations

FIRST_WINDOW = 64 * 1024
LARGEST_WINDOW = 4 * 1024 * 1024
"""About bandwidth times latency of a fast line (1 Gbit/s, 32 ms)."""


class Readahead:
    """What one cursor has read, as far as it tells what it will."""

    __slots__ = ("_next", "_window", "largest")

    def __init__(self, option: str | int = "auto") -> None:
        self.largest = LARGEST_WINDOW if option == "auto" else 0 if isinstance(option, str) else option
        self._next = -1
        self._window = 0

    def missed(self, start: int, stop: int) -> int:
        """A read of `[start, stop)` missed. Returns to where it is worth fetching, at least `stop`."""
        if start == self._next:
            self._window = min(self.largest, max(FIRST_WINDOW, 2 * self._window))
        else:
            self._window = 0
        self._next = stop + self._window
        return self._next
