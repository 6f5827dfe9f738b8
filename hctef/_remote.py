"""Remote: one open remote file. Files, their clones and buffers are readers of the same Remote: pages, pool, metadata.

It joins the planner (what), the driver (how) and the arena (where), and outlives each reader that uses it: the last one
to be closed closes it. The memory goes when nothing refers to it any longer: views keep it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

from hctef._arena import AnonymousArena
from hctef._drivers import Driver
from hctef._http import Validator
from hctef._interrupts import Unwrapped
from hctef._intervals import Pin
from hctef._link import Link
from hctef._locks import release_all, take
from hctef._opening import Opening
from hctef._options import Options, UrlSource
from hctef._paging import paging_support
from hctef._planner import Planner
from hctef._progress import Bar, Told, Watch, load_tqdm, short_name
from hctef._ranges import ByteRange
from hctef._stats import Stats
from hctef._steps import Cancelled, PlanGen
from hctef._urllib3 import Urllib3Transport
from hctef._urls import parse_url
from hctef.exceptions import PagerError, RemoteFileChangedError

CLOSED = "I/O operation on closed file"

UNWATCHED: AbstractContextManager[None] = nullcontext()
"""In place of a watch, where there is none."""


class Remote:
    """An open remote file. Thread-safe."""

    def __init__(self, source: UrlSource, options: Options, hint: str = "", *, buffer: bool = False) -> None:
        """`buffer`: it is one that opens it. Raises HctefUrlError: `source` is not an http(s) URL."""
        self.source = source
        self.options = options
        self.planner = Planner(source, options, AnonymousArena)
        if not callable(source):
            self.planner.use_link(_line(parse_url(source).origin))
        self.planner.requester.hint = hint
        self.is_a_files = not buffer
        """It was opened by a file, whose defaults its options have."""
        self.driver = Driver(self.planner, Urllib3Transport(options))
        self.readers: weakref.WeakSet[Any] = weakref.WeakSet()
        """Those that count hits for `stats`."""
        self.async_drivers: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        """By event loop: the tasks of a loop read by a driver of theirs, with the lock and the planner of this file."""
        # A partial, not a method: in a circle of references the memory would wait for the garbage collector.
        self.driver.before_waiting = functools.partial(_check_waiting, self.async_drivers)
        self._exported = False
        """A view of all of it went out that nobody keeps account of."""
        self._users = 0
        self._users_lock = threading.RLock()  # the garbage collector may come in between
        with _registry:
            _remotes.add(self)

    def open(self) -> None:
        """Find the size and the validator. See `Opening.run` for what it raises."""
        try:
            watch = self.watch()
            with watch or UNWATCHED, Unwrapped():
                self.driver.run(Opening(self.planner, watch).run(), watch=watch)
        except BaseException:
            self.driver.close()
            raise

    def expect(self, size: int, validator: Validator) -> None:
        """Raises RemoteFileChangedError: the file that was opened is not the one that a pickle speaks of."""
        seen = self.planner.requester.validator
        strict = self.options.validate == "strict"
        if size != self.size or (strict and not validator.agrees(seen)):
            was = f"{validator} of {size} bytes"
            message = f"{self.safe_url}: the file changed since it was pickled: it was {was}, now {seen} of {self.size}"
            raise RemoteFileChangedError(message)

    @property
    def size(self) -> int:
        return self.planner.size

    @property
    def validator(self) -> Validator:
        return self.planner.requester.validator

    @property
    def url(self) -> str:
        """The URL in use, without userinfo."""
        url = self.planner.requester.url
        return url.request if url else ""

    @property
    def safe_url(self) -> str:
        """The URL without userinfo and query values: for reprs and messages."""
        return self.planner.requester.where()

    def drive_by(self, loop: Any, driver: Any) -> None:
        """A loop's tasks read by this driver. Those of other loops, which refer to them, go when they are closed."""
        for other, old in list(self.async_drivers.items()):
            if old.closed or other.is_closed():
                del self.async_drivers[other]
        self.async_drivers[loop] = driver

    # readers

    def retain(self, reader: object = None) -> None:
        """A reader was opened; `reader`, where given, counts hits."""
        with self._users_lock:
            self._users += 1
        if reader is not None:
            with self.driver.lock:
                self.readers.add(reader)

    def release(self, hits: int = 0, bytes_read: int = 0, *, garbage: bool = False) -> None:
        """A reader was closed, and hands over what it counted. The last one stops what is in flight."""
        stats = self.planner.stats
        stats.hits += hits  # no lock, as for hits themselves: no thread comes between bytecodes that are no call
        stats.bytes_read += bytes_read
        with self._users_lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.driver.close(garbage=garbage)

    # paging

    @functools.cached_property
    def paging(self) -> str:
        """'fault': absent pages of an exported view are filled when touched; 'fill': before it is handed out."""
        if self.options.paging == "auto":
            return "fault" if paging_support() and not self._why_fill() else "fill"
        return self.options.paging

    def _why_fill(self) -> str | None:
        with _registry:  # see below
            from hctef.pager.wire import why_not  # noqa: PLC0415  # Linux only, and only where it is wanted

        return why_not(self.source, self.options)

    def page_by_fault(self, *, evicting: bool = False) -> None:
        """Have absent pages filled when they are touched, where there are any, or will be. Raises PagerError: it cannot
        be."""
        absent = evicting or self.planner.pages.resident_bytes < self.size
        if self.planner.pager is None and (absent or self.size > (self.options.max_resident_bytes or self.size)):
            with _registry:  # no fork comes in between: in the child, the lock of the import would be nobody's
                from hctef.pager.handover import page_by_fault  # noqa: PLC0415  # as above

            page_by_fault(self.planner, self.source, self.driver.lock, self._repoint)

    def _repoint(self) -> None:
        for reader in list(self.readers):
            reader._point_at(self.planner)

    # reading

    def watch(self, *ranges: tuple[int, int]) -> Watch | None:
        """Of an operation that hands on `ranges`; None: nobody wants to hear of it."""
        progress = self.options.progress
        if progress is None:
            return None
        shown = Bar(lambda: short_name(self.safe_url), _tqdm) if progress is True else Told(progress)
        return Watch(shown, self._absent, ranges)

    def _absent(self, start: int, stop: int) -> int:
        return self.planner.pages.absent(start, stop)  # of this moment: a pager brings its own table

    def load(self, start: int, stop: int, watch: Watch | None) -> Pin | None:
        """Make `[start, stop)` resident, pinned until `unpin`. Whoever watches ends it when the pin is in good hands:
        the last report may raise."""
        pin: Pin | None = self._wait_for(self.planner.read(start, stop, hold=True), watch)
        return pin

    def copy(self, start: int, stop: int, watch: Watch | None = None) -> bytes:
        """The bytes `[start, stop)`, fetched where they are absent. `watch`: of what this is a part of."""
        watch = watch or self.watch((start, stop))
        data: bytes = self._wait_for(self.planner.copy(start, stop, watch=watch), watch)
        return data

    def copy_into(self, target: memoryview, start: int) -> None:
        """Fill `target` (bytes) with what begins at `start`."""
        watch = self.watch((start, start + len(target)))
        self._wait_for(self.planner.copy_into(target, start, watch=watch), watch)

    def touch(self, start: int, stop: int) -> None:
        """A long hit under a bound on memory: set the reference bits."""
        with self.driver.lock:
            if self.planner.pages.resident(start, stop):
                self.planner.pages.touch(start, stop)

    def unpin(self, pin: Pin | None) -> None:
        """Let a pin go. Never blocks on the file's lock: it may be called by the garbage collector, which may hold
        it."""
        if pin is not None:
            self.planner.soon(self.driver.lock, functools.partial(self.planner.unpin, pin))

    def prefetch(self, ranges: Sequence[ByteRange], *, wait: bool, watch: Watch | None = None) -> int:
        """See `Planner.prefetch`. `watch`: as `copy` has it."""
        if wait and watch is None:
            watch = self.watch()
        count: int = self._wait_for(self.planner.prefetch(ranges, wait=wait, watch=watch), watch)
        return count

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """See `Planner.stream`."""
        watch = self.watch((start, stop))
        pieces = self.driver.iterate(self.planner.stream(start, stop), watch=watch)
        with Unwrapped(), watch or UNWATCHED, closing(pieces):
            while True:
                with self.waiting():  # not around the yield: what the consumer does takes time of his own
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece

    def evict(self, start: int, stop: int) -> None:
        if self._exported and self.planner.pager is None and self.paging == "fault":
            with contextlib.suppress(PagerError):  # then it stays, as where views are filled
                self.page_by_fault(evicting=True)  # all of it was there when it was exported, and needed no pager
        self._wait_for(self.planner.discard(start, stop))

    def pin_forever(self) -> None:
        """All of the file is resident, and a view of it went out that nobody keeps account of."""
        self._exported = True
        if self.size:
            with self.driver.lock:
                self.planner.keep(0, self.size)

    def resident_ranges(self) -> list[tuple[int, int]]:
        with self.driver.lock:
            return [(run.start, run.stop) for run in self.planner.resident_ranges()]

    @property
    def resident_bytes(self) -> int:
        with self.driver.lock:
            return self.planner.resident_bytes

    def advise(self, hint: str) -> None:
        """See `Policy.advise`."""
        with self.driver.lock:
            self.planner.advise(hint)

    def stats(self) -> Stats:
        """A snapshot over all readers, those that were closed too."""
        with self.driver.lock:
            total = self.planner.stats + Stats()
            for reader in self.readers:
                total.hits += reader._hits
                total.bytes_read += reader._hit_bytes
            for name, count in self.planner.pages.counters().items():
                setattr(total, name, getattr(total, name) + count)
        return total

    def _wait_for(self, generator: PlanGen[Any], watch: Watch | None = None) -> Any:
        with watch or UNWATCHED, self.waiting():
            return self.driver.run(generator, watch=watch)

    def waiting(self) -> _Waiting:
        """Around a wait for the network: counts its time, and says in a caller's words that the file was closed."""
        return _Waiting(self)


class _Waiting(Unwrapped):
    """See `Remote.waiting`. Written out, for it stands around each miss: made of a generator it takes thrice as
    long."""

    __slots__ = ("_began", "_remote")

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        seconds, stats = time.perf_counter() - self._began, self._remote.planner.stats
        stats.seconds_waited += seconds  # no lock: the garbage collector may be who throws a coroutine away
        if kind is Cancelled:
            raise ValueError(CLOSED) from None
        super().__exit__(kind, error, traceback)


def _check_waiting(drivers: weakref.WeakKeyDictionary[Any, Any], future: Future[None]) -> None:
    for driver in list(drivers.values()):
        driver.check_blocking(future)


def _line(origin: tuple[str, str, int]) -> Link:
    """What is known of the line to a server, over all its files."""
    with _registry:
        link = _lines.pop(origin, None) or Link()
        _lines[origin] = link
        while len(_lines) > _MOST_LINES:
            del _lines[next(iter(_lines))]
        return link


def _tqdm() -> Any:
    with _registry:  # no fork comes in between: in the child, the lock of the import would be nobody's
        return load_tqdm()


_MOST_LINES = 64
_lines: dict[tuple[str, str, int], Link] = {}

_registry = threading.RLock()
_remotes: weakref.WeakSet[Remote] = weakref.WeakSet()
_forking: list[Any] = []
"""The locks that are held for a fork: an interrupt in `_before_fork` prevents none (Python says it, and forks)."""


def _before_fork() -> None:
    """No thread is in the middle of a table when the process is copied."""
    take(_registry, _forking)
    for remote in sorted(_remotes, key=id):
        take(remote.driver.lock, _forking)


def _after_fork_in_parent() -> None:
    release_all(_forking)


def _after_fork_in_child() -> None:
    global _registry  # noqa: PLW0603  # as every lock, it may be held by a thread that is not here
    _registry = threading.RLock()
    _forking.clear()
    for remote in list(_remotes):
        remote._users_lock = threading.RLock()
        remote.driver.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
