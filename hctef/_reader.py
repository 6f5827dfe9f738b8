"""Reader: what HttpFile and RemoteBuffer have in common: a Remote, the way of a hit, options, pickling, repr.

The way of a hit: the page table's bytes are looked at and the mapping is sliced without a lock. Under the GIL nothing
can come between two bytecodes that are no call, so a short hit (two pages at most) cannot meet an eviction; a longer
one checks afterwards that no eviction happened meanwhile (`epoch`), and that nobody closed the reader, and goes the
locked way else.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from hctef._cursor import LINE_BYTES, read_stop
from hctef._http import Validator
from hctef._options import CallSignature, Options, UrlSource, make_options
from hctef._pages import PageTable
from hctef._planner import Planner
from hctef._progress import Watch
from hctef._ranges import PAGE, ByteRange, checked_range
from hctef._remote import CLOSED, Remote
from hctef._repr import reader_html, reader_text
from hctef._stats import Stats
from hctef._urls import parse_url

SHIFT = PAGE.bit_length() - 1
"""`offset >> SHIFT` is the page."""

SLOTS = (
    "__weakref__",
    "_bounded",
    "_bytes",
    "_epoch",
    "_hit_bytes",
    "_hits",
    "_options",
    "_pickled",
    "_position",
    "_remote",
    "_rows",
    "_size",
    "_source",
)
"""The slots of a reader, which the concrete classes take over: a base of `io`'s allows none in another base. A slot is
read in half the time of an attribute in a dict, and a hit reads seven."""

_NOWHERE = PageTable(0).rows


class Unopened:
    """What a copy that came by pickle knows of the file that it is to open, on first use."""

    def __init__(self, size: int, validator: Validator, hint: str) -> None:
        self.size, self.validator, self.hint = size, validator, hint
        self._lock, self._process = threading.RLock(), os.getpid()

    @property
    def lock(self) -> threading.RLock:
        """Of the thread that opens it. A forked child has one of its own: the parent's thread is not there."""
        if self._process != os.getpid():
            self._lock, self._process = threading.RLock(), os.getpid()
        return self._lock


class Reader:
    """One reader of a remote file. Subclasses say how it is read."""

    if not TYPE_CHECKING:  # the annotated attributes below are slots of the subclasses
        __slots__ = ()

    _kind = "Reader"
    _buffer = False
    _known: frozenset[str] = frozenset()
    """The options that the class has."""
    __signature__ = CallSignature()

    _bounded: bool
    _bytes: mmap.mmap
    _epoch: list[int]
    _hit_bytes: int
    _hits: int
    _options: Options
    _pickled: Unopened | None
    _position: int
    _remote: Remote | None
    _rows: mmap.mmap
    _size: int
    _source: UrlSource

    def _checked(self, options: Mapping[str, Any]) -> Options:
        return make_options(self._kind, options, known=self._known, buffer=self._buffer)

    def _blank(self, source: UrlSource, options: Options) -> None:
        """The state of a reader that is not open."""
        self._detach()
        self._source = source
        self._options = options

    def _attach(self, remote: Remote) -> None:
        """Read `remote` from now on."""
        remote.retain(self)
        self._source = remote.source
        self._remote = remote
        self._pickled = None
        self._point_at(remote.planner)
        self._epoch = remote.planner.epoch
        self._size = remote.size

    def _point_at(self, planner: Planner) -> None:
        """Where hits look."""
        bounded = planner.options.max_resident_bytes is not None and planner.pager is None
        data, rows = planner.arena.bytes, planner.pages.rows
        self._bounded = bounded
        self._bytes = data  # first: what the old table says is resident is there in either arena
        self._rows = rows

    @classmethod
    def _sharing(cls, remote: Remote) -> Self:
        """A reader of pages that are open already, at position 0."""
        given = remote.options.changed()
        reader = cls.__new__(cls)
        reader._blank(remote.source, Options(**{name: value for name, value in given.items() if name in cls._known}))
        reader._attach(remote)
        return reader

    def _detach(self) -> None:
        """Closed: no hit is possible, each slow way raises."""
        self._remote = None
        self._pickled = None
        self._size = -1
        self._rows = self._bytes = _NOWHERE
        self._bounded = False
        self._epoch = [0]
        self._hits = self._hit_bytes = 0
        self._position = 0

    def _release(self, *, garbage: bool = False) -> None:
        """Close: idempotent, and safe from a half-built object's `__del__` (`garbage`), which may run anywhere."""
        remote = getattr(self, "_remote", None)
        hits, hit_bytes = getattr(self, "_hits", 0), getattr(self, "_hit_bytes", 0)
        position = getattr(self, "_position", 0)
        self._detach()
        self._position = position
        if remote is not None:
            remote.release(hits, hit_bytes, garbage=garbage)

    def _open(self) -> Remote:
        """The Remote. Raises ValueError: closed."""
        if self._remote is None:
            raise ValueError(CLOSED)
        return self._remote

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return getattr(self, "_remote", None) is None and getattr(self, "_pickled", None) is None

    # hits

    def _hit(self, start: int, stop: int) -> bytes | None:
        """The bytes `[start, stop)`, `start < stop`, both inside the file, where they are in memory."""
        remote = self._remote or self._open()
        epoch = self._epoch
        before = epoch[0]
        if self._rows.find(b"\0", start >> SHIFT, ((stop - 1) >> SHIFT) + 1) < 0:
            data = self._bytes[start:stop]
            if epoch[0] == before and self._remote is remote:
                self._hits += 1
                self._hit_bytes += stop - start
                if self._bounded:
                    remote.touch(start, stop)
                return data
        return None

    def _hit_into(self, target: memoryview, start: int) -> bool:
        """Fill `target` with what begins at `start`, where that is in memory."""
        remote = self._remote or self._open()
        stop = start + len(target)
        epoch, before = self._epoch, self._epoch[0]
        if self._resident_end(start, stop) < stop:
            return False
        with memoryview(self._bytes) as source:
            if len(source) < stop:  # closed just now
                return False
            target[:] = source[start:stop]
        if epoch[0] != before or self._remote is not remote:
            return False
        self._hits += 1
        self._hit_bytes += len(target)
        if self._bounded:
            remote.touch(start, stop)
        return True

    def _hit_line(self, start: int, stop: int) -> bytes | None:
        """The line that begins at `start`, not beyond `stop`, where that is in memory."""
        remote = self._remote or self._open()
        epoch, before = self._epoch, self._epoch[0]
        near = self._resident_end(start, min(stop, start + LINE_BYTES))
        end = self._bytes.find(b"\n", start, near) + 1
        if not end and near < stop:
            return None
        found = self._bytes[start : end or stop]
        if epoch[0] != before or self._remote is not remote:
            return None
        self._hits += 1
        self._hit_bytes += len(found)
        return found

    def _taking(self, count: SupportsIndex | None) -> _Taking:
        """The range that a read of `count` bytes from the position on covers. The position stays where the read
        fails."""
        while True:
            start = self._position
            stop = read_stop(start, self._open().size, count)
            if self._advance(start, stop):
                return _Taking(self, start, stop)

    def _advance(self, start: int, stop: int) -> bool:
        """Move the position from `start` to `stop`. False: it is elsewhere, where another thread or task took it."""
        # Atomic without a lock: under the GIL threads switch at calls and backward jumps, and here is neither.
        if self._position != start:
            return False
        self._position = stop
        return True

    def _resident_end(self, start: int, stop: int) -> int:
        """How far from `start` bytes are resident at this moment, at most `stop`."""
        hole = self._rows.find(b"\0", start >> SHIFT, ((stop - 1) >> SHIFT) + 1)
        return stop if hole < 0 else max(start, hole << SHIFT)

    def _resident_start(self, start: int, stop: int) -> int:
        """How far back from `stop` bytes are resident at this moment, at least `start`."""
        hole = self._rows.rfind(b"\0", start >> SHIFT, ((stop - 1) >> SHIFT) + 1)
        return start if hole < 0 else min(stop, (hole + 1) << SHIFT)

    def _watched(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> tuple[list[ByteRange], Watch | None]:
        """`(start, stop)` ranges, checked, and the watch of who hands them on."""
        remote = self._open()
        checked = [checked_range(start, stop, remote.size) for start, stop in ranges]
        return checked, remote.watch(*checked)

    # what both show

    @property
    def size(self) -> int:
        """Bytes in the file. Raises ValueError: closed."""
        return self._open().size

    @property
    def url(self) -> str:
        """The URL as last resolved, without userinfo."""
        return self._remote.url if self._remote else "" if callable(self._source) else parse_url(self._source).request

    @property
    def _safe_source(self) -> str:
        """The URL that was given, without userinfo and query values."""
        return "" if callable(self._source) else parse_url(self._source).safe

    @property
    def validator(self) -> str | None:
        """What tells this version of the file from others: 'ETag "…"' or 'Last-Modified …'; None where the server
        gives none."""
        validator = self._open().validator
        return str(validator) if validator else None

    @property
    def stats(self) -> Stats:
        """What the file has cost so far, over all readers of its pages: a snapshot."""
        return self._open().stats()

    @property
    def resident_bytes(self) -> int:
        """Bytes of the file that are in memory."""
        return self._open().resident_bytes

    def resident_ranges(self) -> list[tuple[int, int]]:
        """The `(start, stop)` ranges that are in memory, sorted, whole pages."""
        return self._open().resident_ranges()

    def evict(self, start: SupportsIndex = 0, stop: SupportsIndex | None = None) -> None:
        """Give the memory of the pages of `[start, stop)` back; those that a live view needs stay. They are fetched
        again when needed."""
        remote = self._open()
        remote.evict(*checked_range(start, stop, remote.size))

    def __repr__(self) -> str:
        remote = self._remote
        if remote is None:
            return reader_text(self._kind, self._safe_source, None, 0, "closed" if self.closed else "not open yet")
        return reader_text(self._kind, remote.safe_url, remote.size, remote.resident_bytes, "")

    def _repr_html_(self) -> str:
        remote = self._remote
        if remote is None:
            return reader_html(repr(self))
        return reader_html(
            f"{self._kind} {remote.safe_url}",
            size=remote.size,
            validator=self.validator or "none",
            ranges=remote.resident_ranges(),
            stats=self.stats,
        )


class _Taking:
    """See `Reader._taking`. Written out: made of a generator it takes thrice as long."""

    __slots__ = ("_range", "_reader")

    def __init__(self, reader: Reader, start: int, stop: int) -> None:
        self._reader, self._range = reader, (start, stop)

    def __enter__(self) -> tuple[int, int]:
        return self._range

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is not None:
            start, stop = self._range
            self._reader._advance(stop, start)  # unless somebody else has moved it since
