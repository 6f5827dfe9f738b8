"""FaultingArena: a file's address range whose absent pages are filled when they are touched.

A memfd, mapped read-only and shared, registered with userfaultfd before anybody sees it. The kernel blocks a thread
that touches an absent page; the pager, a process of its own, fills the page (UFFDIO_COPY) and the thread goes on. This
process fills only what it has already when the arena is made (`populate`).

What keeps a hole from ever being read as zeros:
- Nothing can be read before it is registered: under mlockall(MCL_FUTURE) the kernel reads what is mapped at once.
- The descriptor of userfaultfd stays open until the mapping is gone. The mapping goes with the last reference to
  Python's mmap object, which every view of it is: `_Room.__del__` closes the descriptor then, and not before.
- A forked child does not inherit the mapping (MADV_DONTFORK). `_after_fork_in_child` maps the memfd at the same address
  again and registers it with a descriptor of the child's own. Where that fails, nothing is there, and a touch is
  SIGSEGV. Where something else is there already, which a view would show, the child ends at once.

What keeps a page from being filled with another file's bytes: the address stays taken until nobody fills it any more.
UFFDIO_COPY fills whatever is registered at an address, with any userfaultfd of the process. A transfer that still runs
when the mapping goes would fill the next one, were that at the same place.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable, Iterable

from hctef import _uffd
from hctef._arena import Buffer
from hctef._ranges import PAGE, ByteRange
from hctef._raw import address
from hctef._shared_memory import (
    allow_reading,
    below,
    do_not_dump,
    do_not_fork,
    immortal,
    memfd,
    no_huge_pages,
    not_garbage,
    punch,
    replace,
    reserve,
    shared,
)

CLEARANCE = 64 << 30
"""Bytes of address space kept free above each mapping, of the 128 TiB that x86-64 has."""


class _Room(mmap.mmap):
    """The address range of a mapping, as Python knows it: it is unmapped with this object."""

    mapping: Mapping | None = None
    """Until the last view is gone."""

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        """Nobody can look any more. Python unmaps it next, unless somebody keeps it."""
        mapping, self.mapping = self.mapping, None
        if mapping is not None and not _finalizing():
            del _mappings[mapping.base]
            mapping.end(self)


class Mapping:
    """A registered address range, and the descriptors that it needs as long as it is mapped."""

    def __init__(self, size: int, *, user_mode_only: bool = False) -> None:
        """Raises OSError: there is no such room, or no userfaultfd."""
        self.size = size
        self.length = -(-size // PAGE) * PAGE
        self.user_mode_only = user_mode_only
        self.closed: Callable[[Mapping, mmap.mmap], None] = lambda *_: None
        """Called when the last view is gone, perhaps by the garbage collector. The address stays taken as long as
        somebody keeps the second argument: until nobody fills it."""
        self.uffd = -1
        self.memfd = memfd("arena", self.length)
        try:
            with below(CLEARANCE):
                self.bytes = shared(self.memfd, size, _Room, readable=False)
            not_garbage(self.bytes)
            self.base = address(self.bytes)
            self._register()
            if os.fstat(self.memfd).st_blocks:
                raise OSError("a page was made before anybody asked for it")
        except BaseException:  # raised again
            self.close()
            raise

    def _register(self) -> None:
        opened = _uffd.open_uffd(user_mode_only=self.user_mode_only)
        try:
            do_not_fork(self.base, self.length)
            do_not_dump(self.base, self.length)
            no_huge_pages(self.base, self.length)  # khugepaged before Linux 6.4 fills holes
            can = _uffd.register(opened.fd, self.base, self.length)
            allow_reading(self.base, self.length)
        except BaseException:  # raised again
            os.close(opened.fd)
            raise
        self.uffd, self.mode = opened.fd, opened.mode
        self.features = opened.features - ({"poison"} - can)

    def reserve(self) -> None:
        """In a forked child: keep everything else away from the address. Raises OSError: something is there already."""
        reserve(self.base, self.length)

    def rearm(self) -> None:
        """After `reserve`: map it where it was. Raises OSError: it cannot be, and a touch is a SIGSEGV."""
        os.close(self.uffd)  # the parent's
        self.uffd = -1
        try:
            replace(self.base, self.length, self.memfd)
            self._register()
        except BaseException:  # raised again
            replace(self.base, self.length, None)
            raise

    def end(self, room: mmap.mmap) -> None:
        """The last view is gone. What is at the address takes no page from now on, and is no forked child's danger."""
        if not room.closed:
            try:
                replace(self.base, self.length, None)
            except OSError:  # too many mappings, or too much is locked: it stays, which costs no more than its address
                immortal(room)
        self.closed(self, room)
        self.close()

    def close(self) -> None:
        for fd in (self.uffd, self.memfd):
            if fd >= 0:
                os.close(fd)
        self.uffd = self.memfd = -1


class FaultingArena:
    """See `hctef._arena.Arena`. Raises OSError where there is no such room, or no userfaultfd."""

    __slots__ = ("bytes", "mapping", "size")

    overhead = 0

    def __init__(self, size: int, *, user_mode_only: bool = False) -> None:
        self.size = size
        self.mapping = Mapping(size, user_mode_only=user_mode_only)
        room = self.mapping.bytes
        del self.mapping.bytes  # it must not live longer than the views of it
        self.bytes: mmap.mmap = room
        room.mapping = _mappings[self.mapping.base] = self.mapping

    def populate(self, runs: Iterable[ByteRange], source: mmap.mmap) -> None:
        """Fill runs of whole pages with what lies at the same places of `source`, a mapping of whole pages."""
        begin = address(source)
        for start, stop in runs:
            length = -(-(stop - start) // PAGE) * PAGE
            if _uffd.copy(self.mapping.uffd, self.mapping.base + start, begin + start, length):
                raise OSError(errno.ENOENT, "something else lies where a file was mapped")

    def fill(self, start: int, data: Buffer) -> None:
        """What a transfer still had in its hands when the pager took over: the pager fetches it."""

    def room(self, start: int, stop: int, end: int = 0) -> memoryview | None:
        """Nowhere: only the pager fills it."""
        return None

    def publish(self, start: int, stop: int) -> None:
        """The pager's."""

    def watch(self, page: int) -> None:
        """The pager's."""

    def unwatch(self, start: int, stop: int) -> None:
        """The pager's."""

    def gather(self, start: int, stop: int) -> None:
        """The pager's."""

    def view(self, start: int, stop: int) -> memoryview:
        return memoryview(self.bytes)[start:stop]

    def evict(self, start: int, stop: int) -> None:
        """Whole pages leave the memory: who touches them later faults again."""
        punch(self.mapping.memfd, start, -(-(stop - start) // PAGE) * PAGE)

    def close(self) -> None:
        """Nothing: the last view unmaps it."""


def mappings() -> list[Mapping]:
    """Those that something can still touch."""
    return list(_mappings.values())


def self_test(*, user_mode_only: bool = False) -> tuple[str, frozenset[str]]:
    """Fill one of two absent pages, and read it. Returns the mode and the features. Raises OSError: it cannot be."""
    arena = FaultingArena(2 * PAGE, user_mode_only=user_mode_only)
    with mmap.mmap(-1, 2 * PAGE) as source:
        source[PAGE:] = b"\xa5" * PAGE
        arena.populate([ByteRange(PAGE, 2 * PAGE)], source)
        if arena.bytes[PAGE:] != source[PAGE:]:
            raise OSError("a page that was filled reads otherwise")
    return arena.mapping.mode, arena.mapping.features


_mappings: dict[int, Mapping] = {}
"""By address."""

rearmed: list[Callable[[list[Mapping]], None]] = []
"""Called in a forked child with the mappings that are in place again: whoever resolves faults is told of them."""


def _after_fork_in_child() -> None:
    alive, before = [], mappings()
    for mapping in before:  # all of them first: what follows takes memory
        try:
            mapping.reserve()
        except OSError as error:
            _say(
                f"the address of a view of a remote file is taken in this forked process, which ends: {error.strerror}"
            )
            os.abort()  # rather than show what is there
    for mapping in before:
        try:
            mapping.rearm()
        except OSError as error:
            _say(f"a view of a remote file is not there in this forked process: {error.strerror}")
        else:
            alive.append(mapping)
    for tell in rearmed:
        tell(alive)


def _say(what: str) -> None:
    os.write(2, f"hctef: {what}\n".encode())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
