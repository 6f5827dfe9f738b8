"""Delivery: how what was claimed comes, what follows it on its connection, and what happens when it does not come.

The planner (`_planner.py`) says what is to be fetched; here it is brought. A claim lives exactly as long as its
transfer, and is given back whatever happens; its pages are marked when their bytes have come, then waiters wake. What
is wished for behind the readers becomes claims when a connection has room for it: one that is under way already
(`_feed`), or another (`_pump`).
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from hctef._arena import Arena
from hctef._intervals import Batch, Claim
from hctef._lanes import PIPELINED_MOST, Lane
from hctef._link import Link
from hctef._locks import if_free
from hctef._options import Options, UrlSource
from hctef._pages import PageTable
from hctef._ranges import PAGE, ByteRange
from hctef._residency import Pager
from hctef._slots import Slots
from hctef._stats import Stats
from hctef._steps import NOTHING, Cancelled, Collect, Detach, FetchPlan, Fill, PlanGen, Step, Wait
from hctef._storing import Storing
from hctef._transfer import Requester, Sink
from hctef._wishes import Wishes
from hctef.exceptions import HctefNetworkError

log = logging.getLogger("hctef")

PATIENT = 16 * 1024
"""Bytes that come at once of what no reader waits for: a cold connection brings 2 KB at a time, and to wake for each
costs more than their copy."""


class Delivery(Storing):
    """The transfers of one file."""

    def __init__(
        self,
        source: UrlSource,
        options: Options,
        make_arena: Callable[[int], Arena],
        make_pages: Callable[[int], PageTable] = PageTable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: seconds."""
        requester = Requester(source, options, Stats(), Link(), clock)
        self.later: deque[Callable[[], object]] = deque()
        """See `soon`."""
        super().__init__(options, requester, make_arena, make_pages, clock)

    @property
    def full(self) -> bool:
        """As many transfers are under way as may be."""
        return self._slots.full

    def settle(self) -> None:
        """No trap is left, and nothing is wished for: what has come is resident."""
        self._spring(0, self.size)
        self._wishes.clear()

    def hand_over(self, pager: Pager, arena: Arena, pages: PageTable) -> list[ByteRange]:
        """From now on `pager` fetches, into `arena`, which holds what is resident now, and shows it in `pages`.

        Returns what was being fetched: those who wait for it wake, and ask the pager.
        """
        claims = self.cache.all_claims()
        self.pager, self.arena, self.pages = pager, arena, pages
        self.local = pages if self.disk is None else self.disk.pages
        self.cancel(claims)
        for claim in claims:
            self.give_back(claim)
        return sorted(ByteRange(claim.at, claim.stop) for claim in claims if claim.at < claim.stop)

    def step(self, generator: PlanGen[Any], value: Any, error: BaseException | None) -> Step:
        """A generator's next step. Where it fails, by an interrupt perhaps, what it has just claimed is given back:
        nobody else knows of that yet."""
        if self.later or self.cache.dropped:  # pins, perhaps, of what this step would evict
            self._do_later()
        fresh = self.cache.fresh
        try:
            return generator.send(value) if error is None else generator.throw(error)
        except StopIteration:  # it may return them
            raise
        except BaseException:  # raised again
            for claim in fresh:
                if not claim.started:
                    self.give_back(claim)
            raise
        finally:
            self.cache.fresh = []  # no call, behind which an interrupt may come: the caller has the step next

    def soon(self, lock: Any, action: Callable[[], object], timeout: float = 0.0) -> None:
        """Do it under the file's lock; where that is not had within `timeout` seconds, whoever makes a step does it.
        The garbage collector, which lets pins go and throws generators away, may come inside of a step of its own
        thread, and would wait for itself."""
        self.later.append(action)
        self.catch_up(lock, timeout)

    def catch_up(self, lock: Any, timeout: float = 0.0) -> None:
        """Behind a step: do what was left."""
        while self.later and if_free(lock, self._do_later, timeout):
            pass

    def _do_later(self) -> None:
        # Each is done before it is forgotten: an interrupt may come in between, and twice is as good as once.
        while self.cache.dropped:
            held = self.cache.dropped[0].held
            if held is not None:
                self.let_go(held)
            self.cache.dropped.popleft()
        while self.later:
            action = self.later[0]
            try:
                action()
            except Exception:  # raised again, and not done again
                self.later.popleft()
                raise
            self.later.popleft()

    # transfers

    def transfer(self, claim: Claim, *, pipelined: bool = False) -> PlanGen[Claim | None]:
        """Bring a claim's bytes, and what joins its lane. Returns the claim to transfer next, where something is
        wished for.

        `pipelined`: whoever drives this can have several requests under way on one connection, so it brings others of
        the claim's batch too. A failure is left in `claim.error`; each claim is given back whatever happens.
        """
        if not claim.open or claim.started:
            return None
        try:
            claim.started = True
            lane = self._lane_of(claim) or Lane(claim)
            bringing = self._load(claim) if claim.stored else self._bring(lane, pipelined=pipelined)
            yield from self._guarded(lane, bringing)
        finally:  # of an interrupt in between too
            self.give_back(claim)
        return self._next() if claim.behind and not self.closed else None

    def _bring(self, lane: Lane, *, pipelined: bool) -> PlanGen[None]:
        claim, own = lane.claim, 0
        try:
            yield from self._slots.acquire(lane, claim)
            lane.keeps = self._stores
            if pipelined and claim.batch is not None:
                lane.waiting.extend(self._others(claim, claim.batch))
            elif pipelined and claim.urgent and self._takes_along:
                self._take_along(lane)
            own = sum(each.stop - each.start for each in lane.claims if not each.behind)
            own = min(own, int(self.link.product))  # of what is long no more is in flight
            self._own += own
            for each in lane.claims:
                each.sending, each.asked = True, self._asked(each)
            if claim.urgent:  # who waits for it may drive this: he is not to go on with what is wished for
                self._leave(lane)
            followed = bool(lane.waiting) or (lane in self._lanes and not self.link.near)
            yield from self._one(lane, followed=followed)
            yield from self._rest_of(lane)
        finally:
            self._own -= own
            self._slots.holders.discard(lane)
            self._slots.give()

    def _rest_of(self, lane: Lane) -> PlanGen[None]:
        """What waits in a lane, one after the other."""
        while lane.advance():
            if not (lane.open and (yield from self._collect(lane))):
                yield from self._one(lane, followed=True)

    def _collect(self, lane: Lane) -> PlanGen[bool]:
        """Take what has come in whole of a lane's claims already, several at once: that takes a fifth of the work.
        False: nothing has."""
        claims = lane.claims
        whole = itertools.takewhile(lambda claim: claim.asked == claim.stop, claims)
        put, stored = self._filling(lane)
        count: int = yield Collect((ByteRange(claim.start, claim.stop) for claim in whole), put)
        if self.disk is not None:
            for extent in stored:
                self.disk.pages.mark(*extent)
        if not count:
            return False
        length = sum(claim.stop - claim.start for claim in claims[:count])
        self.stats.requests += count
        self.stats.bytes_fetched += length
        self.link.arrived(self.clock(), length, waited=False)
        for claim in claims[:count]:
            if claim is not lane.claim:
                lane.advance()
            self._drop_remnant(claim)
            try:
                self._commit(claim, claim.stop)
            except Cancelled as error:
                self._stopped(claim, error, lane)
            self.give_back(claim)
        self._feed(lane)
        return True

    def _one(self, lane: Lane, *, followed: bool) -> PlanGen[None]:
        """Bring the claim of a lane that is next. One that was cancelled stops none of the others, and what is only
        wished for and fails does not either: somebody may wait for them."""
        claim = lane.claim
        try:
            if claim.cancelled:
                raise Cancelled
            yield from self._transfer(claim, lane if followed else None)
        except Cancelled as error:
            self._stopped(claim, error, lane)
        except HctefNetworkError as error:
            if not claim.behind or not lane.waiting:
                raise
            claim.error, lane.open = error, False  # what was answered is no measure of what follows
            self._wishes.clear()
            log.warning("a transfer failed: %s", error)
        self.give_back(claim)

    def _stopped(self, claim: Claim, error: Cancelled, lane: Lane) -> None:
        """A claim of a lane was cancelled. Raises the same where the others are not wanted either."""
        if self.closed or not claim.cancelled or not lane.waiting:
            raise error
        claim.error = error

    def _guarded(self, lane: Lane, bringing: PlanGen[None]) -> PlanGen[None]:
        """Whatever happens, each claim of a lane is given back; what goes wrong, whoever wants their bytes hears."""
        try:
            yield from bringing
        except Exception as error:  # noqa: BLE001  # raised by whoever started the transfer
            lane.give_up(error)
            self._wishes.clear()
            if not isinstance(error, Cancelled):
                log.warning("a transfer failed: %s", error)
        finally:
            self._leave(lane)
            for claim in lane.claims:
                self.give_back(claim)

    def _others(self, claim: Claim, batch: Batch) -> Iterator[Claim]:
        """What a connection is to bring of a batch besides `claim`, begun here."""
        count, length, most = 1, claim.stop - claim.start, min(batch.share(), PIPELINED_MOST)
        while count < most and length < batch.most:
            other = batch.take(batch.most - length)
            if other is None:
                return
            other.started = True
            count, length = count + 1, length + other.stop - other.start
            yield other

    def _transfer(self, claim: Claim, lane: Lane | None) -> PlanGen[None]:
        stop, tail = self._asked(claim), self._tail
        coming = stop < claim.stop and tail is not None and tail.open
        if not coming:
            self._drop_remnant(claim)
        page = stop - stop % PAGE
        keep = self._keeping() if stop < claim.stop and self._first_kept else None  # a page that comes in two parts
        whole = not coming and keep is None

        def commit(at: int) -> None:
            self._commit(claim, claim.stop if at == stop and whole else at - at % PAGE)
            if lane is not None:
                self._feed(lane)

        if stop > claim.start:
            least = 1 if claim.urgent or self.link.near else PATIENT
            patient = not claim.behind or lane is None or all(each.behind for each in lane.waiting)
            sink = self.arena_sink(least, claim.stop)
            yield from self.requester.fetch(claim.start, stop, sink, commit, lane, patient=patient)
        if coming and tail is not None:
            yield Wait(tail.wait_for(tail.start + 1))  # it waits for nobody
            if claim.cancelled or self.closed:  # another arena, perhaps
                raise Cancelled
            remnant, self._remnant = self._remnant, ByteRange(0, 0)
            if remnant != ByteRange(stop, claim.stop):
                start, stop = stop, claim.stop
                yield from self.requester.fetch(start, stop, self.arena_sink(), commit)
        if keep is not None:
            yield from keep(page, self.arena.view(page, claim.stop))
        whole = True
        commit(stop)

    def arena_sink(self, least: int = 1, end: int = 0) -> Sink:
        """Puts bytes into the arena: straight from the socket where it has room for that. `least`, `end`: see
        `Sink`."""
        if self.options.max_resident_bytes is not None:
            end = 0  # what is evicted piece by piece is no use in huge pages
        return Sink(Fill, self.arena.room, end=end, least=least, keep=self._keeping())

    def close(self) -> None:
        """Stop transfers; whoever waits for them wakes, and finds the file closed."""
        self.closed = True
        if self.pager is not None:
            self.pager.cancel()
        self._wishes.clear()
        claims = self.cache.all_claims()
        self.cancel(claims)
        for claim in claims:
            self.give_back(claim)

    def after_fork(self) -> None:
        """In a child: the parent's transfers are not ours, and what came is as good here as there."""
        self.cache.forget_claims()
        self._wishes, self._lanes, self._own, self._tail = Wishes(), [], 0, None
        self._slots = Slots(self.options.max_connections)

    # the opening's response

    def keep_tail(self, lane: Lane, start: int, stop: int) -> Callable[[int], None]:
        """The opening's response, `[start, stop)`: claim its whole pages for its lane. Returns its commit function.

        The leading part of a page is kept aside as the remnant: who fetches that page asks for what is before it only.
        A part of one at the end is nobody's: that page is asked for again.
        """
        self._first_kept = self._stores
        first = min(stop, -(-start // PAGE) * PAGE)
        last = stop if stop == self.size else max(first, stop - stop % PAGE)
        claim = self._tail = lane.claim = self.cache.claim(ByteRange(first, last))
        claim.started = claim.sending = True
        self._tail_start, kept = start, start == first

        def commit(at: int) -> None:
            nonlocal kept
            self._commit(claim, at if at == self.size else at - at % PAGE)
            if not kept and at >= first:
                kept, self._remnant = True, ByteRange(start, first)
            self._feed(lane)

        return commit

    def beside(self, lane: Lane, bringing: PlanGen[None]) -> PlanGen[None]:
        """Have the bytes of a lane's claim brought beside the reader who made it, on the connection that he has begun
        with."""
        slots = self._slots

        def bring() -> PlanGen[None]:
            try:
                yield NOTHING
                if lane.claim.cancelled or self.closed:
                    raise Cancelled
                yield from bringing
                self.give_back(lane.claim)
                yield from self._rest_of(lane)
            finally:
                slots.holders.discard(lane)
                slots.give()

        def whole() -> PlanGen[None]:
            yield from self._guarded(lane, bring())
            if not self.closed:
                yield FetchPlan(background=self._pump())

        try:
            yield from slots.acquire(lane, lane.claim)
            lane.keeps = self._stores
            steps = whole()
            next(steps)  # so that whoever throws it away before it ran gives back what it holds
            self._begin_lane(lane)
        except BaseException:  # raised again
            slots.holders.discard(lane)
            slots.give()
            raise
        yield Detach(lane.claim, steps)
