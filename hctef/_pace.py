"""Pace: in which pieces, and how many at once, what is wanted is fetched, as the line allows. Pure.

A line is kept busy by about two round trips' bytes in flight; more waits in a router's queue, in front of what the next
reader needs. Connections start slowly, so few of them carry what is long, the warmest most of it.
"""

from __future__ import annotations

from typing import NamedTuple

from hctef._link import Link
from hctef._ranges import PAGE

KIB, MIB = 1 << 10, 1 << 20

SHARE = 0.7
"""Of a round trip's bytes, the largest request: while one is asked for and begins, three others keep the line busy."""
SHORT = 0.01
"""Seconds: where a round trip is shorter, a request may take this long, since each costs some work."""
LONGEST = 8 * MIB
"""Bytes: that a request costs nothing more."""
COLD = 64 * KIB
"""What a new connection carries in a few round trips."""
KNOWN = 1024
"""Connections of which it is remembered what they may carry."""
JOINING = 4
"""Parts of a connection's share, each a request: the server has the next one before it has sent the rest."""
AT_ONCE_NEAR = 1
"""951 ranges of 4 KiB over loopback: 0.30 s with one thread beside the reader's, 0.33 with 2 or 3, 0.60 with 16."""


class Sizes(NamedTuple):
    """Bytes to ask for, while a line is held to be as it is."""

    piece: int
    """The largest single background request: of whole pages."""
    in_flight: int
    """Background bytes in flight at most: the line stays busy, and the queue before it short. What a router cannot hold
    it drops, and a connection that lost much starts anew: with 4 round trips' bytes in flight, every third pass over
    256 MiB took 3.5 to 4.3 s instead of 2.8 (20 ms, 1 Gbit/s, a queue of 2 round trips' bytes)."""
    lane: int
    """The most to have in flight on one of the connections that bring what is long."""
    joining: int
    """The largest request that joins a connection under way."""
    due: int
    """What is still to come on a connection with which there is room for another request."""


class Pace:
    """How one file is fetched."""

    __slots__ = ("_connections", "_known", "_link", "_sizes", "_warm")

    def __init__(self, link: Link, connections: int) -> None:
        self._link, self._connections = link, connections
        known = min(connections, KNOWN)
        self._warm = [8 * COLD, 4 * COLD, 2 * COLD, *[COLD] * known][:known]
        """What connections may carry, by rank: the opening and the first reads have warmed some."""
        self._known: tuple[float, ...] = ()  # what `_sizes` follow from

    @property
    def paying(self) -> bool:
        """Whether a region that was bought is under way: then readers' own requests are to wait behind little."""
        return False

    @property
    def at_once(self) -> int:
        """Transfers beside a reader's own that are worth it at once. On a near line the work of this process is all
        that takes time, and more threads are in each other's way."""
        return min(self._connections, AT_ONCE_NEAR) if self._link.near else self._connections

    @property
    def sizes(self) -> Sizes:
        """How much to ask for. It is asked for far more often than it changes."""
        link, width = self._link, self._link.width
        known = (link.product, link.bandwidth, width.count, width.in_flight, self.paying)
        if known != self._known:
            self._sizes = self._sized(link.product, link.bandwidth, width.count, width.in_flight)
            self._known = known
        return self._sizes

    def _sized(self, product: float, bandwidth: float, width: int, least: float) -> Sizes:
        most = max(COLD, SHARE * product, min(LONGEST, bandwidth * SHORT))
        # What is bought comes in smaller ones, so that a reader's request does not wait for long behind them.
        piece = max(1, int(most / 2 if self.paying else most) // COLD) * COLD
        in_flight = int(max(2 * piece, (1.5 if self.paying else 2.5) * product, least))
        lane = in_flight // width
        joining = min(piece, lane // JOINING)
        return Sizes(piece, in_flight, lane, joining, lane - joining)

    def piece_of(self, running: int) -> int:
        """The largest background request where `running` others are under way: it gets the connection of that rank,
        the warmest first; and one that never carried much is in slow start, so that much would come late on it. Of
        whole pages, as all requests are: what is between two of them would be nobody's."""
        most = min(self.sizes.piece, self.sizes.lane)
        if running < len(self._warm):
            most = min(most, self._warm[running])
        return most // PAGE * PAGE

    def begun(self, running: int, length: int) -> None:
        """A background request for so many bytes goes out where `running` others are under way, or on the connection of
        that rank."""
        if running < len(self._warm):
            self._warm[running] += length

    def warmth(self, rank: int) -> int:
        """What a connection has carried, to compare it with others."""
        return self._warm[rank] if rank < len(self._warm) else 0

    @property
    def few(self) -> int:
        """Connections for the pieces of one long wish: a cold one starts slowly, and a reader in sequence waits for the
        slowest; where a round trip is short, one is busy while another is asked, and more are in each other's way."""
        link = self._link
        return 3 if link.near else self.width if link.pipelines else 4

    @property
    def width(self) -> int:
        """The same where requests are pipelined, so that a connection is always busy: one, if it fills the line."""
        return self._link.width.count
