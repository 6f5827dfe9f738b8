"""Policy: what to fetch beyond what was asked for. Pure: no I/O, no clock. (First, simple version.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hctef._link import Link
from hctef._ranges import PAGE, ByteRange

SMALLEST_BLOCK = 16 * 1024
FIRST_BLOCK = 64 * 1024
STREAMS = 32


@dataclass(frozen=True, slots=True)
class Advice:
    """What an access is worth fetching."""

    block: ByteRange
    """Covers the access; fetched now, by its reader, who waits for all of it."""
    behind: tuple[ByteRange, ...] = ()
    """Fetched behind the reader, most wanted first; may overlap what is resident or in flight."""
    traps: tuple[int, ...] = ()
    """Offsets whose pages are to be withheld when they come, so that their first touch is reported."""


class _Stream:
    __slots__ = ("asked", "seen", "window")

    def __init__(self, seen: int, asked: int) -> None:
        self.seen, self.asked, self.window = seen, asked, 0


class Policy:
    """What the readers of one file have read, as far as it tells what they will."""

    def __init__(
        self,
        size: int,
        link: Link,
        *,
        largest: int | None,
        least: int,
        window: int,
        connections: int,
        absent: Callable[[int, int], int],
    ) -> None:
        self._size, self._link, self._largest, self._least = size, link, largest, least
        self._window, self._connections, self._absent = window, connections, absent
        self._streams: list[_Stream] = []
        self._hint = "normal"

    @property
    def piece(self) -> int:
        """The largest single background request, bytes."""
        return max(1 << 20, int(self._link.product) // PAGE * PAGE)

    @property
    def in_flight(self) -> int:
        """Background bytes in flight at most."""
        return max(4 << 20, 3 * int(self._link.product))

    def advise(self, hint: str) -> None:
        """'normal', 'sequential' or 'random', as madvise has them."""
        self._hint = hint

    def waited(self, seconds: float) -> None:
        """A reader waited so long for the network, in the access just before."""

    def access(self, start: int, stop: int, now: float, *, missing: bool, trapped: bool = False) -> Advice:
        """A read that was no plain hit."""
        exact = ByteRange(start, stop)
        if self._largest == 0 or self._hint == "random":
            return Advice(exact)
        unit = FIRST_BLOCK if self._link.product >= 32 * FIRST_BLOCK else FIRST_BLOCK // 2
        stream = next((s for s in self._streams if s.seen <= start <= s.asked + unit), None)
        if stream is None:
            block = exact
            if missing:
                block = ByteRange(start // unit * unit, min(self._size, max(stop, -(-(start + 1) // unit) * unit)))
            self._streams.insert(0, _Stream(stop, block.stop))
            del self._streams[STREAMS:]
            return Advice(block)
        self._streams.remove(stream)
        self._streams.insert(0, stream)
        stream.seen = stop
        if stop < stream.asked - stream.window // 2:
            return Advice(exact)
        most = max(1 << 20, min(2 * int(self._link.product), 16 << 20))
        most = max(PAGE, min(most, self._largest or most, self._window // 2))
        stream.window = min(most, 2 * max(stream.window, FIRST_BLOCK))
        begin = max(stop, stream.asked)
        stream.asked = min(self._size, begin + stream.window)
        block = exact
        if missing:
            block = ByteRange(start, min(self._size, max(stop, start + unit)))
        ahead = ByteRange(begin, stream.asked)
        trap = (begin + stream.window // 2) // PAGE * PAGE
        return Advice(block, (ahead,) if ahead.length > 0 else (), (trap,) if trap < stream.asked else ())
