"""Policy: what to fetch beyond what was asked for. Pure: no I/O, no clock, no lock.

Extra bytes cost time on the line, a miss costs a round trip. Both are measured in bytes here: a round trip is worth
`product` = bandwidth x round trip. To fetch b bytes that are needed with chance p is worth it where p x product >
(1 - p) x b. So the policy is a set of ways to know p, all learnt from what came of it before:

- Runs (`_patterns.Run`): what has been read sequentially for n bytes goes on for w more with chance n / (n + w), or as
  the runs before it did; so the bytes asked for ahead grow with the bytes read, up to what keeps the line busy.
- Strides (`_patterns.Stride`): three equal steps foretell the fourth; each that comes true foretells more.
- Blocks: a miss fetches an aligned block. Where the other half of the block's parent is missed often enough later,
  blocks are too small: they double.
- Rent (ski rental, Karlin et al. 1988): a region whose misses have cost as much as its bytes would is bought, at
  every scale up to the whole file; whatever comes, that costs at most about twice the better choice. Where reads show
  no locality at all, waiting for so long teaches nothing: a part of the price is enough.

Nothing is known of hits: they are free because nobody is told of them. Where one must be heard of, to keep a window
ahead of its reader, its page is made a trap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hctef._link import Link
from hctef._patterns import FIRST_CHANCE, Run, Stride, Strides, Survival
from hctef._ranges import PAGE, ByteRange

KIB, MIB = 1 << 10, 1 << 20
KS = 1.5
KW, KW0, KW1, KM = 0.5, 32 * KIB, 1.5, 4

SMALLEST_BITS, LARGEST_BITS = 14, 19
"""Of a block: 16 KiB to 512 KiB."""
USUAL_LEVEL = 2
USUAL_BLOCK = 1 << SMALLEST_BITS + USUAL_LEVEL
"""64 KiB: the largest one without evidence for more, since it is what a random read costs at most."""
COLD = 128 * KIB
"""What a new connection carries in a few round trips."""
FEW = 4
"""Misses that teach nothing."""
MISSES = 4096
"""Misses after which all is learnt anew."""
ENLARGED = 32
"""Misses whose neighbourhood is fetched behind the reader when blocks grow."""
CLEARLY = 0.97
"""What must be cheaper than what is must be clearly so."""

RUNS = 24
"""Remembered as going on: as many columns may be read side by side."""
ACTIVE_RUNS = 8
"""Of these the latest count as going on; an older one has ended, unless it is read on."""
STRIDES = 12
RECENT = 48
"""Beginnings of runs among which three equal steps are sought: column chunks come interleaved and out of order."""

WORTHWHILE = 1 / 3
"""The least chance for which more than a few bytes are asked: then two in three bytes asked for may be wasted."""
SURE = 0.6
"""The same for a stride's elements: a wrong stride wastes all of them."""
FREE = 256 * KIB
"""That few."""

SHORT = 0.01
"""Seconds: where a round trip is shorter, pieces may take this long, as each costs a request."""

PROBES = 4
"""Traps in a block for a miss, at most."""
PROBE_SECONDS = 300e-6
"""Ten times what a trap costs when it is sprung: a shorter round trip allows for just one."""

RENTS = 4
"""The least misses that make a region worth buying: fewer are chance."""
COUNTERS = 20_000
"""Regions with misses remembered."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What an access is worth fetching."""

    block: ByteRange
    """Covers the access; fetched now, by its reader, who waits for all of it."""
    behind: tuple[ByteRange, ...] = ()
    """Fetched behind the reader, most wanted first; may overlap what is resident or in flight."""
    traps: tuple[int, ...] = ()
    """Offsets whose pages are to be withheld when they come, so that their first touch is reported."""


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
        """`largest`: bytes ahead at most, 0 for none, None for as many as pay; `least`: bytes in a request; `window`:
        bytes that may be ahead without pushing out others; `absent`: bytes of `[start, stop)` neither resident nor
        in flight."""
        self._size, self._link, self._largest, self._least = size, link, largest, least
        self._window, self._connections, self._absent = min(window, size), connections, absent
        self._bound = self._window if largest is None else min(largest, self._window)
        self._hint = "normal"
        self._runs: list[Run] = []  # latest first
        self._survival = Survival()
        self._strides: list[Stride] = []  # latest first
        self._stride_survival = Survival()
        self._finder = Strides(RECENT)
        self._warm = [COLD] * connections  # what connections may carry, by rank
        self._grids: list[dict[int, None]] = [{} for _ in range(LARGEST_BITS - SMALLEST_BITS + 1)]
        self._misses = 0  # in these
        self._clustered = False  # they keep together
        self._grown = 0  # levels of a block above the usual
        self._probes: dict[int, None] = {}  # pages whose touch tells that blocks are used
        self._placed = self._sprung = 0  # at the present size of blocks
        self._local = False  # reads keep to what was fetched
        self._rents: dict[tuple[int, int], float] = {}
        self._bought: list[ByteRange] = []
        self._again = 0
        self._unexplained = False
        self._slowness = 1.0  # a miss's usual wait in round trips

    # what the planner asks

    @property
    def piece(self) -> int:
        """The largest single background request, bytes."""
        link = self._link
        piece = max(128 * KIB, link.product, min(MIB, link.bandwidth * SHORT))
        return int(piece / 2 if self._bought else piece) // (64 * KIB) * (64 * KIB)

    def piece_of(self, running: int) -> int:
        """The largest background request where `running` others are under way: it gets the connection of that rank,
        the warmest first; and one that never carried much is in slow start, so that much would come late on it."""
        most = self.piece
        warm = self._warm
        if running >= len(warm):
            return most
        size = warm[running]
        if size >= most:
            return most
        warm[running] = 2 * size
        return size

    @property
    def in_flight(self) -> int:
        """Background bytes in flight at most."""
        return int(max(2 * self.piece, (1.5 if self._bought else 2.5) * self._link.product))

    def advise(self, hint: str) -> None:
        """'normal', 'sequential' or 'random', as madvise has them."""
        self._hint = hint

    def waited(self, seconds: float) -> None:
        """A reader waited so long for the network, in the access just before."""
        if self._unexplained and not self._bought:
            ratio = min(4.0, max(1.0, seconds / self._link.round_trip))
            self._slowness += (ratio - self._slowness) / 8

    def access(self, start: int, stop: int, now: float, *, missing: bool, trapped: bool = False) -> Advice:
        """A read that was no plain hit: bytes of it were absent (`missing`), in flight, or a trap's."""
        self._unexplained = False
        if self._largest == 0:
            return Advice(ByteRange(start, stop))
        if self._hint == "random":
            return Advice(self._clip(start, max(stop, start + self._least)))
        if trapped and self._probes:
            for page in range(start // PAGE, min(-(-stop // PAGE), start // PAGE + 4)):
                if page in self._probes:
                    del self._probes[page]
                    self._sprung += 1
                    if not missing:
                        return Advice(ByteRange(start, stop))
        product = self._link.product
        unit = self._unit(product)
        for index, run in enumerate(self._runs):
            step = run.continues(start, stop, unit >> 1)
            if step:
                if index:
                    del self._runs[index]
                    self._runs.insert(0, run)
                return self._run_on(run, step, start, stop, missing, product, unit)
        for index, stride in enumerate(self._strides):
            steps = stride.position(start, stop, self._connections)
            if steps:
                if index:
                    del self._strides[index]
                    self._strides.insert(0, stride)
                return self._stride_on(stride, steps, start, stop, missing, product)
        if not missing:
            return Advice(ByteRange(start, stop))
        return self._begin(start, stop, product, unit)

    # a read that nothing foretold

    def _begin(self, start: int, stop: int, product: float, unit: int) -> Advice:
        self._unexplained = True
        size = stop - start
        block = self._block(start, stop, unit)
        run = Run(start, stop, block.start, block.stop)
        found = self._finder.find(start, size, 2 * unit)
        self._remember(run)
        behind: list[ByteRange] = []
        traps: list[int] = []
        if found is not None and self._pending(found[0]) < 2:
            distance, length, steps = found
            stride = Stride(start, distance, length, steps)
            self._strides.insert(0, stride)
            for old in self._strides[STRIDES:]:
                self._stride_survival.ended(old.steps)
                if old.steps <= 2:
                    self._finder.judge(old.distance, False)
            del self._strides[STRIDES:]
            self._ahead_of(stride, product, behind, traps)
        else:
            grown = self._grown
            self._learn(start, product)
            self._judge(product)
            if self._grown > grown:
                behind += self._enlarged(product)
            self._rent(start, block, product, unit, behind)
            self._ahead(run, product, FIRST_CHANCE, behind, traps)
            if not self._bought:
                self._probe(start, stop, block, product, traps)
        return Advice(block, tuple(behind), tuple(traps))

    def _pending(self, distance: int) -> int:
        """How many strides of this distance have foretold nothing yet."""
        return sum(stride.steps == 2 and -PAGE < stride.distance - distance < PAGE for stride in self._strides)

    def _remember(self, run: Run) -> None:
        runs = self._runs
        runs.insert(0, run)
        self._finder.began(run)
        if len(runs) > ACTIVE_RUNS:
            old = runs[ACTIVE_RUNS]
            if not old.ended:
                old.ended = True
                self._survival.ended(old.length)
            del runs[RUNS:]

    def _learn(self, start: int, product: float) -> None:
        """A miss at `start`: which size of aligned blocks would have made all misses so far cheapest?"""
        grids = self._grids
        if len(grids[0]) >= MISSES:
            for grid in grids:
                grid.clear()
            self._misses = 0
        for level, grid in enumerate(grids):
            grid[start >> SMALLEST_BITS + level] = None
        self._misses += 1
        if self._misses >= FEW:
            base = best = self._base(product)
            most = max(best, min(len(grids) - 1, int(product / 6).bit_length() - 1 - SMALLEST_BITS))
            least = CLEARLY * self._misses * (product + (1 << SMALLEST_BITS + base))
            for level in range(base + 1, most + 1):
                count = len(grids[level])
                cost = count * (product + (1 << SMALLEST_BITS + level))
                if cost < least and self._misses - count >= 3:
                    best, least = level, cost
            # Misses that larger blocks have saved can't be seen: what was learnt is kept.
            self._grown = max(self._grown, best - base)
            again = self._misses - len(grids[-2])
            if again >= 3 + self._misses * self._misses / (self._size >> LARGEST_BITS - 1 or 1):
                self._clustered = True

    def _enlarged(self, product: float) -> list[ByteRange]:
        """Blocks have grown: what of the latest misses' the smaller ones have left."""
        unit = self._unit(product)
        grid = self._grids[unit.bit_length() - 1 - SMALLEST_BITS]
        return [self._clip(index * unit, (index + 1) * unit) for index in list(grid)[: -ENLARGED - 1 : -1]]

    def _probe(self, start: int, stop: int, block: ByteRange, product: float, traps: list[int]) -> None:
        """Lay traps in a block: are its other bytes used?"""
        count = min(PROBES, 1 + int(self._link.round_trip / PROBE_SECONDS))
        for i in range(1, count + 1):
            at = (block.start + (start - block.start + i * block.length // (count + 1)) % block.length) // PAGE * PAGE
            if at + PAGE <= start or at >= stop:
                traps.append(at)
                self._probes[at // PAGE] = None
                self._placed += 1
        while len(self._probes) > 64 * PROBES:
            del self._probes[next(iter(self._probes))]

    def _judge(self, product: float) -> None:
        """From the probes: are blocks too small, or too large? Do reads keep to what was fetched?"""
        if self._placed < 3 * PROBES:
            return
        share, unit = self._sprung / self._placed, self._unit(product)
        hits = share * unit / PAGE  # other pages used in a block
        self._local = hits > 0.5
        useful = 1 - math.exp(-hits / 2)  # the chance that its other half is
        if self._sprung > 1 and useful / 2 > max(unit / product, 0.125) and 2 * unit <= product / 6:
            self._grown += 1
        elif self._placed > 16 * PROBES and useful < 0.06 and self._grown:
            self._grown -= 1
        elif self._placed < 32 * PROBES:
            return
        self._placed, self._sprung = self._placed // 4, self._sprung // 4

    def _base(self, product: float) -> int:
        return min(USUAL_LEVEL, max(0, int(product / 23).bit_length() - 1 - SMALLEST_BITS))

    def _unit(self, product: float) -> int:
        """The size of a block."""
        return 1 << min(SMALLEST_BITS + self._base(product) + self._grown, LARGEST_BITS)

    def _block(self, start: int, stop: int, unit: int) -> ByteRange:
        """What to fetch at once for a miss: what is absent of the block around it."""
        if stop - start >= unit or self._bound < unit:
            return self._clip(start, max(stop, min(start + self._least, start + self._bound)))
        grain = unit if self._grown else unit // 4
        low = start // grain * grain
        high = max(stop, low + unit)
        low, high = max(0, low), min(self._size, high)
        if low < start and not self._absent(low, start // PAGE * PAGE):
            low = start // PAGE * PAGE
        edge = -(-stop // PAGE) * PAGE
        if high > edge and not self._absent(edge, high):
            high = stop
        return ByteRange(min(low, start), max(high, stop))

    def _rent(self, start: int, block: ByteRange, product: float, unit: int, behind: list[ByteRange]) -> None:
        """Buy the largest region around `start` whose misses have cost enough."""
        if self._largest is not None:
            return
        for region in self._bought:
            if region.start <= start < region.stop:
                self._again += 1
                if self._again % 16:
                    return
        best: ByteRange | None = None
        shift = max(18, unit.bit_length())
        top = (self._size - 1).bit_length()
        rents = self._rents
        weight = 1.0 if block.length <= unit else 0.5  # who reads much at once chooses what
        while True:
            shift = min(shift, top)
            key = (shift, start >> shift)
            count = rents.get(key, 0.0) + weight
            rents[key] = count
            if count >= RENTS:
                share = KS if self._local or self._clustered else max(0.25, min(1.0, 4 / count)) if shift == top else 1.0
                rent = count * product * self._slowness / share
                low = start >> shift << shift
                region = ByteRange(low, min(self._size, low + (1 << shift)))
                if region.length <= self._window and rent >= self._absent_about(region, rent):
                    best = region
            if shift >= top:
                break
            shift += 2
        if len(rents) > COUNTERS:
            for key in [key for key, count in rents.items() if count <= 1]:
                del rents[key]
            if len(rents) > COUNTERS // 2:
                rents.clear()
        if best is not None and best.length > block.length:
            self._bought = [region for region in self._bought if not best.start <= region.start < best.stop][-15:]
            self._bought.append(best)
            behind.append(ByteRange(block.stop, best.stop))
            behind.append(ByteRange(best.start, block.start))

    def _absent_about(self, region: ByteRange, limit: float) -> float:
        """Bytes absent in a region; its length where that can't be less than `limit` by much."""
        if region.length <= limit:
            return region.length
        return self._absent(*region) if region.length <= 4 * limit else region.length

    # a run goes on

    def _run_on(
        self, run: Run, step: int, start: int, stop: int, missing: bool, product: float, unit: int
    ) -> Advice:
        before = run.length
        if run.ended:
            run.ended = False
            self._survival.ended(before, -1)
        run.goes_on(start, stop, step)
        self._survival.went(before, run.length)
        if run.count == 2:
            self._learn(start, product)
        if run.stride is not None:
            run.stride.length = max(run.stride.length, run.length)
        block = ByteRange(start, stop)
        if missing:
            if self._grown and run.length <= unit and stop - start < unit:
                block = self._block(start, stop, unit)  # as likely another read in a cluster
                run.low, run.edge = min(run.low, block.start), max(run.edge, block.stop)
            elif step > 0:
                block = self._clip(start, max(stop, start + min(unit, self._bound)))
                run.edge = max(run.edge, block.stop)
            else:
                block = self._clip(min(start, stop - min(unit, self._bound)), stop)
                run.edge = min(run.edge, block.start)
        behind: list[ByteRange] = []
        traps: list[int] = []
        self._ahead(run, product, run.length, behind, traps)
        return Advice(block, tuple(behind), tuple(traps))

    def _ahead(self, run: Run, product: float, prior: float, behind: list[ByteRange], traps: list[int]) -> None:
        """Ask for what is worth it beyond a run's last read. `prior`: the run's length, or the chance that it goes on
        at all."""
        length = max(run.length, 1)
        most = min(max(MIB, KM * product), self._bound / 2)
        if self._hint == "sequential":
            ahead = most
        else:
            ahead = 0.0
            width = KW0
            while width < most:
                width = min(KW1 * width, most)
                law = length / (length + width) if prior >= 1 else prior
                chance = self._survival.chance(length, int(width), law)
                if chance < WORTHWHILE or chance * product < (1 - chance) * width * KW:
                    break
                ahead = width
        piece = self.piece
        step = 1 if run.step >= 0 else -1
        end = min(self._size, max(0, run.last + step * int(ahead))) // PAGE * PAGE
        more = (end - run.edge) * step
        if more < min(ahead / 2, piece) and not (end in {0, self._size // PAGE * PAGE} and more > 0):
            return
        if more > piece:  # whole ones: a short one at the end costs a request too
            end -= step * (more % piece)
        trap = run.last + step * int(min(ahead / 2, piece))
        if step > 0:
            end = self._size if end + PAGE > self._size else end
            trap = max(trap, run.edge)
            behind.append(ByteRange(max(0, run.last), end))  # all of it: what still waits goes first
        else:
            trap = min(trap, run.edge - 1)
            part = min(piece, max(USUAL_BLOCK, (run.edge - end) // 4 // PAGE * PAGE))
            for at in range(run.last, end, -part):
                behind.append(ByteRange(max(end, at - part), at))
        run.edge = end
        if 0 <= trap < self._size:
            traps.append(trap // PAGE * PAGE)

    # a stride goes on

    def _stride_on(
        self, stride: Stride, steps: int, start: int, stop: int, missing: bool, product: float
    ) -> Advice:
        before = stride.steps
        stride.steps += steps
        self._stride_survival.went(before, stride.steps)
        self._finder.judge(stride.distance, True)
        stride.asked = max(0, stride.asked - steps)
        offset = (start - stride.anchor) - steps * stride.distance
        stride.anchor = start if -PAGE <= offset < PAGE else stride.anchor + steps * stride.distance
        stride.length = max(stride.length, stop - stride.anchor)
        begin, end = self._element(stride, 0)
        run = Run(stride.anchor, stop, begin, max(stop, end))
        run.stride = stride
        self._remember(run)
        block = ByteRange(start, stop)
        if missing:
            block = self._clip(start, max(stop, end))
        behind: list[ByteRange] = []
        traps: list[int] = []
        self._ahead_of(stride, product, behind, traps)
        return Advice(block, tuple(behind), tuple(traps))

    def _element(self, stride: Stride, k: int) -> tuple[int, int]:
        """Where the k-th element after the anchor lies; what is longer than a page may be off by some bytes."""
        start = stride.anchor + k * stride.distance
        slack = 256 if stride.length > 4 * PAGE else 0
        return start - slack, start + max(stride.length + slack, self._least)

    def _ahead_of(self, stride: Stride, product: float, behind: list[ByteRange], traps: list[int]) -> None:
        """Ask for the elements that are worth it."""
        length = max(self._least, stride.length)
        most = int(min(2 * self._connections, max(2.0, 3 * product / length), self._bound // 2 // length))
        steps = stride.steps + min(8, self._finder.good.get(stride.distance // PAGE, 0) / 2)
        depth = 0
        for ahead in range(1, most + 1):
            chance = self._stride_survival.chance(stride.steps, ahead, steps / (steps + ahead))
            if chance * product < (1 - chance) * length or (chance < SURE and ahead * length > FREE):
                break
            depth = ahead
        if stride.asked > depth / 2:
            return
        for k in range(1, depth + 1):
            begin, end = self._element(stride, k)
            if begin >= self._size or end <= 0:
                break
            begin, end = self._clip(begin, end)
            if self._absent(begin, end):  # what was asked for and still waits goes first
                behind.append(ByteRange(begin, end))
            stride.asked = max(k, stride.asked)
        if stride.asked:
            for k in {1, (stride.asked + 1) // 2}:
                at = stride.anchor + k * stride.distance
                if 0 <= at < self._size:
                    traps.append(at // PAGE * PAGE)

    def _clip(self, start: int, stop: int) -> ByteRange:
        return ByteRange(max(0, start), min(self._size, stop))
