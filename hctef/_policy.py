"""Policy: what to fetch beyond what was asked for. Pure: no I/O, no clock, no lock.

Extra bytes cost time on the line, a miss costs a round trip. Both are measured in bytes here: a round trip is worth
`product` = bandwidth x round trip. To fetch b bytes that are needed with chance p is worth it where p x product >
(1 - p) x b. So the policy is a set of ways to know p, all learnt from what came of it before (`_patterns.py`,
`_regions.py`; how far the order of reads foretells more, `_foresight.py`):

- Runs: what has been read sequentially for n bytes goes on for w more with chance n / (n + w), or as the runs before
  it did; so the bytes asked for ahead grow with the bytes read, up to what keeps the line busy. Over a near line a
  reader who does little else fetches them himself: another thread would be in his way.
- Strides: three equal steps foretell the fourth; each that comes true foretells more.
- Lattices: where long reads lie at the same few distances from each other, in whatever order they come, so do others.
- Blocks: a miss fetches a block. Where other bytes of the blocks fetched before are read too, or missed beside them,
  larger ones are worth it. Over a near line a miss costs work most of all, a fault more of it than a read: it counts as
  long as it took.
- Rents (ski rental, Karlin et al. 1988): a region whose misses have cost as much as its bytes would is bought, at
  every scale up to the whole file; whatever comes, that costs at most about twice the better choice. Where reads show
  no locality, to wait for so long teaches nothing: a quarter of the price is enough, since what is bought comes
  behind the reader, whose own requests go first (on a near line block by block, each when it is missed). Of a file that
  is read evenly no part is bought by itself: of many parts some have many misses by chance. Nor is more bought than a
  quarter of the memory that is free. Where memory is bounded, what is bought goes again: only where reads show
  locality is anything bought, and rents count for as long as it would stay.

Nothing is known of hits: they are free because nobody is told of them. Where one must be heard of, to keep a window
ahead of its reader or to learn whether a block is used, its page is made a trap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hctef._foresight import COARSE, LATELY, PAUSE, Foresight
from hctef._huge import HUGE
from hctef._link import Link
from hctef._pace import KIB, MIB
from hctef._patterns import Run, Stride
from hctef._ranges import PAGE, ByteRange
from hctef._regions import EAGER, EAGER_NEAR, Blocks, Rents

NEAR = 4
UNSEEN = 16 * MIB
"""The latest runs may have gone on through so many bytes that were there already."""
STRIDES = 12
PENDING = 2
"""Strides of one distance that have foretold nothing yet, at most."""

FIRST_CHANCE = 0.1
"""That a first read goes on, before the file has shown any: most do not, and the second read tells."""
COPY = 64 * KIB
"""Bytes that a program reads at once when it copies a file (shutil.COPY_BUFSIZE on Linux)."""
SMALL = 8
"""A fraction of a round trip's bytes that may be waited for without much harm: one over this."""
ENLARGED = 32
"""Misses whose neighbourhood is fetched behind the reader when blocks grow."""

SLOWEST, SLOWEST_NEAR = 4.0, 2.0
"""Round trips that a miss is believed to take at most. Over a near line most of a long wait is what else this machine
does: believed, it had views fetch 67 MB of 16.8 that were read, in regions. Where reads show such, blocks grow instead.
"""
INTAKE = 1e9
"""Bytes/s that a process takes up of a near line, with all that it does with them."""
ALONE_LEAST, ALONE_MOST = 4 * MIB, 16 * MIB
"""Bytes: on a near line a run's reader fetches what is worth it himself, so many at once, as what comes in
ALONE_SECONDS: at the end of each block he waits for a round trip and all the work of a miss."""
ALONE_SECONDS = 0.016
"""1,000 random reads of 256 MiB, which is bought, over loopback: 0.50 s with 4 MiB, 0.40 with 16. One who follows the
bytes as they come gets the most on any near line: a sum over 512 MiB of a view, 0.88 and 0.73 s."""


class Advice(NamedTuple):
    """What an access is worth fetching."""

    block: ByteRange
    """Covers the access; fetched now, by its reader, who waits for all of it but where he follows."""
    behind: tuple[ByteRange, ...] = ()
    """Fetched behind the reader, most wanted first; may overlap what is resident or in flight."""
    traps: tuple[int, ...] = ()
    """Offsets whose pages are to be withheld when they come, so that their first touch is reported."""
    goes_on: bool = False
    """The block is of a run, whose reader will come to what is beyond the access."""


class Policy(Foresight):
    """What the readers of one file have read, as far as it tells what they will."""

    __slots__ = (
        "_absent",
        "_blocks",
        "_largest",
        "_rents",
        "_slowness",
        "_spent",
        "_unexplained",
    )

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
        lacks: Callable[[int, int], bool],
        memory: Callable[[], int],
    ) -> None:
        """`largest`: bytes ahead at most, 0 for none, None for as many as pay; `least`: bytes in a request; `window`:
        bytes that may be ahead without pushing out others, `size` where all of the file may stay; `absent`: bytes of
        `[start, stop)` neither resident nor in flight, and `lacks`: whether there are any; `memory`: bytes of it that
        are free."""
        window = min(window, size)
        bound = window if largest is None else min(largest, window)
        super().__init__(size, link, least=least, bound=bound, window=window, connections=connections, lacks=lacks)
        self._largest, self._absent = largest, absent
        self._spent = 0  # bytes that were worth it since the rents began anew
        self._blocks = Blocks(size, stay=self.fits)
        self._rents = Rents(size, memory)
        self._unexplained = False  # the latest access
        self._slowness = 1.0  # a miss's usual wait in round trips

    @property
    def paying(self) -> bool:
        return self._rents.paying

    def advise(self, hint: str) -> None:
        """'normal', 'sequential' or 'random', as madvise has them."""
        self._hint = hint

    def waited(self, seconds: float) -> None:
        """A reader waited so long for the network, in the access just before."""
        self._since += seconds
        self._waiting += seconds
        if self._unexplained and not self.paying:  # after that it waits for our own bytes
            most = SLOWEST_NEAR if self._link.near else SLOWEST
            ratio = min(most, max(1.0, seconds / self._link.cost))
            self._slowness += (ratio - self._slowness) / 8

    def access(
        self, start: int, stop: int, now: float, *, missing: bool, trapped: bool = False, follows: bool = False
    ) -> Advice:
        """A read that was no plain hit: bytes of it were absent (`missing`), in flight, or a trap's. `follows`: its
        reader goes on when they come, and does not wait for the rest of the block."""
        self._unexplained, self._follows = False, follows
        self._working = LATELY * (self._working + min(PAUSE, max(0.0, now - self._since)))
        self._waiting *= LATELY
        self._since = now
        self._rents.since += 1
        if self._largest == 0:
            return Advice(ByteRange(start, stop))
        if self._hint == "random":
            return Advice(self._clip(start, max(stop, start + self._least)))
        if trapped and self._blocks.sprung(start, stop) and not missing:
            return Advice(ByteRange(start, stop))
        product = self._miss_penalty
        unit = self._blocks.unit(product)
        for index, run in enumerate(self._runs):
            if stop >= run.near and start <= run.nearly and (step := run.continues(start, stop)):
                if index:
                    del self._runs[index]
                    self._runs.insert(0, run)
                return self._run_on(run, step, start, stop, missing=missing, unit=unit)
        for index, stride in enumerate(self._strides):
            if steps := stride.position(start, stop, self._connections):
                if index:
                    del self._strides[index]
                    self._strides.insert(0, stride)
                return self._stride_on(stride, steps, start, stop, missing=missing)
        if self._lattice.expects(start):
            return self._lattice_on(start, stop, missing=missing)
        if not missing:
            return Advice(ByteRange(start, stop))
        for run in self._runs[:NEAR]:
            if -UNSEEN <= start - run.edge <= UNSEEN and (step := self._through(run, start, stop)) != 0:
                self._runs.remove(run)
                self._runs.insert(0, run)
                return self._run_on(run, step, start, stop, missing=missing, unit=unit)
        return self._begin(start, stop, product, unit)

    def _through(self, run: Run, start: int, stop: int) -> int:
        """1 or -1 where all from a run's edge to a miss is there: then it may have gone on unseen, by hits."""
        if run.step >= 0 and 0 < start - run.edge <= UNSEEN and not self._lacks(run.edge, start // PAGE * PAGE):
            return 1
        if run.step <= 0:
            edge, below = (run.edge if run.step else run.low), -(-stop // PAGE) * PAGE
            if 0 < edge - stop <= UNSEEN and not self._lacks(below, edge):
                return -1
        return 0

    def _begin(self, start: int, stop: int, product: float, unit: int) -> Advice:
        """A miss that nothing foretold."""
        self._unexplained = True
        block = self._block(start, stop, unit)
        run = Run(start, stop, block.start, block.stop)
        found = self._finder.find(start, stop - start, 2 * unit)
        slack = 0
        if found is None and self._is_long(start, stop):
            found, slack = self._coarse.find(start, stop - start, stop - start + COARSE), COARSE // 2
        self._remember(run)
        behind: list[ByteRange] = []
        traps: list[int] = []
        if self._is_long(start, stop):
            self._lattice.read(start, stop - start)
            if self._lattice.right > 1 or found is None:
                self._foretell(stop - start, behind, traps)
        if found is not None and not behind and self._pending(found[0]) < PENDING:
            stride = Stride(start, *found, slack)
            self._strides.insert(0, stride)
            for old in self._strides[STRIDES:]:
                self._stride_survival.ended(old.steps)
                if old.steps <= 2:
                    self._judge(old, right=False)
            del self._strides[STRIDES:]
            self._elements(stride, behind, traps)
            end = min(self._size, start + stride.length)
            if stride.depth and end > block.stop:  # the rest of this one, too
                behind.insert(0, ByteRange(block.stop, end))
                run.edge, run.expected = end, stride.length
                run.reach()
            return self._advice(block, behind, traps)
        if self._blocks.missed(start, product) and self._largest is None:
            behind += self._blocks.latest(product, ENLARGED)
        local = self._blocks.used or self._blocks.clustered
        if self._largest is None and (local or self.fits):
            region = self._rents.missed(
                start,
                1.0 if stop - start < unit else 0.5,  # who reads much at once chooses what
                self._price * (1.0 if local and self._link.near else self._slowness),
                self._absent,
                self.window,
                local=local,
                eager=EAGER_NEAR if self._link.near else EAGER,
            )
            if self._link.near:
                block = self._bought(start, block)
            elif region is not None and region.length > block.length:
                parts = (ByteRange(block.stop, region.stop), ByteRange(region.start, block.start))
                behind += (part for part in parts if part.start < part.stop)
        # Who begins at the file's start most often reads on; all the more, who reads as much as a copy does.
        trust = FIRST_CHANCE if start else 1.0 if stop < COPY else 2.0
        if self._is_alone and not self._follows and not self.paying:
            # What most runs go on through, with the first miss; no more than that costs, since he waits for it.
            ahead = min(self._worth(stop - start, trust), int(product))
            block = self._clip(block.start, max(block.stop, stop + ahead))
            run.edge = block.stop
        self._ahead(run, ByteRange(start, stop), trust, behind, traps)
        if not self.paying and block.length >= 4 * PAGE:
            self._blocks.lay(start, stop, block, self._link.round_trip, traps)
        return self._advice(block, behind, traps)

    @property
    def _miss_penalty(self) -> float:
        """What a miss costs in bytes. Over a near line that is work most of all, of which a fault takes more."""
        link = self._link
        return link.product * self._slowness if link.near else link.product

    @property
    def _price(self) -> float:
        """What a miss costs in bytes of what is bought: those come over a near line as fast as they are taken up."""
        product = self._link.product
        return product * min(1.0, INTAKE / self._link.bandwidth) if self._link.near else product

    def _bought(self, start: int, block: ByteRange) -> ByteRange:
        """What to fetch at once on a near line, where what is bought comes in large blocks, each when it is missed:
        a thread that fetched it behind the reader would only be in his way."""
        region = self._rents.holding(start)
        if region is None:
            return block
        unit = self._alone
        low = start // unit * unit
        low, high = max(low, region.start), min(low + unit, region.stop)
        return ByteRange(min(low, block.start), max(high, block.stop))

    @property
    def _alone(self) -> int:
        """Bytes, a power of two, that a reader on a near line waits for at once."""
        most = ALONE_MOST if self._follows else int(self._link.bandwidth * ALONE_SECONDS)
        return min(ALONE_MOST, 1 << max(ALONE_LEAST, most).bit_length() - 1)

    def _block(self, start: int, stop: int, unit: int) -> ByteRange:
        """What to fetch at once for a miss: what is absent of the block around it."""
        if stop - start >= unit or self._bound < unit:
            return self._clip(start, max(stop, min(start + self._least, start + self._bound)))
        # Without evidence of clusters what follows is likelier than what is before: most of the block lies ahead.
        grain = unit if self._blocks.grown else unit // 4
        low = start // grain * grain
        high = min(self._size, max(stop, low + unit))
        page, edge = start // PAGE * PAGE, -(-stop // PAGE) * PAGE
        if low < page and not self._lacks(low, page):
            low = page
        if high > edge and not self._lacks(edge, high):
            high = stop
        return ByteRange(low, high)

    def _run_on(self, run: Run, step: int, start: int, stop: int, *, missing: bool, unit: int) -> Advice:
        """A run goes on."""
        before = run.length
        if run.ended:
            run.ended = False
            self._survival.ended(before, -1)
        product = self._miss_penalty
        edge = run.low if run.step == 0 > step else run.edge
        run.goes_on(start, stop, step)
        if run.length > before:
            self._survival.grew(before, run.length)
        behind: list[ByteRange] = []
        traps: list[int] = []
        enlarges = run.count == 2 and missing and self._blocks.missed(start, product) and self._largest is None
        if run.stride is not None:
            slack = min(unit, run.length >> 3) if missing else 0  # its last reads were not heard of: all was there
            run.stride.length = max(run.stride.length, run.length + slack)
        block = ByteRange(start, stop)
        adjoins = start <= edge if step > 0 else stop >= edge  # by chance this is rare, or it was asked for
        scattered, alone = False, 0
        if missing:
            scattered = self._blocks.grown and run.length <= 2 * unit and stop - start < unit and not adjoins
            if scattered:
                block = self._block(start, stop, unit)  # as likely another read in a cluster
            elif step > 0:
                more = int(min(run.length, product / SMALL))
                if self._is_alone:
                    more = alone = min(self._worth(run.length, 1.0), self._alone)
                more = int(min(max(unit, more), max(self._share, self._bound / 4)))
                end = start + more
                if alone > 2 * HUGE:
                    end -= end % HUGE
                block = self._clip(start, max(stop, end))
            else:  # what is between it and what was asked for, and more below
                unit = min(unit, self._bound)
                high = edge if stop <= edge <= start + unit else stop
                block = self._clip(min(start, high - unit), high)
            run.edge = block.stop if step > 0 else block.start  # what was asked for beyond did not come: ask again
        if alone or scattered:
            run.reach()
        else:
            self._ahead(run, block, 1.0, behind, traps)
        if enlarges:
            enlarged = self._blocks.latest(product, ENLARGED)
            behind = behind + enlarged if adjoins else enlarged + behind
        return self._advice(block, behind, traps, goes_on=not scattered)

    def _stride_on(self, stride: Stride, steps: int, start: int, stop: int, *, missing: bool) -> Advice:
        """A read that a stride foretold."""
        before = stride.steps
        stride.steps += steps
        self._stride_survival.grew(before, stride.steps)
        self._judge(stride, right=True)
        if missing and steps <= stride.asked:
            stride.depth = 0  # what was asked for did not come: look again
        stride.asked = max(0, stride.asked - steps)
        expected = stride.anchor + steps * stride.distance
        if -PAGE - stride.slack <= start - expected < PAGE + stride.slack:
            stride.anchor = start
            if stride.slack:  # the mean
                stride.distance += (start - expected) // stride.steps
        else:
            stride.anchor = expected
        stride.length = max(stride.length, stop - stride.anchor)
        if self._is_long(start, stop):
            self._lattice.read(start, stop - start)
        if stride.latest is not None:
            self._end(stride.latest)
        begin, end = stride.element(0, self._least)
        run = Run(stride.anchor, max(stop, stride.anchor + 1), begin, max(stop, min(end, self._size)))
        run.stride, run.expected, stride.latest = stride, stride.length, run
        self._remember(run)
        behind: list[ByteRange] = []
        traps: list[int] = []
        self._elements(stride, behind, traps)
        block = self._clip(start, max(stop, end)) if missing else ByteRange(start, stop)
        return self._advice(block, behind, traps)

    def _lattice_on(self, start: int, stop: int, *, missing: bool) -> Advice:
        """A read that a lattice foretold."""
        self._lattice.read(start, stop - start)
        self._remember(Run(start, stop, start, stop))
        behind: list[ByteRange] = []
        traps: list[int] = []
        self._foretell(stop - start, behind, traps)
        return self._advice(ByteRange(start, stop), behind, traps)

    def _advice(self, block: ByteRange, behind: list[ByteRange], traps: list[int], *, goes_on: bool = False) -> Advice:
        """What all the above came to, cut to what may be ahead."""
        if not self.fits:
            self._spent += block.length + sum(part.length for part in behind)
            if self._spent > self.window:  # what came by then goes to make room: rents and hindsight begin anew
                self._spent = 0
                self._rents.forget()
                self._blocks.forget()
        if self._bound < self._size:
            room, wishes = self._bound, behind
            behind = []
            for start, stop in wishes:
                if start < stop and room > 0:
                    behind.append(ByteRange(start, min(stop, start + room)))
                    room -= behind[-1].length
        return Advice(block, tuple(behind), tuple(traps), goes_on)
