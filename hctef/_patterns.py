"""Patterns in the reads of a file that foretell where the next ones are: runs and strides. Pure.

Run: reads that go on where the one before ended, either way, with small gaps. Stride: runs that begin at equal
distances, or, where reads are long, at nearly equal ones (pieces of a table that are compressed). What tells of places,
not of an order, is in `_regions.py`.

Lattice: long reads whose places repeat at the same distances, in any order: columns of a table that several threads
read.

How long will a pattern go on? Nobody knows, but what has gone on for n is as likely as not to go on for another n
(Lindy's law: the chance to reach n + w is n / (n + w)); and the patterns before in the same file have told how far
they went (`Survival`: an estimator of Kaplan and Meier's kind, with that law as its prior).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container

from hctef._ranges import PAGE

HALF = PAGE // 2

PRIOR = 2.0
"""How many patterns seen the law weighs as much as."""

SLACK = 32 * 1024
"""A gap of so many bytes between two reads is none: half of what a miss usually fetches."""

KNOWN = 9
"""Distances that were right which are tried on reads that no three steps explain; less one."""


class Survival:
    """Of those patterns that reached a length, how many reached which. By powers of two."""

    __slots__ = ("died", "passed")

    def __init__(self) -> None:
        self.died = [0] * 66
        self.passed = [0] * 66

    def grew(self, before: int, now: int) -> None:
        """A pattern of length `before` is of length `now`."""
        for k in range(before.bit_length(), now.bit_length()):
            self.passed[k + 1] += 1

    def ended(self, length: int, count: int = 1) -> None:
        """A pattern ended at this length; -1: it did not, after all."""
        self.died[length.bit_length()] += count

    def chance(self, length: int, more: int, law: float) -> float:
        """That a pattern of `length` reaches `length + more`; `law`: what to believe before any was seen."""
        low, high = length.bit_length(), (length + more).bit_length()
        high += low == high
        passed = self.passed[high]
        return (PRIOR * law + passed) / (PRIOR + passed + sum(self.died[low:high]))


class Run:
    """Reads that go on where the ones before ended, or nearly."""

    __slots__ = (
        "count",
        "edge",
        "ended",
        "expected",
        "first",
        "last",
        "length",
        "low",
        "near",
        "nearly",
        "size",
        "start",
        "step",
        "stride",
        "trap",
    )

    def __init__(self, start: int, stop: int, low: int, high: int) -> None:
        self.start, self.size = start, stop - start
        """Of its first read."""
        self.first, self.last = start, stop
        """Where it begins, and where its furthest read known ends: if it goes backward, each the other end of the
        read."""
        self.low, self.edge = low, high
        """What was asked for: up to `edge`, from `low` on; if it goes backward, down to `edge`."""
        self.trap = start
        """The last trap that was laid for it."""
        self.step = 0
        """1 forward, -1 backward, 0 not known yet."""
        self.length = max(1, stop - start)
        """From its first byte to its last read."""
        self.count = 1
        self.ended = False
        self.expected = 0
        """Bytes that it is to have, where that was foretold."""
        self.stride: Stride | None = None
        """That foretold it."""
        self.near = self.nearly = 0
        """What does not overlap this is no part of it."""
        self.reach()

    def reach(self) -> None:
        """`edge`, `last` or `low` has changed."""
        gap = max(SLACK, self.length >> 2)
        if self.step > 0:
            self.near, self.nearly = self.last - PAGE, self.edge + gap
        elif self.step < 0:
            self.near, self.nearly = self.edge - 2 * gap, self.last + PAGE
        else:
            self.near, self.nearly = self.low - 2 * gap, self.edge + gap

    def continues(self, start: int, stop: int) -> int:
        """1 or -1 where a read of `[start, stop)` goes on with this run forward or backward, 0 where it does not."""
        gap = max(SLACK, self.length >> 2)
        if self.step >= 0 and self.last - PAGE <= start <= self.edge + gap and stop > self.last:
            return 1
        # Backward, the next read begins below by as much as its whole length, of which a fault tells one byte.
        gap += SLACK
        if self.step < 0 and self.edge - gap <= stop <= self.last + PAGE and start < self.last:
            return -1
        if self.step == 0 and self.low - gap <= stop <= self.first + PAGE and start < self.first:
            return -1
        return 0

    def goes_on(self, start: int, stop: int, step: int) -> None:
        """A read of `[start, stop)` continues it."""
        if self.step == 0 and step < 0:
            self.low, self.edge = self.edge, self.low
            self.first += self.size
        self.step = step
        self.last = stop if step > 0 else start
        self.length = max(self.length, (self.last - self.first) * step)
        self.count += 1


class Stride:
    """Runs that begin at equal distances."""

    __slots__ = ("anchor", "asked", "depth", "distance", "latest", "length", "slack", "steps")

    def __init__(self, anchor: int, distance: int, length: int, steps: int, slack: int = 0) -> None:
        self.latest: Run | None = None
        """The latest element that was begun."""
        self.slack = slack
        """Bytes by which the beginnings of elements may be off, beyond a page: they are compressed, perhaps."""
        self.anchor = anchor
        """Where the latest element read begins."""
        self.distance = distance
        self.length = length
        """Of an element, as far as it was read."""
        self.steps = steps
        """That came true."""
        self.asked = 0
        """How many elements beyond the anchor were asked for."""
        self.depth = 0
        """How many are to be, since last it was looked at."""

    def position(self, start: int, stop: int, reach: int) -> int:
        """Which element after the anchor a read is of, at most `reach` beyond what was asked for; 0: of none."""
        distance, offset, off = self.distance, start - self.anchor, PAGE + self.slack
        k = (offset + off) // distance if distance > 0 else -((offset - self.slack) // -distance)
        if not 0 < k <= self.asked + reach:
            return 0
        inside = offset - k * distance
        if -off <= inside < off or (inside > 0 and stop - start + inside < self.length + PAGE):
            return k
        return 0

    def element(self, k: int, least: int) -> tuple[int, int]:
        """Where the k-th element after the anchor lies; what is longer than some pages may be off by some bytes."""
        start = self.anchor + k * self.distance
        slack = self.slack + (256 if self.length > 4 * PAGE else 0)
        return start - slack, start + max(self.length + slack, least)


class Strides:
    """Finds them: three equal steps of about equally long first reads among the last ones, whatever came between."""

    __slots__ = ("_at", "_count", "_grain", "_order", "_twice", "bad", "good")

    def __init__(self, count: int, grain: int = PAGE) -> None:
        """`grain`: bytes by which steps may differ."""
        self._count, self._grain = count, grain
        self._at: dict[int, Run] = {}  # (start +- half a grain) // grain: the run that began there
        self._twice: dict[int, list[int]] = {}  # by `_like`: where runs began, times two
        self._order: list[Run] = []
        self.good: dict[int, int] = {}
        """How often distances (in grains) were right."""
        self.bad: dict[int, int] = {}

    def began(self, run: Run) -> None:
        """A run began."""
        at, start, grain = self._at, run.start, self._grain
        half = grain // 2
        at[(start - half) // grain] = at[(start + half) // grain] = run
        self._twice.setdefault(self._like(run.size), []).append(2 * start)
        self._order.append(run)
        if len(self._order) > self._count:
            old = self._order.pop(0)
            like = self._like(old.size)
            twice = self._twice[like]
            del twice[0]
            if not twice:
                del self._twice[like]
            for key in ((old.start - half) // grain, (old.start + half) // grain):
                if at.get(key) is old:
                    del at[key]

    def _like(self, size: int) -> int:
        """The same of reads that are about equally long."""
        return size // PAGE if self._grain == PAGE else size.bit_length()

    def find(self, start: int, size: int, least: int) -> tuple[int, int, int] | None:
        """The distance of at least `least` at which a read at `start` is the third, the elements' length, and how
        many steps came true."""
        like, grain, at = self._like(size), self._grain, self._at
        twice = self._twice.get(like)
        if twice is None:
            return None
        for double in [double for double in twice if (double - start) // grain in at][::-1]:
            first = double // 2
            other, distance = at[(2 * first - start) // grain], start - first
            if (
                -grain < other.start + distance - first < grain
                and abs(distance) >= least
                and self._like(other.size) == like
                and self.bad.get(distance // grain, 0) < 2
            ):
                length = min(self._length(first), other.length)
                return distance, max(size, length + (length >> 3 if length > 2 * size else 0)), 2
        for key in list(self.good)[:-KNOWN:-1]:
            run = at.get((start - key * grain - grain // 2) // grain)
            if run is not None and (start - run.start) // grain == key and self._like(run.size) == like:
                return start - run.start, max(size, run.length), min(3, self.good[key])
        return None

    def _length(self, start: int) -> int:
        run = self._at.get((start - self._grain // 2) // self._grain)
        return run.length if run is not None else 0

    def judge(self, distance: int, *, right: bool) -> None:
        """What a distance foretold came true, or did not."""
        table, key = (self.good if right else self.bad), distance // self._grain
        table[key] = table.get(key, 0) + 1
        if not right:
            self.good.pop(key, None)
        if len(table) > 256:
            del table[next(iter(table))]


LATEST = 32
"""Long reads that a lattice is sought in."""
DISTANCES = 12
"""The distances that were seen most often between them, which foretell others."""
SEEN = 6
"""Reads after which it is tried."""
SUPPORT = 12
"""Less may be chance."""
TRUST = 6
"""Places that are foretold before any came true; two more for each that did. With 10, groups of three reads at one
distance, each group somewhere else, would waste 74 reads, with 6 they waste 7."""
FRONT = 6
"""Reads that tell where the next ones are."""
FORGOTTEN = 24
"""Reads after which what was foretold and did not come is held to be wrong."""


class Lattice:
    """Finds where else long reads are, whatever their order: by autocorrelation. A distance has as many votes as there
    are pairs of reads at it; a place has, as support, the squares of the votes of all distances at which it lies from a
    read. It is foretold where it has half the support of most places that were read."""

    __slots__ = ("_foretold", "_reads", "_votes", "right", "wrong")

    def __init__(self) -> None:
        self._reads: deque[tuple[int, int]] = deque(maxlen=LATEST)
        self._votes: dict[int, list[int]] = {}  # by distance in pages: how many, and one of them in bytes
        self._foretold: dict[int, int] = {}  # by place in pages: after how many reads it is wrong
        self.right = self.wrong = 0

    @property
    def chance(self) -> float:
        """That what it foretells is read: Laplace's rule of succession."""
        return (self.right + 1) / (self.right + self.wrong + 2)

    def expects(self, start: int) -> bool:
        """Whether a read at `start` was foretold."""
        return bool(self._foretold) and _nearby(self._foretold, start) is not None

    def read(self, start: int, size: int) -> None:
        """A long read began."""
        key = _nearby(self._foretold, start)
        if key is not None:
            del self._foretold[key]
            self.right += 1
        for key in list(self._foretold):
            self._foretold[key] -= 1
            if not self._foretold[key]:
                del self._foretold[key]
                self.wrong += 1
        if self.right + self.wrong > LATEST:
            self.right, self.wrong = self.right // 2, self.wrong // 2
        if len(self._votes) > LATEST * LATEST:
            self._votes.clear()
        for at, length in self._reads:
            if abs(length - size) * 4 <= size:
                distance = abs(start - at)
                key = _nearby(self._votes, distance)
                if key is not None:
                    self._votes[key][0] += 1
                else:
                    self._votes[(distance + HALF) // PAGE] = [1, distance]
        self._reads.append((start, size))

    def foretell(self, size: int, end: int) -> list[int]:
        """Where reads of about `size` bytes are to be expected before `end`, besides those that were foretold before:
        as many as it may be trusted with, those nearest to the latest reads first."""
        room = (TRUST + 2 * self.right if self.chance >= 1 / 2 else 0) - len(self._foretold)
        if len(self._reads) < SEEN or room <= 0:
            return []
        known = {(at + HALF) // PAGE for at, _ in self._reads}
        votes = sorted((vote for vote in self._votes.values() if vote[0] > 1), reverse=True)[:DISTANCES]
        support: dict[int, list[int]] = {}
        for at, length in self._reads:
            if abs(length - size) * 4 > size:
                continue
            for count, distance in votes:
                for place in (at + distance, at - distance):
                    if not 0 <= place < end:
                        continue
                    key = _nearby(support, place)
                    if key is not None:
                        support[key][0] += count * count
                    else:
                        support[(place + HALF) // PAGE] = [count * count, place]
        usual = sorted(count for count, place in support.values() if _nearby(known, place) is not None)
        least = max(SUPPORT, usual[len(usual) // 2] // 2 if usual else 0)
        front = sorted(at for at, _ in list(self._reads)[-FRONT:])[FRONT // 2]
        places = [
            place
            for count, place in support.values()
            if count >= least and _nearby(known, place) is None and _nearby(self._foretold, place) is None
        ]
        places = sorted(places, key=lambda place: abs(place - front))[:room]
        for place in places:
            self._foretold[(place + HALF) // PAGE] = FORGOTTEN
        return places


def _nearby(table: Container[int], offset: int) -> int | None:
    """The page in a table at which something within a page of `offset` stands."""
    page = (offset + HALF) // PAGE
    if page in table:
        return page
    if page - 1 in table:
        return page - 1
    return page + 1 if page + 1 in table else None
