"""Advice on a file's pages, as `mmap.madvise` takes it (madvise(2)). Pure."""

from __future__ import annotations

import errno
import mmap
import operator
import os
from typing import SupportsIndex

from hctef._ranges import PAGE, ByteRange

_ADVICE = {value: "" for name, value in vars(mmap).items() if name.startswith("MADV_")} | {
    getattr(mmap, "MADV_NORMAL", 0): "normal",
    getattr(mmap, "MADV_RANDOM", 1): "random",
    getattr(mmap, "MADV_SEQUENTIAL", 2): "sequential",
    getattr(mmap, "MADV_WILLNEED", 3): "willneed",
    getattr(mmap, "MADV_DONTNEED", 4): "dontneed",
}
"""What is done about it; nothing about most."""


def checked_advice(
    option: SupportsIndex, start: SupportsIndex, length: SupportsIndex | None, size: int
) -> tuple[str, ByteRange]:
    """What is advised, '' where nothing follows from it, and for which bytes of a file of `size`.

    Raises:
        ValueError: `start` lies outside of the file, or the length is negative.
        OSError: EINVAL: no advice of the mmap module's, or `start` is no multiple of the page size.
    """
    advice = operator.index(option)
    begin = operator.index(start)
    count = size - begin if length is None else operator.index(length)
    if not 0 <= begin < max(size, 1):
        raise ValueError("madvise start out of bounds")
    if count < 0:
        raise ValueError("madvise length invalid")
    if advice not in _ADVICE:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if begin % PAGE:  # the system's checks come last: all that it finds wrong is EINVAL
        raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: start is no multiple of the page size, {PAGE}")
    return _ADVICE[advice], ByteRange(begin, min(size, begin + count))
