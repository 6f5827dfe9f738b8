"""What a position in a file may be, and how much a read asks for: the rules of `io`, once for every class. Pure."""

from __future__ import annotations

import errno
import io
import operator
import sys
from collections.abc import Generator
from typing import Any, SupportsIndex

from hctef._ranges import PAGE, ByteRange

SEEK_SET: SupportsIndex = io.SEEK_SET
"""To be compared by `is`, which takes a 0 only: what equals one may be no integer."""


class NegativeSeekError(OSError, ValueError):
    """A position before the file's start: an OSError as from a file (EINVAL), for libraries look for that (zipfile,
    where a file is too short to be one), and a ValueError as from `io.BytesIO` and `mmap`."""


def sought(position: int, size: int, offset: SupportsIndex, whence: SupportsIndex) -> int:
    """Where `seek(offset, whence)` leads, as in `io.BytesIO` (an end before 0 is cut off at 0 for whence 1 and 2 there,
    and an error for files: files are followed).

    Raises:
        NegativeSeekError: a negative position.
        ValueError: a whence that is not 0, 1 or 2.
        OverflowError: more than 63 bits.
        TypeError: the offset or the whence is not an integer.
    """
    target, origin = operator.index(offset), operator.index(whence)
    if origin == io.SEEK_CUR:
        target += position
    elif origin == io.SEEK_END:
        target += size
    elif origin != io.SEEK_SET:
        raise ValueError(f"invalid whence ({origin}, should be 0, 1 or 2)")
    if target < 0:
        raise NegativeSeekError(errno.EINVAL, f"negative seek position {target}")
    if target > sys.maxsize:
        raise OverflowError(f"seek position {target} is beyond what a file may have")
    return target


def read_stop(position: int, size: int, count: SupportsIndex | None) -> int:
    """Where a read of `count` bytes (None or negative: all) from `position` ends; not before `position`.

    Raises TypeError: `count` is neither None nor an integer.
    """
    length = -1 if count is None else operator.index(count)
    stop = size if length < 0 else min(size, position + length)
    return max(position, stop)


LINE_BYTES = 64 * 1024  # a search for a line's end looks at this many bytes first, then at twice as many …
LINE_BYTES_MOST = 1024 * 1024


def line(start: int, stop: int, most: int) -> Generator[tuple[int, int], bytes, bytes]:
    """The line that begins at `start`, not beyond `stop`: yields the ranges that it needs, is sent their bytes.

    `most`: bytes to look at at once. What comes behind a line's end must stay in memory: the next line is there.
    """
    pieces: list[bytes] = []
    at, window = start, min(LINE_BYTES, most)
    while at < stop:
        piece = yield at, min(stop, at + window)
        end = piece.find(b"\n") + 1
        pieces.append(piece[:end] if end else piece)
        if end:
            break
        at += len(piece)
        window = min(2 * window, LINE_BYTES_MOST, most)
    return b"".join(pieces)


FIND_BYTES = 64 * 1024  # a search fetches this many bytes first, then twice as many …
FIND_BYTES_MOST = 4 * 1024 * 1024


def find_windows(most: int) -> tuple[int, int]:
    """How many bytes a search looks at first, and at once at most. `most`: as `line` has it."""
    return min(FIND_BYTES, most), min(FIND_BYTES_MOST, most)


def strided(start: int, stop: int, step: int) -> tuple[ByteRange, range | None, int]:
    """How to get `[start:stop:step]`, as `slice.indices` gave it: the bytes of a range, sliced `[::step]`, or, where a
    step is longer than a page, single bytes."""
    wanted = range(start, stop, step)
    if not wanted:
        return ByteRange(0, 0), None, 1
    low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1]) + 1
    return ByteRange(low, high), wanted if abs(step) > PAGE else None, step


def writable_bytes(target: Any) -> memoryview:
    """`target` as bytes to fill. Raises TypeError: it has no writable, contiguous buffer."""
    try:
        view = memoryview(target)
    except ValueError:  # numpy's dates, for which no format stands: `io` asks for none
        if not (hasattr(target, "flags") and target.flags.c_contiguous):
            raise TypeError("readinto() needs a contiguous buffer") from None
        view = memoryview(target.reshape(-1).view("u1"))
    if view.readonly:
        raise TypeError("readinto() needs a writable buffer")
    return view.cast("B") if view.nbytes else memoryview(bytearray())
