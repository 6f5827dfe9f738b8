"""Resolver: from a fault to its bytes, for one file, in the worker.

A fault tells an address → the planner's policy says what is worth fetching for it (`Planner.demand`) → the driver's
threads transfer it → the arena copies it into the page, which wakes the thread. Nobody waits here: what fails is tried
again, as a hard-mounted NFS does, until `fault_timeout` is over; then the page is poisoned, and the thread gets SIGBUS,
as from an mmap whose disk fails.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hctef._disk import DiskCache, open_cache
from hctef._drivers import Driver
from hctef._http import Validator
from hctef._intervals import Claim
from hctef._link import Link
from hctef._planner import Planner
from hctef._progress import Watch
from hctef._ranges import PAGE, ByteRange
from hctef._steps import Cancelled
from hctef._uffd import Fault
from hctef._urllib3 import Urllib3Transport
from hctef._urls import Url, cache_name
from hctef.exceptions import RemoteFileChangedError
from hctef.pager import wire
from hctef.pager.filling import FillingArena, MirroredPageTable

TRY_AGAIN, TRY_AGAIN_MOST = 0.25, 10.0
SHOW_EVERY = 0.05
"""Seconds."""


@dataclass(slots=True)
class _Blocked:
    """A page that a thread waits for."""

    since: float
    say_at: float
    again_at: float | None = None
    """When to ask for it again, where that failed."""
    failures: int = 0
    why: str = "no answer yet"


class _Driver(Driver):
    """Tells when a transfer has failed: nobody waits for it who would raise its error."""

    failed: Callable[[Claim, Exception], None]
    missed: Callable[[], None]
    arrived: Callable[[], None]

    def _transfer(self, claim: Claim, watch: Watch | None = None) -> None:
        super()._transfer(claim, watch)
        self.arrived()
        if claim.error is not None and not isinstance(claim.error, Cancelled):
            self.failed(claim, claim.error)
        elif claim.stored and claim.at < claim.stop:  # it was not on the disk
            self.missed()


class Resolver:
    """One file."""

    def __init__(self, message: wire.Message, memfd: int, table: mmap.mmap, link: Link) -> None:
        """`message`: what `attach` says. Takes over the descriptor. Nothing is asked of a server yet."""
        url, target, options = wire.unpack_source(message)
        self.base: int = message["base"]
        self.size: int = message["size"]
        self.arena = FillingArena(self.size, self.base, memfd)
        self.pages = MirroredPageTable(self.size, table)
        self.planner = Planner(url.request, options, lambda _: self.arena, lambda _: self.pages)
        self.planner.requester.adopt(url, target, Validator(**message["validator"]), self.size, message["hidden"])
        self.planner.use_link(link)
        self.planner.begin(self.size, self._disk(url, message["since"]))
        transport = Urllib3Transport(options)
        transport.host((target or url).request)  # what is known of the server counts from the first request on
        self.driver = _Driver(self.planner, transport)
        self.driver.failed = self._failed
        self.driver.missed = self._missed
        self.driver.arrived = self.show
        self.options = options
        self.failures: list[tuple[Claim, Exception]] = []
        self.on_failure: Callable[[], None] = lambda: None
        """Wakes the loop: `tick` is due, for somebody may be blocked whose page nobody brings."""
        self._blocked: dict[int, _Blocked] = {}
        self._latest = -1
        """The page that was demanded last."""
        self.pages.came = self._came
        self._say_after, self._say_every = message["say_after"], message["say_every"]
        self._faults = 0
        self._before = self.pages.counted()
        self._show_at = 0.0
        with self.driver.lock:
            for start, stop in self.arena.found():
                self.planner.took(ByteRange(start, min(stop, self.size)))
            self.planner.trim()
        self.show()

    def _disk(self, url: Url, since: float) -> DiskCache | None:
        """What is kept of the file on disk, where the client has that too."""
        directory, validator = self.planner.options.cache_path, self.planner.requester.validator
        return open_cache(directory, cache_name(url), validator, self.size, since) if directory else None

    # faults

    def fault(self, fault: Fault) -> None:
        """A thread is blocked. What it says may be old, or said twice."""
        at = min(fault.address - self.base, self.size - 1)
        page = at - at % PAGE
        self._faults += 1
        if self.pages.rows[page // PAGE]:
            if self.arena.holds(page):
                self.arena.wake(page, page + PAGE)
                return
            with self.driver.lock:
                if self.pages.rows[page // PAGE]:
                    self.planner.clear(page, min(page + PAGE, self.size))
        if page not in self._blocked:
            now = time.monotonic()
            self._blocked[page] = _Blocked(now, now + self._say_after)
        with self.driver.lock:
            coming = self.planner.coming(page)
        if not coming:
            self._demand(at)

    def _demand(self, at: int) -> None:
        """Have the page of byte `at` fetched. Where no thread can be had for that, `tick` tries again."""
        self._latest = at - at % PAGE
        try:
            self.driver.run(self.planner.demand(at))
        except RuntimeError as error:
            blocked = self._blocked.get(at - at % PAGE)
            if blocked is not None:
                blocked.why = str(error)

    # patience

    def _came(self, start: int, stop: int) -> None:
        """Nobody waits for these pages any longer. At once: by the next look they may have been evicted again, and
        nobody would wait for what was fetched again then, or poisoned at last."""
        for page in [page for page in list(self._blocked) if start <= page < stop]:
            blocked = self._blocked.pop(page, None)
            if blocked is not None and page == self._latest and not blocked.failures:
                self.planner.policy.waited(time.monotonic() - blocked.since)
        self._show_now_and_then(time.monotonic())  # a lane may go on for as long as its reader does

    def _failed(self, claim: Claim, error: Exception) -> None:
        """In a transfer's thread."""
        self.failures.append((claim, error))
        self.on_failure()

    def _missed(self) -> None:
        """In a transfer's thread."""
        self.on_failure()

    def tick(self) -> float | None:
        """Do what is due. Returns the seconds until something will be, None where nobody is blocked."""
        now = time.monotonic()
        self._show_now_and_then(now)
        failures, self.failures = self.failures, []
        for page, blocked in list(self._blocked.items()):
            if self.pages.rows[page // PAGE]:
                self._blocked.pop(page, None)
                continue
            for claim, error in failures:
                if claim.start <= page < claim.stop:
                    blocked.why = str(error)
                    blocked.failures += 1
                    blocked.again_at = now + min(TRY_AGAIN_MOST, TRY_AGAIN * 2**blocked.failures)
                    if isinstance(error, RemoteFileChangedError):
                        self._give_up(page, blocked, now)
                        break
            else:
                self._look_at(page, blocked, now)
        return 0.5 if self._blocked else None

    def _look_at(self, page: int, blocked: _Blocked, now: float) -> None:
        if now - blocked.since >= self.options.fault_timeout:
            self._give_up(page, blocked, now)
            return
        if now >= blocked.say_at:
            blocked.say_at = now + self._say_every
            rest = self.options.fault_timeout - (now - blocked.since)
            self._say(page, blocked, f"waiting for {now - blocked.since:.0f} s, SIGBUS in {rest:.0f} s")
        if blocked.again_at is None:
            with self.driver.lock:  # whoever was fetching it gave up
                lost = not self.planner.cache.claims(page, page + PAGE) and not self.pages.rows[page // PAGE]
        else:
            lost = now >= blocked.again_at
        if lost:
            blocked.again_at = None
            self._demand(page)

    def _give_up(self, page: int, blocked: _Blocked, now: float) -> None:
        if self._blocked.pop(page, None) is None:  # it came at this moment
            return
        self._say(page, blocked, f"gave up after {now - blocked.since:.0f} s: a touch of them is a SIGBUS")
        self.arena.poison(page, page + PAGE)

    def _say(self, page: int, blocked: _Blocked, what: str) -> None:
        where = self.planner.requester.where(page, min(page + PAGE, self.size))
        why = blocked.why.removeprefix(f"{self.planner.requester.where()}").lstrip(": ")
        wire.say(f"hctef: {where}: {what} ({why})\n")

    # what is asked for in words

    def read(self, extent: ByteRange, *, hold: bool) -> Any:
        """Make a range resident. Returns the pin that keeps it so, where `hold`."""
        pin = self.driver.run(self.planner.read(*extent, hold=hold))
        if not hold:
            self.let_go(pin)
            return None
        return pin

    def prefetch(self, ranges: list[ByteRange], *, wait: bool) -> int:
        return self.driver.run(self.planner.prefetch(ranges, wait=wait))

    def evict(self, extent: ByteRange) -> None:
        with self.driver.lock:
            self.planner.let_touched_go()
            self.planner.evict(*extent)
        self.show()

    def advise(self, hint: str) -> None:
        with self.driver.lock:
            self.planner.advise(hint)

    def let_go(self, pin: Any) -> None:
        with self.driver.lock:
            self.planner.unpin(pin)
        self.show()  # what it kept may be gone

    def _show_now_and_then(self, now: float) -> None:
        if now >= self._show_at:
            self.show()

    def show(self) -> None:
        """The counters, where other processes see them."""
        self._show_at = time.monotonic() + SHOW_EVERY
        stats, before = self.planner.stats, self._before
        counted = {name: before[name] + getattr(stats, name) for name in before if hasattr(stats, name)}
        counted["faults"] = before["faults"] + self._faults
        self.pages.count_up(**counted | {"resident_bytes": self.planner.resident_bytes})

    def close(self) -> None:
        self.driver.close()
        self.arena.close()
