"""Arithmetic of ranges, against sets of integers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hctef._ranges import PAGE, ByteRange, align, checked_lengths, checked_range, coalesce, split, subtract

OFFSET = st.integers(0, 200)
RANGES = st.lists(st.tuples(OFFSET, OFFSET), max_size=12)


def points(ranges: object) -> set[int]:
    return {p for a, b in ranges for p in range(a, b)}  # type: ignore[attr-defined]


@given(RANGES)
def test_coalesce_keeps_the_points(ranges: list[tuple[int, int]]) -> None:
    """The same bytes, sorted, disjoint and not touching."""
    merged = coalesce(ranges)
    assert points(merged) == points(ranges)
    assert all(a.stop < b.start for a, b in itertools.pairwise(merged))


@given(RANGES, st.integers(0, 30))
def test_coalesce_bridges_gaps_no_longer_than_allowed(ranges: list[tuple[int, int]], gap: int) -> None:
    """What lies between the results is wider than the gap; what was added is not."""
    merged = coalesce(ranges, gap)
    assert all(b.start - a.stop > gap for a, b in itertools.pairwise(merged))
    added = points(merged) - points(ranges)
    assert len(added) <= gap * len(ranges)


@given(OFFSET, OFFSET, RANGES)
def test_subtract_is_set_difference(a: int, b: int, holes: list[tuple[int, int]]) -> None:
    """What is left are the points of the whole that no hole holds."""
    holes = sorted(hole for hole in holes if hole[0] < hole[1])
    whole = ByteRange(min(a, b), max(a, b))
    left = list(subtract(whole, holes))
    assert points(left) == points([whole]) - points(holes)
    assert all(x.stop <= y.start for x, y in itertools.pairwise(left))


@given(st.integers(0, 10 * PAGE), st.integers(1, 50 * PAGE), st.integers(1, 20))
def test_split_covers_the_whole_at_page_boundaries(start: int, length: int, parts: int) -> None:
    """At most `parts` pieces, end to end, cut at multiples of a page only."""
    pieces = split(ByteRange(start, start + length), parts)
    assert pieces[0].start == start
    assert pieces[-1].stop == start + length
    assert all(x.stop == y.start and x.stop % PAGE == 0 for x, y in itertools.pairwise(pieces))
    assert 1 <= len(pieces) <= parts + 1


@given(st.integers(0, 10 * PAGE), st.integers(0, 10 * PAGE), st.integers(0, 10 * PAGE))
def test_align_is_the_smallest_cover_by_pages(start: int, length: int, after: int) -> None:
    """It covers, begins and ends at pages (or the file's end), and is less than two pages longer."""
    size = start + length + after
    a, b = align(start, start + length, size)
    assert a <= start
    assert start + length <= b <= size
    assert a % PAGE == 0
    assert b % PAGE == 0 or b == size
    assert (start - a) < PAGE
    assert b - (start + length) < PAGE


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (0, 11), (6, 5), (11, 11)])
def test_ranges_outside_of_the_file_are_refused(start: int, stop: int) -> None:
    """ValueError names the range and the size."""
    with pytest.raises(ValueError, match="not inside the file's 10 bytes"):
        checked_range(start, stop, 10)


def test_none_stands_for_the_ends() -> None:
    """As in a slice."""
    assert checked_range(None, None, 10) == (0, 10)


def test_lengths_are_not_negative() -> None:
    """A negative length is refused before anything else is done."""
    with pytest.raises(ValueError, match="negative length"):
        checked_lengths([(0, 4), (5, -1)], 10)


def test_offsets_are_integers() -> None:
    """No silent truncation of floats."""
    with pytest.raises(TypeError):
        checked_range(0.5, 4, 10)  # type: ignore[arg-type]
