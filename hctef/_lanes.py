"""Lanes: what each connection brings, one claim after the other.

A connection that carries one response is best used for the next at once: asked for only when the last byte came, the
next pauses for a round trip, and the congestion window grows by what is in flight alone. So what readers wish for
joins a connection that is on its way already, and is asked for before the response under way has come (pipelining,
RFC 9112 section 9.3.2). A cold connection starts two round trips later, and with 14 KB (RFC 6928).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from hctef._intervals import Claim
from hctef._ranges import ByteRange
from hctef._steps import Send

LEAST = 64 * 1024
"""Bytes still to come on a lane that another may always join: about what comes in the next two round trips."""


class Lane:
    """One transfer's claims: the one under way, and those that wait behind it."""

    __slots__ = ("_done", "claim", "fresh", "like", "open", "waiting")

    def __init__(self, claim: Claim, waiting: Iterable[Claim] = ()) -> None:
        self.claim = claim
        """Under way."""
        self.waiting: deque[Claim] = deque(waiting)
        self.like: Callable[[ByteRange], Send] | None = None
        """Makes a request as the one under way was made."""
        self.open = False
        """Whether a request may be sent now, behind the response under way."""
        self.fresh = False
        """Whether a claim joined for which none was sent yet."""
        self._done = 0  # bytes of the claims that are over

    @property
    def carried(self) -> int:
        """Bytes that came on it: about as many are in flight in the next round trip of slow start."""
        return self._done + self.claim.at - self.claim.start

    def is_due(self, most: int) -> bool:
        """Whether so little is still to come that another claim is to be asked for: less than a round trip's bytes, as
        far as is known from what came, or than `most`."""
        left = self.claim.stop - self.claim.at + sum(claim.stop - claim.start for claim in self.waiting)
        return left <= max(LEAST, min(self.carried, most))

    def join(self, claim: Claim) -> None:
        claim.started = claim.sending = True
        self.waiting.append(claim)
        self.fresh = True

    def advance(self) -> bool:
        """Go on with the next claim; False: there is none."""
        if not self.waiting:
            return False
        self._done += self.claim.stop - self.claim.start
        self.claim = self.waiting.popleft()
        return True

    def following(self) -> list[Send]:
        """The requests that are to come behind the one under way. Called without the file's lock too."""
        like = self.like
        if like is None:
            return []
        return [like(ByteRange(claim.start, claim.stop)) for claim in self.waiting.copy() if not claim.cancelled]

    def give_up(self, error: Exception) -> None:
        """The transfer failed."""
        for claim in (self.claim, *self.waiting):
            if claim.open:
                claim.error = error
