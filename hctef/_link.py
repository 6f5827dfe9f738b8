"""Link: the round trip and the bandwidth of the line to a server, learnt from requests that are made anyway. Pure.

Two numbers tell what a fetch costs: it takes a round trip, and then its bytes at the line's rate. Their `product` is
how many bytes a round trip is worth: whoever can save one by fetching less than that beyond the need should.

As BBR does (Cardwell et al., CACM 2017), the round trip is the least of the recent ones, since all that disturbs it
(a connection set up, a queue, a busy server) makes it longer; and the bandwidth is about the greatest of the recent
rates, since all that disturbs it (slow start, a reader that pauses) makes it lower. A round trip that our own bytes
before it in the queue explain is none: otherwise a deep queue would look like a long line, which asks for a deeper one.

A rate is measured as in packet trains (Keshav, SIGCOMM 1991; Dovrolis et al., INFOCOM 2001). A receive that had to
wait leaves the socket's buffer empty. So what came between the ends of two such receives is what the network
delivered in just that time; what a receive finds there without waiting shows the speed of memory. A wait of about
a round trip is the pause between two flights of slow start: a span made up of such proves a line fast, never slow.
Where receives hardly ever wait (loopback), a body's bytes over the time since its request are a lower bound, and good
enough.
"""

from __future__ import annotations

from collections import deque

CALL, COPY = 30e-6, 2e9
"""Seconds, bytes/s: a receive that took longer than a call and a copy at this rate had to wait."""

SPAN = 40 * 1024
"""Bytes that the rate of one connection is measured over, at least: less may be one burst of the network card. A body
of 64 KiB has so many behind its first receive."""
WAITS = 3
"""Receives that waited in such a span, at least."""
SLOW_START = 5
"""Round trips after which its flights are longer than a span."""

NEARBY = 0.002
"""Seconds: a longer round trip is of no line so fast that receives don't wait. The lower bound is not asked there: a
reader held up for a while would find bytes of a longer time than we know of."""

LEAST_SUM = 0.02
"""Seconds that the rate of all connections is measured over, at least: what waits in several sockets' buffers may
come in a burst of memory's speed."""

PRIOR_ROUND_TRIP = 0.03
PRIOR_BANDWIDTH = 128e6
PRIOR_PRODUCT = 512 * 1024
"""Seconds, bytes/s, bytes: what is assumed before anything was measured. Too high is better than too low: who asks for
little learns little. Where a round trip is short the line is fast: it is a machine nearby."""

RECENT = 16
"""Round trips and rates remembered."""


class Link:
    """What is known of the line to a server. Fed by several threads: a sample lost between them harms nothing."""

    __slots__ = (
        "_history",
        "_last",
        "_mark",
        "_pause",
        "_rates",
        "_sums",
        "_total",
        "_trips",
        "bandwidth",
        "round_trip",
    )

    def __init__(self) -> None:
        self.round_trip = PRIOR_ROUND_TRIP
        """Seconds from a request to the head of its response."""
        self.bandwidth = PRIOR_BANDWIDTH
        """Bytes/s."""
        self._trips: deque[float] = deque(maxlen=RECENT)
        self._rates: deque[float] = deque(maxlen=RECENT)  # of single connections
        self._sums: deque[float] = deque(maxlen=RECENT)  # of all together
        self._total = 0  # bytes received ever
        self._last = 0.0  # when the last of them came
        self._mark = (0.0, 0)  # when the present sum began, and the total then
        self._pause = 0.0  # those in the present sum
        self._history: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=64)  # totals, every quarter of a round trip

    @property
    def product(self) -> float:
        """Bandwidth x round trip: the bytes that a round trip is worth."""
        return self.bandwidth * self.round_trip

    def answered(self, seconds: float) -> None:
        """A response's head came so long after its request was sent (or its connection was begun)."""
        trips = self._trips
        if trips and seconds > self.round_trip:
            since = self._last - seconds
            before = next((total for at, total in reversed(self._history.copy()) if at <= since), 0)
            if self._total - before > (seconds - self.round_trip) * self.bandwidth / 2:
                return  # it queued behind our own bytes
        trips.append(seconds)
        self.round_trip = max(1e-6, min(trips.copy()))
        if not self._rates and not self._sums:
            self.bandwidth = max(PRIOR_BANDWIDTH, PRIOR_PRODUCT / self.round_trip)

    def train(self) -> Train:
        """What to tell about the body that follows."""
        return Train(self)

    def arrived(self, ended: float, count: int, waited: bool) -> None:
        """Bytes came on any connection: together they may fill a line that one of them does not."""
        self._total += count
        pause, self._last = ended - self._last, ended
        if pause > 2 * max(self.round_trip, LEAST_SUM) or pause < 0:
            self._mark, self._pause = (ended, self._total), 0.0
            return
        if 4 * pause > self.round_trip:
            self._pause += pause  # about a round trip: nothing was asked for
        if ended - self._history[-1][0] > self.round_trip / 4:
            self._history.append((ended, self._total))
        elapsed = ended - self._mark[0]
        if waited and elapsed >= LEAST_SUM:
            rate = (self._total - self._mark[1]) / elapsed
            if 2 * self._pause < elapsed or rate > self.bandwidth:
                self._note(self._sums, rate)
            self._mark, self._pause = (ended, self._total), 0.0

    def rate(self, value: float) -> None:
        """A connection's bytes came at this rate."""
        self._note(self._rates, value)

    def _note(self, rates: deque[float], value: float) -> None:
        rates.append(value)
        self.bandwidth = max(1.0, _second(self._rates), _second(self._sums))


def _second(rates: deque[float]) -> float:
    """The second largest, as one outlier is none of the line's doing; a single one is all that is known."""
    return sorted(rates.copy())[-2:][0] if rates else 0.0


class Train:
    """The receives of one body."""

    __slots__ = ("_began", "_bytes", "_link", "_looked", "_mark", "_pause", "_total", "_waits")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._began = -1.0
        self._mark = -1.0  # the end of a receive that waited; since then:
        self._bytes = self._waits = 0
        self._pause = 0.0  # waits of about a round trip
        self._total = 0
        self._looked = 0  # at this total, at the lower bound

    def received(self, began: float, ended: float, count: int) -> None:
        """A read of the body was called, returned, and brought `count` bytes."""
        link, wait = self._link, ended - began
        waited = wait > CALL + count / COPY
        link.arrived(ended, count, waited)
        self._total += count
        if self._began < 0:
            self._began = began
            if waited:
                self._mark = ended
            return
        self._bytes += count
        if waited:
            if self._mark >= 0:
                self._waits += 1
                if 4 * wait > link.round_trip:
                    self._pause += wait
                elapsed = ended - self._mark
                if self._bytes < SPAN or self._waits < WAITS or elapsed <= 0:
                    return
                rate = self._bytes / elapsed
                steady = 2 * self._pause < elapsed or ended - self._began > SLOW_START * link.round_trip
                if steady or rate > link.bandwidth:
                    link.rate(rate)
            self._mark, self._bytes, self._waits, self._pause = ended, 0, 0, 0.0
        elif self._total - self._looked >= 4 * SPAN and link.round_trip < NEARBY:
            self._looked = self._total
            # What was there when reading began was asked for a round trip before.
            rate = self._total / (ended - self._began + link.round_trip)
            if rate > link.bandwidth:
                link.rate(rate)
