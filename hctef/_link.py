"""Link: the round trip and the bandwidth of the line to a server, learnt from requests that are made anyway. Pure.

Two numbers tell what a fetch costs: it takes a round trip, and then its bytes at the line's rate. Their `product` is
how many bytes a round trip is worth: whoever can save one by fetching less than that beyond the need should.

As BBR does (Cardwell et al., CACM 2017), the round trip is the least of the recent ones, since all that disturbs it
(a connection set up, a queue, a busy server) makes it longer; and the bandwidth is about the greatest of the recent
rates, since all that disturbs it (slow start, a reader that pauses) makes it lower. A round trip seen while the line
is busy contains our own queue. It counts only where it is shorter: otherwise a deep queue would look like a long line,
which asks for a deeper queue.

A rate is measured as in packet trains (Keshav, SIGCOMM 1991; Dovrolis et al., INFOCOM 2001). A receive that had to
wait leaves the socket's buffer empty. So what came between the ends of two such receives is what the network
delivered in just that time; what a receive finds there without waiting shows the speed of memory. Where receives hardly
ever wait (loopback), a body's bytes over the time since its request are a lower bound, and good enough.
"""

from __future__ import annotations

WAITED = 100e-6
"""Seconds: a receive that took longer had to wait. Copying 256 KiB takes a quarter of it."""

SPAN = 64 * 1024
"""Bytes that a rate is measured over, at least: less is one burst of the network card."""

PRIOR_ROUND_TRIP = 0.03
PRIOR_BANDWIDTH = 32e6
"""Bytes/s. What is assumed before anything was measured: a broadband line, where a round trip is worth about 1 MiB."""

RECENT = 16
"""Round trips and rates remembered."""

LONG_TRAIN = 20
"""Round trips after which no connection is in slow start any more: from 14 KB it has doubled to any rate by then."""


class Link:
    """What is known of the line to a server. Fed by several threads: a lost sample harms nothing."""

    __slots__ = ("_bytes", "_carry", "_known", "_mark", "_rates", "_sums", "_trips", "bandwidth", "round_trip")

    def __init__(self) -> None:
        self.round_trip = PRIOR_ROUND_TRIP
        """Seconds from a request to the head of its response."""
        self.bandwidth = PRIOR_BANDWIDTH
        """Bytes/s."""
        self._trips: list[float] = []
        self._rates: list[float] = []
        self._sums: list[float] = []
        self._known = 0  # bytes received ever; few of them prove no line slow
        self._mark = 0.0  # when the sum over all trains began
        self._bytes = 0
        self._carry = 0.0  # rate of the last sum, to tell a busy line

    @property
    def product(self) -> float:
        """Bandwidth x round trip: the bytes that a round trip is worth."""
        return self.bandwidth * self.round_trip

    def answered(self, seconds: float) -> None:
        """A response's head came so long after its request was sent (or its connection was begun)."""
        trips = self._trips
        if trips and seconds > self.round_trip and self._carry > self.bandwidth / 2:
            return  # it queued behind our own bytes
        trips.append(seconds)
        if len(trips) > RECENT:
            del trips[0]
        self.round_trip = min(trips)

    def train(self) -> Train:
        """What to tell about the body that follows."""
        return Train(self)

    def rate(self, value: float) -> None:
        """One connection's bytes came at this rate."""
        self._note(self._rates, value)

    def count(self, ended: float, count: int, waited: bool) -> None:
        """Bytes came on any connection: together they may fill a line that one of them does not."""
        self._known += count
        elapsed = ended - self._mark
        if elapsed > 4 * max(self.round_trip, 0.02) or elapsed < 0:
            self._mark, self._bytes, self._carry = ended, 0, 0.0  # a pause: nothing was asked for
            return
        self._bytes += count
        if waited and self._bytes >= SPAN and elapsed >= max(self.round_trip, 0.02):
            self._carry = self._bytes / elapsed
            self._note(self._sums, self._carry)
            self._mark, self._bytes = ended, 0

    def _note(self, rates: list[float], value: float) -> None:
        rates.append(value)
        if len(rates) > RECENT:
            del rates[0]
        found = max(_second(self._rates), _second(self._sums))
        # Few bytes prove a line fast, never slow: the first ones come in slow start.
        self.bandwidth = found if found > self.bandwidth or self._known > 1 << 20 else self.bandwidth


def _second(rates: list[float]) -> float:
    """The second largest: one outlier is none of the line's doing."""
    return sorted(rates)[-2] if len(rates) > 1 else 0.0


class Train:
    """The receives of one body."""

    __slots__ = ("_began", "_bytes", "_link", "_mark", "_seen", "_total")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._began = -1.0
        self._mark = -1.0  # the end of the last receive that waited
        self._bytes = 0  # since then
        self._total = 0
        self._seen = 0  # of the total when the lower bound was looked at

    def received(self, began: float, ended: float, count: int) -> None:
        """A read of the body was called, returned, and brought `count` bytes."""
        link = self._link
        waited = ended - began > WAITED
        link.count(ended, count, waited)
        self._total += count
        if self._began < 0:
            self._began = began
            if waited:
                self._mark = ended
            return
        self._bytes += count
        if waited:
            if self._mark >= 0 and self._bytes >= SPAN:
                rate = self._bytes / (ended - self._mark)
                if rate > link.bandwidth or ended - self._began > LONG_TRAIN * link.round_trip:
                    link.rate(rate)
            elif self._mark >= 0:
                return  # too short a span: it goes on
            self._mark, self._bytes = ended, 0
        elif self._total - self._seen >= 2 * SPAN:
            self._seen = self._total
            # What was there when reading began was asked for a round trip before.
            rate = self._total / (ended - self._began + link.round_trip)
            if rate > link.bandwidth:
                link.rate(rate)
