"""The asynchronous driver: the same steps as `_drivers.py` performs, with `await`.

A step is computed under the file's lock, which is a thread's lock held for planning only: threads that read by the
synchronous driver and tasks that read by this one wait for each other's claims.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from hctef._http import Head
from hctef._intervals import Claim
from hctef._locks import patience
from hctef._planner import Planner
from hctef._progress import Watch
from hctef._steps import (
    Call,
    Cancelled,
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

COPY_BYTES = 1024 * 1024
"""Copied at once: about a tenth of a millisecond in which the loop does nothing else."""

DISK_THREADS = 4
"""That read and write `cache_dir`."""

BREATH = 0.001
"""Seconds after which a task that was never made to wait lets others run."""


class AsyncExchange(Protocol):
    """One request at a time with a server. Raises TransportError, and nothing else of its library."""

    async def send(self, request: Send) -> Head:
        """Put away the response before, send a request, return the head of its response."""

    async def receive(self, limit: int) -> bytes:
        """At least one byte of the body and at most `limit`; b'' at its end."""

    def drop(self) -> None:
        """Put the response away: back into the pool where nothing is left to read, else closed."""

    def abort(self) -> None:
        """Make a `receive` that waits fail at once."""


class AsyncTransport(Protocol):
    """Carries requests. Holds no rule of HTTP beyond the connection."""

    def exchange(self) -> AsyncExchange:
        """A new one; cheap."""

    async def close(self) -> None:
        """Let go of what is not the caller's: before it first waits, so that who is cancelled has let go too."""

    def abandon(self) -> None:
        """As `close`, where the loop does not run any longer."""


class AsyncDriver:
    """Performs the generators of one file in one event loop."""

    def __init__(self, planner: Planner, lock: threading.Lock, transport: AsyncTransport) -> None:
        self.planner = planner
        self.lock = lock
        self.transport = transport
        self.holds = 0
        """Files that were opened with it and are not closed, operations under way. At none it is closed."""
        self._running = 0
        self._thread = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._carried: set[Claim] = set()
        self._active: set[AsyncExchange] = set()
        self._sending: set[asyncio.Future[Head]] = set()
        self._threads: ThreadPoolExecutor | None = None

    def check_loop(self) -> None:
        """Raises RuntimeError: this is not the loop that the file was opened in."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this file was opened in another event loop: open it in each loop that reads it")

    def check_blocking(self, future: Future[None]) -> None:
        """Raises RuntimeError: a synchronous read would wait, in this loop's thread, for what this loop is fetching."""
        if threading.get_ident() != self._thread:
            return
        if any(claim.wakes(future) for claim in self._carried) or (self.planner.full and self._running):
            message = "this synchronous read would wait for ever for a task of the event loop in its own thread"
            raise RuntimeError(f"{message}: await it, or read in another thread (asyncio.to_thread)")

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    async def let_go(self) -> None:
        """One file less is open: what is fetched beside the readers ends, and what is of no use any longer."""
        self.holds -= 1
        await self._apart(self._end_unused())

    async def _end_unused(self) -> None:
        await self.stop_transfers()
        if self._unused:
            await self._end()

    @property
    def _unused(self) -> bool:
        return self.holds <= 0 and not self._tasks and not self.closed

    def _close_unused(self) -> None:
        """End it where nobody uses it. No reader waits for that: it could be cancelled with its result in hand."""
        if not self._unused:
            return
        if not self._loop.is_running():
            self._closing.set()
            self.transport.abandon()
        elif threading.get_ident() != self._thread:  # a coroutine was thrown away there
            self._loop.call_soon_threadsafe(self._close_unused)
        else:
            self._apart(self._end())

    def forget(self) -> None:
        """One file less is open, says the garbage collector: in the loop, where it still runs."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._forget)
        elif not self.closed:
            self._forget()
            warnings.warn("an asynchronous file was neither closed nor in a running event loop", ResourceWarning, 2)

    def _forget(self) -> None:
        self.holds -= 1
        self._close_unused()

    def _apart(self, ending: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Begin at once, and go on though whoever waits for it is cancelled, again and again."""
        task = asyncio.Task(ending, loop=self._loop, eager_start=True)
        _leaving.add(task)  # the loop refers to its tasks weakly
        task.add_done_callback(_leaving.discard)
        return asyncio.shield(task)

    async def run[T](
        self, generator: PlanGen[T], exchange: AsyncExchange | None = None, watch: Watch | None = None
    ) -> T:
        """Perform a generator to its end, and return what it returns. See `Driver.run`."""
        steps = self.iterate(generator, exchange, watch)
        try:
            async for item in steps:
                if isinstance(item, _Result):
                    result: T = item.value
                    return result
        finally:
            if not isinstance(sys.exception(), GeneratorExit):  # that went through it, and ended it
                await steps.aclose()
        raise TypeError("the generator ended without a result")

    async def iterate(
        self, generator: PlanGen[Any], exchange: AsyncExchange | None = None, watch: Watch | None = None
    ) -> AsyncGenerator[Any, None]:
        """Perform a generator; yields what it delivers (bytes), then its `_Result`."""
        self.check_loop()
        self.holds += 1
        self._running += 1
        exchange = exchange or self.transport.exchange()
        value: Any = None
        error: BaseException | None = None
        rested = self._loop.time()
        try:
            while True:
                try:
                    with self.lock:
                        step = self.planner.step(generator, value, error)
                except StopIteration as end:
                    yield _Result(end.value)
                    return
                value = error = None
                if self.planner.later:
                    self.planner.catch_up(self.lock)
                if type(step) is Deliver:
                    if watch is not None:
                        watch.took(len(step.data))
                        watch.tick()
                    yield step.data
                    continue
                if type(step) is Detach:
                    self._detach(step, exchange)
                    exchange = self.transport.exchange()
                    continue
                try:
                    value = await self._perform(step, exchange, watch)
                    if self._loop.time() - rested > BREATH:
                        await asyncio.sleep(0)
                        rested = self._loop.time()
                except GeneratorExit:
                    raise
                except BaseException as raised:  # thrown into the generator, which raises it again
                    if watch is not None and watch.over:  # see below
                        raise
                    error = raised
                if watch is not None and error is None:
                    watch.tick()  # not thrown in: a transfer would take it for its own failure
        finally:
            error = None  # its traceback holds this frame
            self._locked(generator.close)
            self._active.discard(exchange)
            exchange.drop()
            self._running -= 1
            self.holds -= 1
            self._close_unused()  # what a clone asked for in the background comes still: the last of it closes

    def _locked(self, action: Callable[[], object]) -> None:
        """Do it under the lock, where a coroutine ends."""
        self.planner.soon(self.lock, action, patience())

    async def _perform(self, step: Step, exchange: AsyncExchange, watch: Watch | None) -> Any:
        match step:
            case Receive():
                data = await exchange.receive(step.limit)
                if step.into is None:
                    return data
                step.into[: len(data)] = data
                return len(data)
            case Fill():
                self.planner.arena.fill(step.start, step.data)
            case Disk():
                # A copy: who is cancelled goes on, and gives the memory back, while the thread writes.
                own = () if step.data is None else (bytes(step.data),)
                return await self._in_thread(functools.partial(step.function, *own))
            case FetchPlan():
                await self._fetch(step, watch)
            case Send():
                if watch is not None:
                    watch.begin()
                return await self._send(step, exchange)
            case Drop():
                exchange.drop()
            case Sleep():
                try:
                    await asyncio.wait_for(self._closing.wait(), step.seconds)
                except TimeoutError:
                    return None
                raise Cancelled
            case Wait():
                return await _outcome(step.future, watch)
            case Call():
                value = step.function()
                return await value if inspect.isawaitable(value) else value
        return None

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        """Call what waits for a disk. In threads of this driver's own: in all of the loop's there may be
        readers, who wait for what is stored here."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(DISK_THREADS, "hctef-disk")
        try:
            called = self._loop.run_in_executor(self._threads, function)
        except RuntimeError:  # no thread can be had, or the driver was closed
            return function()
        return await called

    async def _send(self, step: Send, exchange: AsyncExchange) -> Head:
        if self._closing.is_set():
            raise Cancelled
        self._active.add(exchange)
        sending = asyncio.ensure_future(exchange.send(step))
        self._sending.add(sending)
        try:
            return await sending
        except asyncio.CancelledError:
            if self._closing.is_set() and not _cancelling():
                raise Cancelled from None
            raise
        finally:
            self._sending.discard(sending)

    async def _fetch(self, plan: FetchPlan, watch: Watch | None = None) -> None:
        self._carried.update(plan.claims + plan.background)
        mine = [self._start(claim) for claim in plan.claims[1:]]
        for claim in plan.background:
            self._start(claim)
        try:
            if plan.claims:
                await self._transfer(plan.claims[0], watch)
            for claim in plan.claims:
                if claim.open:
                    with self.lock:  # else it might be released between a look and the waiting
                        future = claim.wait_for_release()
                    await _outcome(future, watch)
            for future in plan.wait:
                await _outcome(future, watch)
        except BaseException as error:  # raised again
            given_up = plan.claims + tuple(c for c in plan.background if not c.started)
            self._locked(functools.partial(self.planner.cancel, given_up))
            for task in mine:  # a server that stalls would keep their claims until it times out
                task.cancel()
            if mine and not isinstance(error, GeneratorExit):  # in a coroutine that is thrown away nothing can wait
                await asyncio.wait(mine)
            raise

    def _start(self, claim: Claim) -> asyncio.Task[None]:
        """Transfer a claim beside the caller."""
        return self._begin(claim, self._transfer(claim))

    def _begin(self, claim: Claim, transfer: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """What brings a claim, beside the caller."""
        task = self._loop.create_task(transfer)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._ended, claim))
        return task

    def _detach(self, step: Detach, exchange: AsyncExchange) -> None:
        def ended(_: asyncio.Task[None]) -> None:
            with self.lock:
                step.generator.close()  # it may have been cancelled before its first step

        self._carried.add(step.claim)
        self._begin(step.claim, self.run(step.generator, exchange)).add_done_callback(ended)

    def _ended(self, claim: Claim, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._carried.discard(claim)
        with self.lock:
            if claim.open and not claim.started:  # cancelled before its first step, it could not give it back itself
                self.planner.cancel((claim,))
        self._close_unused()

    async def _transfer(self, claim: Claim, watch: Watch | None = None) -> None:
        try:
            follows = await self.run(self.planner.transfer(claim), watch=watch)
            if follows is not None:
                self._carried.add(follows)
                self._start(follows)
        finally:
            self._carried.discard(claim)

    async def close(self) -> None:
        """Stop what is in flight, and wait until it has stopped. Cancelled meanwhile, it stops all the same."""
        await self._apart(self._end())

    async def _end(self) -> None:
        self._closing.set()
        for sending in list(self._sending):
            sending.cancel()
        for exchange in list(self._active):
            exchange.abort()
        try:
            await self.stop_transfers()
        finally:
            if self._threads is not None:
                self._threads.shutdown(wait=False)
            await self.transport.close()

    async def stop_transfers(self) -> None:
        """End what is fetched beside the readers. Who waits for it finds its claims given back, and asks again."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_leaving: set[asyncio.Task[None]] = set()


class _Result:
    """What a generator returned."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


async def _outcome(future: Future[Any], watch: Watch | None) -> Any:
    """Wait for what another reader does. Who gives up says so to whoever would have woken it."""
    waiting = asyncio.wrap_future(future)
    if watch is not None and not future.done():
        watch.begin()
        try:
            while not (await asyncio.wait((waiting,), timeout=watch.patience))[0]:
                watch.tick()
        except BaseException:  # raised again
            waiting.cancel()
            raise
    return await waiting


def _cancelling() -> bool:
    """Whether somebody cancelled this task itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
