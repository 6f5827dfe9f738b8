"""The synchronous driver: it computes each step of a generator under the file's lock, and performs it outside.

`run` performs a generator in the caller's thread. A plan's other claims run on the file's `Workers` too: at most
`max_connections` threads, which end when they are idle. No lock is held during I/O, a copy, or a caller's callable.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from hctef._delivery import Cancelled
from hctef._http import Head
from hctef._intervals import Claim
from hctef._planner import Planner
from hctef._ranges import ByteRange
from hctef._steps import (
    Ahead,
    Call,
    Collect,
    Deliver,
    Detach,
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

log = logging.getLogger("hctef")

PATIENCE = 0.005
"""Seconds in which something gets done on a near line."""
IDLE_SECONDS = 5.0  # a thread's start costs about 50 us: not worth keeping one for long


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


class Workers:
    """Threads for transfers that run beside the caller. Daemons: a program's end does not wait for a prefetch.

    There are as many as are worth it (`enough`), and more, up to `most`, one after the other, while nothing gets done:
    a server that was quick may keep them all waiting.
    """

    def __init__(self, most: int, enough: Callable[[], int]) -> None:
        self._most, self._enough = most, enough
        self.done = 0
        """Requests ever answered, to see whether anything gets done."""
        self._tasks: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._count = 0
        self._patient = False
        """One of the threads waits for that."""
        self._closed = False

    def close(self, *, garbage: bool = False) -> None:
        """Threads end when nothing is left to do, and are not kept for more. `garbage`: called by the garbage
        collector, perhaps inside of a call of this object's: the idle ones hear of it when their time is over."""
        self._closed = True
        if not garbage:
            with self._changed:
                self._changed.notify_all()

    def submit(self, tasks: Sequence[Callable[[], None]], *, urgent: bool = False) -> None:
        """Have them done soon, in this order; `urgent`: before those that wait already. Raises RuntimeError: there is
        no thread, and none can be started."""
        with self._changed:
            if urgent:
                self._tasks.extendleft(reversed(tasks))
            else:
                self._tasks.extend(tasks)
            self._changed.notify(len(tasks))
            lacking = len(self._tasks) - self._idle
        for _ in range(min(lacking, len(tasks))):
            with self._changed:
                patient = self._reckon()
            if patient is None:
                return
            try:
                self._start(patient)
            except RuntimeError:  # no thread: after a KeyboardInterrupt there is one, which may have taken the task
                with self._changed:
                    if self._count == 0:  # nobody would ever do them
                        self._tasks = deque(task for task in self._tasks if task not in tasks)
                        raise
                log.warning("no further thread could be started: the transfer waits for its turn")
                return

    def _reckon(self) -> bool | None:
        """Under the lock: whether the next thread, which is counted, is to be patient; None: there is to be none."""
        if self._count >= self._most or self._patient:
            return None
        self._patient = self._count >= self._enough()
        self._count += 1
        return self._patient

    def _start(self, patient: bool) -> None:
        """A thread that was counted."""
        try:
            threading.Thread(target=self._work, args=(patient,), name="hctef-transfer", daemon=True).start()
        except RuntimeError:
            with self._changed:
                self._count -= 1
                self._patient = self._patient and not patient
            raise

    def _is_needed(self) -> bool:
        """In a patient thread: wait until nothing gets done. False: there is nothing left to do, and it may end."""
        while True:
            before = self.done
            time.sleep(PATIENCE)
            with self._changed:
                if not self._tasks:
                    self._count -= 1
                    self._patient = False
                    return False
                if self.done > before:
                    continue
                self._patient = False
                another = self._reckon()
            if another is not None:
                with contextlib.suppress(RuntimeError):  # then there are as many as there can be
                    self._start(another)
            return True

    def _work(self, patient: bool) -> None:
        if patient and not self._is_needed():
            return
        while True:
            with self._changed:
                if not self._tasks:
                    self._idle += 1
                    self._changed.wait_for(lambda: self._tasks or self._closed, IDLE_SECONDS)
                    self._idle -= 1
                if not self._tasks:
                    self._count -= 1
                    return
                task = self._tasks.popleft()
            task()
            del task


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
        self._closing = threading.Event()
        self._workers = _workers(planner)
        self._active: set[Exchange] = set()
        self._abandoned: deque[tuple[PlanGen[Any], Exchange]] = deque()
        """Generators that are to be ended: whoever had the lock when they were thrown away does it."""

    def run[T](self, generator: PlanGen[T], exchange: Exchange | None = None) -> T:
        """Perform a generator to its end, and return what it returns. `exchange`: another's, which it goes on with."""
        try:
            next(self.iterate(generator, exchange))
        except StopIteration as end:
            result: T = end.value
            return result
        raise TypeError("nobody iterates over what this generator delivers")

    def iterate[T](self, generator: PlanGen[T], exchange: Exchange | None = None) -> Generator[bytes, None, T]:
        """Perform a generator, and yield what it delivers."""
        exchange = exchange or self.transport.exchange()
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    with self.lock:
                        step = generator.send(value) if error is None else generator.throw(error)
                except StopIteration as end:
                    result: T = end.value
                    return result
                value = error = None
                if self._abandoned:
                    self._end_abandoned()
                if type(step) is Deliver:
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
                    value = self._perform(step, exchange)
                except BaseException as raised:  # noqa: BLE001  # thrown into the generator, which raises it again
                    error = raised
        finally:
            error = None  # its traceback holds this frame
            self._abandoned.append((generator, exchange))
            # The garbage collector may be who throws it away, inside of a step of this very thread.
            self._end_abandoned(blocking=not isinstance(sys.exception(), GeneratorExit))

    def _end_abandoned(self, *, blocking: bool = True) -> None:
        """End what nobody goes on with; not `blocking`: or leave it to whoever holds the lock."""
        while self._abandoned and self.lock.acquire(blocking=blocking):
            try:
                generator, exchange = self._abandoned.popleft()
                generator.close()
            except IndexError:  # another thread was first
                return
            finally:
                self.lock.release()
            self._active.discard(exchange)
            exchange.drop()

    def _perform(self, step: Step, exchange: Exchange) -> Any:
        match step:
            case Receive():
                if step.into is None:
                    return exchange.receive(step.limit)
                return exchange.receive_into(step.into, step.least)
            case Fill():
                self.planner.arena.fill(step.start, step.data)
            case FetchPlan():
                self._fetch(step)
            case Send():
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
                return self._wait(step.future)
            case Call():
                return step.function()
        return None

    def _fetch(self, plan: FetchPlan) -> None:
        claims = plan.claims + plan.background
        try:
            others = claims[1:] if plan.claims else claims
            # What readers wait for first: threads that are idle, and warm connections, go to who comes first.
            for urgent in (True, False):
                if chosen := [claim for claim in others if claim.urgent is urgent]:
                    self._submit(chosen, urgent=urgent, own=plan.claims)
            for claim in plan.claims:
                self._transfer(claim)
            for claim in plan.claims:
                if claim.open:
                    with self.lock:  # else it might be released between a look and the waiting
                        future = claim.wait_for_release()
                    self._wait(future)
            for future in plan.wait:
                self._wait(future)
        except BaseException:  # raised again
            with self.lock:
                self.planner.cancel(plan.claims + tuple(c for c in plan.background if not c.started))
            raise

    def _wait(self, future: Future[Any]) -> Any:
        """Wait for what another reader does."""
        if not future.done():
            self.before_waiting(future)
        return future.result()

    def _transfer(self, claim: Claim) -> None:
        if claim.started:  # by another thread, perhaps with others of its batch
            return
        follows = self.run(self.planner.transfer(claim, pipelined=self.transport.pipelines))
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
                for claim in claims:
                    if not claim.started and claim not in own:
                        self.planner.give_back(claim)

    def close(self, *, garbage: bool = False) -> None:
        """Stop transfers, sleeps and waits. Returns at once; threads end by themselves.

        `garbage`: called by the garbage collector, perhaps inside a step of this very thread: no lock is waited for.
        Nobody reads any longer, so there is nobody to wake: each transfer ends at its next piece.
        """
        self.planner.closed = True
        if self.lock.acquire(blocking=not garbage):
            try:
                self.planner.close()
            finally:
                self.lock.release()
        self._closing.set()
        self._workers.close(garbage=garbage)
        for exchange in list(self._active):
            exchange.abort()

    def before_fork(self) -> None:
        self.lock.acquire()

    def after_fork_in_parent(self) -> None:
        self.lock.release()

    def after_fork_in_child(self) -> None:
        """Only the forking thread lives on here: the transfers of others are the parent's, and so are its sockets."""
        self.lock = threading.Lock()
        closing = threading.Event()
        if self._closing.is_set():
            closing.set()
        self._closing = closing
        self._workers = _workers(self.planner)
        self._active = set()
        self.planner.after_fork()
        self.transport.after_fork()
