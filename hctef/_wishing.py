"""Wishing: what is wished for behind the readers becomes claims, when a connection has room for it.

What is short goes to any connection that is idle. What is long comes in pieces, on few connections, for each begins
slowly; the next piece joins one that is under way, which is asked for it before the one before has come (`_lanes.py`).
Who reads in sequence waits for the slowest of them, so that
- each has its share of what may be in flight, and no more: one that had all would leave the others idle;
- a warm connection that is idle is begun with before a cold one is given more;
- a cold one begins at the far end, where the readers come last.

Measured over 20 ms without a bound on the rate, a sum over 512 MiB, of which one connection brings 140 MB/s: two of
four connections had all that was in flight, and it took 1.8 s; with equal shares 1.4 to 1.5 s.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from hctef._arena import Arena
from hctef._intervals import Claim
from hctef._lanes import PIPELINED_MOST, Lane
from hctef._options import Options
from hctef._pages import PageTable
from hctef._ranges import ByteRange
from hctef._residency import Residency
from hctef._slots import Slots
from hctef._transfer import Requester
from hctef._wishes import Wishes


class Wishing(Residency):
    """The claims of one file that nobody waits for."""

    def __init__(
        self,
        options: Options,
        requester: Requester,
        make_arena: Callable[[int], Arena],
        make_pages: Callable[[int], PageTable],
        clock: Callable[[], float],
    ) -> None:
        """`clock`: seconds."""
        super().__init__(options, requester, make_arena, make_pages)
        self.clock = clock
        self._slots = Slots(options.max_connections)
        self._own = 0  # bytes of the transfers under way that readers asked for themselves
        self._wishes = Wishes()
        self._lanes: list[Lane] = []
        """Of the connections that bring what is wished for, or the opening's response."""
        self._remnant = ByteRange(0, 0)
        self._tail: Claim | None = None
        """The whole pages of the opening's response."""
        self._first_kept = False  # whether that is stored on disk
        self._tail_start = 0
        """Where that begins: what lies before its first page will be the remnant."""

    def _asked(self, claim: Claim) -> int:
        """Where the request for a claim ends: before the part of a page that the opening's response has, or will."""
        (start, stop), tail = self._remnant, self._tail
        if tail is not None and tail.open:
            start, stop = self._tail_start, tail.start
        return start if claim.start <= start < stop == claim.stop else claim.stop

    def _pump(self) -> tuple[Claim, ...]:
        """Claims for what is wished for, as many as there is room for, but those that joined a lane."""
        claims: list[Claim] = []
        while self._wishes and (claim := self._next()) is not None:
            if not claim.started:
                claims.append(claim)
        return tuple(claims)

    def _next(self, own: Lane | None = None) -> Claim | None:
        """The next piece of what is wished for, claimed, where there is room for another request; on a lane, where that
        is under way already. `own`: on no other than this."""
        wishes, policy = self._wishes, self.policy
        if not policy.fits:
            wishes.expire(self._came - policy.window)
        sizes = policy.sizes
        found = wishes.first(self._gaps, sizes.piece)
        if found is None:
            return None
        (start, stop), long = found
        lane, rank = own, 0 if own is None else own.rank
        if own is None:
            lane, rank = self._lane() if long else None, self._rank()
            if not self._may_begin(long=long):
                if lane is None:
                    return None
            elif lane is not None and policy.warmth(rank) > policy.warmth(lane.rank):
                lane = None
        most = policy.piece_of(rank) if lane is None else lane.room(sizes.joining)
        if wishes.bytes and wishes.bytes + self._own + (most if long else sizes.piece) > sizes.in_flight:
            return None
        last = wishes.last(self._gaps, most) if long and lane is None and self._is_cold(rank) else None
        start, stop = last or (start, min(stop, start + most))
        claim = self.cache.claim(*self._gaps.extents([ByteRange(start, stop)]))
        claim.behind = claim.ahead = True
        length = claim.stop - claim.start
        wishes.take(start, stop, length)
        if lane is not None:
            lane.join(claim, self._asked(claim))
        else:
            lane = self._begin_lane(Lane(claim, long=long))
        policy.begun(lane.rank, length)
        return claim

    @property
    def _came(self) -> int:
        """Bytes that have come ever: under a bound on memory the time that counts."""
        return self.stats.bytes_fetched + self.stats.bytes_loaded

    def _may_begin(self, *, long: bool) -> bool:
        """Whether a connection that is idle may bring what is wished for. One is left to the readers."""
        lanes = self._lanes
        if len(lanes) >= max(1, self.options.max_connections - 1):
            return False
        return not long or sum(each.long for each in lanes) < self.policy.few

    def _rank(self) -> int:
        """Of the connection that the next lane gets: the warmest of those that are idle."""
        taken = {lane.rank for lane in self._lanes}
        return next(rank for rank in itertools.count() if rank not in taken)

    def _is_cold(self, rank: int) -> bool:
        """Whether one that is under way is warmer."""
        policy = self.policy
        return any(each.open and policy.warmth(each.rank) > policy.warmth(rank) for each in self._lanes)

    def _begin_lane(self, lane: Lane) -> Lane:
        lane.rank = self._rank()
        self._lanes.append(lane)
        return lane

    def _lane(self) -> Lane | None:
        """The lane on which what is wished for comes soonest; None: none has room for it."""
        if self._slots.wanted:
            return None
        policy = self.policy
        due = [lane for lane in self._lanes if lane.open and lane.is_due(policy.sizes.due)]
        return max(due, key=lambda lane: lane.carried, default=None)

    def _join(self, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
        """Have the first of some claims come on a connection that is under way, where there is one. Returns the
        others."""
        lane = self._lane() if claims else None
        if lane is None:
            return claims
        lane.join(claims[0], self._asked(claims[0]))
        return claims[1:]

    def _lane_of(self, claim: Claim) -> Lane | None:
        """The lane on which a claim is under way, or to begin."""
        return next((lane for lane in self._lanes if lane.claim is claim), None)

    def _leave(self, lane: Lane | None) -> None:
        """A lane's connection is free."""
        if lane in self._lanes:
            self._lanes.remove(lane)

    def _feed(self, lane: Lane) -> None:
        """Bytes came on a lane: before its connection has nothing to do, have it go on with what is wished for."""
        if not lane.open or lane not in self._lanes or not lane.has_moved() or self._is_awaited:
            return
        while self._wishes and lane.is_due(self.policy.sizes.due):
            if self._next(lane) is None:
                break
        self.link.used(self.clock(), fully=bool(self._wishes))

    @property
    def _is_awaited(self) -> bool:
        """Whether a reader waits for what no connection brings yet: then none goes on with what is only wished for."""
        return self._slots.wanted or any(claim.awaited and not claim.started for claim in self.cache.all_claims())

    @property
    def _takes_along(self) -> bool:
        """Whether who brings a reader's bytes brings with them what is wished for: where the work of this process takes
        longer than to wait, requests that are sent together cost half as much as others, and less than a thread."""
        return self.link.near and self.link.pipelines

    def _take_along(self, lane: Lane) -> None:
        """Have the short ones of what is wished for come with a reader's claim, which comes last: a view's reader would
        touch each of them while it is on its way, and be told of it, which takes longer than to bring it."""
        while len(lane.waiting) < PIPELINED_MOST and self._wishes.short and self._next(lane) is not None:
            pass
        lane.waiting.append(lane.claim)
        lane.claim = lane.waiting[0]  # as in `advance`
        lane.waiting.popleft()

    def give_back(self, claim: Claim) -> None:
        """Fetched or not, nobody brings it any longer. Once is enough; more does nothing."""
        if claim.open and claim.behind:
            self._wishes.came(claim.stop - claim.at)  # or never will
            if not claim.started:
                self._leave(self._lane_of(claim))
        self.cache.release(claim)
