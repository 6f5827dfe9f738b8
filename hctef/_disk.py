"""DiskCache: what was fetched of one version of a file, on disk (`cache_dir`), for whoever opens that version next.

    <cache_dir>/<hash of the URL>/<hash of validator, size and page size>.data     the file's bytes, sparse
                                                                          .index    a byte a page: 1, it is there;
                                                                                    then a CRC-32 a page

Processes share these files and are killed while they write to them, and of what was written last any part may be lost
when the power goes. So the bytes of a page are written first, its sum next, its mark last; and no page is believed
whose sum is not that of its bytes (btrfs keeps such a sum of each 4 KiB, too). What is wrong, absent, or cannot be read
is fetched anew. Several processes may write at once: all write the same bytes to the same place, for another version
has other files.

A cache that fails is no reason for a read to fail: it is left alone, and a warning says so in the log `hctef`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import stat
import struct
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path

from hctef._arena import Buffer
from hctef._http import Validator
from hctef._memory import high
from hctef._pages import PageTable, resident_runs
from hctef._ranges import PAGE, ByteRange, coalesce

log = logging.getLogger("hctef")

_FORMAT = 1
_SCAN = 1024 * 1024
"""Bytes of an index that are looked at at once."""
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class DiskCache:
    """What lies on disk of one version of a file. `load` and `store` do I/O and may be called by any thread; `pages`
    belongs to the file's lock."""

    def __init__(self, data: int, index: int, size: int, since: float) -> None:
        """Takes over two descriptors. Raises OSError."""
        self._data, self._index = data, index
        self.since = since
        """See `open_cache`."""
        self.broken = False
        """Nothing more can be stored."""
        self.pages = PageTable(size)
        """What is on disk, as far as its marks tell."""
        self._sums = -(-self.pages.count // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        if os.fstat(data).st_size != size:
            os.ftruncate(data, size)
        for begin, end in _marked(index, self.pages.count):
            self.pages.mark(begin * PAGE, min(size, end * PAGE))
        ending = weakref.finalize(self, _close, data, index)  # after the last call that uses them has ended
        ending.atexit = False  # threads still write then, and the numbers may be other files' by that time

    def store(self, start: int, data: Buffer) -> bool:
        """Write whole pages of the file, which begin at `start`. Returns whether they are there now."""
        if self.broken:
            return False
        first, view = start // PAGE, memoryview(data)
        sums = _sums(view)
        try:
            _write(self._data, view, start)
            _write(self._index, struct.pack(f"<{len(sums)}I", *sums), self._sums + 4 * first)
            _write(self._index, b"\1" * len(sums), first)
        except OSError as error:  # no room is left
            self.broken = True
            log.warning("nothing more is kept in cache_dir of this file: %s", error)
            return False
        return True

    def load(self, start: int, stop: int) -> tuple[bytes, list[ByteRange]]:
        """Read whole pages of the file: those from `start` on that are there as they were stored, and which of all
        are not."""
        first, count = start // PAGE, -(-(stop - start) // PAGE)
        try:
            data = os.pread(self._data, stop - start, start)
            sums = os.pread(self._index, 4 * count, self._sums + 4 * first)
        except OSError as error:
            log.warning("cache_dir cannot be read, what it had is fetched anew: %s", error)
            return b"", [ByteRange(start, stop)]
        if len(data) < stop - start:
            data = data[: len(data) - len(data) % PAGE]
        found = _sums(memoryview(data))
        if len(data) == stop - start and sums == struct.pack(f"<{count}I", *found):
            return data, []
        stored = struct.unpack_from(f"<{len(sums) // 4}I", sums)
        right = [ours == theirs for ours, theirs in zip(found, stored, strict=False)]
        pages = [page for page in range(count) if page >= len(right) or not right[page]]
        wrong = coalesce((start + page * PAGE, min(stop, start + (page + 1) * PAGE)) for page in pages)
        return data[: wrong[0].start - start], wrong


class Keeper:
    """Cuts what comes of one transfer, in order and in pieces of any length, into whole pages."""

    __slots__ = ("_at", "_part", "_size")

    def __init__(self, size: int) -> None:
        """`size`: of the file, whose last page may be short."""
        self._size, self._at, self._part = size, -1, b""

    def pages(self, at: int, data: Buffer) -> Iterator[tuple[int, bytes | memoryview]]:
        """`data` came, which belongs at `at`: the whole pages that are there now and were not before, each run as
        `(start, bytes)`. What comes before the first page begins is passed over."""
        stop, view = at + len(data), memoryview(data)
        if at != self._at:
            self._part = b""
        begin = -(-at // PAGE) * PAGE  # the first page that begins in `data`
        if self._part:
            page = at - len(self._part)
            self._part += bytes(view[: begin - at])
            if len(self._part) == PAGE or page + len(self._part) == self._size:
                yield page, self._part
                self._part = b""
        end = stop if stop == self._size else stop - stop % PAGE
        if begin < end:
            yield begin, view[begin - at : end - at]
        if max(begin, end) < stop:
            self._part = bytes(view[max(begin, end) - at :])
        self._at = stop


def open_cache(
    directory: str, name: str, validator: Validator, size: int, since: float, *, newest: bool = False
) -> DiskCache | None:
    """What there is of a version of a file, or room for it; None where that cannot be had. `name`: see `cache_name`.
    `since`: from when on, by the planner's clock, what is asked for is of just that version (`settles_in`): only that
    is to be stored. `newest`: the server has just said that this is its version: others are removed."""
    told = validator.etag or validator.last_modified  # as `Validator.agrees` has it
    version = hashlib.sha256(repr((_FORMAT, PAGE, size, told)).encode()).hexdigest()[:32]
    folder = Path(directory) / name
    opened: list[int] = []
    try:
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in list(folder.iterdir()) if newest else ():
            if old.stem != version:
                with contextlib.suppress(OSError):  # another process removes it, too, or it is what NFS keeps for one
                    old.unlink()
        opened.append(_open(folder / f"{version}.data"))
        opened.append(_open(folder / f"{version}.index"))
        cache = DiskCache(opened[0], opened[1], size, since)
    except OSError as error:
        _close(*opened)
        log.warning("cache_dir is not used: %s", error)
        return None
    return cache


def holds(directory: str, name: str) -> bool:
    """Whether there is something of any version of a file."""
    try:
        return any(Path(directory, name).iterdir())
    except OSError:
        return False


def _open(path: Path) -> int:
    """A descriptor of a file of this user's own, which nobody else may read. Raises OSError."""
    fd = os.open(path, _FLAGS, 0o600)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid not in {os.geteuid(), 0}:
            raise PermissionError(f"{path} is not a file of this user's own")
    except OSError:
        os.close(fd)
        raise
    return high(fd)


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _write(fd: int, data: Buffer, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count


def _sums(view: memoryview) -> list[int]:
    """Of each page; never 0, which is what is read where nothing was written."""
    return [zlib.crc32(view[at : at + PAGE]) or 1 for at in range(0, len(view), PAGE)]


def _marked(fd: int, count: int) -> Iterator[tuple[int, int]]:
    """The runs of marks among the first `count` bytes."""
    at = 0
    while at < count:
        if hasattr(os, "SEEK_DATA"):
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # nothing more
                return
        marks = os.pread(fd, min(_SCAN, count - at), at) if at < count else b""
        if not marks:
            return
        for begin, end in resident_runs(marks):
            yield at + begin, at + end
        at += len(marks)
