"""The page table against a set of page numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hctef._pages import PageTable
from hctef._ranges import PAGE, ByteRange
from tests.helpers import needs_address_space

SIZE = 40 * PAGE + 123
COUNT = 41
PAGES = st.tuples(st.integers(0, COUNT), st.integers(0, COUNT)).map(sorted)


def extent(pages: list[int]) -> tuple[int, int]:
    return pages[0] * PAGE, min(SIZE, pages[1] * PAGE)


def pages_of(runs: Iterable[ByteRange]) -> set[int]:
    return {page for run in runs for page in range(run.start // PAGE, -(-run.stop // PAGE))}


class Model(RuleBasedStateMachine):
    """Marks and clears against a set of page numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = PageTable(SIZE)
        self.model: set[int] = set()

    @rule(pages=PAGES)
    def mark(self, pages: list[int]) -> None:
        if pages[0] < pages[1]:
            self.table.mark(*extent(pages))
            self.model |= set(range(*pages))

    @rule(pages=PAGES)
    def clear(self, pages: list[int]) -> None:
        start, stop = extent(pages)
        for run in list(self.table.runs(start, stop)) if start < stop else []:
            self.table.clear(*run)
        self.model -= set(range(*pages))

    @rule(pages=PAGES)
    def touch(self, pages: list[int]) -> None:
        if pages[0] < pages[1] and set(range(*pages)) <= self.model:
            self.table.touch(*extent(pages))
            assert self.table.referenced(*extent(pages))
            assert not self.table.referenced(*extent(pages))

    @rule(a=st.integers(0, SIZE), b=st.integers(0, SIZE))
    def questions(self, a: int, b: int) -> None:
        start, stop = min(a, b), max(a, b)
        asked = set(range(start // PAGE, -(-stop // PAGE))) if start < stop else set()
        assert self.table.resident(start, stop) == (asked <= self.model)
        if start < stop:
            missing = {
                p for run in self.table.missing(start, stop) for p in range(run.start // PAGE, -(-run.stop // PAGE))
            }
            assert missing == asked - self.model
            end = self.table.resident_end(start, stop)
            assert end == next((max(start, p * PAGE) for p in sorted(asked) if p not in self.model), stop)

    @rule(page=st.integers(0, COUNT - 1), limit=st.integers(0, COUNT))
    def ends(self, page: int, limit: int) -> None:
        if page < limit:
            end = self.table.missing_end(page * PAGE, min(SIZE, limit * PAGE))
            expected = next((p for p in range(page, limit) if p in self.model), limit)
            assert end == (min(SIZE, expected * PAGE) if expected > page else page * PAGE)
        if limit < page:
            start = self.table.missing_start(page * PAGE, limit * PAGE)
            expected = next((p + 1 for p in range(page - 1, limit - 1, -1) if p in self.model), limit)
            assert start == expected * PAGE

    @invariant()
    def the_bytes_are_counted(self) -> None:
        pages = len(self.model)
        assert self.table.resident_bytes == pages * PAGE - (PAGE - 123 if COUNT - 1 in self.model else 0)
        runs = list(self.table.runs())
        assert pages_of(runs) == self.model
        assert all(x.stop < y.start for x, y in itertools.pairwise(runs))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@needs_address_space
@given(st.integers(1, 10**15))
def test_a_table_of_any_size_is_made(size: int) -> None:
    """Memory is taken where pages are marked only: the table of a petabyte is made at once."""
    table = PageTable(min(size, 1 << 47))
    table.mark(0, min(table.size, PAGE))
    assert table.resident(0, 1)


@given(st.integers(0, SIZE), st.integers(0, SIZE))
def test_no_part_of_a_page_is_marked(start: int, stop: int) -> None:
    """Nor cleared: somebody would read what is not there, or the rest would be lost."""
    table = PageTable(SIZE)
    whole = start % PAGE == 0 and (stop % PAGE == 0 or stop == SIZE)
    for change in (table.mark, table.clear):
        if start < stop and not whole:
            with pytest.raises(ValueError, match="not whole pages"):
                change(start, stop)
            assert not table.resident_bytes
            assert not list(table.runs())


def test_runs_cross_the_blocks_of_the_used_set() -> None:
    """A run over the boundary of two blocks (64 Ki pages) is one run."""
    table = PageTable((1 << 17) * PAGE)
    middle = (1 << 16) * PAGE
    table.mark(middle - PAGE, middle + PAGE)
    assert list(table.runs()) == [(middle - PAGE, middle + PAGE)]
