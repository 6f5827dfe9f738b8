"""Wishes: what the policy would have fetched behind the readers, and how much of it is under way.

A wish is no claim: nobody waits for it, and whoever needs a part of it at once just fetches that. It becomes requests
piece by piece, as many at once as the policy finds worth it, the latest wish first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from hctef._gaps import Gaps
from hctef._ranges import ByteRange

MOST = 128
"""Wishes kept: older ones are of readers that went elsewhere."""


class Wishes:
    """The wishes for one file. Not thread-safe: its owner holds the lock."""

    __slots__ = ("_queue", "bytes", "count")

    def __init__(self) -> None:
        self._queue: deque[ByteRange] = deque()
        self.count = 0
        """Requests under way."""
        self.bytes = 0
        """That they have asked for."""

    def __bool__(self) -> bool:
        """Whether anything is wished for."""
        return bool(self._queue)

    def push(self, ranges: Iterable[ByteRange]) -> None:
        """Ranges, most wanted first, before all that was wished for earlier."""
        self._queue.extendleft(reversed([item for item in ranges if item.start < item.stop]))
        while len(self._queue) > MOST:
            self._queue.pop()

    def pop(self, gaps: Gaps, piece: int, few: int) -> ByteRange | None:
        """The next piece to ask for, at most `piece` bytes; None: nothing is wished for any longer, or it is part of a
        long wish, and `few` requests are under way."""
        while self._queue:
            wish = self._queue[0]
            gap = gaps.first(wish.start, wish.stop, piece)
            if gap is None:
                self._queue.popleft()
                continue
            if gap.length >= piece and self.count >= few:
                return None
            if gap.stop < wish.stop:
                self._queue[0] = ByteRange(gap.stop, wish.stop)
            else:
                self._queue.popleft()
            return gap
        return None

    def begun(self, length: int) -> None:
        """A request for so many bytes goes out."""
        self.count += 1
        self.bytes += length

    def ended(self, length: int) -> None:
        """It is over, whatever came of it."""
        self.count -= 1
        self.bytes -= length

    def clear(self) -> None:
        self._queue.clear()
