"""Link: round trip and bandwidth from simulated receives, with the disturbances that real lines have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hctef._link import PRIOR_PRODUCT, PRIOR_ROUND_TRIP, WORK, Link


def body(link: Link, at: float, count: int, rate: float, part: int = 16384, *, busy: float = 0.0) -> float:
    """A body of `count` bytes at `rate`, in parts; the reader is busy so long after each. Returns when it ended."""
    train, began, arrived = link.train(), at, at
    while count > 0:
        arrived += min(part, count) / rate
        ended = max(began, arrived)
        train.received(began, ended, min(part, count))
        began, count = ended + busy, count - part
    return began


def test_before_anything_is_known() -> None:
    """A fast line of middle length: who asks for little learns little."""
    link = Link()
    assert link.round_trip == PRIOR_ROUND_TRIP
    assert link.product == pytest.approx(PRIOR_PRODUCT)
    link.answered(0.08)
    assert link.product == pytest.approx(PRIOR_PRODUCT)


def test_the_round_trip_is_the_least_lately() -> None:
    """A connection's set-up does not count, and a line that became longer is believed after some requests."""
    link = Link()
    for seconds in (0.065, 0.021, 0.045, 0.02, 0.03):
        link.answered(seconds)
    assert link.round_trip == 0.02
    for _ in range(16):
        link.answered(0.05)
    assert link.round_trip == 0.05


@pytest.mark.parametrize("rate", [1e5, 1e6, 2e7, 1e8, 3e8])
@pytest.mark.parametrize("round_trip", [0.002, 0.02, 0.08])
def test_one_connection(rate: float, round_trip: float) -> None:
    """Bodies that take ten round trips tell the rate within 5 %."""
    link, now = Link(), 0.0
    count = int(max(262_144, 10 * max(round_trip, 0.02) * rate))
    for _ in range(4):
        link.answered(round_trip)
        now = body(link, now + round_trip, count, rate, 1460 if rate < 1e6 else 16384)
    assert link.bandwidth == pytest.approx(rate, rel=0.05)


def test_short_bodies_prove_no_line_slow() -> None:
    """A server that paces what it sends by what it sent before sends little fast: what is believed stays."""
    link, now = Link(), 0.0
    for _ in range(100):
        link.answered(0.02)
        now = body(link, now + 0.02, 65536, 5e6)
    assert link.product == pytest.approx(PRIOR_PRODUCT)


def test_slow_start_proves_no_line_slow() -> None:
    """The pauses between flights are not the line's rate, though most bytes of short bodies come between such."""
    link, now = Link(), 0.0
    for _ in range(3):
        link.answered(0.02)
        now = body(link, now + 0.02, 16 << 20, 1e8)
    for _ in range(20):
        train, flight = link.train(), 14600
        now += 0.02
        for _ in range(4):
            began = now
            now += 0.02
            for _ in range(flight // 7300):
                arrived = now + 7300 / 1e8
                train.received(began, arrived, 7300)
                began = now = arrived
            flight *= 2
    assert link.bandwidth == pytest.approx(1e8, rel=0.05)


def test_a_slow_reader_does_not_see_the_speed_of_memory() -> None:
    """What waits in the socket's buffer when it is read says nothing of the line."""
    link, now = Link(), 0.0
    for _ in range(6):
        link.answered(0.02)
        now = body(link, now + 0.02, 8 << 20, 5e7)
    train = link.train()
    for _ in range(32):  # the reader was held up; 2 MiB are there already
        train.received(now, now + 20e-6, 65536)
        now += 25e-6
    assert link.bandwidth == pytest.approx(5e7, rel=0.1)


def test_connections_share_the_line() -> None:
    """Four at a quarter of its rate each tell the whole rate."""
    link, now = Link(), 1.0
    trains = [link.train() for _ in range(4)]
    link.answered(0.02)
    began = [now] * 4
    for i in range(2000):
        now += 16384 / 1e8
        trains[i % 4].received(began[i % 4], now, 16384)
        began[i % 4] = now
    assert link.bandwidth == pytest.approx(1e8, rel=0.05)


def test_a_line_may_become_slower() -> None:
    """The old rate is forgotten within some megabytes; one outlier is never believed."""
    link, now = Link(), 0.0
    for rate in (1e8, 1e7):
        for _ in range(20):
            link.answered(0.02)
            now = body(link, now + 0.02, 1 << 20, rate)
    assert link.bandwidth == pytest.approx(1e7, rel=0.05)
    body(link, now + 0.02, 81920, 1e9, 40960, busy=0.0)
    assert link.bandwidth == pytest.approx(1e7, rel=0.05)


def test_our_own_queue_is_no_long_line() -> None:
    """A head that waits behind bytes of ours does not raise the round trip, however long that goes on."""
    link, now = Link(), 0.0
    link.answered(0.02)
    for _ in range(200):
        now = body(link, now, 1 << 20, 1e8)
        link.answered(0.06)
    assert link.round_trip == 0.02
    for _ in range(16):  # a quiet line that is long is believed
        now = body(link, now + 0.06, 65536, 1e8)
        link.answered(0.06)
    assert link.round_trip == 0.06


def test_short_bodies_show_that_a_near_line_is_fast() -> None:
    """One that seemed slow for a while makes requests short; if those taught nothing it would seem so for ever."""
    link = Link()
    link.answered(0.0002)
    for _ in range(16):
        link.rate(1e7)
    at = 1.0
    for _ in range(4):
        train = link.train()
        for count in (16_000, 100_000):
            train.received(at, at + 0.0002, count)
            at += 0.0002
    assert link.bandwidth > 1e8


def test_a_near_round_trip_is_worth_its_work_too() -> None:
    """What a request costs this process counts where it is longer than the wait; on a long line it is nothing."""
    near, far = Link(), Link()
    near.answered(0.0001)
    far.answered(0.02)
    assert near.product == pytest.approx(near.bandwidth * (0.0001 + WORK))
    assert far.product == pytest.approx(far.bandwidth * 0.02)


def test_loopback() -> None:
    """No receive waits: what a body took in all is the bound, and a short round trip promises a fast line."""
    link, now = Link(), 0.0
    link.answered(0.0003)
    assert link.bandwidth >= 8e8
    for _ in range(4):
        link.answered(0.0003)
        train = link.train()
        for _ in range(64):
            train.received(now, now + 20e-6, 65536)
            now += 25e-6
    assert 1e9 < link.bandwidth < 65536 / 25e-6


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 10), st.floats(0, 2), st.integers(0, 1 << 24)), max_size=60))
def test_any_events(events: list[tuple[int, float, float, int]]) -> None:
    """Whatever is reported, even by a clock that jumps: both numbers stay positive and finite."""
    link = Link()
    trains = [link.train() for _ in range(3)]
    for which, at, seconds, count in events:
        if which == 3:
            link.answered(seconds)
        else:
            trains[which].received(at, at + seconds, count)
        assert 0 < link.round_trip < 100
        assert 0 < link.bandwidth < 1e15


def test_what_another_process_knows_is_where_this_one_begins() -> None:
    """It goes on from there, and believes what it measures itself."""
    link, other = Link(), Link()
    link.answered(0.0004)
    link.rate(3e8)
    link.pipelines = True
    other.told(link.known)
    assert (other.near, other.round_trip, other.bandwidth, other.pipelines) == (True, 0.0004, 3e8, True)
    other.answered(0.0002)
    other.told(link.known)
    assert other.round_trip == 0.0002
