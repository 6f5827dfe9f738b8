"""Width: how many connections one long stream is worth. Pure.

One connection fills most lines, begins as a single GET does, and leaves the queue of a router short; several overflow
it (256 MiB over 1 Gbit/s and 20 ms: 2.49 s with one, 2.7 to 2.8 with four, 5,000 to 11,000 segments sent again). But a
server may give each connection a share, and a receiver's buffer lets each have a few MiB in flight (net.ipv4.tcp_rmem).
So their number is found as BBR finds a line's rate (Cardwell et al., CACM 2017, section 4.3.1): where the rate grows no
longer, it is doubled, and stays so where that brings a quarter more.
"""

from __future__ import annotations

FLAT, GROWTH = 3, 1.25
"""Round trips in which a rate grew by less than this factor: the pipe was full."""

SAMPLE = 0.05
"""Seconds that a rate is measured over, at least, and two round trips."""
PATIENCE = 2
"""Such samples in which it did not grow: it does not."""
GAIN = 1.1
"""What more connections must bring, for them to be kept."""
START = 10
"""Round trips until a new connection carries its share: handshake, request, slow start."""
WINDOW = 2.5e6
"""Bytes that one connection has in flight at most, about: 3 MiB where the receiver's buffer is Linux's largest
(net.ipv4.tcp_rmem), of which nine tenths were seen. Where it comes to that, the line may be much longer."""
HOLD = 20.0
"""Seconds until it is tried again whether more connections bring more."""
WIDEST = 8


class Full:
    """Whether a rate, told once a round trip, has stopped growing."""

    __slots__ = ("_flat", "_grown", "_patience", "best")

    def __init__(self, patience: int = FLAT) -> None:
        self.best = 0.0
        """The greatest of the rates."""
        self._patience = patience
        self._grown = 0.0  # the rate that it grew to last
        self._flat = 0

    def is_at(self, rate: float) -> bool:
        self.best = max(self.best, rate)
        if rate > GROWTH * self._grown:
            self._grown, self._flat = rate, 0
        else:
            self._flat += 1
        return self._flat >= self._patience


class Width:
    """The number of connections for what is brought piece by piece."""

    __slots__ = ("_fewer", "_full", "_last", "_least", "_mark", "_not_before", "count", "windowed")

    def __init__(self) -> None:
        self.count = 1
        self.windowed = False
        """Whether what each connection may have in flight holds it back, so that together they are to have more."""
        self._fewer = (1, 0.0)  # how many there were before, and their rate, bytes/s
        self._full = Full(PATIENCE)
        self._mark: tuple[float, int] | None = None  # when the present sample began, and the total then
        self._least: tuple[float, int] = (0.0, 0)  # the same of one that tells the least of what a line can do
        self._last = 0.0
        self._not_before = 0.0

    @property
    def in_flight(self) -> float:
        """Bytes to have asked for at least, where what connections may have in flight holds them back: before more has
        come, a line's rate says nothing of it. For each as much again, which it sends until the next request comes."""
        return 2 * self.count * WINDOW if self.windowed else 0.0

    def idle(self) -> None:
        """The line is not used fully: how fast bytes come is the least of what it can do."""
        self._mark = None

    def came(self, now: float, total: int, round_trip: float) -> None:
        """`total` bytes came ever, whether the line is used fully or not."""
        (began, before), longest = self._least, max(SAMPLE, 2 * round_trip)
        elapsed = now - began
        if elapsed < longest:
            return
        self._least = (now, total)
        rate, room = (total - before) / elapsed, self.count == 1 or (self.windowed and self.count < WIDEST)
        if room and elapsed < 2 * longest and now >= self._not_before and rate * round_trip > WINDOW * self.count:
            self.windowed = True
            self._widen(min(4 * self.count, WIDEST), max(rate, self._full.best), now, round_trip)

    def busy(self, now: float, total: int, round_trip: float) -> None:
        """The line is used fully; `total` bytes came ever."""
        longest = max(SAMPLE, 2 * round_trip)
        paused, self._last = now - self._last > longest, now
        if self._mark is None or paused:
            self._mark = (now, total)
            return
        elapsed = now - self._mark[0]
        if elapsed < longest:
            return
        rate, self._mark = (total - self._mark[1]) / elapsed, (now, total)
        if now < self._not_before:
            return
        full = self._full.is_at(rate)
        best, (count, fewer) = self._full.best, self._fewer
        if full and self.count < WIDEST and best >= GROWTH * fewer and not self.windowed:
            self._widen(2 * self.count, best, now, round_trip)
        elif full:
            if best < GAIN * fewer:
                self.count, self.windowed = count, False
            self._fewer, self._full = (self.count, 0.0), Full(PATIENCE)
            self._not_before = now + HOLD

    def _widen(self, count: int, rate: float, now: float, round_trip: float) -> None:
        self._fewer, self._full = (self.count, rate), Full(PATIENCE)
        self.count, self._not_before = count, now + START * round_trip
