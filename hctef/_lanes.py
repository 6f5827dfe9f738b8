"""Lanes: what each connection brings, one claim after the other.

A connection that carries one response is best used for the next at once: asked for only when the last byte came, the
next pauses for a round trip, and the congestion window grows by what is in flight alone. So what readers wish for
joins a connection that is on its way already, and is asked for before the response under way has come (pipelining,
RFC 9112 section 9.3.2). A cold connection starts two round trips later, and with 14 KB (RFC 6928).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hctef._intervals import Claim
from hctef._ranges import ByteRange
from hctef._steps import Send

PIPELINED_MOST = 64
"""Requests under way on one connection: their heads fit in the initial window of a new one (14 KB, RFC 6928)."""
LEAST = 64 * 1024
"""Bytes still to come on a lane that another may always join: about what comes in the next two round trips."""
STEP = 256 * 1024
"""Bytes after which it is looked again."""
GROWTH = 4
"""Times what a lane has carried, that may be still to come on it: slow start doubles that in a round trip, so the
connection has enough to send for two."""


class Lane:
    """One transfer's claims: the one under way, and those that wait behind it."""

    __slots__ = ("_done", "_looked", "claim", "fresh", "keeps", "like", "long", "open", "rank", "waiting")

    def __init__(self, claim: Claim, *, long: bool = False) -> None:
        self.claim = claim
        """Under way."""
        self.long = long
        """Of a wish that is brought piece by piece."""
        self.rank = 0
        """Its connection's, by what they have carried: 0 is the warmest."""
        self.waiting: deque[Claim] = deque()
        self.like: Callable[[ByteRange], Send] | None = None
        """Makes a request as the one under way was made."""
        self.open = False
        """Whether requests may be sent behind the response under way."""
        self.keeps = False
        """Whether what comes is to be stored on disk, too."""
        self.fresh = False
        """Whether a claim joined that was not asked for yet."""
        self._done = 0  # bytes of the claims that are over
        self._looked = 0  # what had come when it was last asked whether another is due

    def begin(self, *, pipelines: bool) -> None:
        """A response's head has come; `pipelines`: so that requests may be sent behind it."""
        self.open = pipelines and self.like is not None

    @property
    def carried(self) -> int:
        """Bytes that came on it."""
        return self._done + self.claim.at - self.claim.start

    def has_moved(self) -> bool:
        """Whether so much came since this was last asked that it is worth asking whether another claim is due."""
        carried = self.carried
        if carried - self._looked < min(carried // 8, STEP):
            return False
        self._looked = carried
        return True

    def is_due(self, most: int) -> bool:
        """Whether so little is still to come that another claim is to be asked for: at most `most`, and less in slow
        start."""
        left = self.claim.stop - self.claim.at + sum(claim.stop - claim.start for claim in self.waiting)
        return left <= self.room(most)

    def room(self, most: int) -> int:
        """How many bytes are well asked for at once, at most `most`: page-aligned."""
        return max(LEAST, min(most, GROWTH * self.carried) // LEAST * LEAST)

    @property
    def claims(self) -> tuple[Claim, ...]:
        return (self.claim, *self.waiting)

    def join(self, claim: Claim, asked: int) -> None:
        """Have a claim come last, by a request that ends at `asked`."""
        claim.started = claim.sending = True
        claim.asked = asked
        self.waiting.append(claim)
        self.fresh = self.long = True

    def advance(self) -> bool:
        """Go on with the next claim; False: there is none."""
        if not self.waiting:
            return False
        self._done += self.claim.stop - self.claim.start
        self.claim = self.waiting[0]  # in this order no interrupt loses it
        self.waiting.popleft()
        return True

    def following(self) -> list[Send]:
        """The requests that are to come behind the one under way. Called without the file's lock too."""
        like = self.like
        if like is None:
            return []
        return [like(ByteRange(claim.start, claim.asked)) for claim in self.waiting.copy() if not claim.cancelled]

    def give_up(self, error: Exception) -> None:
        """The transfer failed."""
        for claim in self.claims:
            if claim.open:
                claim.error = error
