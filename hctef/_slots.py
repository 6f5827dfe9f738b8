"""Slots: how many transfers of one file are under way at once. No I/O: it yields steps."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future

from hctef._intervals import Claim
from hctef._locks import Waiter
from hctef._steps import PlanGen, Wait


class Slots:
    """At most `count` transfers at once. First come, first served; who stops waiting loses nothing of others'."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._urgent: deque[Future[None]] = deque()
        self._queue: deque[Future[None]] = deque()

    @property
    def full(self) -> bool:
        return self._free == 0

    def acquire(self, claim: Claim | None = None) -> PlanGen[None]:
        """Wait for a turn: a claim that is awaited, and what is no claim, before others."""
        if self._free:
            self._free -= 1
            return
        turn: Future[None] = Waiter()
        (self._urgent if claim is None or claim.awaited else self._queue).append(turn)
        if claim is not None:
            claim.turn = turn
        try:
            yield Wait(turn)
        except BaseException:
            if not turn.cancel():
                self.release()  # it was our turn already
            raise

    @property
    def wanted(self) -> bool:
        """Whether somebody waits urgently for a turn: who has one is not to go on with other things."""
        return bool(self._urgent)

    def hurry(self, turn: Future[None]) -> None:
        """What waits for this turn has become urgent."""
        if turn in self._queue:
            self._queue.remove(turn)
            self._urgent.append(turn)

    def release(self) -> None:
        while self._urgent or self._queue:
            turn = (self._urgent or self._queue).popleft()
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)
                return
        self._free += 1
