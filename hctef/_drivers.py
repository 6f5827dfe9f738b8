"""The synchronous driver: it computes each step of a generator under the file's lock, and performs it outside.

`run` performs a generator in the caller's thread. A plan's other claims run on the file's `Workers` too: at most
`max_connections` threads, which end when they are idle. No lock is held during I/O, a copy, or a caller's callable.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from hctef._http import Head
from hctef._interrupts import called, interrupted
from hctef._intervals import Claim
from hctef._locks import Event, if_free, patience
from hctef._planner import Planner
from hctef._progress import Watch
from hctef._ranges import ByteRange
from hctef._retries import TransportError
from hctef._steps import (
    Ahead,
    Call,
    Cancelled,
    Collect,
    Deliver,
    Detach,
    Disk,
    Drop,
    FetchPlan,
    Fill,
    PlanGen,
    Receive,
    Send,
    Sleep,
    Step,
    Wait,
)
from hctef._workers import Workers

log = logging.getLogger("hctef")


class Exchange(Protocol):
    """One request at a time with a server. Raises TransportError, and nothing else of its library."""

    def send(self, request: Send) -> Head:
        """Put away the response before, send a request, return the head of its response."""

    def send_ahead(self, requests: Sequence[Send]) -> None:
        """Send what follows the response under way, but what was sent already, if this can be."""

    def collect(self, extents: Iterable[ByteRange], put: Callable[[int, memoryview], object]) -> int:
        """See `Collect`. Waits for nothing, and raises nothing of its own."""

    def receive(self, limit: int) -> bytes:
        """At least one byte of the body and at most `limit`; b'' at its end."""

    def receive_into(self, room: memoryview, least: int) -> int:
        """The same into `room`, which is not empty; `least` bytes at least, but at the end. Returns how many came."""

    def drop(self) -> None:
        """Put the response away: back into the pool where nothing is left to read, else closed."""

    def abort(self) -> None:
        """Make a `receive` that waits in another thread fail at once."""


class Transport(Protocol):
    """Carries requests. Holds no rule of HTTP beyond the connection."""

    @property
    def pipelines(self) -> bool:
        """Whether what follows a request (`Send.then`) is perhaps sent with it."""

    def exchange(self) -> Exchange:
        """A new one; cheap."""

    def after_fork(self) -> None:
        """In a child: forget the connections, which are the parent's."""


def _workers(planner: Planner) -> Workers:
    """A planner's. Threads that are idle for a while keep nothing of its memory alive."""
    reference = weakref.ref(planner)

    def enough() -> int:
        owner = reference()
        return owner.policy.at_once if owner is not None else 1

    return Workers(planner.options.max_connections, enough)


class Driver:
    """Performs the generators of one file."""

    def __init__(self, planner: Planner, transport: Transport) -> None:
        self.planner = planner
        self.transport = transport
        self.lock = threading.Lock()
        self.before_waiting: Callable[[Future[None]], None] = lambda _: None
        """Raises where this thread would wait for what only it can bring."""
        self._closing = Event()
        self._workers = _workers(planner)
        self._active: set[Exchange] = set()

    def run[T](self, generator: PlanGen[T], exchange: Exchange | None = None, watch: Watch | None = None) -> T:
        """Perform a generator to its end, and return what it returns. `exchange`: another's, which it goes on with.
        `watch`: of who waits for it in this thread; what that raises ends it, as an interrupt does."""
        try:
            next(self.iterate(generator, exchange, watch))
        except StopIteration as end:
            result: T = end.value
            return result
        raise TypeError("nobody iterates over what this generator delivers")

    def iterate[T](
        self, generator: PlanGen[T], exchange: Exchange | None = None, watch: Watch | None = None
    ) -> Generator[bytes, None, T]:
        """Perform a generator, and yield what it delivers."""
        exchange = exchange or self.transport.exchange()
        value: Any = None
        error: BaseException | None = None
        step: Step | None = None
        ended = False
        try:
            while True:
                try:
                    with self.lock:
                        step = self.planner.step(generator, value, error)
                except StopIteration as end:
                    result: T = end.value
                    ended = True
                    return result
                value = error = None
                if self.planner.later:
                    self.planner.catch_up(self.lock)
                if type(step) is Deliver:
                    if watch is not None:
                        watch.took(len(step.data))
                        watch.tick()
                    yield step.data
                    continue
                try:
                    if type(step) is Detach:
                        task = functools.partial(self.run, step.generator, exchange)
                        exchange = self.transport.exchange()
                        try:
                            self._workers.submit([task])
                        except RuntimeError:  # no thread can be had: here, then
                            task()
                        continue
                    value = self._perform(step, exchange, watch)
                except BaseException as raised:  # thrown into the generator, which raises it again
                    if watch is not None and watch.over:  # see below
                        raise
                    # What close() broke off has not failed: it is not tried again, and no log speaks of it.
                    stopped = self._closing.is_set() and isinstance(raised, TransportError)
                    error = Cancelled() if stopped else interrupted(raised)
                    if type(step) is FetchPlan:  # here, for an interrupt may come before it is begun with
                        self._cancel(step)
                step = None
                if watch is not None and error is None:
                    watch.tick()  # not thrown in: a transfer would take it for its own failure
        finally:
            error = None  # its traceback holds this frame
            try:
                if not ended:
                    if type(step) is FetchPlan:  # an interrupt came before it was begun with
                        self._cancel(step)
                    self.planner.soon(self.lock, generator.close, patience())
                elif self.planner.later:
                    self.planner.catch_up(self.lock)
            finally:
                self._active.discard(exchange)
                exchange.drop()

    def _perform(self, step: Step, exchange: Exchange, watch: Watch | None) -> Any:
        match step:
            case Receive():
                into = step.into
                came = exchange.receive(step.limit) if into is None else exchange.receive_into(into, step.least)
                if not came and self._closing.is_set():
                    raise Cancelled
                return came
            case Fill():
                self.planner.arena.fill(step.start, step.data)
            case Disk():
                return step.function() if step.data is None else step.function(step.data)
            case FetchPlan():
                self._fetch(step, watch)
            case Send():
                if watch is not None:
                    watch.begin()
                self._active.add(exchange)
                if self._closing.is_set():
                    raise Cancelled
                head = exchange.send(step)
                self._workers.done += 1
                return head
            case Ahead():
                exchange.send_ahead(step.requests)
            case Collect():
                count = exchange.collect(step.extents, step.put)
                self._workers.done += count
                return count
            case Drop():
                exchange.drop()
            case Sleep():
                if self._closing.wait(step.seconds):
                    raise Cancelled
            case Wait():
                return self._wait(step.future, watch)
            case Call():
                return step.function()
        return None

    def _fetch(self, plan: FetchPlan, watch: Watch | None = None) -> None:
        claims = plan.claims + plan.background
        others = claims[1:] if plan.claims else claims
        # What readers wait for first: threads that are idle, and warm connections, go to who comes first.
        for urgent in (True, False):
            if chosen := [claim for claim in others if claim.urgent is urgent]:
                self._submit(chosen, urgent=urgent, own=plan.claims)
        for claim in plan.claims:
            self._transfer(claim, watch)
        for claim in plan.claims:
            if claim.open:
                with self.lock:  # else it might be released between a look and the waiting
                    future = claim.wait_for_release()
                self._wait(future, watch)
        for future in plan.wait:
            self._wait(future, watch)

    def _cancel(self, plan: FetchPlan) -> None:
        """Give up what a plan was to fetch, but what others bring already behind the reader."""
        with self.lock:
            self.planner.cancel(plan.claims + tuple(claim for claim in plan.background if not claim.started))

    def _wait(self, future: Future[Any], watch: Watch | None) -> Any:
        """Wait for what another reader does."""
        if not future.done():
            self.before_waiting(future)
            if watch is not None:
                watch.begin()
                while True:
                    try:
                        called(future.exception, watch.patience)
                        break
                    except TimeoutError:
                        watch.tick()
        return called(future.result)

    def _transfer(self, claim: Claim, watch: Watch | None = None) -> None:
        if claim.started:  # by another thread, perhaps with others of its batch
            return
        follows = self.run(self.planner.transfer(claim, pipelined=self.transport.pipelines), watch=watch)
        if follows is not None:  # by way of the queue: what readers wait for comes first
            self._submit([follows])

    def _submit(self, claims: Sequence[Claim], *, urgent: bool = False, own: Sequence[Claim] = ()) -> None:
        """Have claims transferred in other threads. Where none can be had, they are given back, but those that this
        thread brings in any case: who waits for them claims them anew."""
        try:
            self._workers.submit([functools.partial(self._transfer, claim) for claim in claims], urgent=urgent)
        except RuntimeError:
            log.warning("no thread can be started: nothing is fetched behind the reader")
            with self.lock:
                self.planner.cancel(claim for claim in claims if not claim.started and claim not in own)

    def close(self, *, garbage: bool = False) -> None:
        """Stop transfers, sleeps and waits. Returns at once; threads end by themselves.

        `garbage`: called by the garbage collector, perhaps inside a step of this very thread: no lock is waited for.
        Nobody reads any longer, so there is nobody to wake: each transfer ends at its next piece.
        """
        self.planner.closed = True
        if not garbage:
            with self.lock:
                self.planner.close()
        else:
            if_free(self.lock, self.planner.close)
        self._closing.set()
        self._workers.close(garbage=garbage)
        for exchange in list(self._active):
            exchange.abort()

    def after_fork_in_child(self) -> None:
        """Only the forking thread lives on here: the transfers of others are the parent's, and so are its sockets."""
        self.lock = threading.Lock()
        closing = Event()
        if self._closing.is_set():
            closing.set()
        self._closing = closing
        self._workers = _workers(self.planner)
        self._active = set()
        self.planner.after_fork()
        self.transport.after_fork()
