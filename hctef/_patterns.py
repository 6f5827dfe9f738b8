"""Patterns in the reads of a file, and what each is worth: runs, strides, blocks, rents. Pure.

Run: reads that go on where the one before ended, either way, with small gaps. Stride: runs that begin at equal
distances. Blocks: how far around a miss others come. Rents: what misses have cost, region by region.

How long will a pattern go on? Nobody knows, but what has gone on for n is as likely as not to go on for another n
(Lindy's law: the chance to reach n + w is n / (n + w)); and the patterns before in the same file have told how far
they went (`Survival`: an estimator of Kaplan and Meier's kind, with that law as its prior).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hctef._ranges import PAGE, ByteRange

HALF = PAGE // 2

PRIOR = 2.0
"""How many patterns seen the law weighs as much as."""

SLACK = 32 * 1024
"""A gap of so many bytes between two reads is none: half of what a miss usually fetches."""

SMALLEST_BITS, LARGEST_BITS = 14, 19
"""Of a block: 16 KiB to 512 KiB."""
USUAL_LEVEL = 2
USUAL_BLOCK = 1 << SMALLEST_BITS + USUAL_LEVEL
"""64 KiB: the largest one without evidence for more, since it is what a random read costs at most."""

FEW = 4
"""Misses that teach nothing."""
MISSES = 4096
"""Misses after which all is learnt anew."""
CLEARLY = 0.97
"""What is to be cheaper than what is must be clearly so: as many misses in 64 may be chance."""

KNOWN = 9
"""Distances that were right which are tried on reads that no three steps explain; less one."""

PROBES = 4
"""Traps in a block, at most."""
LONG = 5
"""Pages of a read that proves nothing: it goes on from what was missed."""
PROBE_SECONDS = 300e-6
"""Ten times what a trap costs when it is sprung: a shorter round trip allows for just one."""

RENTS = 4
"""The least misses that make a region worth buying: fewer are chance."""
RENT_BITS = 18
"""Of the smallest region; the next is four times as large, up to the file."""
COUNTERS = 4096
"""Regions of one size with misses, at most."""
LONG_AGO = 256
"""Accesses after which what was bought has come, or nobody misses it."""
EAGER = 16
"""Misses, at least, after which a quarter of the price suffices where nothing speaks for locality."""


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

    __slots__ = ("anchor", "asked", "depth", "distance", "length", "steps")

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
        self.depth = 0
        """How many are to be, since last it was looked at."""

    def position(self, start: int, stop: int, reach: int) -> int:
        """Which element after the anchor a read is of, at most `reach` beyond what was asked for; 0: of none."""
        distance, offset = self.distance, start - self.anchor
        k = (offset + PAGE) // distance if distance > 0 else -(offset // -distance)
        if not 0 < k <= self.asked + reach:
            return 0
        inside = offset - k * distance
        if -PAGE <= inside < PAGE or (inside > 0 and stop - start + inside < self.length + PAGE):
            return k
        return 0

    def element(self, k: int, least: int) -> tuple[int, int]:
        """Where the k-th element after the anchor lies; what is longer than some pages may be off by some bytes."""
        start = self.anchor + k * self.distance
        slack = 256 if self.length > 4 * PAGE else 0
        return start - slack, start + max(self.length + slack, least)


class Strides:
    """Finds them: three equal steps of about equally long first reads among the last ones, whatever came between."""

    __slots__ = ("_at", "_count", "_order", "_twice", "bad", "good")

    def __init__(self, count: int) -> None:
        self._count = count
        self._at: dict[int, Run] = {}  # (start +- half a page) // PAGE: the run that began there
        self._twice: dict[int, list[int]] = {}  # by length in pages: where runs began, times two
        self._order: list[Run] = []
        self.good: dict[int, int] = {}
        """How often distances (in pages) were right."""
        self.bad: dict[int, int] = {}

    def began(self, run: Run) -> None:
        """A run began."""
        at, start = self._at, run.start
        at[(start - HALF) // PAGE] = at[(start + HALF) // PAGE] = run
        self._twice.setdefault(run.size // PAGE, []).append(2 * start)
        self._order.append(run)
        if len(self._order) > self._count:
            old = self._order.pop(0)
            twice = self._twice[old.size // PAGE]
            del twice[0]
            if not twice:
                del self._twice[old.size // PAGE]
            for key in ((old.start - HALF) // PAGE, (old.start + HALF) // PAGE):
                if at.get(key) is old:
                    del at[key]

    def find(self, start: int, size: int, least: int) -> tuple[int, int, int] | None:
        """The distance of at least `least` at which a read at `start` is the third, the elements' length, and how
        many steps came true."""
        twice, at = self._twice.get(size // PAGE), self._at
        if twice is None:
            return None
        for double in [double for double in twice if (double - start) // PAGE in at][::-1]:
            first = double // 2
            other, distance = at[(2 * first - start) // PAGE], start - first
            if (
                -PAGE < other.start + distance - first < PAGE
                and abs(distance) >= least
                and other.size // PAGE == size // PAGE
                and self.bad.get(distance // PAGE, 0) < 2
            ):
                return distance, max(size, min(self._length(first), other.length)), 2
        for key in list(self.good)[:-KNOWN:-1]:
            run = at.get((start - key * PAGE - HALF) // PAGE)
            if run is not None and (start - run.start) // PAGE == key and run.size // PAGE == size // PAGE:
                return start - run.start, max(size, run.length), min(3, self.good[key])
        return None

    def _length(self, start: int) -> int:
        run = self._at.get((start - HALF) // PAGE)
        return run.length if run is not None else 0

    def judge(self, distance: int, *, right: bool) -> None:
        """What a distance foretold came true, or did not."""
        table, key = (self.good if right else self.bad), distance // PAGE
        table[key] = table.get(key, 0) + 1
        if not right:
            self.good.pop(key, None)
        if len(table) > 256:
            del table[next(iter(table))]


class Blocks:
    """How large the aligned block is to be that a miss fetches.

    Hindsight: with blocks of b bytes all misses so far would have cost (number of such blocks) x (a round trip + b).
    That counts misses near each other. Hits near misses are seen by probes: traps laid in some of the blocks' pages.
    """

    __slots__ = ("_grids", "_grown", "_misses", "_placed", "_size", "_sprung", "_stay", "clustered", "probes", "used")

    def __init__(self, size: int, *, stay: bool = True) -> None:
        """`stay`: what is fetched does, so that hindsight may count on it; else only clusters make blocks grow."""
        self._size, self._stay = size, stay
        self._grids: list[dict[int, None]] = [{} for _ in range(LARGEST_BITS - SMALLEST_BITS + 1)]
        self._misses = 0  # in these
        self._grown = 0  # levels above the usual
        self._placed = self._sprung = 0  # probes
        self.probes: dict[int, None] = {}
        """The pages of those that were not sprung."""
        self.clustered = False
        """Misses come near each other, more often than by chance."""
        self.used = False
        """Of what misses fetch other bytes are read as well."""

    @property
    def grown(self) -> bool:
        return self._grown > 0

    @staticmethod
    def _base(product: float) -> int:
        # The power of two that is next to a 32nd of a round trip: what costs so little may be useless.
        return min(USUAL_LEVEL, max(0, int(product / 23).bit_length() - 1 - SMALLEST_BITS))

    def unit(self, product: float) -> int:
        """The size of a block."""
        return 1 << min(SMALLEST_BITS + self._base(product) + self._grown, LARGEST_BITS)

    def missed(self, start: int, product: float) -> bool:
        """A miss at `start`. Returns whether blocks have grown."""
        before = self._grown
        self._misses += 1
        for level, grid in enumerate(self._grids):
            grid[start >> SMALLEST_BITS + level] = None
        if FEW <= self._misses < 64 or self._misses & 7 == 0:
            self._look_back(product)
            self._judge(product)
        return self._grown > before

    def _look_back(self, product: float) -> None:
        misses, grids = self._misses, self._grids
        base = best = self._base(product)
        most = max(best, min(len(grids) - 1, int(product / 6).bit_length() - 1 - SMALLEST_BITS))
        least = CLEARLY * misses * (product + (1 << SMALLEST_BITS + base))
        for level in range(base + 1, most + 1):
            count = len(grids[level])
            cost = count * (product + (1 << SMALLEST_BITS + level))
            if cost < least and misses - count >= FEW - 1:
                best, least = level, cost
        chance = misses * misses / max(1, self._size >> LARGEST_BITS - 1)  # twice what uniform reads would repeat
        if misses - len(grids[-2]) >= 3 + chance:
            self.clustered = True
        if self._stay or self.clustered:
            self._grown = max(self._grown, best - base)  # misses that larger blocks have saved can't be seen
        if misses >= MISSES:
            self.forget()

    def forget(self) -> None:
        """Hindsight begins anew: what was fetched for misses so far is there no longer, or they were long ago."""
        self._misses = 0
        for grid in self._grids:
            grid.clear()

    def latest(self, product: float, count: int) -> list[ByteRange]:
        """The blocks around the latest misses."""
        unit = self.unit(product)
        grid = self._grids[unit.bit_length() - 1 - SMALLEST_BITS]
        return [ByteRange(i * unit, min(self._size, (i + 1) * unit)) for i in list(grid)[: -count - 1 : -1]]

    def lay(self, start: int, stop: int, block: ByteRange, round_trip: float, traps: list[int]) -> None:
        """Lay traps in a block that was fetched for a read of `[start, stop)`."""
        if self._misses > 64 and self._misses & 3:
            return
        count = min(PROBES, 1 + int(round_trip / PROBE_SECONDS))
        for i in range(1, count + 1):
            at = (block.start + (start - block.start + i * block.length // (count + 1)) % block.length) // PAGE * PAGE
            if at + PAGE <= start or at >= stop:
                traps.append(at)
                self.probes[at // PAGE] = None
                self._placed += 1
        while len(self.probes) > 64 * PROBES:
            del self.probes[next(iter(self.probes))]

    def sprung(self, start: int, stop: int) -> bool:
        """Whether a read of `[start, stop)` sprang one of them."""
        pages = range(start // PAGE, -(-stop // PAGE))
        found = [page for page in pages[:LONG] if page in self.probes]
        for page in found:
            del self.probes[page]
        if len(pages) < LONG:
            self._sprung += bool(found)
        else:
            self._placed -= min(len(found), self._placed)  # one long read, not another one nearby
        return bool(found)

    def _judge(self, product: float) -> None:
        if self._placed < 3 * PROBES:
            return
        unit = self.unit(product)
        hits = self._sprung / self._placed * unit / PAGE  # other pages used in a block
        self.used = hits > 0.5
        useful = 1 - math.exp(-hits / 2)  # the chance that one of its halves is; the same next to it is half as likely
        if self._sprung > 1 and useful / 2 > max(unit / product, 1 / 6) and 2 * unit <= product / 6:
            self._grown += 1
        elif self._placed > 16 * PROBES and useful < 1 / 16 and self._grown:
            self._grown -= 1
        elif self._placed < 32 * PROBES:
            return
        self._placed, self._sprung = self._placed // 4, self._sprung // 4


class Rents:
    """What misses have cost in each region, at every scale: where it is as much as its bytes would cost, buy it."""

    __slots__ = ("_again", "_bits", "_bought", "_counts", "_size", "since")

    def __init__(self, size: int) -> None:
        self._size = size
        top = max(RENT_BITS, max(size - 1, 1).bit_length())
        self._bits = [*range(RENT_BITS, top, 2), top]
        self._counts: list[dict[int, float]] = [{} for _ in self._bits]
        self._again = 0
        self._bought: list[ByteRange] = []
        self.since = LONG_AGO
        """Accesses since something was bought, or missed though it was."""

    @property
    def paying(self) -> bool:
        """What was bought is still under way, likely."""
        return self.since < LONG_AGO

    def holding(self, at: int) -> ByteRange | None:
        """The region around byte `at` that was bought."""
        return next((region for region in self._bought if region.start <= at < region.stop), None)

    def missed(
        self,
        start: int,
        weight: float,
        price: float,
        absent: Callable[[int, int], int],
        most: int,
        *,
        local: bool,
        eager: bool,
    ) -> ByteRange | None:
        """A miss at `start` has cost a round trip, worth `price` bytes. Returns the region that is to be bought, of
        at most `most` bytes. `local`: reads keep together, so that misses will become rare by themselves; `eager`: what
        is bought comes behind the reader, at no cost to him."""
        if self.holding(start) is not None:
            self.since = 0
            self._again += 1
            if self._again % 16:
                return None  # it is under way; now and then it is asked for again, in case the wish was dropped
        best: ByteRange | None = None
        least: float = RENTS
        for bits, counts in zip(self._bits, self._counts, strict=True):
            key = start >> bits
            count = counts[key] = counts.get(key, 0.0) + weight
            if count < least:
                continue  # too few, or all in a part of it that is worth it by itself: they say nothing of the rest
            rent = count * price
            if local:
                rent /= 1.5
            elif eager and bits == self._bits[-1] and count >= EAGER:
                rent *= 3
            low = key << bits
            length = min(self._size, low + (1 << bits)) - low
            if length <= most and (rent >= length or (4 * rent >= length and rent >= absent(low, low + length))):
                best, least = ByteRange(low, low + length), 2 * count
        for counts in self._counts:
            if len(counts) > COUNTERS:
                for key in [key for key, count in counts.items() if count <= 1]:
                    del counts[key]
                if len(counts) > COUNTERS // 2:
                    counts.clear()
        if best is not None:
            kept = [region for region in self._bought if not best.start <= region.start < best.stop]
            self._bought = [*kept[-15:], best]
            self.since = 0
        return best
