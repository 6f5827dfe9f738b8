"""On which connections what is wished for comes, and how much on each."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hctef._arena import AnonymousArena
from hctef._lanes import Lane
from hctef._link import Link
from hctef._options import Options
from hctef._planner import Planner
from hctef._ranges import PAGE, ByteRange
from hctef._steps import FetchPlan, PlanGen
from hctef.exceptions import RemoteFileChangedError

MIB = 1 << 20
SIZE = 1024 * MIB


def line(*, connections: int, bound: int | None = None, size: int = SIZE) -> Planner:
    """Of a file over 20 ms and 500 MB/s, where so many connections are worth it for what is long."""
    link = Link()
    link.answered(0.02)
    for _ in range(2):
        link.rate(500e6)
    link.pipelines, link.width.count = True, connections
    planner = Planner("http://host/file", Options(prefetch_bytes=0, max_resident_bytes=bound), AnonymousArena)
    planner.use_link(link)
    planner.begin(size)
    return planner


def carry(planner: Planner, lane: Lane, count: int) -> None:
    """The head of a lane's response has come, and so many bytes; what was brought whole is given back."""
    lane.open = True
    while count:
        claim = lane.claim
        claim.started = True
        step = min(count, claim.stop - claim.at)
        upto = claim.at + step
        planner._commit(claim, upto if upto == claim.stop else upto - upto % PAGE)
        planner._feed(lane)
        count -= step
        if claim.at == claim.stop:
            planner.give_back(claim)
            if not lane.advance():
                planner._leave(lane)
                return


def left(lane: Lane) -> int:
    return sum(claim.stop - claim.at for claim in lane.claims)


def test_connections_have_equal_shares_of_what_may_be_in_flight() -> None:
    """Whichever brings the most: all of them are busy, and none has what the others could bring."""
    planner = line(connections=4)
    for rank in range(4):
        planner.policy.begun(rank, SIZE)  # none is cold
    planner._wishes.push([ByteRange(0, SIZE)])
    assert len(planner._pump()) == len(planner._lanes) == 4
    share = planner.policy.sizes.lane
    first, *others = planner._lanes
    for _ in range(100):
        carry(planner, first, MIB)
        carry(planner, others[0], 256 * 1024)
        assert all(0 < left(lane) <= share for lane in planner._lanes)
        assert planner._wishes.bytes <= planner.policy.sizes.in_flight
    assert planner._lanes == [first, *others]
    assert left(first) > share / 2
    assert planner.policy.warmth(first.rank) > planner.policy.warmth(others[0].rank)
    planner.close()


@pytest.mark.parametrize("bound", [None, 5 * MIB])
@given(
    connections=st.sampled_from([1, 2, 3, 4, 8]),
    line_of=st.tuples(st.floats(0.0001, 0.3), st.floats(1e5, 3e9)),
    size=st.integers(64 * MIB, SIZE),
    steps=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 512), st.integers(0, SIZE)), min_size=2, max_size=20),
)
def test_claims_are_of_whole_pages(
    bound: int | None, connections: int, line_of: tuple[float, float], size: int, steps: list[tuple[int, int, int]]
) -> None:
    """However many connections share whatever line, however long the file: of a page that two of them bring, one shows
    the other's zeros."""
    planner = line(connections=connections, bound=bound, size=size)
    planner.link.believe(*line_of)
    for which, pages, length in steps:
        place = size if which % 2 else length  # the file's end has an odd length
        planner._wishes.push([ByteRange(max(0, place - length % (PAGE << 2 * which)), min(place, size))])
        planner._pump()
        for claim in planner.cache.all_claims():
            assert claim.start % PAGE == 0
            assert claim.stop % PAGE == 0 or claim.stop == size
        if planner._lanes:
            lane = planner._lanes[which % len(planner._lanes)]
            carry(planner, lane, min(left(lane), pages * PAGE) if pages else left(lane))
    planner.close()


def test_a_cold_connection_begins_where_the_readers_come_last() -> None:
    """And with little: the warmest goes on at the front."""
    planner = line(connections=4)
    planner.policy.begun(0, 100 * MIB)  # one has brought a lot
    planner._wishes.push([ByteRange(100 * MIB, 200 * MIB)])
    front = planner._next()
    assert front is not None
    assert front.start == 100 * MIB
    planner._lanes[0].open = True
    cold = planner._next()
    assert cold is not None
    assert cold.stop == 200 * MIB
    assert cold.stop - cold.start < front.stop - front.start
    planner.close()


def test_a_warm_connection_that_is_idle_comes_before_a_cold_one_under_way() -> None:
    """What the readers come to next, too."""
    planner = line(connections=2)
    planner._wishes.push([ByteRange(0, 64 * MIB)])
    planner._pump()
    warm, cold = planner._lanes
    planner._wishes.clear()
    carry(planner, warm, left(warm))
    planner.policy.begun(warm.rank, 100 * MIB)
    carry(planner, cold, left(cold) - 16 * 1024)  # there is room for more on it
    assert planner._lanes == [cold]
    planner._wishes.push([ByteRange(200 * MIB, 300 * MIB)])
    claim = planner._next()
    assert claim is not None
    assert claim.start == 200 * MIB
    assert [lane.rank for lane in planner._lanes] == [cold.rank, warm.rank]
    assert planner._lanes[1].claim is claim
    planner.close()


def test_a_blocked_thread_comes_before_what_others_were_blocked_for() -> None:
    """Its page was claimed with that of another, in whose block it is, and nobody has begun to bring it: else it would
    wait until all that was asked for since has come."""
    planner = line(connections=1)
    planner.pages.mark(PAGE, 2 * PAGE)
    near, far = planner._claim([ByteRange(0, PAGE), ByteRange(2 * PAGE, 4 * PAGE)], urgent=True)
    near.started = near.sending = True
    plan = next(planner.demand(3 * PAGE))
    assert isinstance(plan, FetchPlan)
    assert plan.background[0] is far
    planner.close()


def test_a_reader_who_waits_comes_before_wishes() -> None:
    """No connection goes on with what is only wished for, while what somebody waits for is on none."""
    planner = line(connections=1)
    planner.policy.begun(0, SIZE)
    planner._wishes.push([ByteRange(0, SIZE)])
    planner._pump()
    (lane,) = planner._lanes
    (claim,) = planner._claim([ByteRange(SIZE - PAGE, SIZE)], awaited=True)
    carry(planner, lane, left(lane) - MIB)
    assert not lane.waiting
    claim.started = True
    carry(planner, lane, MIB // 2)
    assert lane.waiting
    planner.close()


def test_a_reader_who_brings_what_was_wished_for_goes_on_with_nothing_else() -> None:
    """He would bring all that is wished for before he had what he asked for."""
    planner = line(connections=4)
    planner.link.pipelines = True
    planner._wishes.push([ByteRange(0, SIZE)])
    claim = planner._next()
    assert claim is not None
    assert planner._hurry([ByteRange(0, PAGE)]) == (claim,)
    transfer = planner.transfer(claim, pipelined=True)
    next(transfer)
    assert planner._lanes == []
    transfer.close()
    planner.close()


def test_an_answer_that_was_refused_is_no_measure_of_others() -> None:
    """It may be of another version of the file: what has come behind it is looked at one by one."""
    planner = line(connections=1)
    planner._wishes.push([ByteRange(0, SIZE)])
    planner._pump()
    (lane,) = planner._lanes
    carry(planner, lane, left(lane) - 64 * 1024)
    assert lane.waiting

    def refused(*_: object, **__: object) -> PlanGen[None]:
        raise RemoteFileChangedError("the file changed")
        yield

    with mock.patch.object(planner.requester, "fetch", refused):
        for _ in planner._one(lane, followed=True):
            pass
    assert isinstance(lane.claim.error, RemoteFileChangedError)
    assert not lane.open
    planner.close()


def test_what_was_wished_for_long_ago_is_not_fetched_again() -> None:
    """Under a bound on memory that is read in sequence, the rests of older wishes came with later ones, were read, and
    went."""
    planner = line(connections=4, bound=32 * MIB)
    planner._wishes.push([ByteRange(0, 12 * MIB)], planner._came)
    planner.stats.bytes_fetched += 17 * MIB
    planner._wishes.push([ByteRange(12 * MIB, 13 * MIB)], planner._came)
    found = [ByteRange(claim.start, claim.stop) for claim in planner._pump()]
    found += [wish for wish, *_ in planner._wishes._queue]
    assert found
    assert all(each.start >= 12 * MIB for each in found)
