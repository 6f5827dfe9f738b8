"""FaultingArena: a file's address range whose absent pages are filled when they are touched.

A memfd, mapped read-only and shared, registered with userfaultfd before anybody sees it. The kernel blocks a thread
that touches an absent page; the pager, a process of its own, fills the page (UFFDIO_COPY) and the thread goes on. This
process fills only what it has already when the arena is made (`populate`).

What keeps a hole from ever being read as zeros:
- The descriptor of userfaultfd stays open until the mapping is gone. The mapping is gone when Python's mmap object is,
  and that lives as long as any view of it: `_gone` closes the descriptor then, and not before.
- A forked child does not inherit the mapping (MADV_DONTFORK). `_after_fork_in_child` maps the memfd at the same address
  again and registers it with a descriptor of the child's own. Where that fails, nothing is there, and a touch is
  SIGSEGV. Where something else is there already, which a view would show, the child ends at once.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable, Iterable

from hctef import _uffd
from hctef._arena import Buffer
from hctef._ranges import PAGE, ByteRange
from hctef._raw import address
from hctef._shared_memory import below, do_not_fork, memfd, not_garbage, punch, replace, reserve, shared

CLEARANCE = 64 << 30
"""Bytes of address space kept free above each mapping, of the 128 TiB that x86-64 has."""


class Mapping:
    """A registered address range, and the descriptors that it needs as long as it is mapped."""

    def __init__(self, size: int, *, user_mode_only: bool = False) -> None:
        """Raises OSError: there is no such room, or no userfaultfd."""
        self.size = size
        self.length = -(-size // PAGE) * PAGE
        self.user_mode_only = user_mode_only
        self.closed: Callable[[Mapping], None] = lambda _: None
        """Called when the last view is gone, perhaps by the garbage collector."""
        self.uffd = -1
        self.memfd = memfd("arena", self.length)
        try:
            with below(CLEARANCE):
                self.bytes = shared(self.memfd, size, writable=False)
            not_garbage(self.bytes)
            self.base = address(self.bytes)
            self._register()
        except BaseException:  # raised again
            os.close(self.memfd)
            raise

    def _register(self) -> None:
        opened = _uffd.open_uffd(user_mode_only=self.user_mode_only)
        try:
            do_not_fork(self.base, self.length)
            can = _uffd.register(opened.fd, self.base, self.length)
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
        self.bytes: mmap.mmap = self.mapping.bytes
        del self.mapping.bytes  # it must not live longer than the views of it
        _mappings[weakref.ref(self.bytes, _gone)] = self.mapping

    def populate(self, runs: Iterable[ByteRange], source: mmap.mmap) -> None:
        """Fill runs of whole pages with what lies at the same places of `source`, a mapping of whole pages."""
        begin = address(source)
        for start, stop in runs:
            length = -(-(stop - start) // PAGE) * PAGE
            _uffd.copy(self.mapping.uffd, self.mapping.base + start, begin + start, length)

    def fill(self, start: int, data: Buffer) -> None:
        """What a transfer still had in its hands when the pager took over: the pager fetches it."""

    def room(self, start: int, stop: int) -> memoryview | None:
        """Nowhere: only the pager fills it."""
        return None

    def publish(self, start: int, stop: int) -> None:
        """The pager's."""

    def watch(self, page: int) -> None:
        """The pager's."""

    def unwatch(self, start: int, stop: int) -> None:
        """The pager's."""

    def expect(self, start: int, stop: int) -> None:
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


_mappings: dict[weakref.ref[mmap.mmap], Mapping] = {}

rearmed: list[Callable[[list[Mapping]], None]] = []
"""Called in a forked child with the mappings that are in place again: whoever resolves faults is told of them."""


def _gone(reference: weakref.ref[mmap.mmap]) -> None:
    mapping = _mappings.pop(reference)
    mapping.closed(mapping)
    mapping.close()


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
