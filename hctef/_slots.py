"""Slots: how many transfers of one file are under way at once. No I/O: it yields steps."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future

from hctef._intervals import Claim
from hctef._locks import Waiter
from hctef._steps import PlanGen, Wait


class Turn(Waiter):
    """Done when its holder has a slot."""

    def __init__(self, holder: object) -> None:
        super().__init__()
        self.holder = holder


class Slots:
    """At most `count` transfers at once. First come, first served; who stops waiting loses nothing of others'.

    An interrupt may come between any two steps: so it is remembered who has a slot, not how many are free, and whoever
    comes next goes on where giving them out was broken off.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._urgent: deque[Turn] = deque()
        self._queue: deque[Turn] = deque()
        self.holders: set[object] = set()
        """Who has one. To give it up: `holders.discard(holder)`, which nothing interrupts, then `give`."""

    @property
    def full(self) -> bool:
        return len(self.holders) >= self._count

    def acquire(self, holder: object, claim: Claim | None = None) -> PlanGen[None]:
        """Wait for a turn: a claim that is awaited, and what is no claim, before others."""
        turn: Turn | None = None
        try:
            self.give()
            if not self.full:
                self.holders.add(holder)
                return
            turn = Turn(holder)
            (self._urgent if claim is None or claim.awaited else self._queue).append(turn)
            if claim is not None:
                claim.turn = turn
            yield Wait(turn)
        except BaseException:
            if turn is not None:
                turn.cancel()
                for queue in (self._urgent, self._queue):
                    if turn in queue:
                        queue.remove(turn)  # where giving it a slot was broken off, it would be given another
            self.holders.discard(holder)  # it was our turn already
            self.give()
            raise

    @property
    def wanted(self) -> bool:
        """Whether somebody waits urgently for a turn: who has one is not to go on with other things."""
        return bool(self._urgent)

    def hurry(self, turn: Future[None]) -> None:
        """What waits for this turn has become urgent."""
        for each in self._queue:
            if each is turn:
                self._urgent.append(each)
                self._queue.remove(each)
                break
        self.give()

    def give(self) -> None:
        """Give what is free to who waits."""
        while (queue := self._urgent or self._queue) and not self.full:
            turn = queue[0]
            if not turn.done() and (turn.running() or turn.set_running_or_notify_cancel()):
                self.holders.add(turn.holder)
                turn.set_result(None)
            queue.popleft()
