"""Traps, gaps and wishes: what is withheld, what is missing, what is asked for behind the readers."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from hctef._gaps import Gaps
from hctef._intervals import Claim, IntervalCache
from hctef._pages import PageTable
from hctef._ranges import PAGE, ByteRange
from hctef._traps import MOST, Traps
from hctef._wishes import Wishes

PAGES = 64
SIZE = PAGES * PAGE - 100


def pages(*ranges: tuple[int, int]) -> list[ByteRange]:
    return [ByteRange(a * PAGE, min(b * PAGE, SIZE)) for a, b in ranges]


def setting(least: int = PAGE) -> tuple[PageTable, IntervalCache, Traps, Gaps]:
    table, cache, traps = PageTable(SIZE), IntervalCache(), Traps()
    return table, cache, traps, Gaps(table, cache, traps, least)


def test_a_trap_withholds_its_page_once() -> None:
    """Armed, then withheld when its page comes, then handed over."""
    traps = Traps()
    assert not traps
    assert traps.arm(3 * PAGE) is None
    assert traps.came(0, 3 * PAGE) == []
    assert traps.came(2 * PAGE, 5 * PAGE) == [3 * PAGE]
    assert traps.withheld(0, SIZE) == [3 * PAGE]
    assert traps.touches(3 * PAGE + 5, 3 * PAGE + 6)
    assert not traps.touches(4 * PAGE, 9 * PAGE)
    assert traps.disarm(3 * PAGE + 5, 3 * PAGE + 6) == [3 * PAGE]
    assert not traps
    assert traps.came(3 * PAGE, 4 * PAGE) == []


def test_a_trap_that_is_disarmed_before_its_page_comes_withholds_nothing() -> None:
    """A reader that is there first needs no trap."""
    traps = Traps()
    traps.arm(PAGE)
    assert traps.disarm(0, 4 * PAGE) == []
    assert traps.came(0, 4 * PAGE) == []


def test_traps_are_bounded() -> None:
    """One too many names another to hand over."""
    traps = Traps()
    for n in range(MOST):
        assert traps.arm(n * PAGE) is None
    assert traps.arm(MOST * PAGE) == 0


RUNS = st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(1, 9)), max_size=8)


@given(
    RUNS,
    RUNS,
    st.sets(st.integers(0, PAGES - 1), max_size=4),
    st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)),
)
@example([], [], {PAGES - 1}, (0, SIZE))  # the last page is short
def test_gaps_are_what_nobody_has(
    resident: list[tuple[int, int]], claimed: list[tuple[int, int]], withheld: set[int], asked: tuple[int, int]
) -> None:
    """Against a set of pages: neither resident, nor claimed, nor withheld; `first` finds the first of them."""
    table, cache, traps, gaps = setting()
    taken: set[int] = set()
    for page in withheld:
        traps.arm(page * PAGE)
        traps.came(page * PAGE, (page + 1) * PAGE)
        taken.add(page)
    for first, count in resident:
        for page in range(first, min(PAGES, first + count)):
            if page not in taken:
                table.mark(page * PAGE, min(SIZE, (page + 1) * PAGE))
                taken.add(page)
    for first, count in claimed:
        for page in range(first, min(PAGES, first + count)):
            if page not in taken:
                cache.claim(ByteRange(page * PAGE, min(SIZE, (page + 1) * PAGE)))
                taken.add(page)
    start, stop = asked[0], min(SIZE, asked[0] + asked[1])
    want = [page for page in range(start // PAGE, -(-stop // PAGE)) if page not in taken]
    found = list(gaps.unclaimed(start, stop))
    assert [page for gap in found for page in range(gap.start // PAGE, -(-gap.stop // PAGE))] == want
    assert gaps.absent(start, stop) == sum(gap.length for gap in found)
    piece = gaps.first(start, stop, 3 * PAGE)
    assert (piece is None) == (not want)
    if piece is not None:
        assert piece.start == want[0] * PAGE
        assert piece.length <= 3 * PAGE
    for extent in gaps.extents(found):
        assert not taken & set(range(extent.start // PAGE, -(-extent.stop // PAGE)))


def test_the_latest_wish_comes_first_in_pieces() -> None:
    """Each piece is the first gap of the latest wish; what is there already is passed over."""
    table, _, _, gaps = setting()
    wishes = Wishes()
    wishes.push(pages((0, 4)))
    wishes.push(pages((10, 16), (30, 31)))
    table.mark(*pages((10, 12))[0])
    got = []
    while (found := wishes.first(gaps, 2 * PAGE)) is not None:
        piece, long = found
        assert not long
        got.append(piece)
        wishes.take(*piece, piece.length)
        table.mark(*piece)
    assert got == pages((12, 14), (14, 16), (30, 31), (0, 2), (2, 4))
    assert wishes.bytes == 9 * PAGE
    assert not wishes


def test_an_old_wish_expires() -> None:
    """Its bytes came, were read, and had to go: that they are absent again is no reason to fetch them again."""
    _, _, _, gaps = setting()
    wishes = Wishes()
    wishes.push(pages((0, 4)), 100)
    wishes.push(pages((10, 16)), 200)
    wishes.take(*pages((10, 12))[0], 2 * PAGE)  # what is left of it is as old as it
    wishes.expire(100)
    assert wishes.first(gaps, PAGE) == (pages((12, 13))[0], False)
    wishes.expire(101)
    wishes.take(*pages((12, 16))[0], 4 * PAGE)
    assert wishes.first(gaps, PAGE) is None


def test_the_end_of_a_wish_is_taken_where_it_is_absent() -> None:
    """The rest of the wish goes on from its beginning, and is as long a wish as before."""
    table, _, _, gaps = setting()
    wishes = Wishes()
    wishes.push(pages((0, PAGES)))
    assert wishes.first(gaps, 4 * PAGE) == (pages((0, 4))[0], True)
    last = wishes.last(gaps, 8 * PAGE)
    assert last == pages((PAGES - 8, PAGES))[0]
    wishes.take(*last, last.length)
    table.mark(*last)
    table.mark(*pages((PAGES - 12, PAGES - 10))[0])
    assert wishes.last(gaps, 4 * PAGE) is None  # not all of it is absent
    assert wishes.last(gaps, 2 * PAGE) == pages((PAGES - 10, PAGES - 8))[0]
    assert wishes.last(gaps, PAGES * PAGE) is None  # so much is not left
    got = []
    while (found := wishes.first(gaps, 16 * PAGE)) is not None:
        assert found[1]
        wishes.take(*found[0], found[0].length)
        table.mark(*found[0])
        got.append(found[0])
    assert got == pages((0, 16), (16, 32), (32, 48), (48, PAGES - 12), (PAGES - 10, PAGES - 8))


@given(
    st.lists(
        st.tuples(st.sampled_from(["claim", "advance", "release"]), st.integers(0, 63), st.integers(1, 20)), max_size=40
    )
)
@settings(max_examples=500, deadline=None)
@example([("claim", 0, 1), ("advance", 0, 1), ("claim", 0, 6), ("advance", 1, 5)])
def test_what_is_still_to_come_is_found_whatever_was_claimed(steps: list[tuple[str, int, int]]) -> None:
    """What came of a claim may be claimed again, for it may have been evicted."""
    cache, mine = IntervalCache(), list[Claim]()

    def expected(start: int, stop: int) -> list[Claim]:
        found = [each for each in mine if each.at < each.stop and each.at < stop and start < each.stop]
        return sorted(found, key=lambda each: each.at)

    for what, number, length in steps:
        if what == "claim":
            if not expected(number, number + length):
                mine.append(cache.claim(ByteRange(number, number + length)))
        elif mine:
            claim = mine[number % len(mine)]
            if what == "advance":
                claim.advance(min(claim.stop, claim.at + length))
            else:
                mine.remove(claim)
                cache.release(claim)
                assert not claim.open
        for start in range(0, 84, 7):
            assert cache.claims(start, start + 5) == expected(start, start + 5)
        assert set(cache.all_claims()) == set(mine)


def test_what_was_evicted_of_a_claim_is_a_gap() -> None:
    """Who reads it asks for it, rather than wait for the end of what brought it once."""
    table, cache, _, gaps = setting()
    claim = cache.claim(pages((0, 10))[0])
    claim.advance(5 * PAGE)
    table.mark(0, 3 * PAGE)
    assert gaps.unclaimed(0, SIZE)[0] == pages((3, 5))[0]
    assert gaps.absent(0, 10 * PAGE) == 2 * PAGE
    assert gaps.extents(pages((3, 4)))[0] == pages((3, 4))[0]


def test_a_long_read_that_ends_early_takes_no_other_along() -> None:
    """What lies in it is not wished for any longer, but by other long reads; what lies elsewhere still is."""
    _, _, _, gaps = setting()
    wishes, [whole, part, far] = Wishes(), pages((0, 40), (30, 40), (50, 60))
    wishes.push([far])
    for each in (whole, whole, part):
        wishes.own(each)
    wishes.disown(part, ended=False)
    wishes.disown(whole, ended=True)
    assert wishes.first(gaps, PAGE) == (ByteRange(0, PAGE), True)
    wishes.disown(whole, ended=True)
    assert wishes.first(gaps, PAGE) == (ByteRange(far.start, far.start + PAGE), False)
    wishes.disown(whole, ended=True)  # another process's
