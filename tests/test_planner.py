"""The planner under every interleaving: a driver of one thread in which chance says who goes next.

Hypothesis gives the seed of the order. It performs the steps against bytes in memory, records each request, and
injects cut bodies, refusals and cancelled readers.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import hctef._lanes
import hctef._planner
import hctef._wishes
from hctef._arena import AnonymousArena
from hctef._http import Head
from hctef._intervals import Claim, Held, IntervalCache
from hctef._link import Link
from hctef._opening import Opening
from hctef._options import Options
from hctef._pace import Pace, Sizes
from hctef._pages import PageTable
from hctef._planner import Planner
from hctef._policy import Advice, Policy
from hctef._ranges import PAGE, ByteRange, coalesce
from hctef._retries import TransportError
from hctef._steps import Ahead, Call, Collect, Deliver, Detach, FetchPlan, Fill, PlanGen, Receive, Send, Sleep, Wait
from hctef.exceptions import HctefNetworkError
from tests.helpers import pattern

SIZE = 64 * PAGE + 1234
DATA = pattern(SIZE)


@dataclass(eq=False)
class Task:
    """A generator on its way."""

    generator: PlanGen[Any]
    done: Callable[[Any], None] = lambda _: None
    value: Any = None
    error: BaseException | None = None
    blocked: Callable[[], bool] | None = None
    at: int = 0
    stop: int = 0
    receiving: bool = False
    ahead: list[Send] = field(default_factory=list)
    """Sent behind the request under way."""


@dataclass
class Loop:
    """Runs tasks, one step at a time."""

    planner: Planner
    choose: Callable[[int], int]
    fault: Callable[[], bool] = lambda: False
    tasks: list[Task] = field(default_factory=list)
    requested: list[ByteRange] = field(default_factory=list)
    received: list[ByteRange] = field(default_factory=list)
    most: int = 0
    joined: int = 0
    """Requests that were sent ahead, and were the next that their connection was asked for."""
    astray: int = 0
    """And that were not."""

    def start(self, generator: PlanGen[Any], done: Callable[[Any], None] = lambda _: None) -> Task:
        task = Task(generator, done)
        self.tasks.append(task)
        return task

    def run(self) -> None:
        for _ in range(100_000):
            ready = [task for task in self.tasks if task.blocked is None or task.blocked()]
            if not self.tasks:
                return
            assert ready, "every task waits: a deadlock"
            self.step(ready[self.choose(len(ready))])
        raise AssertionError("it does not end")

    def run_some(self, steps: int) -> None:
        """As far as so many steps lead."""
        for _ in range(steps):
            ready = [task for task in self.tasks if task.blocked is None or task.blocked()]
            if ready:
                self.step(ready[self.choose(len(ready))])

    def step(self, task: Task) -> None:
        task.blocked = None
        error, task.error = task.error, None
        value, task.value = task.value, None
        try:
            step = task.generator.throw(error) if error else task.generator.send(value)
        except StopIteration as end:
            self.finish(task)
            task.done(end.value)
            return
        except HctefNetworkError as failure:
            self.finish(task)
            task.done(failure)
            return
        try:
            self.perform(task, step)
        except TransportError as failure:
            task.error = failure

    def finish(self, task: Task) -> None:
        self.tasks.remove(task)

    def perform(self, task: Task, step: Any) -> None:
        match step:
            case Send():
                spec = step.headers["Range"].removeprefix("bytes=")
                first, _, last = spec.partition("-")
                start, stop = (max(0, SIZE - int(last)), SIZE) if not first else (int(first), min(SIZE, int(last) + 1))
                self.requested.append(ByteRange(start, stop))
                if task.ahead:
                    right = task.ahead.pop(0) == step
                    self.joined, self.astray = self.joined + right, self.astray + (not right)
                    if not right:
                        task.ahead.clear()
                if self.fault():
                    raise TransportError("refused", connect=True)
                task.at, task.stop, task.receiving = start, stop, True
                self.most = max(self.most, sum(t.receiving for t in self.tasks))
                headers = {"content-range": f"bytes {start}-{stop - 1}/{SIZE}", "etag": '"1"'}
                length = {"content-length": str(stop - start)}
                pipelines = self.choose(3) > 0
                if pipelines and step.then is not None and not task.ahead:
                    task.ahead = list(step.then())
                task.value = Head(206, headers | length, pipelines=pipelines)
            case Receive():
                if self.fault():
                    raise TransportError("cut")
                stop = min(task.stop, task.at + min(step.limit, 1 + self.choose(20 * PAGE)))
                task.value = DATA[task.at : stop]
                if step.into is not None:
                    step.into[: stop - task.at] = task.value
                    task.value = stop - task.at
                self.received.append(ByteRange(task.at, stop))
                task.at = stop
                task.receiving = stop < task.stop
            case Fill():
                self.planner.arena.fill(step.start, step.data)
            case FetchPlan():
                for claim in step.claims + step.background:
                    self.transfer(claim)
                waits: list[Future[None]] = [*step.wait, *(claim.wait_for_release() for claim in step.claims)]
                task.blocked = lambda: all(future.done() for future in waits)
            case Wait():
                task.blocked = step.future.done
            case Call():
                task.value = step.function()
            case Ahead():
                assert task.at < task.stop, "nothing is under way that it could be sent behind"
                assert list(step.requests[: len(task.ahead)]) == task.ahead
                task.ahead = list(step.requests)
            case Collect():
                task.value = 0
                for start, stop in step.extents:
                    if not task.ahead or self.choose(3) == 0:
                        break
                    assert task.ahead.pop(0).headers["Range"] == f"bytes={start}-{stop - 1}"
                    self.requested.append(ByteRange(start, stop))
                    self.received.append(ByteRange(start, stop))
                    step.put(start, memoryview(DATA)[start:stop])
                    task.value += 1
            case Deliver() | Sleep():
                task.value = step
            case Detach():
                other = self.start(step.generator)
                other.at, other.stop, other.receiving, other.ahead = task.at, task.stop, task.receiving, task.ahead
                task.ahead = []
                task.receiving = False

    def transfer(self, claim: Claim | None) -> None:
        if claim is not None:
            self.start(self.planner.transfer(claim, pipelined=self.choose(2) == 0), self.transfer)

    def cancel(self, task: Task) -> None:
        """As a KeyboardInterrupt or a cancelled task does: the generator ends where it is."""
        task.generator.close()
        self.tasks.remove(task)


class FarLink(Link):
    """A round trip is long, whatever was measured."""

    def believe(self, round_trip: float, bandwidth: float) -> None:
        super().believe(max(round_trip, 0.01), bandwidth)


def opened(loop_of: Callable[[Planner], Loop], *, far: bool = False, **options: Any) -> Loop:
    """A file that was opened; `far`: over a long line, so that what the opening asked for may still be coming."""
    planner = Planner("http://host/file", Options(**options), AnonymousArena)
    if far:
        planner.use_link(FarLink())
    loop = loop_of(planner)
    fault, loop.fault = loop.fault, lambda: False
    opening = loop.start(Opening(planner).run())
    while opening in loop.tasks:
        loop.step(opening)
    if not far:
        loop.run()
    loop.fault = fault
    return loop


def twice(ranges: list[ByteRange]) -> Iterator[ByteRange]:
    """What lies in more than one of the ranges."""
    reach = 0
    for start, stop in sorted(ranges):
        if start < reach:
            yield ByteRange(start, min(stop, reach))
        reach = max(reach, stop)


READS = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 12 * PAGE)), min_size=1, max_size=8)
LIMITS = st.sampled_from([1, 2, 16])
LEAST = st.sampled_from([1, 8192, 40_000])


@given(st.integers(0, 2**32), READS, LIMITS, LEAST, st.sampled_from([0, 5000, 200_000]), st.booleans())
@settings(max_examples=400, deadline=None)
def test_no_byte_is_asked_for_twice_whatever_the_order(  # noqa: PLR0917  # hypothesis gives them in their order
    seed: int, reads: list[tuple[int, int]], connections: int, least: int, prefetch: int, far: bool
) -> None:
    """Overlapping readers get their bytes, each was requested once, at most `max_connections` at a time."""
    choose = random.Random(seed).randrange
    loop = opened(
        lambda planner: Loop(planner, choose),
        far=far,
        max_connections=connections,
        minimum_range_request_bytes=least,
        prefetch_bytes=prefetch,
    )
    planner, got = loop.planner, []
    for start, length in reads:
        stop = min(SIZE, start + length)

        def done(pin: Any, start: int = start, stop: int = stop) -> None:
            assert planner.pages.resident(start, stop)
            got.append(planner.arena.bytes[start:stop] == DATA[start:stop])
            planner.unpin(pin)

        if choose(3) == 0:
            loop.start(planner.prefetch([ByteRange(start, stop), ByteRange(0, PAGE)], wait=choose(2) == 0))
        loop.start(planner.read(start, stop), done)
    loop.run()
    assert got == [True] * len(reads)
    assert not list(twice(loop.requested))
    assert loop.most <= connections
    assert planner.cache.all_claims() == []


@given(st.integers(0, 2**32), READS, LIMITS, st.sampled_from([0, 64_000]), st.booleans())
@settings(max_examples=400, deadline=None)
def test_failures_and_cancelled_readers_harm_nobody_else(
    seed: int, reads: list[tuple[int, int]], connections: int, resident: int, far: bool
) -> None:
    """Cut bodies, refused connections, eviction: the readers that are left get right bytes or an error."""
    choose = random.Random(seed).randrange
    loop = opened(
        lambda planner: Loop(planner, choose, lambda: choose(6) == 0),
        far=far,
        max_connections=connections,
        max_resident_bytes=resident or None,
        retries=3,
    )
    planner, outcomes = loop.planner, []
    tasks = []
    for start, length in reads:
        stop = min(SIZE, start + min(length, planner.window))

        def done(pin: Any, start: int = start, stop: int = stop) -> None:
            outcomes.append(pin)
            if not isinstance(pin, HctefNetworkError):
                assert planner.arena.bytes[start:stop] == DATA[start:stop]
                planner.unpin(pin)

        tasks.append(loop.start(planner.read(start, stop), done))
    victim = tasks[choose(len(tasks))]
    loop.run_some(choose(40))
    cancelled = victim in loop.tasks
    if cancelled:
        loop.cancel(victim)
    loop.run()
    assert len(outcomes) == len(reads) - cancelled
    assert planner.cache.all_claims() == []
    for run in planner.pages.runs():
        assert planner.arena.bytes[run.start : run.stop] == DATA[run.start : run.stop]
    if resident:
        assert planner.pages.resident_bytes <= resident
    fetched = coalesce(loop.received)
    assert all(any(a <= run.start and run.stop <= b for a, b in fetched) for run in planner.pages.runs())


@pytest.mark.parametrize("limit", [None, SIZE])
def test_small_pages_are_gathered_before_a_long_block_is_fetched(
    monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    """Over a near line; where nothing is evicted, which goes by small pages."""
    monkeypatch.setattr(hctef._planner, "HUGE_BYTES", 8 * PAGE)
    loop = opened(lambda planner: Loop(planner, lambda n: n - 1), prefetch_bytes=0, max_resident_bytes=limit)
    planner, gathered = loop.planner, []
    planner.link.believe(0.0001, planner.link.bandwidth)
    monkeypatch.setattr(AnonymousArena, "gather", lambda _, start, stop: gathered.append((start, stop)))
    for length in (4 * PAGE, 16 * PAGE):
        advice = Advice(ByteRange(100, length - 100))
        monkeypatch.setattr(Policy, "access", lambda *_, advice=advice, **__: advice)
        loop.start(planner.read(100, 200), planner.unpin)
        loop.run()
        planner.evict(0, SIZE)
    assert gathered == ([] if limit else [(0, 16 * PAGE)])


@pytest.mark.parametrize("child", [False, True])
def test_a_part_of_a_page_is_not_thrown_away(child: bool) -> None:
    """The remnant of the opening's response, which a forked child has too."""
    loop = opened(
        lambda planner: Loop(planner, lambda n: n - 1),
        prefetch_bytes=5 * PAGE // 2 - (-SIZE % PAGE),
        readahead="off",
        minimum_range_request_bytes=PAGE,
    )
    planner = loop.planner
    page = planner._remnant.start // PAGE * PAGE
    assert planner._remnant.length
    if child:
        planner.after_fork()
    loop.start(planner.read(page - PAGE, page), planner.unpin)
    loop.run()
    planner.arena.gather(0, SIZE)
    loop.start(planner.read(page, page + PAGE))
    loop.run()
    assert planner.arena.bytes[page : page + PAGE] == DATA[page : page + PAGE]


@pytest.mark.parametrize("error", [None, HctefNetworkError("cut"), KeyboardInterrupt()])
def test_gaps_that_come_in_turn_are_given_back_together(error: BaseException | None) -> None:
    """Over a near line, where one of them fails or its reader is interrupted: nobody fetches the others any longer."""
    loop = opened(lambda planner: Loop(planner, lambda n: n - 1), prefetch_bytes=0, readahead="off")
    planner = loop.planner
    planner.link.believe(0.0001, planner.link.bandwidth)
    loop.start(planner.read(8 * PAGE, 10 * PAGE))
    loop.run()
    reading = planner.read(4 * PAGE, 16 * PAGE)
    plan = next(reading)
    assert isinstance(plan, FetchPlan)
    assert [(claim.start, claim.stop) for claim in plan.claims] == [(4 * PAGE, 8 * PAGE)]
    assert len(planner.cache.all_claims()) == 2
    planner.give_back(plan.claims[0])
    if error is None:
        plan = reading.send(None)
        assert isinstance(plan, FetchPlan)
        assert [(claim.start, claim.stop) for claim in plan.claims] == [(10 * PAGE, 16 * PAGE)]
        reading.close()
        planner.cancel(plan.claims)  # as a driver does
    elif isinstance(error, HctefNetworkError):
        plan.claims[0].error = error
        with pytest.raises(HctefNetworkError, match="cut"):
            reading.send(None)
    else:
        with pytest.raises(KeyboardInterrupt):
            reading.throw(error)
    assert planner.cache.all_claims() == []


@contextlib.contextmanager
def small_lanes() -> Iterator[None]:
    """Wishes are long from 4 pages on, and come in pieces of 2: this file is small."""
    usual = Pace._sized

    def sized(pace: Pace, *known: Any) -> Sizes:
        sizes = usual(pace, *known)
        joining = min(2 * PAGE, sizes.joining)
        return sizes._replace(piece=2 * PAGE, joining=joining, due=sizes.lane - joining)

    with (
        mock.patch.object(hctef._wishes, "LONG", 4 * PAGE),
        mock.patch.object(hctef._lanes, "LEAST", 2 * PAGE),
        mock.patch.object(Pace, "_sized", sized),
    ):
        yield


@given(
    st.integers(0, 2**32),
    LIMITS,
    st.sampled_from([0, 200_000]),
    st.sampled_from([1, 3, 8]),
    st.sampled_from(["nothing", "requests fail", "it is closed", "both"]),
)
@settings(max_examples=300, deadline=None)
def test_what_is_wished_for_joins_the_connections_under_way(
    seed: int, connections: int, prefetch: int, width: int, happens: str
) -> None:
    """What was sent ahead is what the connection is asked for next; each byte is asked for once; whatever fails or is
    closed, all that was claimed is given back. `width`: so many connections are worth it for what is long."""
    choose = random.Random(seed).randrange
    failing, closing = happens in {"requests fail", "both"}, happens in {"it is closed", "both"}
    with small_lanes():
        loop = opened(
            lambda planner: Loop(planner, choose, lambda: failing and choose(20) == 0),
            far=True,
            max_connections=connections,
            prefetch_bytes=prefetch,
            retries=2,
        )
        planner = loop.planner
        planner.link.width.count = width

        def reading(start: int, stop: int) -> PlanGen[None]:
            for at in range(start, stop, 2 * PAGE):
                end = min(stop, at + 2 * PAGE)
                planner.unpin((yield from planner.read(at, end)))
                assert planner.arena.bytes[at:end] == DATA[at:end]

        loop.start(reading(0, SIZE))
        loop.start(reading(30 * PAGE, SIZE))
        if closing:
            loop.run_some(choose(200))
            planner.close()
            for task in list(loop.tasks):
                loop.cancel(task)
        else:
            loop.run()
    assert planner.cache.all_claims() == []
    assert planner._lanes == []
    assert planner._wishes.bytes == 0
    if not (failing or closing):
        assert loop.astray == 0
        assert not list(twice(loop.requested))
        assert loop.most <= connections
        assert planner.pages.resident(0, SIZE)
    event("sent ahead" if loop.joined else "nothing was sent ahead")


def test_a_long_wish_takes_few_connections() -> None:
    """Short ones take as many as there are, but one, which is left to the readers."""
    loop = opened(lambda planner: Loop(planner, lambda _: 0), far=True, max_connections=8, prefetch_bytes=0)
    planner = loop.planner
    loop.run()
    with small_lanes():
        planner._wishes.push([ByteRange(0, 40 * PAGE)])
        assert len(planner._pump()) == planner.policy.few == 4
        planner._wishes.push([ByteRange(at * PAGE, (at + 1) * PAGE) for at in range(44, 64, 2)])
        assert len(planner._pump()) == 3
    planner.close()


def test_a_prefetch_outlives_the_reader_that_hurried_it() -> None:
    """A reader begins what a prefetch claimed, and is interrupted: the prefetch asks again, and is whole."""
    loop = opened(lambda planner: Loop(planner, lambda n: n - 1), prefetch_bytes=0)
    planner = loop.planner
    counts: list[Any] = []
    prefetch = loop.start(
        planner.prefetch([ByteRange(0, 16 * PAGE), ByteRange(30 * PAGE, 40 * PAGE)], wait=True), counts.append
    )
    loop.step(prefetch)
    far = planner.cache.claims(30 * PAGE, 40 * PAGE)
    assert [claim.started for claim in far] == [False]
    reader = loop.start(planner.read(35 * PAGE, 36 * PAGE))
    loop.step(reader)
    assert far[0].urgent
    for task in list(loop.tasks):
        if task not in (prefetch, reader):
            loop.step(task)  # each has begun now
    loop.cancel(reader)
    planner.cancel(far)
    loop.run()
    assert counts == [26 * PAGE]
    assert planner.pages.resident(0, 16 * PAGE)
    assert planner.pages.resident(30 * PAGE, 40 * PAGE)


def test_a_reader_far_away_waits_for_its_own_bytes_only() -> None:
    """It needs one page of a long claim that nobody has begun: it has it begun, and goes on when its page is there."""
    ticks = itertools.count()
    planner = Planner("http://host/file", Options(prefetch_bytes=0), AnonymousArena, clock=lambda: next(ticks) / 100)
    loop = Loop(planner, lambda n: min(n - 1, PAGE - 1))
    loop.start(Opening(planner).run())
    loop.run()
    loop.step(loop.start(planner.prefetch([ByteRange(0, 50 * PAGE)], wait=False)))
    (claim,) = planner.cache.claims(0, PAGE)
    assert not claim.started
    reader = loop.start(planner.read(10 * PAGE, 11 * PAGE))
    loop.step(reader)
    while reader in loop.tasks:
        for task in list(loop.tasks):
            if task in loop.tasks and (task.blocked is None or task.blocked()):
                loop.step(task)
    assert planner.pages.resident(10 * PAGE, 11 * PAGE)
    assert claim.open
    assert claim.at < 20 * PAGE
    loop.run()
    assert planner.pages.resident(0, 50 * PAGE)


def test_who_gives_up_waiting_leaves_nothing() -> None:
    """However many come and go while a claim's server stalls; who stays is woken."""
    claim, staying = Claim(0, PAGE), []
    for number in range(2000):
        future = claim.wait_for(PAGE)
        if number % 40 == 0:
            staying.append(future)
        else:
            future.cancel()
    assert len(claim._waiting) <= 2 * len(staying)
    claim.advance(PAGE)
    assert all(future.done() and not future.cancelled() for future in staying)


EXTENTS = st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda pair: ByteRange(pair[0], sum(pair)))


@given(st.lists(st.tuples(EXTENTS, st.booleans(), st.booleans()), max_size=20), EXTENTS)
def test_what_is_not_pinned(pins: list[tuple[ByteRange, bool, bool]], whole: ByteRange) -> None:
    """Whatever pins there are, short and long, and were before."""
    cache, held = IntervalCache(), set()
    for extent, brief, gone in pins:
        pin = cache.pin(*extent, brief=brief)
        if gone:
            cache.unpin(pin)
            cache.unpin(pin)
        else:
            held |= set(range(*extent))
    free = list(cache.unpinned(whole))
    assert free == coalesce((at, at + 1) for at in set(range(*whole)) - held)


class CountedHeld(Held):
    """Counts how often one is looked at."""

    looks = 0

    @property
    def stop(self) -> int:
        CountedHeld.looks += 1
        return self._stop

    @stop.setter
    def stop(self, stop: int) -> None:
        self._stop = stop


class CountedPages(PageTable):
    """The same for extents."""

    looks = 0

    def referenced(self, start: int, stop: int) -> bool:
        CountedPages.looks += 1
        return super().referenced(start, stop)


@pytest.mark.parametrize("brief", [True, False])
def test_what_is_pinned_is_looked_at_once(monkeypatch: pytest.MonkeyPatch, brief: bool) -> None:
    """Each time something comes or is let go there is too much in memory, most of which many readers have pinned."""
    monkeypatch.setattr("hctef._intervals.Held", CountedHeld)
    cache, pages, count = IntervalCache(), CountedPages(200 * PAGE), 200
    extents = [ByteRange(at * PAGE, (at + 1) * PAGE) for at in range(count)]
    pins = [cache.pin(*extent, brief=brief) for extent in extents]
    CountedHeld.looks = CountedPages.looks = 0
    for extent in extents:
        cache.fetched(extent, pages)
        assert not list(cache.victims(pages))
    for extent, pin in zip(extents, pins, strict=True):
        cache.unpin(pin)
        assert list(cache.victims(pages)) == [extent]
    assert CountedPages.looks == 2 * count
    assert CountedHeld.looks < 10 * count


CASES = [
    # (wanted (offset, length), options, expected requests), pages counted from 0
    ("one page becomes the minimum", [(0, 1)], {}, [(0, 2)]),
    ("the minimum of one byte is one page", [(0, 1)], {"minimum_range_request_bytes": 1}, [(0, 1)]),
    ("a gap under the minimum is filled", [(0, 2), (3, 2)], {}, [(0, 5)]),
    ("a gap of the minimum is not", [(0, 2), (4, 2)], {}, [(0, 2), (4, 6)]),
    ("neighbours are one request", [(0, 2), (2, 2), (4, 1)], {}, [(0, 5)]),
    ("the order does not matter", [(20, 2), (0, 2)], {}, [(0, 2), (20, 22)]),
    ("the last page is extended backwards", [(40, 1), (39, 1)], {}, [(39, 41)]),
]


@pytest.mark.parametrize(
    ("wanted", "options", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_requests_for_ranges(
    wanted: list[tuple[int, int]], options: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    """A table of what is asked for which ranges (in pages)."""
    loop = opened(lambda planner: Loop(planner, lambda n: n - 1), **options)
    loop.requested.clear()
    ranges = [ByteRange(a * PAGE, (a + n) * PAGE) for a, n in wanted]
    loop.start(loop.planner.prefetch(ranges, wait=True))
    loop.run()
    assert sorted(loop.requested) == [(a * PAGE, b * PAGE) for a, b in expected]


def test_opening_is_one_request_and_the_rest_of_the_prefetch_joins_it() -> None:
    """The part of a page that came with the tail is not asked for again."""
    loop = opened(lambda planner: Loop(planner, lambda n: n - 1), prefetch_bytes=150_000)
    assert loop.requested[0] == (SIZE - 65_536, SIZE)
    assert not list(twice(loop.requested))
    assert list(loop.planner.pages.runs()) == [((SIZE - 150_000) // PAGE * PAGE, SIZE)]


def test_a_far_file_is_open_before_its_tail_has_come() -> None:
    """Readers go on at once; who needs the tail waits for it, and the page that came in part is asked for in part."""
    loop = opened(lambda planner: Loop(planner, lambda n: n - 1), far=True, prefetch_bytes=150_000)
    assert loop.requested == [(SIZE - 65_536, SIZE)]
    assert loop.planner.resident_bytes == 0
    loop.start(loop.planner.read(0, SIZE))
    loop.run()
    assert loop.planner.resident_bytes == SIZE
    assert not list(twice(loop.requested))


def test_a_forked_child_waits_for_nothing_that_its_parent_brings() -> None:
    """Not for the opening's tail either: its transfer is the parent's."""
    loop = opened(lambda planner: Loop(planner, lambda n: n - 1), far=True, prefetch_bytes=150_000)
    parents, loop.tasks = loop.tasks, []
    loop.planner.after_fork()
    loop.start(loop.planner.read(0, SIZE - 65_536))  # to the very page where the tail begins
    loop.run()
    loop.start(loop.planner.read(0, SIZE))
    loop.run()
    assert loop.planner.resident_bytes == SIZE
    assert len(parents) == 1


def batch(loop: Loop, ranges: list[ByteRange]) -> tuple[Claim, ...]:
    """Claims that one connection is to bring."""
    plan = next(loop.planner.prefetch(ranges, wait=True))
    assert isinstance(plan, FetchPlan)
    assert len({claim.batch for claim in plan.claims}) == 1
    return plan.claims


def test_what_was_cancelled_is_not_marked_though_it_came() -> None:
    """It went where nobody looks any more, perhaps. What came with it is there."""
    loop = opened(
        lambda planner: Loop(planner, lambda n: n - 1),
        prefetch_bytes=0,
        max_connections=1,
        minimum_range_request_bytes=PAGE,
    )
    planner = loop.planner
    ranges = [ByteRange(at * PAGE, (at + 1) * PAGE) for at in (0, 4, 8, 12)]
    claims = batch(loop, ranges)
    transfer, value = planner.transfer(claims[0], pipelined=True), None
    task, collected = Task(transfer), 0
    with contextlib.suppress(StopIteration):
        while True:
            step = transfer.send(value)
            task.value = None
            loop.perform(task, step)
            value = task.value
            if isinstance(step, Collect):
                collected += value
                planner.cancel([claims[2]])
    assert collected == 3
    assert [planner.pages.resident(*extent) for extent in ranges] == [True, True, False, True]
    assert planner.cache.all_claims() == []
    assert [claim.error is None for claim in claims] == [True, True, False, True]


def test_no_part_of_a_page_is_shown() -> None:
    """Whatever was claimed: a blocked thread would go on with the zeros of what has not come."""
    planner = opened(lambda planner: Loop(planner, lambda n: n - 1), prefetch_bytes=0).planner
    claim = planner.cache.claim(ByteRange(0, 3 * PAGE - 5))
    with mock.patch.object(AnonymousArena, "publish") as publish:
        planner._commit(claim, 2 * PAGE)
        with pytest.raises(ValueError, match="not whole pages"):
            planner._commit(claim, claim.stop)
    publish.assert_called_once_with(0, 2 * PAGE)
    assert not planner.pages.resident(2 * PAGE, 2 * PAGE + 1)


def test_a_part_of_a_page_is_of_no_use_once_its_page_was_brought() -> None:
    """The opening brings half a page; its page comes with others of a batch, and is evicted: all of it is asked for."""
    loop = opened(
        lambda planner: Loop(planner, lambda n: n - 1),
        prefetch_bytes=5 * PAGE // 2 - (-SIZE % PAGE),
        readahead="off",
        max_connections=1,
        minimum_range_request_bytes=PAGE,
    )
    planner = loop.planner
    half = planner._remnant
    assert 0 < half.length < PAGE
    page = half.start // PAGE * PAGE
    planner.evict(0, SIZE)
    claims = batch(loop, [ByteRange(0, PAGE), ByteRange(4 * PAGE, 5 * PAGE), ByteRange(page, page + 2 * PAGE)])
    loop.start(planner.transfer(claims[0], pipelined=True))
    loop.run()
    assert planner.pages.resident(page, page + 2 * PAGE)
    planner.evict(0, SIZE)
    loop.start(planner.read(page, page + PAGE))
    loop.run()
    assert planner.arena.bytes[page : page + PAGE] == DATA[page : page + PAGE]


def test_no_trap_is_laid_for_who_is_caught_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """By fault, the page that a thread is blocked at would be withheld from it when it comes."""
    planner = Planner("http://host/f", Options(), AnonymousArena)
    planner.begin(SIZE)
    advice = Advice(ByteRange(PAGE, 4 * PAGE), (), (PAGE, 3 * PAGE))
    monkeypatch.setattr(Policy, "access", lambda *_, **__: advice)
    generator = planner.demand(PAGE + 5)
    next(generator)
    assert not planner._traps.touches(PAGE, 2 * PAGE)
    assert planner._traps.touches(3 * PAGE, 4 * PAGE)
    generator.close()
