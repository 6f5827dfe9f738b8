"""Trace-driven simulation of the fetch policy: the real `Policy` and the real `Link`, a simulated line and planner.

  python -m tests.simulation [words in the names of traces]     a table of costs, requests and bytes

The line: a request takes a round trip, then its bytes flow through one pipe shared by all, in the order of the
requests. A connection costs a round trip to set up and begins in slow start (ten segments, doubling each round trip);
what it reached it keeps, and the warmest idle one is used first. The planner: a reader fetches its block at once and
waits for it; wishes form a queue, newest advice first, of which pieces are requested whenever few enough bytes are in
flight; withheld pages (traps) are reported at their first touch; other hits are not reported, and cost nothing.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from hctef._link import Link
from hctef._policy import Policy
from hctef._ranges import PAGE, ByteRange

MIB = 1 << 20
LEAST = 8192
QUEUE = 64
"""Wishes kept."""
TRAP_SECONDS = 30e-6
SEGMENT = 1460
READ = 16384
"""Bytes that one receive brings, as far as the link is told."""


@dataclass(frozen=True)
class Line:
    """A line to a server."""

    name: str
    round_trip: float
    bandwidth: float
    connections: int = 16


B20 = Line("b20", 0.0203, 873e6 / 8)
C80 = Line("c80", 0.0806, 173e6 / 8)
RAW = Line("raw", 0.0003, 2e9)
LINES = (B20, C80, RAW)


@dataclass(frozen=True)
class Trace:
    """Reads of one file."""

    name: str
    size: int
    reads: Sequence[tuple[int, int]]
    """Offset and length."""
    faults: bool = False
    """The reads are of memory: each absent page is reported alone, as one byte."""

    @property
    def distinct(self) -> int:
        """Bytes in the pages that are read."""
        return PAGE * len({page for at, n in self.reads for page in range(at // PAGE, -(-(at + n) // PAGE))})

    def as_faults(self) -> Trace:
        return dataclasses.replace(self, name=self.name + " faults", faults=True)

    def scaled(self, share: float) -> Trace:
        """Its first part."""
        return dataclasses.replace(self, reads=self.reads[: max(1, int(len(self.reads) * share))])


@dataclass
class Result:
    """What a trace cost."""

    seconds: float = 0.0
    requests: int = 0
    bytes: int = 0
    calls: int = 0
    thinking: float = 0.0
    """Real seconds in the policy."""


class _Connection:
    __slots__ = ("free", "used", "window")

    def __init__(self) -> None:
        self.free, self.window, self.used = 0.0, 10 * SEGMENT, False


class _Network:
    """The connections and the pipe."""

    def __init__(self, line: Line, link: Link) -> None:
        self.line, self.link = line, link
        self.connections = [_Connection() for _ in range(line.connections)]
        self.pipe = 0.0
        self.result = Result()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.number = 0

    def get(self, now: float, count: int) -> list[tuple[float, int]]:
        """Request `count` bytes. Returns when how many of them will be there, in order."""
        line = self.line
        idle = [c for c in self.connections if c.free <= now and c.used]
        fresh = [c for c in self.connections if not c.used]
        if idle:
            connection = max(idle, key=lambda c: (c.window, c.free))
        else:
            connection = fresh[0] if fresh else min(self.connections, key=lambda c: c.free)
        sent = max(now, connection.free)
        first = sent + line.round_trip * (1 if connection.used else 2)
        connection.used = True
        at = max(first, self.pipe)
        self.pipe = at + count / line.bandwidth
        flight, left, arrivals, total = first, connection.window, [], 0
        while total < count:
            part = min(READ, count - total, left if connection.window < line.round_trip * line.bandwidth else READ)
            total, left = total + part, left - part
            at = max(at, flight) + part / line.bandwidth
            arrivals.append((at, total))
            if left <= 0:
                connection.window *= 2
                left, flight = connection.window, flight + line.round_trip
        connection.free = at
        self.result.requests += 1
        self.result.bytes += count
        head = max(first, arrivals[0][0] - READ / line.bandwidth)
        self._tell(head, lambda: self.link.answered(head - sent))
        train = self.link.train()
        began, before = head, 0
        for at, total in arrivals:
            self._tell(at, partial(train.received, began, at, total - before))
            began, before = at, total
        return arrivals

    def _tell(self, at: float, what: Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self.events, (at, self.number, what))

    def advance(self, now: float) -> None:
        """Tell the link what has happened until now, in order."""
        while self.events and self.events[0][0] <= now:
            heapq.heappop(self.events)[2]()


class Simulation:
    """One reader of one file."""

    def __init__(self, size: int, line: Line, largest: int | None = None, tail: int = MIB) -> None:
        self.size, self.line = size, line
        self.link = Link()
        self.network = _Network(line, self.link)
        self.there: dict[int, float] = {}
        """Page: when it arrives."""
        self.withheld: set[int] = set()
        self.wishes: deque[ByteRange] = deque()
        self.flying: list[tuple[float, int]] = []
        self.flying_bytes = 0
        self.now = 0.0
        self.policy = Policy(
            size,
            self.link,
            largest=largest,
            least=LEAST,
            window=size,
            connections=line.connections,
            absent=self.absent,
        )
        if tail:
            self.now = self._fetch(0.0, ByteRange(max(0, size - 65536) // PAGE * PAGE, size))
            self.wishes.append(ByteRange(max(0, size - tail) // PAGE * PAGE, size))
            self.network.advance(self.now)  # the rest of the tail comes behind the first read
        else:
            self.now = self.network.get(0.0, 1)[-1][0]

    @property
    def result(self) -> Result:
        self.network.result.seconds = self.now
        return self.network.result

    def absent(self, start: int, stop: int) -> int:
        first, last = start // PAGE, -(-stop // PAGE)
        if last - first < len(self.there):
            return PAGE * sum(page not in self.there for page in range(first, last))
        return PAGE * (last - first - sum(first <= page < last for page in self.there))

    def _gaps(self, extent: ByteRange) -> Iterator[ByteRange]:
        first = None
        stop = -(-extent.stop // PAGE)
        for page in range(extent.start // PAGE, stop):
            if page in self.there:
                if first is not None:
                    yield ByteRange(first * PAGE, page * PAGE)
                first = None
            elif first is None:
                first = page
        if first is not None:
            yield ByteRange(first * PAGE, min(self.size, stop * PAGE))

    def _request(self, now: float, extent: ByteRange) -> list[tuple[float, int]]:
        arrivals = self.network.get(now, extent.length)
        page, which = extent.start // PAGE, 0
        for stop in range(extent.start + PAGE, extent.stop + PAGE, PAGE):
            while which < len(arrivals) - 1 and arrivals[which][1] < min(stop, extent.stop) - extent.start:
                which += 1
            self.there[page] = arrivals[which][0]
            page += 1
        return arrivals

    def _fetch(self, now: float, extent: ByteRange) -> float:
        """An urgent fetch; the time when it is over."""
        end = now
        for gap in list(self._gaps(extent)):
            end = max(end, self._request(now, gap)[-1][0])
        return end

    def _pull(self, now: float) -> None:
        """Request pieces of wishes while there is room."""
        while self.wishes:
            room = self.policy.in_flight - self.flying_bytes
            if room <= 0 or len(self.flying) >= self.line.connections - 1:
                return
            wish = self.wishes[0]
            gap = next(self._gaps(wish), None)
            if gap is None:
                self.wishes.popleft()
                continue
            gap = ByteRange(gap.start, min(gap.stop, gap.start + self.policy.piece))
            if gap.stop >= wish.stop:
                self.wishes.popleft()
            else:
                self.wishes[0] = ByteRange(gap.stop, wish.stop)
            arrivals = self._request(now, gap)
            self.flying_bytes += gap.length
            heapq.heappush(self.flying, (arrivals[-1][0], gap.length))

    def _advance(self, now: float) -> None:
        while self.flying and self.flying[0][0] <= now:
            end, length = heapq.heappop(self.flying)
            self.flying_bytes -= length
            self.network.advance(end)
            self._pull(end)
        self.network.advance(now)

    def read(self, start: int, stop: int) -> None:
        """The reader reads `[start, stop)`."""
        pages = range(start // PAGE, -(-stop // PAGE))
        there, now = self.there, self.now
        missing = late = trapped = False
        for page in pages:
            at = there.get(page)
            if at is None:
                missing = True
            elif at > now:
                late = True
            elif page in self.withheld:
                trapped = True
        if not (missing or late or trapped):
            return
        self._advance(now)
        began = time.perf_counter()
        advice = self.policy.access(start, stop, now, missing=missing, trapped=trapped)
        self.result.thinking += time.perf_counter() - began
        self.result.calls += 1
        assert 0 <= advice.block.start <= start < stop <= advice.block.stop <= self.size
        self.withheld.difference_update(pages)
        end = self._fetch(now, advice.block) if missing else now
        for trap in advice.traps:
            if there.get(trap // PAGE, now + 1) > now:
                self.withheld.add(trap // PAGE)
        for wish in reversed(advice.behind):
            self.wishes.appendleft(wish)
        while len(self.wishes) > QUEUE:
            self.wishes.pop()
        self._pull(now)
        end = max(end, *(there[page] for page in pages))
        if trapped:
            end = max(end, now + TRAP_SECONDS)
        self._advance(end)
        self.policy.waited(end - now)
        self.now = end


def run(trace: Trace, line: Line, largest: int | None = None, tail: int = MIB) -> Result:
    """The cost of a trace."""
    simulation = Simulation(trace.size, line, largest, tail)
    for start, length in trace.reads:
        if trace.faults:
            for page in range(start // PAGE, -(-(start + length) // PAGE)):
                at = max(start, page * PAGE)
                simulation.read(at, at + 1)
        else:
            simulation.read(start, start + length)
    return simulation.result


def clairvoyant(trace: Trace, line: Line) -> float:
    """Seconds of a reader who knows all reads beforehand: no policy is better."""
    return 2 * line.round_trip + trace.distinct / line.bandwidth


def download(trace: Trace, line: Line) -> float:
    """Seconds of one who fetches the whole file."""
    return 2 * line.round_trip + trace.size / line.bandwidth


# traces


def uniform(size: int = 256 * MIB, count: int = 1000, seed: int = 0) -> Trace:
    """W2: random 4 KiB reads."""
    rng = random.Random(seed)
    return Trace("W2 uniform", size, [(rng.randrange(size - 4096), 4096) for _ in range(count)])


def zipf(size: int = 256 * MIB, count: int = 5000, regions: int = 64, length: int = 262144, seed: int = 0) -> Trace:
    """W3: random 4 KiB reads in regions, one of which is read most."""
    rng = random.Random(seed)
    starts = [region * length for region in rng.sample(range(size // length), regions)]
    picks = rng.choices(starts, [1 / (rank + 1) for rank in range(regions)], k=count)
    return Trace("W3 zipf", size, [(start + rng.randrange(length - 4096), 4096) for start in picks])


def sequential(size: int = 256 * MIB, step: int = 65536) -> Trace:
    """W4."""
    return Trace("W4 sequential", size, [(at, min(step, size - at)) for at in range(0, size, step)])


def backward(size: int = 64 * MIB, step: int = 65536) -> Trace:
    """From the end to the beginning."""
    return Trace("backward", size, [(at, min(step, size - at)) for at in range(0, size, step)][::-1])


def skipping(size: int = 128 * MIB, step: int = 20000, skip: int = 12000) -> Trace:
    """Sequential, but for short gaps."""
    return Trace("skipping", size, [(at, step) for at in range(0, size - step, step + skip)])


def interleaved(size: int = 256 * MIB, streams: int = 8, length: int = 16 * MIB, step: int = 65536) -> Trace:
    """Sequential streams in turn."""
    return Trace(
        "interleaved", size, [(s * (size // streams) + at, step) for at in range(0, length, step) for s in range(streams)]
    )


def archive(members: int = 2000, chosen: int = 20, seed: int = 0) -> Trace:
    """W7: zipfile reads the end, the directory, then of each chosen member header, name, and data at once."""
    rng = random.Random(seed)
    names, at = [], 0
    for _ in range(members):
        length = rng.randrange(5000, 45000)
        names.append((at, length))
        at += 47 + length
    directory = members * 63
    reads = [(at + directory, 22), (at + directory - 20, 20), (at, directory)]
    for start, length in rng.sample(names, chosen):
        reads += [(start, 30), (start + 30, 17), (start + 47, length)]
    return Trace("W7 zip", at + directory + 22, reads)


def chunked() -> Trace:
    """W8: what h5py 3.16 reads of 3 of 30 datasets of 7 MB: nodes of trees, then runs of chunks of 64 KiB."""
    reads = [(0, 8), (0, 48), (0, 48), (96, 512), (680, 512), (136, 544), (1504, 328), (7350312, 512), (7350896, 512)]
    reads += [(183708800, 176), (7350352, 544), (7351288, 328)]

    def dataset(at: int) -> None:
        reads.extend([(at, 512), (at + 272, 2616), (at + 4265344, 2616)])
        reads.extend((at + 2888 + i * 65536, 65536) for i in range(57))
        reads.append((at + 4262728, 2616))
        reads.extend((at + 3738440 + i * 65536, 65536) for i in range(8))
        reads.extend((at + 4267960 + i * 65536, 65536) for i in range(47))

    dataset(29396832)
    reads.append((183708976, 328))
    dataset(95530200)
    reads += [(800, 512), (1384, 512), (176360144, 176), (840, 544), (176360320, 328)]
    dataset(198405840)
    return Trace("W8 hdf5", 221015848, reads)


def metadata(size: int = 512 * MIB, count: int = 600, seed: int = 0) -> Trace:
    """Nodes of HDF5's trees and headers: 12 clusters of up to 512 KiB, short reads, some again, between them jumps."""
    rng = random.Random(seed)
    clusters = [(rng.randrange(size - MIB), rng.randrange(65536, 524288)) for _ in range(12)]
    reads, cluster = [], clusters[0]
    for _ in range(count):
        if rng.random() < 0.1:
            cluster = rng.choice(clusters)
        reads.append((cluster[0] + rng.randrange(cluster[1]), rng.choice([48, 328, 512, 544, 2616])))
    return Trace("hdf5 metadata", size, reads)


def parquet(order: str = "threads", groups: int = 10, columns: Sequence[int] = (3, 10, 17)) -> Trace:
    """W9: what pyarrow 26 reads of 3 of 20 columns: whole column chunks, in the order of the row groups but for
    threads, or column by column."""
    size = 157397493
    reads = [
        (4 + group * 15737541 + column * 786877 + (group % 3), 786877 + 2 * (column == 17 and group % 3 == 0))
        for group in range(groups)
        for column in columns
    ]
    if order == "threads":
        rng = random.Random(1)
        for i in range(len(reads) - 3):
            j = i + rng.choice([0, 0, 0, 1, 2, 3])
            reads[i], reads[j] = reads[j], reads[i]
    elif order == "columns":
        reads = [read for i in range(len(columns)) for read in reads[i :: len(columns)]]
    return Trace("W9 parquet " + order, size, [(size - 65536, 65536), *reads])


def ipc(batches: int = 20, columns: Sequence[int] = (3, 10, 17)) -> Trace:
    """W9b: what pyarrow 26 reads of 3 of 20 columns of an Arrow file: of each batch its metadata, then buffers."""
    size = 157309954
    reads = [(size - 10, 10), (size - 1458, 1448)]
    for batch in range(batches):
        at = 968 + batch * 7865376
        reads += [(at, 1056), *((at + 1312 + column * 393216, 393216) for column in columns)]
    return Trace("W9b ipc", size, reads)


def strided(size: int = 256 * MIB, stride: int = MIB, length: int = 4) -> Trace:
    """W10: one float every MiB."""
    return Trace("W10 strided", size, [(at, length) for at in range(0, size, stride)])


def rows(size: int = 256 * MIB, stride: int = 200_000, length: int = 30_000, count: int = 500) -> Trace:
    """A column of tiles: a row of each line of an image."""
    return Trace("rows", size, [(10_000_000 + i * stride, length) for i in range(count)])


def reverse_strided() -> Trace:
    """W10 from the end."""
    trace = strided()
    return dataclasses.replace(trace, name="W10 reverse", reads=trace.reads[::-1])


def two_strides() -> Trace:
    """Two columns of a table with rows of 1 MB, in turn."""
    reads = [read for i in range(128) for read in ((i * 2_000_000 + 5000, 8), (i * 2_000_000 + 905_000, 64))]
    return Trace("two strides", 256 * MIB, reads)


def huge(count: int = 1000) -> Trace:
    """Uniform over 1 TiB: nothing is worth fetching beyond what is asked for."""
    return dataclasses.replace(uniform(1 << 40, count), name="uniform 1 TiB")


def island(count: int = 1000) -> Trace:
    """Uniform over 24 MiB somewhere in 1 TiB."""
    rng = random.Random(2)
    return Trace("island", 1 << 40, [((1 << 39) + rng.randrange(24 * MIB), 4096) for _ in range(count)])


def bursts(count: int = 60, length: int = 300_000, step: int = 16384) -> Trace:
    """Short sequential runs at random places."""
    rng = random.Random(3)
    starts = [rng.randrange(1 << 33) for _ in range(count)]
    return Trace("bursts", 1 << 34, [(s + at, step) for s in starts for at in range(0, length, step)])


TRACES: list[Callable[[], Trace]] = [
    uniform,
    zipf,
    sequential,
    archive,
    chunked,
    parquet,
    lambda: parquet("groups"),
    lambda: parquet("columns"),
    ipc,
    strided,
    reverse_strided,
    two_strides,
    rows,
    backward,
    skipping,
    interleaved,
    metadata,
    huge,
    island,
    bursts,
    lambda: uniform().as_faults(),
    lambda: zipf().as_faults(),
    lambda: sequential(64 * MIB).as_faults(),
    lambda: chunked().as_faults(),
    lambda: strided().as_faults(),
    lambda: backward().as_faults(),
]


def table(words: Iterable[str] = (), lines: Iterable[Line] = LINES) -> Iterator[str]:
    """Rows: for each line seconds (of it, of the better of exact reads and a download, of a clairvoyant), requests,
    MiB."""
    words = list(words)
    yield f"{'':22s}{'MiB read':>9s}" + "".join(
        f" | {line.name + ' s':>8s} {'better':>7s} {'least':>7s} {'reqs':>5s} {'MiB':>6s} {'us':>4s}" for line in lines
    )
    for make in TRACES:
        trace = make()
        if words and not any(word in trace.name for word in words):
            continue
        row = f"{trace.name:22s}{trace.distinct / MIB:9.1f}"
        for line in lines:
            result = run(trace, line)
            better = min(run(trace, line, largest=0).seconds, download(trace, line))
            row += (
                f" | {result.seconds:8.3f} {better:7.2f} {clairvoyant(trace, line):7.3f} {result.requests:5d}"
                f" {result.bytes / MIB:6.1f} {result.thinking / max(1, result.calls) * 1e6:4.1f}"
            )
        yield row


if __name__ == "__main__":
    for _row in table(sys.argv[1:]):
        print(_row, flush=True)  # noqa: T201  # a table is what it is for
