"""Patterns in the order of reads: runs (sequential, either way, with small gaps) and strides. Pure.

How long will a pattern go on? Nobody knows, but what has gone on for n is as likely as not to go on for another n
(Lindy's law: the chance to reach n + w is about n / (n + w)); and the patterns before in the same file have told how
far they went (`Survival`: an estimator of Kaplan and Meier's kind, with that law as its prior).
"""

from __future__ import annotations

from hctef._ranges import PAGE

PRIOR = 2.0
"""How many patterns seen the law weighs as much as."""

FIRST_CHANCE = 0.1
"""That a first read goes on, before the file has shown any: most do not, and the second read tells."""


HALF = PAGE // 2


class Survival:
    """Of those patterns that reached a length, how many reached which."""

    __slots__ = ("died", "passed")

    def __init__(self) -> None:
        self.died = [0] * 65
        self.passed = [0] * 65

    def went(self, before: int, now: int) -> None:
        """A pattern of length `before` has grown."""
        for k in range(before.bit_length(), now.bit_length()):
            self.passed[k + 1] += 1

    def ended(self, length: int, count: int = 1) -> None:
        """A pattern ended at this length; -1: it did not, after all."""
        self.died[length.bit_length()] += count

    def chance(self, length: int, more: int, prior: float) -> float:
        """That a pattern of `length` reaches `length + more`."""
        low, high = length.bit_length(), (length + more).bit_length()
        if low == high:
            high += 1
        passed = self.passed[high]
        return (PRIOR * prior + passed) / (PRIOR + passed + sum(self.died[low:high]))


class Run:
    """Reads that go on where the ones before ended, or nearly."""

    __slots__ = ("count", "edge", "ended", "first", "last", "length", "low", "size", "start", "step", "stride")

    def __init__(self, start: int, stop: int, low: int, high: int) -> None:
        self.start = start
        """Of its first read."""
        self.first = start
        """Where it begins: behind its first read, if it goes backward."""
        self.size = stop - start
        """Of its first read."""
        self.last = stop
        """Where its furthest read known ended (began, if it goes backward)."""
        self.low, self.edge = low, high
        """What was asked for: up to `edge` (backward: down to `edge`); `low` is the other end."""
        self.step = 0
        """1 forward, -1 backward, 0 not known yet."""
        self.length = max(1, stop - start)
        """From its first byte to its last read."""
        self.count = 1
        self.ended = False
        self.stride: Stride | None = None
        """That foretold it."""

    def continues(self, start: int, stop: int, gap: int) -> int:
        """1 or -1 where a read of `[start, stop)` goes on with this run forward or backward, 0 where it does not."""
        gap = max(gap, self.length >> 2)
        if self.step >= 0 and self.last - PAGE <= start <= self.edge + gap and stop > self.last:
            return 1
        if self.step < 0 and self.edge - gap <= stop <= self.last + PAGE and start < self.last:
            return -1
        if self.step == 0 and self.low - gap <= stop <= self.first + PAGE and start < self.first:
            return -1
        return 0

    def goes_on(self, start: int, stop: int, step: int) -> None:
        """A read of `[start, stop)` continues it."""
        if self.step == 0 and step < 0:
            self.low, self.edge = self.edge, self.low
            self.first = self.first + self.size
        self.step = step
        self.last = stop if step > 0 else start
        self.length = max(self.length, (self.last - self.first) * step)
        self.count += 1


class Stride:
    """Runs that begin at equal distances."""

    __slots__ = ("anchor", "asked", "distance", "length", "steps")

    def __init__(self, anchor: int, distance: int, length: int, steps: int) -> None:
        self.anchor = anchor
        """Where the latest element read begins."""
        self.distance = distance
        self.length = length
        """Of an element, as far as it was read."""
        self.steps = steps
        """That came true."""
        self.asked = 0
        """How many elements beyond the anchor were asked for."""

    def position(self, start: int, stop: int, reach: int) -> int:
        """Which element after the anchor a read is of, at most `reach` beyond what was asked for; 0: of none."""
        distance = self.distance
        k = (start - self.anchor + PAGE) // distance if distance > 0 else -((start - self.anchor) // -distance)
        if not 0 < k <= self.asked + reach:
            return 0
        inside = start - self.anchor - k * distance
        if -PAGE <= inside < PAGE:
            return k
        return k if 0 < inside and stop - start + inside < self.length + PAGE else 0


class Strides:
    """Finds them: three equal steps of about equally long first reads among the last ones, whatever came between."""

    __slots__ = ("_at", "_count", "_order", "_recent", "bad", "good")

    def __init__(self, count: int) -> None:
        self._count = count
        self._at: dict[int, Run] = {}  # (start +- half a page) // PAGE: the run that began there
        self._recent: dict[int, list[int]] = {}  # by length in pages: where runs began
        self._order: list[Run] = []
        self.good: dict[int, int] = {}
        """Distances in pages that were right so often."""
        self.bad: dict[int, int] = {}

    def began(self, run: Run) -> None:
        """A run began."""
        start = run.first
        self._at[(start - HALF) // PAGE] = self._at[(start + HALF) // PAGE] = run
        self._recent.setdefault(run.size // PAGE, []).append(start)
        self._order.append(run)
        if len(self._order) > self._count:
            old = self._order.pop(0)
            recent = self._recent[old.size // PAGE]
            del recent[0]
            if not recent:
                del self._recent[old.size // PAGE]
            for key in ((old.start - HALF) // PAGE, (old.start + HALF) // PAGE):
                if self._at.get(key) is old:
                    del self._at[key]

    def find(self, start: int, size: int, least: int) -> tuple[int, int, int] | None:
        """The distance of at least `least` at which a read at `start` is the third, the length, and the steps so
        far."""
        starts = self._recent.get(size // PAGE)
        if starts is None:
            return None
        get = self._at.get
        for first in reversed(starts):
            other = get((2 * first - start) // PAGE)
            if other is None:
                continue
            distance = start - first
            off = other.start + distance - first
            if -PAGE < off < PAGE and abs(distance) >= least and other.size // PAGE == size // PAGE:
                key = distance // PAGE
                if self.bad.get(key, 0) < 2:
                    return distance, max(size, min(self._at[(first - HALF) // PAGE].length, other.length)), 2
        for first in reversed(starts) if self.good else ():
            distance = start - first
            key = distance // PAGE
            if key in self.good and abs(distance) >= least:
                return distance, max(size, self._at[(first - HALF) // PAGE].length), min(3, self.good[key])
        return None

    def judge(self, distance: int, right: bool) -> None:
        """A distance was right, or wrong."""
        table = self.good if right else self.bad
        key = distance // PAGE
        table[key] = table.get(key, 0) + 1
        if not right:
            self.good.pop(key, None)
        if len(table) > 256:
            del table[next(iter(table))]
