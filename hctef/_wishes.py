"""Wishes: what the policy would have fetched behind the readers, and how much of it is under way.

A wish is no claim: nobody waits for it, and whoever needs a part of it at once just fetches that. It becomes requests
piece by piece, as many at once as the policy finds worth it, the latest wish first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from hctef._gaps import Gaps
from hctef._ranges import PAGE, ByteRange

MOST = 128
"""Wishes kept: older ones are of readers that went elsewhere."""


LONG = 128 * 1024
"""Bytes: a longer wish is brought piece by piece, in order; shorter ones are independent of each other."""


class Wishes:
    """The wishes for one file. Not thread-safe: its owner holds the lock."""

    __slots__ = ("_owners", "_queue", "bytes")

    def __init__(self) -> None:
        self._queue: deque[tuple[ByteRange, bool, int]] = deque()  # the rest of each; whether it was long; when it came
        self._owners: list[ByteRange] = []  # long reads, each of which is to come behind its reader
        self.bytes = 0
        """Of the requests under way, that are still to come."""

    def __bool__(self) -> bool:
        """Whether anything is wished for."""
        return bool(self._queue)

    @property
    def short(self) -> bool:
        """Whether the latest wish is brought at once."""
        return bool(self._queue) and not self._queue[0][1]

    def push(self, ranges: Iterable[ByteRange], now: int = 0) -> None:
        """Ranges, most wanted first, before all that was wished for earlier. `now`: for `expire`."""
        wishes = [(item, item.length >= LONG, now) for item in ranges if item.start < item.stop]
        self._queue.extendleft(reversed(wishes))
        while len(self._queue) > MOST:
            self._queue.pop()

    def expire(self, before: int) -> None:
        """Forget what was pushed earlier: where memory is bounded, what came of it has been read, and may be absent."""
        while self._queue and self._queue[-1][2] < before:
            self._queue.pop()

    def first(self, gaps: Gaps, most: int) -> tuple[ByteRange, bool] | None:
        """What is wanted most of all that is absent and fetched by nobody, at most `most` bytes, and whether it is of a
        long wish; None: nothing is wished for any longer."""
        while self._queue:
            (start, stop), long, _ = self._queue[0]
            gap = gaps.first(start, stop, most)
            if gap is not None:
                return gap, long
            self._queue.popleft()
        return None

    def last(self, gaps: Gaps, most: int) -> ByteRange | None:
        """The end of the wish of which `first` returned a part, at most `most` bytes, where it is all absent."""
        (start, stop), *_ = self._queue[0]
        begin = (stop - 1) // PAGE * PAGE - most + PAGE
        if begin <= start or gaps.unclaimed(begin, stop) != [ByteRange(begin, stop)]:
            return None
        return ByteRange(begin, stop)

    def take(self, start: int, stop: int, length: int) -> None:
        """`[start, stop)` of what `first` or `last` returned is asked for now, by a request for `length` bytes."""
        wish, long, came = self._queue.popleft()
        if stop < wish.stop:
            self._queue.appendleft((ByteRange(stop, wish.stop), long, came))
        elif wish.start < start:
            self._queue.appendleft((ByteRange(wish.start, start), long, came))
        self.bytes += length

    def came(self, length: int) -> None:
        """So many bytes of what was asked for came."""
        self.bytes -= length

    def own(self, whole: ByteRange) -> None:
        """Push what a long read wants to have come, until `disown`."""
        self._owners.append(whole)
        self.push([whole])

    def disown(self, whole: ByteRange, *, ended: bool) -> None:
        """A long read has all of it; or `ended` early: then what lies in it is not wished for any longer, but by other
        long reads."""
        if whole in self._owners:  # not in a child, where it is the parent's
            self._owners.remove(whole)
        if ended:
            start, stop = whole
            self._queue = deque(wish for wish in self._queue if not start <= wish[0].start < wish[0].stop <= stop)
            self.push(each for each in self._owners if each.start < stop and start < each.stop)

    def clear(self) -> None:
        self._queue.clear()
