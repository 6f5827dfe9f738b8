"""IntervalCache: the extents of a file. Which are being fetched, and by whom; which may not be evicted; which go first.

The page table says what is resident; this says what is going on. It plans gaps (`unclaimed`), keeps two readers from
asking for the same bytes (`claim`), and chooses what to evict (`victims`: least recently used first, by CLOCK: an
extent
that was read since the hand last passed gets a second chance; F. J. Corbató, "A Paging Experiment with the Multics
System", 1968). Not thread-safe: its owner holds the lock.
"""

from __future__ import annotations

import contextlib
import heapq
import weakref
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from operator import attrgetter
from typing import TYPE_CHECKING

from hctef._locks import Waiter
from hctef._pages import PageTable
from hctef._ranges import ByteRange

if TYPE_CHECKING:
    from intervaltree import IntervalTree


EXTENTS = 1024
"""Resident ones among which none is looked for that is evicted."""


class Claim:
    """The bytes `[start, stop)` that one reader is fetching. Others that need them wait for it.

    `at` is how far the bytes are committed: who waits for the first bytes of a long extent goes on as soon as they
    came.
    """

    __slots__ = (
        "_room",
        "_waiting",
        "ahead",
        "asked",
        "at",
        "awaited",
        "batch",
        "behind",
        "cancelled",
        "error",
        "open",
        "sending",
        "start",
        "started",
        "stop",
        "stored",
        "turn",
        "urgent",
    )

    def __init__(self, start: int, stop: int) -> None:
        self.start = self.at = start
        self.stop = self.asked = stop
        """Where it ends, and where its request does: the rest of a page may come otherwise."""
        self.open = True
        """Not released yet."""
        self.started = False
        """Somebody drives its transfer, and will release it."""
        self.cancelled = False
        """Its transfer should stop at the next piece."""
        self.stored = False
        """It comes from the disk."""
        self.behind = False
        """It was wished for behind the readers: whoever brings it goes on with the next wish."""
        self.ahead = False
        """A reader will come to its bytes: they are not to be evicted before those that he has read."""
        self.urgent = False
        """A reader waits for it: it goes before what was prefetched."""
        self.awaited = False
        """Somebody waits for all of it: it goes before what nobody waits for."""
        self.batch: Batch | None = None
        """The others that were wanted with it, where they are many."""
        self.turn: Future[None] | None = None
        """Where it waits for its turn."""
        self.sending = False
        """It has its turn: its request goes out, or has gone."""
        self.error: Exception | None = None
        """Why its transfer gave up: for whoever started it. Others that waited try themselves."""
        self._waiting: list[tuple[int, Future[None]]] = []
        self._room = 16  # so many stand there before those that gave up are dropped

    def wait_for(self, stop: int) -> Future[None]:
        """A future that is done once the bytes before `stop` are committed, or the claim is given up."""
        future: Future[None] = Waiter()
        if self.open and self.at < stop:
            if len(self._waiting) >= self._room:
                self._waiting = [waiting for waiting in self._waiting if not waiting[1].cancelled()]
                self._room = max(self._room, 2 * len(self._waiting))
            self._waiting.append((stop, future))
        else:
            future.set_result(None)
        return future

    def wait_for_release(self) -> Future[None]:
        """A future that is done once the claim is given back, fetched or not."""
        return self.wait_for(self.stop + 1)

    def wakes(self, future: Future[None]) -> bool:
        """Whether `future` waits for this claim."""
        return any(future is waiting for _, waiting in self._waiting)

    def advance(self, at: int) -> None:
        """The bytes before `at` are committed."""
        self.at = at
        if self._waiting:
            ready = [future for stop, future in self._waiting if stop <= at]
            self._waiting = [(stop, future) for stop, future in self._waiting if stop > at]
            _wake(ready)

    def release(self) -> None:
        """The bytes are all there, or nobody fetches them any longer: whoever waits looks again."""
        self.open = False
        waiting, self._waiting = self._waiting, []
        _wake(future for _, future in waiting)


class Batch:
    """Claims that are wanted at once, more than there are connections: each of these brings its share of them."""

    __slots__ = ("_connections", "_waiting", "most")

    def __init__(self, claims: Iterable[Claim], connections: int, most: int) -> None:
        """`most`: bytes that are asked for at once on a connection."""
        self.most = most
        self._waiting = deque(claims)
        self._connections = connections
        for claim in self._waiting:
            claim.batch = self

    def share(self) -> int:
        """How many of those that wait the next connection is to bring."""
        share = -(-len(self._waiting) // self._connections)
        self._connections = max(1, self._connections - 1)
        return share

    def take(self, longest: int) -> Claim | None:
        """The next that nobody has started; None: there is none, or it is of more than `longest` bytes."""
        while self._waiting:
            claim = self._waiting[0]
            idle = claim.open and not claim.started and not claim.cancelled
            if idle and claim.stop - claim.start > longest:
                return None
            self._waiting.popleft()
            if idle:
                return claim
        return None


def _wake(futures: Iterable[Future[None]]) -> None:
    for future in futures:
        if future.set_running_or_notify_cancel():  # a waiter that was cancelled is no longer there to be told
            future.set_result(None)


_at, _start = attrgetter("at"), attrgetter("start")


class Held:
    """Pages that may not be evicted: those of `[start, stop)`."""

    __slots__ = ("brief", "dropped", "kept", "start", "stop")

    def __init__(self, start: int, stop: int, *, brief: bool) -> None:
        """`brief`: for as long as a read takes. They are many and soon gone: a sorted list of those of a moment costs
        less than to keep them in a tree."""
        self.start, self.stop, self.brief = start, stop, brief
        self.kept: list[ByteRange] = []
        """Extents that would have been evicted but for this. Nobody looks at them again before it goes."""
        self.dropped: Dropped | None = None
        """While somebody has a pin."""


class Pin:
    """Whoever has it keeps pages from being evicted: until it is given to `unpin`, or is there no longer."""

    __slots__ = ("__weakref__", "held")

    def __init__(self, held: Held) -> None:
        self.held = held


class Dropped(weakref.ref[Pin]):
    """Of a pin that an interrupt lost on its way to its owner, or to `unpin`: between any two of Python's calls one may
    come. But none comes between a last reference's end and what is told of it in C."""

    __slots__ = ("_held",)

    _held: Held

    @property
    def held(self) -> Held | None:
        """None: it was lost before anything was held."""
        return getattr(self, "_held", None)


class IntervalCache:
    """Extents in flight, pinned and resident of one file."""

    def __init__(self) -> None:
        self._claims: list[Claim] = []  # by how far they are: what is still to come of them is disjoint
        self._whole: list[Claim] = []  # those that came whole and lay where others were claimed since
        self.fresh: list[Claim] = []
        """Those of the step that is being computed."""
        self.dropped: deque[Dropped] = deque()
        """Of pins that nobody has any longer, and nobody has given to `unpin`."""
        self._holding: set[Held] = set()
        self._held: IntervalTree | None = None  # these, by where they are; None: to be made of them
        self._brief: list[Held] = []  # by where they begin
        self._longest = 0  # of these, since there were none
        self._resident: deque[ByteRange] = deque()
        self._room = EXTENTS

    # in flight

    def claim(self, extent: ByteRange) -> Claim:
        """Say that the caller fetches `extent`, of which nothing may be still to come by another claim."""
        claims, claim = self._claims, Claim(*extent)
        first, last = bisect_left(claims, claim.start, key=_at), bisect_right(claims, claim.stop, key=_at)
        if first < last:  # else it would come to be behind them, which is not their order
            self._whole += (each for each in claims[first:last] if each.at == each.stop)
            claims[first:last] = [each for each in claims[first:last] if each.at < each.stop]
        self.fresh.append(claim)
        insort(claims, claim, key=_at)
        return claim

    def release(self, claim: Claim) -> None:
        """Give the claim back, fetched or not. Once is enough; more does nothing."""
        if claim.open:
            claims, index = self._claims, bisect_left(self._claims, claim.at, key=_at)
            while index < len(claims) and claims[index].at == claim.at:  # what came whole may have a successor there
                if claims[index] is claim:  # not forgotten
                    del claims[index]
                    break
                index += 1
            else:
                if claim in self._whole:
                    self._whole.remove(claim)
            claim.release()

    def claims(self, start: int, stop: int) -> list[Claim]:
        """The open claims of which bytes of `[start, stop)` are still to come, in their order. What came may have been
        evicted since: it is nobody's."""
        claims = self._claims
        if not claims:
            return []
        index = bisect_right(claims, start, key=_at)
        while index and claims[index - 1].at == claims[index - 1].stop:
            index -= 1
        if index and claims[index - 1].stop > start:
            index -= 1
        found = claims[index : bisect_left(claims, stop, index, key=_at)]
        return [claim for claim in found if claim.at < claim.stop]

    def all_claims(self) -> list[Claim]:
        return self._claims + self._whole

    def forget_claims(self) -> None:
        """In a forked child: whoever holds them is in the parent. They are left open, for nobody here waits for
        them."""
        self._claims.clear()
        self._whole.clear()

    # pinned

    def pin(self, start: int, stop: int, *, brief: bool = False) -> Pin:
        """Keep `[start, stop)` from being evicted until `unpin` is given the result, or that is dropped."""
        held = Held(start, stop, brief=brief)
        pin = Pin(held)
        held.dropped = Dropped(pin, self.dropped.append)
        held.dropped._held = held
        if brief:
            insort(self._brief, held, key=_start)
            self._longest = max(self._longest, stop - start)
        else:
            self.hold(held)
        return pin

    def hold(self, held: Held) -> None:
        """Keep pages from being evicted until `let_go` is given the same."""
        self._holding.add(held)
        with self._in_one_piece():
            if self._held is not None:
                self._held.addi(held.start, held.stop, held)

    @contextlib.contextmanager
    def _in_one_piece(self) -> Iterator[None]:
        """Around what changes the tree: one that an interrupt has left in pieces is made anew."""
        try:
            yield
        except BaseException as error:  # raised again
            self._held = None
            lost = error.__context__ if isinstance(error, KeyError) else None
            if lost is not None:  # intervaltree takes it for a failure of its own
                raise lost from None
            raise

    def unpin(self, pin: Pin) -> None:
        """Once is enough; more does nothing."""
        self.let_go(pin.held)

    def let_go(self, held: Held) -> None:
        """See `unpin`, and `hold`."""
        if held.brief:
            brief = self._brief
            first, last = bisect_left(brief, held.start, key=_start), bisect_right(brief, held.start, key=_start)
            if held in brief[first:last]:
                del brief[brief.index(held, first, last)]
            if not brief:
                self._longest = 0
        else:
            self._holding.discard(held)
            if self._held is not None:
                with self._in_one_piece():
                    self._held.discardi(held.start, held.stop, held)
        kept, held.kept = held.kept, []
        self._resident += kept
        held.dropped = None

    def unpinned(self, whole: ByteRange) -> Iterator[ByteRange]:
        """The parts of `whole` that no pin holds."""
        return (part for part, held in self._parts(whole) if held is None)

    def _parts(self, whole: ByteRange) -> Iterator[tuple[ByteRange, Held | None]]:
        """`whole` in parts, each with what holds all of it, or None where nothing does."""
        at = whole.start
        for held in self._holders(whole):
            if held.start > at:
                yield ByteRange(at, held.start), None
                at = held.start
            if held.stop > at:
                end = min(held.stop, whole.stop)
                yield ByteRange(at, end), held
                at = end
            if at == whole.stop:
                return
        yield ByteRange(at, whole.stop), None

    def _holders(self, whole: ByteRange) -> Iterator[Held]:
        """What may hold bytes of `whole`, by where that begins."""
        brief = self._brief
        first = bisect_right(brief, whole.start - self._longest, key=_start)
        last = bisect_left(brief, whole.stop, first, key=_start)
        found = (brief[index] for index in range(first, last))
        if not self._holding:
            return found
        if self._held is None:
            from intervaltree import IntervalTree  # noqa: PLC0415  # 5 ms of `import hctef`: few hold anything

            self._held = IntervalTree.from_tuples((each.start, each.stop, each) for each in self._holding)
        held = (each.data for each in self._held.overlap(*whole))
        return heapq.merge(sorted(held, key=_start), found, key=_start)

    # resident

    def fetched(self, extent: ByteRange, pages: PageTable) -> None:
        """Note an extent that came, for `victims`. Those of which nothing is resident any longer are forgotten now and
        then: what is evicted by a caller is not looked for here."""
        self._resident.append(extent)
        if len(self._resident) > self._room:
            there = (each for each in self._resident if pages.missing_bytes(*each) < each.length)
            self._resident = deque(there)
            self._room = max(EXTENTS, 2 * len(self._resident))

    def victims(self, pages: PageTable) -> Iterator[ByteRange]:
        """Unpinned parts of extents, those to evict first, first. The caller evicts each before it asks for the
        next. What is pinned stays with its pin: it is looked at once, however often this is asked."""
        chances = len(self._resident)
        for _ in range(2 * chances):  # twice round clears every reference bit
            if not self._resident:
                return
            extent = self._resident.popleft()
            if pages.referenced(*extent):
                self._resident.append(extent)
                continue
            free: list[ByteRange] = []
            for part, held in self._parts(extent):
                (free if held is None else held.kept).append(part)
            while free:
                part = free.pop(0)
                try:
                    yield part
                except GeneratorExit:  # enough was evicted: the rest of the extent is next time's first
                    self._resident.extendleft(reversed(free))
                    raise
