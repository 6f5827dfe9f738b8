"""Width: the number of connections that it settles at, on lines and servers whose limits are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hctef._width import HOLD, WIDEST, WINDOW, Width

STEP = 0.005
"""Seconds between two looks."""


def stream(  # noqa: PLR0917  # each is a property of the line
    width: Width, seconds: float, line: float, share: float, round_trip: float, at: float = 0.0
) -> list[int]:
    """Use fully a line of `line` bytes/s on which each connection has `share` at most; a new one begins slowly.

    Returns the number of connections at each look.
    """
    counts, total, older, since = [], 0.0, width.count, -1e9
    for look in range(int(seconds / STEP)):
        now = at + look * STEP
        if width.count != older and now - since > 8 * round_trip:
            older = width.count
        full = min(line, older * share)
        total += full * STEP
        before = width.count
        width.came(now, int(total), round_trip)
        width.busy(now, int(total), round_trip)
        if width.count != before:
            since = now
            older = min(before, width.count)
        counts.append(width.count)
    return counts


@pytest.mark.parametrize("round_trip", [0.005, 0.02, 0.08])
def test_one_connection_that_fills_the_line_stays_alone(round_trip: float) -> None:
    """Two are tried, rarely, and given up."""
    counts = stream(Width(), 60, 1e8, 1.2e8, round_trip)
    assert counts[-1] == 1
    assert counts.count(1) > len(counts) * 0.9


@pytest.mark.parametrize("round_trip", [0.005, 0.02, 0.08])
@pytest.mark.parametrize(("share", "expected"), [(5e6, 8), (1e7, 4), (2e7, 2)])
def test_where_each_has_a_share_there_are_as_many_as_fill_the_line(
    round_trip: float, share: float, expected: int
) -> None:
    """Doubled while that brings a quarter more."""
    counts = stream(Width(), 9, 3.3e7, share, round_trip)
    assert counts[-1] == expected
    assert counts[int((0.5 + 60 * round_trip + 0.6) / STEP)] >= expected / 2


def test_a_reader_that_is_slower_than_the_line_tells_nothing() -> None:
    """Its rate is not the line's."""
    width, total = Width(), 0
    for look in range(2000):
        total += 100_000
        if look % 8:
            width.busy(look * STEP, total, 0.02)
        else:
            width.idle()
    assert width.count == 1


def test_pauses_are_no_samples() -> None:
    """A stream that was looked at seldom was not busy in between."""
    width = Width()
    for look in range(200):
        width.busy(look * 0.5, look * 1_000_000, 0.02)
    assert width.count == 1


def test_where_one_connection_has_its_window_in_flight_four_are_begun_at_once() -> None:
    """It cannot bring more, whatever the line is; and where four bring no more than it, they are given up."""
    width = Width()
    counts = stream(width, 1.5, 1e9, WINDOW * 1.05 / 0.02, 0.02)
    assert counts.index(4) * STEP < 0.2
    assert 2 not in counts
    counts = stream(Width(), 5, WINDOW * 1.05 / 0.02, 1e9, 0.02)
    assert set(counts) == {1, 4}
    assert counts[-1] == 1


@given(
    st.lists(st.tuples(st.floats(0, 0.3), st.integers(0, 10**8), st.booleans()), max_size=60),
    st.sampled_from([0.002, 0.02, 0.3]),
)
def test_it_stays_within_its_bounds(looks: list[tuple[float, int, bool]], round_trip: float) -> None:
    """Whatever comes, whenever."""
    width, now, total = Width(), 0.0, 0
    for pause, count, fully in looks:
        now, total = now + pause, total + count
        width.came(now, total, round_trip)
        if fully:
            width.busy(now, total, round_trip)
            assert 1 <= width.count <= WIDEST
        else:
            width.idle()


def test_it_tries_again_after_a_while() -> None:
    """A server that gave all to one connection may give shares later."""
    width = Width()
    stream(width, 2, 1e8, 1.2e8, 0.02)
    assert width.count == 1
    counts = stream(width, HOLD + 2, 1e8, 2.5e7, 0.02, at=2.0)
    assert counts[-1] == 4


def test_a_reader_that_pauses_tells_the_least_of_it() -> None:
    """What comes though the line is not used fully, comes."""
    width = Width()
    for look in range(20):
        width.came(look * 0.01, int(look * 0.01 * WINDOW * 1.05 / 0.02), 0.02)
        width.idle()
    assert width.count == 4
    assert width.in_flight == 2 * 4 * WINDOW
    slow = Width()
    for look in range(200):
        slow.came(look * 0.01, int(look * 0.01 * WINDOW * 0.95 / 0.02), 0.02)
    assert slow.count == 1
    assert slow.in_flight == 0
