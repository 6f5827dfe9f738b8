"""Where a file is read, whatever the order: blocks and rents. Pure.

Blocks: how far around a miss others come. Rents: what misses have cost, region by region.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hctef._ranges import PAGE, ByteRange

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

SURELY = 5.0
"""Standard deviations (of a Poisson distribution) by which misses come near each other more often than by chance: it is
asked thousands of times, and believed for ever. With about one, one in twenty runs of 4,000 uniform reads of 64 MiB
under a bound of 8 fetched twice as much as the others."""

PROBES = 4
"""Traps in a block, at most."""
LONG = 5
"""Pages of a read that proves nothing: it goes on from what was missed."""
PROBE_SECONDS = 300e-6
"""Ten times what a trap costs when it is sprung: a shorter round trip allows for just one."""

RENTS = 4
"""The least misses that make a region worth buying: fewer are chance."""
DENSER = 4.0
"""And how many times as many as if all were spread evenly: else they say of the whole file what they say of the region,
and the fullest of many regions is so by chance."""
SPARE = 0.5  # of those, which change nothing
RENT_BITS = 18
"""Of the smallest region; the next is four times as large, up to the file."""
COUNTERS = 4096
"""Regions of one size with misses, at most."""
LONG_AGO = 256
"""Accesses after which what was bought has come, or nobody misses it."""
EAGER, EAGER_NEAR = 16, 64
"""Misses, at least, after which a quarter of the price suffices where nothing speaks for locality; over a near line a
reader waits for what is bought, so that more are to speak for it."""
EAGER_BYTES = 1 << 30
"""Of the largest file for which it does: more are not fetched on so little evidence."""
LARGE = 1 << 24
"""Bytes of a region that takes long to look through: it is looked at again when its rent has grown by GROWN."""
GROWN = 1.125
MEMORY = 4
"""All that is bought takes no more than one part in so many of the memory that is free then."""


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
        chance = misses * misses / max(1, self._size >> LARGEST_BITS - 1) / 2  # what uniform reads would repeat
        if misses - len(grids[-2]) >= 3 + chance + SURELY * math.sqrt(chance):
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

    __slots__ = ("_again", "_bits", "_bought", "_counts", "_due", "_memory", "_size", "_taken", "since")

    def __init__(self, size: int, memory: Callable[[], int]) -> None:
        """`memory`: bytes of it that are free."""
        self._size, self._memory = size, memory
        top = max(RENT_BITS, max(size - 1, 1).bit_length())
        self._bits = [*range(RENT_BITS, top, 2), top]
        self.forget()

    def forget(self) -> None:
        """Begin anew: what was fetched so far is there no longer."""
        self._counts: list[dict[int, float]] = [{} for _ in self._bits]
        self._due: dict[tuple[int, int], float] = {}
        """The rents at which regions are looked at again: large ones, and those that there was no memory for."""
        self._again = 0
        self._taken = 0  # bytes that were bought
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
        eager: int,
    ) -> ByteRange | None:
        """A miss at `start` has cost a round trip, worth `price` bytes. Returns the region that is to be bought, of
        at most `most` bytes. `local`: reads keep together, so that misses will become rare by themselves; `eager`:
        misses after which a quarter of the price suffices where they do not."""
        if self.holding(start) is not None:
            self.since = 0
            self._again += 1
            if self._again % 16:
                return None  # it is under way; now and then it is asked for again, in case the wish was dropped
        best: ByteRange | None = None
        least, even = float(RENTS), DENSER * self._counts[-1].get(0, 0.0) / self._size
        for level, (bits, counts) in enumerate(zip(self._bits, self._counts, strict=True)):
            key = start >> bits
            count = counts[key] = counts.get(key, 0.0) + weight
            if count < least or (bits < self._bits[-1] and count < RENTS + even * (1 << bits) - SPARE):
                continue  # too few, or all in a part of it that is worth it by itself: they say nothing of the rest
            rent = count * price
            if local:
                rent /= 1.5
            elif bits == self._bits[-1] and count >= eager and self._size <= EAGER_BYTES:
                rent *= 3
            low = key << bits
            length = min(self._size, low + (1 << bits)) - low
            high, pays = low + length, 4 * rent >= length
            if pays and length <= most and self._is_spread(level, low, high) and self._is_due(low, high, rent, absent):
                best, least = ByteRange(low, high), 2 * count
        for counts in self._counts:
            if len(counts) > COUNTERS:
                for key in [key for key, count in counts.items() if count <= 1]:
                    del counts[key]
                if len(counts) > COUNTERS // 2:
                    counts.clear()
        if best is not None:
            kept = [region for region in self._bought if not best.start <= region.start < best.stop]
            self._bought = [*kept[-15:], best]
            self._taken += best.length
            self.since = 0
        return best

    def _is_spread(self, level: int, low: int, high: int) -> bool:
        """Whether misses were in most parts of a region: one with few of them may hold a cluster that fills none."""
        if level == 0:
            return True
        bits, counts = self._bits[level - 1], self._counts[level - 1]
        parts = range(low >> bits, (high - 1 >> bits) + 1)
        return 2 * sum(part in counts for part in parts) > len(parts)

    def _is_due(self, low: int, high: int, rent: float, absent: Callable[[int, int], int]) -> bool:
        """Whether a region's rent has paid for what is absent of it, and there is memory for that."""
        length = high - low
        if rent < self._due.get((low, high), 0.0):
            return False
        paid = rent >= length or rent >= absent(low, high)
        is_due = paid and self._taken + length <= self._memory() // MEMORY
        if not is_due and (paid or length >= LARGE):
            if len(self._due) >= COUNTERS:
                self._due.clear()
            self._due[low, high] = GROWN * rent
        return is_due
