"""Link: the round trip and the bandwidth of the line to a server, learnt from requests that are made anyway. Pure.

Two numbers tell what a fetch costs: it takes a round trip, and then its bytes at the line's rate. Their `product` is
how many bytes a round trip is worth: whoever can save one by fetching less than that beyond the need should.

As BBR does (Cardwell et al., CACM 2017), the round trip is the least of the recent ones, since all that disturbs it
(a connection set up, a queue, a busy server) makes it longer; and the bandwidth is about the greatest of the recent
rates, since all that disturbs it (slow start, a reader that pauses) makes it lower. A round trip that our own bytes
before it in the queue explain is none: otherwise a deep queue would look like a long line, which asks for a deeper one.

A rate is measured as in packet trains (Keshav, SIGCOMM 1991; Dovrolis et al., INFOCOM 2001). A receive that had to
wait leaves the socket's buffer empty. So what came between the ends of two such receives is what the network
delivered in just that time; what a receive finds there without waiting shows the speed of memory. Where receives
hardly ever wait (loopback), a body's bytes over the time since its request are a lower bound, and good enough.

A high rate proves the line fast; a low one need not prove it slow. Slow start sends little at first, and so does a
server that paces what it sends by what it sent before (BBR: over a line of 109 MB/s, warm connections brought bodies of
64 KiB at 5 to 11). So a rate below what is believed counts only where the pipe was full: when the rate of three round
trips after the other grew by less than a quarter, which is BBR's own sign for it (section 4.3 of the same article).
"""

from __future__ import annotations

from collections import deque

from hctef._width import Full, Width

CALL, COPY = 30e-6, 2e9
"""Seconds, bytes/s: a receive that took longer than a call and a copy at this rate had to wait."""

SPAN = 40 * 1024
"""Bytes that the rate of one connection is measured over, at least: less may be one burst of the network card. A body
of 64 KiB has so many behind its first receive."""
WAITS = 3
"""Receives that waited in such a span, at least."""

NEARBY = 0.002
"""Seconds. A longer round trip is of no line so fast that receives don't wait, and the lower bound is not asked there:
a reader held up for a while would find bytes of a longer time than we know of."""

WORK = 300e-6
"""Seconds of this process's work that a request costs."""

LEAST_SPAN = 0.01
"""Seconds that it is measured over, at least. A thread that waits for the GIL finds what came meanwhile (5 ms, of two
such threads) at memory's speed, and seems to have waited for it: over less time such rates were 10 times the line's."""

LEAST_SUM = 0.02
"""Seconds that the rate of all connections is measured over, at least: what waits in several sockets' buffers may
come in a burst of memory's speed."""

PRIOR_ROUND_TRIP = 0.03
PRIOR_PRODUCT = 2 * 1024 * 1024
FASTEST = 2e9
"""Seconds, bytes, bytes/s: what is assumed before anything was measured. A round trip is worth what a connection may
have in flight, 3 MiB where the receiver's buffer is Linux's largest (net.ipv4.tcp_rmem), whether the line is long or
short, and no line is faster than loopback. Too high is better than too low: who asks for little learns little."""

RECENT = 16
"""Round trips and rates remembered."""


class Link:
    """What is known of the line to a server. Fed by several threads: a sample lost between them harms nothing."""

    __slots__ = (
        "_history",
        "_last",
        "_mark",
        "_rates",
        "_total",
        "_trips",
        "bandwidth",
        "cost",
        "full_at",
        "near",
        "pipelines",
        "product",
        "round_trip",
        "width",
    )

    def __init__(self) -> None:
        self.believe(PRIOR_ROUND_TRIP, PRIOR_PRODUCT / PRIOR_ROUND_TRIP)
        self._trips: deque[float] = deque(maxlen=RECENT)
        self._rates: deque[float] = deque(maxlen=RECENT)
        self._total = 0  # bytes received ever
        self._last = 0.0  # when the last of them came
        self._mark = (0.0, 0)  # when the present sum began, and the total then
        self.full_at = -1.0
        """When a connection was last seen to fill its pipe."""
        self.pipelines = False
        """Whether the last response that was looked at lets requests be sent behind it."""
        self.width = Width()
        self._history: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=64)  # totals, every quarter of a round trip

    def believe(self, round_trip: float, bandwidth: float) -> None:
        """Both numbers, and what follows from them: that is asked for far more often than it changes."""
        self.round_trip = round_trip
        """Seconds from a request to the head of its response."""
        self.bandwidth = bandwidth
        """Bytes/s."""
        self.near = round_trip < NEARBY
        """Whether the work of this process takes longer than to wait for bytes."""
        self.cost = round_trip + WORK if self.near else round_trip
        """Seconds that a round trip takes; over a near line with the work that goes with it."""
        self.product = bandwidth * self.cost
        """Bandwidth x round trip: the bytes that a round trip is worth."""

    def answered(self, seconds: float) -> None:
        """A response's head came so long after its request was sent (or its connection was begun)."""
        trips = self._trips
        if trips and seconds > self.round_trip:
            since = self._last - seconds
            before = next((total for at, total in reversed(self._history.copy()) if at <= since), 0)
            if self._total - before > (seconds - self.round_trip) * self.bandwidth / 2:
                return  # it queued behind our own bytes
        same = self._rates and len(trips) == RECENT and seconds > self.round_trip < trips[0]
        trips.append(seconds)
        if same:  # neither what comes nor what goes is the least
            return
        least = max(1e-6, min(trips.copy()))
        self.believe(least, self.bandwidth if self._rates else min(FASTEST, PRIOR_PRODUCT / least))

    @property
    def known(self) -> dict[str, float | bool]:
        """What another process is to begin with, for `told`."""
        return {"round_trip": self.round_trip, "bandwidth": self.bandwidth, "pipelines": self.pipelines}

    def told(self, known: dict[str, float | bool]) -> None:
        """What another process has learnt of the same line, where nothing was measured here."""
        if not self._trips:
            self.answered(known["round_trip"])
            self.believe(self.round_trip, known["bandwidth"])
            self.pipelines = bool(known["pipelines"])

    def train(self) -> Train:
        """What to tell about the body that follows."""
        return Train(self)

    def arrived(self, ended: float, count: int, waited: bool) -> None:
        """Bytes came on any connection: together they may fill a line that one of them does not."""
        self._total += count
        pause, self._last = ended - self._last, ended
        if pause > 2 * max(self.round_trip, LEAST_SUM) or pause < 0:
            self._mark = (ended, self._total)
            return
        if ended - self._history[-1][0] > self.round_trip / 4:
            self._history.append((ended, self._total))
        elapsed = ended - self._mark[0]
        if waited and elapsed >= max(LEAST_SUM, self.round_trip):
            rate = (self._total - self._mark[1]) / elapsed
            if rate > self.bandwidth or self.full_at >= self._mark[0]:
                self.rate(rate)
            self._mark = (ended, self._total)

    def used(self, now: float, *, fully: bool) -> None:
        """`fully`: all that may be in flight is, and more is wished for."""
        self.width.came(now, self._total, self.round_trip)
        if fully:
            self.width.busy(now, self._total, self.round_trip)
        else:
            self.width.idle()

    def rate(self, value: float) -> None:
        """Bytes came at this rate, which is high, or all that the line has.

        The second largest of the recent ones is believed, as one outlier is none of the line's doing.
        """
        self._rates.append(value)
        self.believe(self.round_trip, max(1.0, sorted(self._rates.copy())[-2:][0]))


class Train:
    """The receives of one body."""

    __slots__ = ("_began", "_bytes", "_full", "_link", "_looked", "_mark", "_total", "_waits")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._began = -1.0
        self._mark = -1.0  # the end of a receive that waited; since then:
        self._bytes = self._waits = 0
        self._full = Full()
        self._total = 0
        self._looked = 0  # at this total, at the lower bound

    def received(self, began: float, ended: float, count: int) -> None:
        """A read of the body was called, returned, and brought `count` bytes."""
        link, wait = self._link, ended - began
        waited = wait > CALL + count / COPY
        link.arrived(ended, count, waited)
        self._total += count
        first = self._began < 0
        if first:
            self._began = began
        if link.near and self._total - self._looked >= SPAN:
            self._looked = self._total
            # What was there when reading began was asked for a round trip before.
            rate = self._total / (ended - self._began + link.round_trip)
            if rate > link.bandwidth:
                link.rate(rate)
        if first:
            if waited:
                self._mark = ended
            return
        self._bytes += count
        if waited:
            if self._mark >= 0:
                self._waits += 1
                elapsed = ended - self._mark
                if self._bytes < SPAN or self._waits < WAITS or elapsed < max(LEAST_SPAN, link.round_trip):
                    return
                rate = self._bytes / elapsed
                if self._full.is_at(rate):
                    link.full_at = ended
                if rate > link.bandwidth:
                    link.rate(rate)
            self._mark, self._bytes, self._waits = ended, 0, 0
