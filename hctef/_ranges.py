"""Arithmetic of half-open byte ranges. Pure: no state, no I/O.

A range is `[start, stop)` as in `slice`. Ranges that are handed from function to function are sorted and disjoint
unless a docstring says otherwise.
"""

from __future__ import annotations

import itertools
import mmap
import operator
from collections.abc import Iterable, Iterator
from typing import NamedTuple, SupportsIndex

PAGE = mmap.PAGESIZE
"""Bytes in a page, the unit of residency."""


class ByteRange(NamedTuple):
    """The bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def align(start: int, stop: int, size: int, unit: int = PAGE) -> ByteRange:
    """The smallest range of whole units that covers `[start, stop)`, cut at the end of the file (`size` bytes)."""
    return ByteRange(start - start % unit, min(size, -(-stop // unit) * unit))


def coalesce(ranges: Iterable[tuple[int, int]], gap: int = 0) -> list[ByteRange]:
    """Sort `(start, stop)` pairs and merge those that overlap, touch, or lie at most `gap` bytes apart."""
    merged: list[ByteRange] = []
    for start, stop in sorted(ranges):
        if stop <= start:
            continue
        if merged and start - merged[-1].stop <= gap:
            if stop > merged[-1].stop:
                merged[-1] = ByteRange(merged[-1].start, stop)
        else:
            merged.append(ByteRange(start, stop))
    return merged


def subtract(whole: ByteRange, holes: Iterable[tuple[int, int]]) -> Iterator[ByteRange]:
    """The parts of `whole` that lie in none of `holes` (sorted by start; they may overlap each other)."""
    start = whole.start
    for a, b in holes:
        if b <= start:
            continue
        if a >= whole.stop:
            break
        if a > start:
            yield ByteRange(start, a)
        start = b
    if start < whole.stop:
        yield ByteRange(start, whole.stop)


def split(whole: ByteRange, parts: int, unit: int = PAGE) -> list[ByteRange]:
    """Cut `whole` into at most `parts` pieces of about the same length, at multiples of `unit`."""
    step = -(-whole.length // max(parts, 1))
    step = max(unit, -(-step // unit) * unit)
    first = whole.start - whole.start % unit
    cuts = [whole.start, *range(first + step, whole.stop, step), whole.stop]
    return [ByteRange(a, b) for a, b in itertools.pairwise(cuts) if a < b]


def checked_range(start: SupportsIndex | None, stop: SupportsIndex | None, size: int) -> ByteRange:
    """`[start, stop)` of a file of `size` bytes; None stands for its ends.

    Raises:
        ValueError: an end is negative, lies outside of the file, or `stop` lies before `start`.
        TypeError: an end is not an integer.
    """
    a = 0 if start is None else operator.index(start)
    b = size if stop is None else operator.index(stop)
    if not 0 <= a <= b <= size:
        raise ValueError(f"range [{a}, {b}) is not inside the file's {size} bytes")
    return ByteRange(a, b)


def checked_lengths(ranges: Iterable[tuple[SupportsIndex, SupportsIndex]], size: int) -> list[ByteRange]:
    """`(offset, length)` pairs as ranges, each checked as `checked_range` does, in the caller's order."""
    checked = []
    for offset, length in ranges:
        a, n = operator.index(offset), operator.index(length)
        if n < 0:
            raise ValueError(f"negative length {n} at offset {a}")
        checked.append(checked_range(a, a + n, size))
    return checked
