"""From a planner of this process to the pager's: done once for a file, when a view of absent pages is first asked for.

What is resident is copied into the faulting arena; what is being fetched is given back, and asked of the pager; views
of the old arena stay as they are. Either all of it is done, or nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Callable, Iterator

from hctef._faulting import FaultingArena
from hctef._options import UrlSource
from hctef._pages import PageTable
from hctef._paging import paging_support
from hctef._planner import Planner
from hctef._ranges import PAGE, ByteRange, subtract
from hctef._shared_memory import memfd, populated, shared
from hctef.exceptions import PagerError
from hctef.pager import wire
from hctef.pager.client import the_client
from hctef.pager.filling import read_counters, table_bytes
from hctef.pager.link import Link


class SharedPageTable(PageTable):
    """What the pager says is resident: read-only, and a hint. The memfd tells the truth."""

    __slots__ = ("_memfd",)

    def __init__(self, size: int, table: mmap.mmap, memfd: int) -> None:
        super().__init__(0)
        self.size = size
        self.count = -(-size // PAGE)
        self.rows = table
        self._memfd = memfd

    def counters(self) -> dict[str, int]:
        found = read_counters(self.rows, self.count)
        del found["resident_bytes"]
        return found

    @property
    def resident_bytes(self) -> int:
        return read_counters(self.rows, self.count)["resident_bytes"]

    @resident_bytes.setter
    def resident_bytes(self, value: int) -> None:
        """The pager counts."""

    def runs(self, start: int = 0, stop: int | None = None) -> Iterator[ByteRange]:
        end = self.size if stop is None else stop
        for begin, until in populated(self._memfd, start - start % PAGE, -(-end // PAGE) * PAGE):
            yield ByteRange(begin, min(self.size, until))

    def touch(self, start: int, stop: int) -> None:
        """The pager evicts what was fetched first: reads leave no trace in another process."""


_one_at_a_time = threading.Lock()


def _after_fork_in_child() -> None:
    global _one_at_a_time  # noqa: PLW0603  # its holder is in the parent
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def page_by_fault(planner: Planner, source: UrlSource, lock: threading.Lock, repoint: Callable[[], None]) -> None:
    """Have absent pages filled when they are touched. `lock` is the file's; `repoint` shows its readers the new arena.

    The helpers are waited for without the file's lock: others read on meanwhile, close the file, or fork.

    Raises PagerError: it cannot be done, and all is as it was.
    """
    support, reason = paging_support(), wire.why_not(source, planner.options)
    if not support or reason:
        raise PagerError(f"demand paging is not possible: {reason or support.reason}")
    with _one_at_a_time:
        if planner.pager is not None or planner.closed:
            return
        try:
            arena = FaultingArena(planner.size, user_mode_only=support.mode == "user-mode-only")
            with lock:
                planner.settle()
                arena.populate(planner.pages.runs(), planner.arena.bytes)
            table_fd = memfd("table", table_bytes(planner.size))
        except OSError as error:
            raise PagerError(f"demand paging is not possible: {error}") from error
        try:
            table = shared(table_fd, table_bytes(planner.size), mmap.mmap)
        except OSError as error:
            os.close(table_fd)
            raise PagerError(f"demand paging is not possible: {error}") from error
        link = the_client().attach(arena.mapping, _message(planner, arena), table_fd)
        with lock:
            if planner.closed:
                return
            try:
                _hand_over(planner, link, arena, table, repoint)
            except OSError as error:  # no memory
                raise PagerError(f"demand paging is not possible: {error}") from error


def _hand_over(
    planner: Planner, link: Link, arena: FaultingArena, table: mmap.mmap, repoint: Callable[[], None]
) -> None:
    planner.settle()
    memfd = arena.mapping.memfd
    old, runs = planner.arena, list(planner.pages.runs())
    late = [gap for run in runs for gap in subtract(_whole(run), list(populated(memfd, *_whole(run))))]
    arena.populate(late, old.bytes)
    if late:
        link.look(late)
    rest = planner.hand_over(link, arena, SharedPageTable(planner.size, table, memfd))
    repoint()
    for run in runs:
        for part in planner.cache.unpinned(run):
            planner.epoch[0] += 1  # who copies from the old arena at this moment sees that it changed
            old.evict(*part)
    if rest:
        with contextlib.suppress(PagerError):  # all is handed over: a fault asks for it again
            link.prefetch(rest, wait=False)


def _whole(run: ByteRange) -> ByteRange:
    return ByteRange(run.start, -(-run.stop // PAGE) * PAGE)


def _message(planner: Planner, arena: FaultingArena) -> wire.Message:
    requester, mapping = planner.requester, arena.mapping
    assert requester.url is not None  # the file is open
    message = wire.pack_source(requester.url, requester.target, planner.options)
    message |= {"base": mapping.base, "size": planner.size, "hidden": requester.size_hidden, "hint": requester.hint}
    message["since"] = planner.disk.since if planner.disk is not None else 0.0  # by a clock that all processes have
    if planner.disk is None:
        message["cache_dir"] = ""
    return message | {"validator": wire.pack_validator(requester.validator), "line": planner.link.known}
