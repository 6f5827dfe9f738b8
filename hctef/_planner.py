"""Planner: what to fetch, who fetches it, when it counts as there, and what goes first when room is short.

The way of a byte: a reader finds its pages missing → the policy says what is worth fetching with them, and what behind
the reader (`_policy.py`) → the gaps that nobody fetches become claims, few requests for many gaps (`_gaps.py`) → a
transfer brings their bytes into the arena (`transfer`), one claim or several in a lane (`_lanes.py`) → whole pages are
marked resident, waiters wake (`_arrived`) → the reader copies out, under a pin or under the check of `epoch`. What is
wished for behind the readers becomes claims when a connection has room for it. How bytes are brought is
`_delivery.py`'s, what comes from the disk and goes there `_storing.py`'s, what is kept in memory and given up
`_residency.py`'s.

No I/O, no lock, no thread: generators that yield steps (`_steps.py`); whoever drives them holds the file's lock while
they compute. Bytes are marked resident only after they are in the arena. A reader either claims or waits, so no two
wait for each other; a claim lives exactly as long as its transfer, and is given back whatever happens.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from hctef._intervals import Batch, Claim, Pin
from hctef._progress import Watch
from hctef._ranges import PAGE, ByteRange, align, coalesce, split
from hctef._steps import Call, FetchPlan, PlanGen, Wait
from hctef._streaming import Streaming

HUGE_BYTES = 4 * 1024 * 1024
"""A block of this length is worth gathering small pages, where nothing is evicted piece by piece."""

SPLIT_BYTES = 16 * 1024 * 1024
"""A gap longer than this is split over connections: below it a second one's slow start costs more than it brings.
Over a near line so many bytes in several gaps come one after the other: more threads would only be in their way."""

SPLIT_MOST = 4
"""The most pieces. Over a line of 1 Gbit/s and 20 ms, 256 MiB took 2.35 s in one piece, 2.6 s in 4, 2.7 s in 32: each
starts slowly, and the line waits for none of them. Where a server gives each connection a share, 4 have four."""


SHORT = 64 * 1024
"""Bytes that are copied under the lock: to release it and take it again takes longer."""

LONG = 4 * 1024 * 1024
"""A read of more bytes is fetched and copied out at the same time, so many bytes after so many."""

FIRST_PIECE = 16 * 1024 * 1024
"""Of a long read over a far line, the bytes that come in one piece at once: its connection starts as quickly as that
of a single GET, and others join it meanwhile. 256 MiB over 1 Gbit/s and 20 ms took 2.54 to 2.69 s; 2.69 to 2.78 without
it; 2.58 to 3.5 with 32 MiB, as two streams that fill the pipe overflow a router's queue."""

PIPELINED_BYTES = 1024 * 1024
"""That are asked for at once on a connection, where several readers' requests may be: more would be in the way of one
that comes later."""

FLIGHT = 12 * 1024
"""Bytes that come with the others in the first round trip of slow start."""


class Planner(Streaming):
    """What the readers of one remote file want, and who brings it."""

    # reading

    def read(self, start: int, stop: int, *, hold: bool = False) -> PlanGen[Pin | None]:
        """Make `[start, stop)` resident, and have fetched behind the reader what it is likely to read next.

        Returns the pin that keeps it so until `unpin`; None where there is nothing to keep. `hold`: for longer than a
        copy takes, so that a pager must know of it.
        """
        self._check_open()
        if stop <= start:
            return None
        pin = self.pin(start, stop, brief=not hold)
        self.stats.bytes_read += stop - start
        try:
            if self.pages.resident(start, stop) and not (hold and self.pager):
                self.stats.hits += 1
                return pin
            if self.pager is None:
                yield from self._read(ByteRange(start, stop))
            else:
                self.stats.misses += 1
            if self.pager is not None and (hold or not self.pages.resident(start, stop)):
                yield Wait(self.pager.read(ByteRange(start, stop), pin.held if hold else None))
                self._check_open()
        except BaseException:
            self.unpin(pin)
            raise
        return pin

    def _read(self, wanted: ByteRange) -> PlanGen[None]:
        """A read that was no hit: of a page that is absent, on its way, or withheld."""
        if self.disk is not None:
            yield from self._load_stored(self._near(wanted))
            if self.pages.resident(*wanted):
                self.stats.hits += 1
                return
            if self.pager is not None:  # meanwhile
                self.stats.misses += 1
                return
        began = self.clock()
        urgent, behind = self._consult(wanted, began)
        if self.pages.resident(*wanted):  # a trap
            self.stats.hits += 1
            if behind:
                yield FetchPlan(background=behind)
            return
        self.stats.misses += 1
        own = tuple(claim for claim in urgent if claim.start < wanted.stop and wanted.start < claim.stop)
        mine = urgent if self.link.near else own
        rest = (*(claim for claim in urgent if claim not in mine), *behind)
        if self._alone(mine, wanted.stop):
            if mine and self.link.near and sum(claim.stop - claim.start for claim in mine) <= SPLIT_BYTES:
                yield from self._one_by_one(mine, rest)
            elif mine or rest:
                yield FetchPlan(claims=mine, background=rest)
        else:
            yield FetchPlan(background=(*mine, *rest))
            yield FetchPlan(wait=tuple(claim.wait_for(min(wanted.stop, claim.stop)) for claim in mine))
        self._raise_first(own)
        self._check_open()
        if not self.pages.resident(*wanted):
            yield from self.fetch([wanted])
        self.policy.waited(self.clock() - began)

    def _alone(self, claims: Iterable[Claim], stop: int) -> bool:
        """Whether a reader who needs the bytes before `stop` does best to bring all of `claims` himself. What is long
        and far away he leaves to others: he goes on as soon as his own bytes are there."""
        return self.link.near or all(claim.stop <= stop + FLIGHT for claim in claims)

    def _consult(
        self, wanted: ByteRange, now: float, *, follows: bool = False
    ) -> tuple[tuple[Claim, ...], tuple[Claim, ...]]:
        """Ask the policy about a read. Returns the claims to fetch for it, and those to fetch behind it. `follows`: see
        `Policy.access`."""
        trapped = self._spring(*wanted)
        missing = self._gaps.lacks(*wanted)
        advice = self.policy.access(*wanted, now, missing=missing, trapped=trapped, follows=follows)
        urgent: tuple[Claim, ...] = ()
        if missing:
            (start, stop), (first, last) = advice.block, align(*wanted, self.size)
            if start < first and self.link.near:
                first = start
            gaps = self._gaps.unclaimed(first, max(stop, last))
            if stop - start >= HUGE_BYTES and self.link.near and self.options.max_resident_bytes is None:
                self._spring(start, stop)  # who reads there is heard of no longer: all of it will be there
                self.arena.gather(*align(start, stop, self.size))
            urgent = self._claim(gaps, urgent=True)
            # The reader's own bytes come first; what is before them, on a connection that would be idle.
            if start < first and not self._slots.full:
                urgent += self._claim(self._gaps.unclaimed(start, first))
            for claim in urgent:
                claim.ahead = advice.goes_on
        for offset in advice.traps:
            page = offset - offset % PAGE
            wanting = page < wanted.stop and wanted.start < page + PAGE  # who waits for it touches it no more
            if not wanting and not self.pages.resident(page, page + 1):
                self.arena.watch(page)
                odd = self._traps.arm(page)
                if odd is not None:
                    self._spring(odd, odd + PAGE)
        self._wishes.push(advice.behind, self._came)
        return urgent, () if urgent and self._takes_along and self._wishes.short else self._pump()

    def copy(self, start: int, stop: int, piece: int = 0, watch: Watch | None = None) -> PlanGen[bytes]:
        """The bytes `[start, stop)`, by `copy_into`'s way; `piece`: bytes copied at once, 0: all of a window. `watch`
        hears of what was copied, and may be evicted."""
        if stop - start <= (piece or LONG) and stop - start <= self.window:
            pin = yield from self.read(start, stop)
            try:
                if stop - start <= SHORT and self.pager is None:  # where it is by fault, no touch is sure not to wait
                    return self.arena.bytes[start:stop]
                whole: bytes = yield Call(lambda: self.arena.bytes[start:stop])
            finally:
                self.unpin(pin)
            return whole
        if stop - start < LONG or sys.implementation.name != "cpython":
            sink = io.BytesIO()  # its value is handed out without another copy
            yield from self._pieces(start, stop, piece, lambda _, source: sink.write(source), watch)
            return sink.getvalue()
        from hctef._raw import FreshBytes  # noqa: PLC0415  # ctypes

        fresh = FreshBytes(stop - start)
        yield from self._pieces(start, stop, piece, lambda at, source: fresh.put(at - start, source), watch)
        return fresh.take()

    def copy_into(self, target: memoryview, start: int, piece: int = 0, watch: Watch | None = None) -> PlanGen[None]:
        """Fill `target` (bytes) with what begins at `start`: under a bound on memory window by window."""

        def put(at: int, source: memoryview) -> None:
            target[at - start : at - start + len(source)] = source

        yield from self._pieces(start, start + len(target), piece, put, watch)

    def _pieces(
        self, start: int, stop: int, piece: int, put: Callable[[int, memoryview], object], watch: Watch | None
    ) -> PlanGen[None]:
        """Fetch window by window, each pinned while it is handed to `put(offset, bytes)`, outside of the lock.

        What is long and must be fetched comes behind the copying, in order.
        """
        window, at, coming = self.window, start, False
        owned: ByteRange | None = None
        ended = True
        try:
            if self.options.max_resident_bytes is None and self.pager is None and stop - start > LONG:
                window = LONG
                if not self.pages.resident(start, stop):
                    owned = whole = align(start, stop, self.size)
                    self._wishes.own(whole)
                    coming = not self.link.near
                    if coming:
                        first = ByteRange(whole.start, min(whole.stop, whole.start + FIRST_PIECE))
                        yield FetchPlan(background=self._join(self._claim(self._gaps.unclaimed(*first))))
            while at < stop:
                end = min(stop, at + window)
                if coming:  # what nobody asked for yet will come on a connection that is under way: any other is cold
                    gaps = self._gaps.unclaimed(at, end)
                    if gaps and gaps[0].start > at:
                        end = gaps[0].start
                pin = yield from self.read(at, end)
                try:
                    for begin in range(at, end, piece or end - at):
                        until = min(end, begin + (piece or end - at))
                        with self.arena.view(begin, until) as source:
                            yield Call(lambda begin=begin, source=source: put(begin, source))  # type: ignore[misc]
                finally:
                    self.unpin(pin)
                if watch is not None:
                    watch.took(end - at)
                at = end
            ended = False
        finally:
            if owned is not None:  # `ended`: nobody will copy the rest
                self._wishes.disown(owned, ended=ended)

    def fetch(self, wanted: list[ByteRange]) -> PlanGen[None]:
        """Make sorted, disjoint ranges resident, each byte asked for once over all readers."""
        while True:
            self._check_open()
            missing = self._missing(wanted)
            if not missing:
                return
            if self.pager is not None:
                yield Wait(self.pager.prefetch(missing, wait=True))
                return
            if (yield from self._load_stored(missing)):
                continue
            claims = self._claim(self._unclaimed(missing), urgent=True, awaited=True)
            if claims:
                yield FetchPlan(claims=claims)
                self._raise_first(claims)
            elif (idle := self._hurry(missing)) and self._alone(idle, missing[-1].stop):
                yield FetchPlan(claims=idle)
                self._raise_first(idle)
            else:
                if idle:
                    yield FetchPlan(background=idle)
                self.stats.waits += 1
                yield FetchPlan(
                    wait=tuple(c.wait_for(min(run.stop, c.stop)) for run in missing for c in self.cache.claims(*run))
                )

    def prefetch(self, ranges: Sequence[ByteRange], *, wait: bool, watch: Watch | None = None) -> PlanGen[int]:
        """Fetch ranges; `wait=False`: behind the caller. Returns how many bytes were newly requested."""
        self._check_open()
        wanted = coalesce(align(start, stop, self.size) for start, stop in ranges if start < stop)
        limit = self.options.max_resident_bytes
        if limit is not None:
            wanted = list(_first(wanted, limit))  # what comes beyond would push out what came before
        if watch is not None and wanted:
            end = wanted[-1].stop
            watch.expect((start, min(stop, end)) for start, stop in coalesce(ranges) if start < end)
        missing = self._missing(wanted)
        if wait and (yield from self._load_stored(missing)):
            missing = self._missing(wanted)
        if self.pager is not None:
            asked: int = (yield Wait(self.pager.prefetch(missing, wait=wait))) if missing else 0
            return asked
        claims = self._claim(self._unclaimed(missing), awaited=wait)
        count = sum(claim.stop - claim.start for claim in claims)
        if not wait:
            yield FetchPlan(background=claims)
            return count
        if claims:
            yield FetchPlan(claims=claims)
            self._raise_first(claims)
        if self.options.max_resident_bytes is None:
            yield from self.fetch(wanted)  # what others were fetching
        return count

    def demand(self, at: int) -> PlanGen[None]:
        """A thread is blocked at byte `at`: have its page fetched behind the caller, and what it will touch next."""
        self._check_open()
        self.keep_touched(at)
        if self.disk is not None and (stored := self._stored(self._near(ByteRange(at, at + 1)))):
            yield FetchPlan(background=stored)
            if stored[0].start <= at:
                self._spring(at, at + 1)
                return
        urgent, behind = self._consult(ByteRange(at, at + 1), self.clock(), follows=True)
        first = self._hurry([align(at, at + 1, self.size)])
        yield FetchPlan(background=(*first, *(claim for claim in urgent if claim not in first), *behind))

    def coming(self, page: int) -> bool:
        """Whether a page is on its way already, and nobody wants to hear of its touch: there is nothing to do."""
        if self._traps and self._traps.touches(page, page + PAGE):
            return False
        return any(claim.sending for claim in self.cache.claims(page, page + PAGE))

    # planning

    def _missing(self, wanted: Iterable[ByteRange]) -> list[ByteRange]:
        """The runs of absent pages; what is withheld there is handed over."""
        found: list[ByteRange] = []
        for start, stop in wanted:
            self._spring(start, stop)
            found += self.pages.missing(start, stop)
        return found

    def _hurry(self, missing: list[ByteRange]) -> tuple[Claim, ...]:
        """Put what was claimed and not asked for yet before all that nobody waits for.

        Returns the claims among them whose transfers were not begun: this reader begins them, or has them begun before
        what others wait for, since he came last.
        """
        idle: list[Claim] = []
        for claim in [claim for run in missing for claim in self.cache.claims(*run)]:
            if claim.sending:
                continue
            claim.urgent = claim.awaited = True
            if claim.turn is not None:
                self._slots.hurry(claim.turn)
            elif not claim.started:
                idle.append(claim)
        return tuple(idle)

    def _claim(self, gaps: list[ByteRange], *, urgent: bool = False, awaited: bool = False) -> tuple[Claim, ...]:
        """Claim gaps that nobody fetches, and what is worth fetching with them. `awaited`: somebody waits for all of
        it, so several may come one behind the other on a connection; else a reader's request comes before the next."""
        pieces: list[ByteRange] = []
        for extent in self._gaps.extents(gaps):
            parts = min(self.options.max_connections, SPLIT_MOST, -(-extent.length // SPLIT_BYTES))
            pieces += split(extent, parts) if parts > 1 else (extent,)
        claims = tuple(self.cache.claim(piece) for piece in pieces)
        for claim in claims:
            claim.urgent, claim.awaited = urgent, urgent or awaited
        connections, most = self.options.max_connections, PIPELINED_BYTES
        if awaited:  # over a near line few bring it sooner
            connections = min(connections, 1 + self.policy.at_once)
        elif self.link.near:  # a reader's block: he waits for all of it, so one is asked for behind the other
            connections, most = 1, SPLIT_BYTES
        if (urgent or awaited) and len(claims) > connections:
            Batch(claims, connections, most)
        return claims

    def advise(self, hint: str) -> None:
        """See `Policy.advise`."""
        self.policy.advise(hint)
        if self.pager is not None:
            self.pager.advise(hint)


def _first(ranges: Iterable[ByteRange], limit: int) -> Iterator[ByteRange]:
    """Ranges, from the first on, of whole pages, together no longer than `limit`."""
    for extent in ranges:
        length = min(extent.length, limit // PAGE * PAGE)
        if length <= 0:
            return
        limit -= length
        yield ByteRange(extent.start, extent.start + length)
