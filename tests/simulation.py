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
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from hctef._link import Link, Train
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


def plenty() -> int:
    """Free memory, bytes: more than any file has."""
    return 1 << 60


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
        self.free, self.window, self.used = True, 10 * SEGMENT, False


class _Transfer:
    """A request under way."""

    __slots__ = ("at", "began", "connection", "extent", "left", "sent", "train", "urgent")

    def __init__(self, extent: ByteRange, sent: float, urgent: bool) -> None:
        self.extent, self.sent, self.urgent = extent, sent, urgent
        self.at = extent.start
        """What has arrived."""
        self.left = extent.length
        """What the server has not sent yet."""
        self.began = 0.0
        self.train: Train | None = None
        self.connection: _Connection | None = None


class Simulation:
    """One reader of one file."""

    def __init__(self, size: int, line: Line, largest: int | None = None, tail: int = MIB) -> None:
        self.size, self.line = size, line
        self.link = Link()
        self.now = self.pipe = 0.0
        self.result = Result()
        self.there = bytearray(-(-size // PAGE)) if size < 1 << 33 else _Sparse()
        """By page: 0 absent, 1 in flight, 2 there, 3 withheld."""
        self.traps: set[int] = set()
        self.wishes: deque[ByteRange] = deque()
        self.flying = self.flying_bytes = 0
        self._connections = [_Connection() for _ in range(line.connections)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._queue: deque[_Transfer] = deque()
        self.policy = Policy(
            size,
            self.link,
            largest=largest,
            least=LEAST,
            window=size,
            connections=line.connections,
            absent=self.absent,
            lacks=lambda start, stop: self.absent(start, stop) > 0,
            memory=plenty,
        )
        if tail:
            self._wait([self._request(ByteRange(max(0, size - 65536) // PAGE * PAGE, size), urgent=True)], [])
            self.wishes.append(ByteRange(max(0, size - tail) // PAGE * PAGE, size))  # pulled behind the first read
        else:
            self._wait([self._request(ByteRange(size - 1, size), urgent=True)], [])

    # the line

    def _at(self, when: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, what))

    def _request(self, extent: ByteRange, *, urgent: bool) -> _Transfer:
        for page in range(extent.start // PAGE, -(-extent.stop // PAGE)):
            self.there[page] = 1
        self.result.requests += 1
        self.result.bytes += extent.length
        transfer = _Transfer(extent, self.now, urgent)
        if not urgent:
            self.flying += 1
            self.flying_bytes += extent.length
        self._queue.append(transfer)
        self._send()
        return transfer

    def _send(self) -> None:
        while self._queue:
            free = [c for c in self._connections if c.free]
            if not free:
                return
            transfer = next((t for t in self._queue if t.urgent), self._queue[0])
            self._queue.remove(transfer)
            connection = max(free, key=lambda c: (c.used, c.window))
            transfer.connection, transfer.sent = connection, self.now
            connection.free = False
            trips = 1 if connection.used else 2
            connection.used = True
            self._at(self.now + trips * self.line.round_trip, partial(self._flight, transfer))

    def _flight(self, transfer: _Transfer) -> None:
        """As much as the connection's window allows reaches the pipe's end."""
        line, connection = self.line, transfer.connection
        assert connection is not None
        full = connection.window >= 2 * line.round_trip * line.bandwidth
        count = transfer.left if full else min(transfer.left, connection.window)
        at = max(self.now, self.pipe)
        if transfer.train is None:
            transfer.began = at
            self._at(at, partial(self._head, transfer))
        if count < transfer.left:
            self._at(at + line.round_trip, partial(self._flight, transfer))
        if not full and count == connection.window:
            connection.window *= 2
        transfer.left -= count
        self.pipe = at + count / line.bandwidth
        while count > 0:
            part = min(READ, count)
            at += part / line.bandwidth
            self._at(at, partial(self._received, transfer, part))
            count -= part

    def _head(self, transfer: _Transfer) -> None:
        self.link.answered(self.now - transfer.sent)
        transfer.train = self.link.train()

    def _received(self, transfer: _Transfer, count: int) -> None:
        assert transfer.train is not None
        assert transfer.connection is not None
        transfer.train.received(transfer.began, self.now, count)
        transfer.began = self.now
        first, transfer.at = transfer.at, transfer.at + count
        done = transfer.at == transfer.extent.stop
        for page in range(first // PAGE, -(-transfer.at // PAGE) if done else transfer.at // PAGE):
            if page in self.traps:
                self.traps.discard(page)
                self.there[page] = 3
            else:
                self.there[page] = 2
        if done:
            transfer.connection.free = True
            if not transfer.urgent:
                self.flying -= 1
                self.flying_bytes -= transfer.extent.length
                self._pull()
            self._send()

    def _wait(self, transfers: list[_Transfer], pages: Iterable[int]) -> None:
        """Let time pass until transfers are over and pages there."""
        for transfer in transfers:
            while transfer.at < transfer.extent.stop:
                self._step()
        for page in pages:
            while self.there[page] < 2:
                self._step()

    def _step(self) -> None:
        self.now, _, what = heapq.heappop(self._events)
        what()

    # the planner

    def absent(self, start: int, stop: int) -> int:
        first, last = start // PAGE, -(-stop // PAGE)
        return PAGE * self.there.count(0, first, last)

    def _gaps(self, extent: ByteRange) -> Iterator[ByteRange]:
        at, stop = extent.start // PAGE, -(-extent.stop // PAGE)
        while (first := self.there.find(0, at, stop)) >= 0:
            at = first
            while at < stop and not self.there[at]:
                at += 1
            yield ByteRange(first * PAGE, min(self.size, at * PAGE))

    def _room(self) -> bool:
        """As `Delivery._next` has it, but for what readers bring themselves."""
        policy, flying = self.policy, self.flying
        room = not flying or self.flying_bytes + policy.sizes.piece <= policy.sizes.in_flight
        return room and flying < self.line.connections - 1

    def _pull(self) -> None:
        """Request pieces of wishes while there is room; one connection is left to readers."""
        while self.wishes and self._room():
            wish = self.wishes.popleft()
            gap = next(self._gaps(wish), None)
            if gap is not None:
                gap = ByteRange(gap.start, min(gap.stop, gap.start + self.policy.piece_of(self.flying)))
                self.policy.begun(self.flying, gap.length)
                if gap.stop < wish.stop:
                    self.wishes.appendleft(ByteRange(gap.stop, wish.stop))
                self._request(gap, urgent=False)

    def read(self, start: int, stop: int) -> None:
        """The reader reads `[start, stop)`."""
        there = self.there
        pages = range(start // PAGE, -(-stop // PAGE))
        states = {there[page] for page in pages}
        if states == {2}:
            return
        missing, trapped = 0 in states, 3 in states
        began = time.perf_counter()
        advice = self.policy.access(start, stop, self.now, missing=missing, trapped=trapped)
        self.result.thinking += time.perf_counter() - began
        self.result.calls += 1
        assert 0 <= advice.block.start <= start < stop <= advice.block.stop <= self.size
        for page in pages:
            self.traps.discard(page)
            if there[page] == 3:
                there[page] = 2
        for trap in advice.traps:
            if there[trap // PAGE] < 2 and trap // PAGE not in pages:
                self.traps.add(trap // PAGE)
        now = self.now
        transfers = [self._request(gap, urgent=True) for gap in self._gaps(advice.block)] if missing else []
        for wish in reversed(advice.behind):
            self.wishes.appendleft(wish)
        while len(self.wishes) > QUEUE:
            self.wishes.pop()
        self._pull()
        self._wait(transfers, pages)
        if trapped and self.now < now + TRAP_SECONDS:
            self._at(now + TRAP_SECONDS, lambda: None)
            while self.now < now + TRAP_SECONDS:
                self._step()
        self.policy.waited(self.now - now)


class _Sparse(defaultdict[int, int]):
    """A `bytearray` of a huge file's pages, as far as it is needed."""

    def __init__(self) -> None:
        super().__init__(int)

    def __missing__(self, key: int) -> int:
        return 0

    def count(self, value: int, first: int, last: int) -> int:
        assert value == 0
        if last - first < 4 * len(self) + 64:
            return sum(page not in self for page in range(first, last))
        return last - first - sum(first <= page < last for page in self)

    def find(self, value: int, first: int, last: int) -> int:
        return next((page for page in range(first, last) if self[page] == value), -1)


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
    simulation.result.seconds = simulation.now
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
        "interleaved",
        size,
        [(s * (size // streams) + at, step) for at in range(0, length, step) for s in range(streams)],
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
    threads, or mixed as `pyarrow.dataset` does it, or column by column."""
    size = 157397493 + max(0, groups - 10) * 15737541
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
    elif order == "mixed":
        rng = random.Random(1)
        for i in range(len(reads)):
            j = min(len(reads) - 1, i + rng.randrange(14))
            reads[i], reads[j] = reads[j], reads[i]
    elif order == "columns":
        reads = [read for i in range(len(columns)) for read in reads[i :: len(columns)]]
    return Trace("W9 parquet " + order, size, [(size - 65536, 65536), *reads])


def ipc(batches: int = 20, columns: Sequence[int] = (3, 10, 17)) -> Trace:
    """W9b: what pyarrow 26 reads of 3 of 20 columns of an Arrow file: of each batch its metadata, then buffers."""
    size = 157309954 + max(0, batches - 20) * 7865376
    reads = [(size - 10, 10), (size - 1458, 1448)]
    for batch in range(batches):
        at = 968 + batch * 7865376
        reads += [(at, 1056), *((at + 1312 + column * 393216, 393216) for column in columns)]
    return Trace("W9b ipc", size, reads)


def column(pieces: int = 10, distance: int = 6_900_000, length: int = 400_000, step: int = 65536) -> Trace:
    """A column of a table whose pieces are as long and as far from each other, read step by step."""
    starts = [1_000_000 + n * distance for n in range(pieces)]
    reads = [(start + at, min(step, length - at)) for start in starts for at in range(0, length, step)]
    return Trace("column", 1_000_000 + (pieces + 1) * distance, reads)


def compressed(count: int = 40, distance: int = 1_150_000, length: int = 144_000, off: float = 0.03) -> Trace:
    """Chunks of a column of a compressed dataset: about as long and as far from each other, between them nodes."""
    rng, at, reads = random.Random(2), 3_000_000, list[tuple[int, int]]()
    for n in range(count):
        if n % 8 == 0:
            reads.append((10_000 + n // 8 * 2616, 2616))
        reads.append((at, int(length * rng.uniform(1 - off, 1 + off))))
        at += int(distance + 2.8 * length * rng.uniform(-off, off) / 1.05)
    return Trace("compressed", at + distance, reads)


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
    column,
    compressed,
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
    lambda: column().as_faults(),
    lambda: parquet("columns").as_faults(),
    lambda: ipc().as_faults(),
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
