"""Foresight: what the patterns of a file's reads foretell, and how much of it is worth asking for. Pure.

Runs, strides and lattices are found in `_patterns.py`; here their chances are weighed against what their bytes cost, by
the rule of `_policy.py`: b bytes that are needed with chance p are worth it where p x product > (1 - p) x b.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hctef._link import Link
from hctef._pace import KIB, MIB, Pace
from hctef._patterns import Lattice, Run, Stride, Strides, Survival
from hctef._ranges import PAGE, ByteRange
from hctef._regions import USUAL_BLOCK

RUNS = 24
"""Remembered as going on: as many columns may be read side by side."""
ACTIVE_RUNS = 8
"""The latest of these count as going on; an older one has ended, unless it is read on."""
RECENT = 48
"""Beginnings of runs among which three equal steps are sought: column chunks come interleaved and out of order."""
WORTHWHILE = 1 / 3
"""The least chance for which a run's bytes are asked for: then two in three may be wasted."""
SURE = 0.6
"""The same for a stride's elements: a wrong stride wastes all of them."""
MOST = 32
"""Elements asked for at once, at most."""
FREE = 256 * KIB
"""Bytes of a stride's elements that are asked for with any chance."""
COLUMN = 64 * KIB
"""Bytes: a shorter read is none of a column of a table."""
COARSE = 32 * KIB
"""Bytes by which the places of a column's pieces may be off, where they are compressed."""
EDGE = 256
"""Bytes by which places that repeat may be off."""
IDLE = 0.5
"""What bytes cost that are fetched ahead: the line would be idle, perhaps."""
DEEP = 6
"""Round trips of a line's bytes to have ahead of a run. More than are in flight, for connections get unequal shares of
a line: while the reader waits for the slowest, the others go on. Over 80 ms, 256 MiB took 16 to 19 s with 4, 13 to 14 s
with 6 to 10; a single GET takes 12.5."""
AHEAD = 0.75
"""Of the bytes that may be ahead: the rest is for what is read elsewhere meanwhile."""
WORKING = 1.0
"""Seconds of work for one of waiting, from which on bytes are fetched meanwhile. 128 MiB over loopback, in reads of
64 KiB: 130 ms (120 where all were fetched by the reader, 160 behind him); with 60 us of hashing each 230 (275, 250)."""
LATELY, PAUSE = 0.8, 0.1
"""What a second of these counts an access later; and how many count at once, for who pauses does not work."""
PARTS = 6
"""Of a window that is read backward: bytes come in order in each of them."""
THREAD = 500e-6
"""Seconds that it costs to have another thread make a request: one that takes no longer is not worth that."""


class Foresight(Pace):
    """What the readers of one file will read, as far as the order of what they have read tells."""

    __slots__ = (
        "_bound",
        "_coarse",
        "_finder",
        "_follows",
        "_hint",
        "_lacks",
        "_lattice",
        "_least",
        "_runs",
        "_since",
        "_size",
        "_stride_survival",
        "_strides",
        "_survival",
        "_waiting",
        "_working",
        "fits",
        "window",
    )

    def __init__(
        self,
        size: int,
        link: Link,
        *,
        least: int,
        bound: int,
        window: int,
        connections: int,
        lacks: Callable[[int, int], bool],
    ) -> None:
        """`least`: bytes in a request; `bound`: bytes ahead at most; `window`: bytes that all that is ahead may take;
        `lacks`: whether any byte of `[start, stop)` is neither resident nor in flight."""
        super().__init__(link, connections)
        self._size, self._least, self._lacks = size, least, lacks
        self._bound, self.window = bound, window
        self.fits = window >= size
        """Nothing has to make room for what is ahead."""
        self._hint = "normal"
        self._follows = False
        """The latest reader goes on while bytes come: he does not fetch them himself."""
        self._since = math.inf  # when the latest access began, or ended
        self._working = self._waiting = 0.0  # seconds between the latest accesses, and in them
        self._runs: list[Run] = []  # latest first
        self._survival = Survival()
        self._strides: list[Stride] = []  # latest first
        self._stride_survival = Survival()
        self._finder = Strides(RECENT)
        self._coarse = Strides(RECENT, COARSE)  # of long reads, whose places are not exact
        self._lattice = Lattice()

    def _remember(self, run: Run) -> None:
        runs = self._runs
        runs.insert(0, run)
        self._finder.began(run)
        if self._is_long(run.start, run.start + run.size):
            self._coarse.began(run)
        if len(runs) > ACTIVE_RUNS:
            self._end(runs[ACTIVE_RUNS])
            del runs[RUNS:]

    def _end(self, run: Run) -> None:
        """It goes no further, as far as can be told."""
        if not run.ended:
            run.ended = True
            self._survival.ended(run.length)

    def _judge(self, stride: Stride, *, right: bool) -> None:
        """What a stride foretold came true, or did not."""
        (self._coarse if stride.slack else self._finder).judge(stride.distance, right=right)

    def _pending(self, distance: int) -> int:
        """How many strides of this distance have foretold nothing yet."""
        return sum(stride.steps == 2 and -PAGE < stride.distance - distance < PAGE for stride in self._strides)

    def _ahead(self, run: Run, block: ByteRange, trust: float, behind: list[ByteRange], traps: list[int]) -> None:
        """Ask for what is worth it beyond a run's last read and what is fetched for that. `trust`: see `_worth`."""
        if run.step >= 0 and self._is_alone and not self._follows:  # he fetches more himself, when it is missed
            run.reach()
            return
        step = 1 if run.step >= 0 else -1
        last = block.stop if step > 0 else block.start
        ahead = self._worth(max(run.length, (last - run.first) * step), trust)
        piece = self.sizes.piece
        end = min(self._size, max(0, last + step * ahead)) // PAGE * PAGE
        if step > 0 and run.length <= run.expected:  # it ends there
            end = min(end, -(-(run.start + run.expected) // PAGE) * PAGE)
        more = (end - run.edge) * step
        least = min(ahead // 4, piece)
        if more <= 0 or (more < least and 0 < end < self._size // PAGE * PAGE):
            self._listen(run, last, last + step * (least - more), step, traps)
            run.reach()
            return
        if more > piece:  # whole ones: a short one at the end costs a request too
            end -= step * (more % piece)
        if (end - last) * step <= 0:  # its edge lay behind what is fetched for this read
            run.reach()
            return
        trap = last + step * least
        # All of it, from the reader on: what still waits goes first.
        if step > 0:
            end = self._size if end + PAGE > self._size else end
            trap = max(trap, run.edge)
            behind.append(ByteRange(last, end))
        else:
            trap = min(trap, run.edge - 1)
            part = max(USUAL_BLOCK, (last - end) // PARTS // PAGE * PAGE)
            behind += (ByteRange(max(end, at - part), at) for at in range(last, end, -part))
        run.edge, run.trap = end, trap
        run.reach()
        if 0 <= trap < self._size:
            traps.append(trap // PAGE * PAGE)

    def _listen(self, run: Run, last: int, due: int, step: int, traps: list[int]) -> None:
        """Nothing is to be asked for yet, at `due` it will be: have that heard of, or the run would go on unseen to its
        edge. What is there already cannot be trapped, what comes after it perhaps can."""
        if (run.trap - last) * step <= 0 < (run.edge - due) * step:
            middle = (due + run.edge) // 2
            traps += (due // PAGE * PAGE, middle // PAGE * PAGE)
            run.trap = middle

    @property
    def _share(self) -> float:
        """Bytes that one run may have ahead: those that are read side by side would push out each other's."""
        bound = float(self._bound)
        if not self.fits:
            bound = min(bound, self.window / max(1, sum(run.count > 1 for run in self._runs)))
        return bound * AHEAD

    @property
    def _is_alone(self) -> bool:
        """Whether the bytes of a run are best fetched when they are missed, by their reader: over a near line, where he
        waits and does little else. Another thread would spare him nothing, and they would wait for each other's locks;
        but where he works with what he has read, the next bytes come meanwhile."""
        return self._link.near and (self._follows or self._working <= WORKING * self._waiting)

    def _worth(self, length: int, trust: float) -> int:
        """How many bytes to have ahead of a run of this length. `trust`: below 1, the chance that it goes on at all;
        else as if it were so many times as long."""
        product = self._link.product
        most = min(max(MIB, DEEP * product, 4 * self.sizes.piece), self._share)
        if self._hint == "sequential":
            return int(most)
        ahead, width = 0.0, 32.0 * KIB
        while width < most:
            width = min(1.5 * width, most)
            law = trust * length / (trust * length + width) if trust >= 1 else trust
            p = self._survival.chance(length, int(width), law)
            if p < WORTHWHILE or p * product < (1 - p) * width * IDLE:
                break
            ahead = width
        return int(ahead)

    def _is_long(self, start: int, stop: int) -> bool:
        """Whether a read may be of a column: a lattice is looked for where a miss costs more than to look."""
        return stop - start >= COLUMN and not self._link.near

    def _foretell(self, size: int, behind: list[ByteRange], traps: list[int]) -> None:
        """Ask for what a lattice foretells."""
        p, product = self._lattice.chance, self._link.product
        if p * product < (1 - p) * size:
            return
        for place in self._lattice.foretell(size, self._size):
            begin, end = self._clip(place - EDGE, place + size + EDGE)
            if self._lacks(begin, end):
                behind.append(ByteRange(begin, end))
                traps.append(place // PAGE * PAGE)

    def _elements(self, stride: Stride, behind: list[ByteRange], traps: list[int]) -> None:
        """Ask for the elements of a stride that are worth it."""
        along = self._link.near and self._link.pipelines
        if self._link.round_trip < THREAD and not along:
            return
        if 2 * stride.asked > stride.depth > 0:
            return
        product, length = self._link.product, max(self._least, stride.length)
        most = int(min(2 * self._connections, MOST, max(2.0, 3 * product / length), self._bound // 2 // length))
        steps = stride.steps + min(8, self._finder.good.get(stride.distance // PAGE, 0) / 2)
        stride.depth, known = 0, stride.asked
        for depth in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
            p = self._stride_survival.chance(stride.steps, depth, steps / (steps + depth))
            if depth > most or p * product < (1 - p) * length or (p < SURE and depth * length > FREE):
                break
            stride.depth = depth
        for k in range(1, stride.depth + 1):
            begin, end = stride.element(k, self._least)
            if begin >= self._size or end <= 0:
                break
            begin, end = self._clip(begin, end)
            if k > known or self._lacks(begin, end):  # what was asked for and still waits goes first
                behind.append(ByteRange(begin, end))
            stride.asked = max(k, stride.asked)
        # What comes along with a miss waits for the next one: to hear of a hit costs as much.
        for k in {1, (stride.asked + 1) // 2} if stride.asked and not along else ():
            at = stride.anchor + k * stride.distance
            if 0 <= at < self._size:
                traps.append(at // PAGE * PAGE)

    def _clip(self, start: int, stop: int) -> ByteRange:
        return ByteRange(max(0, start), min(self._size, stop))
