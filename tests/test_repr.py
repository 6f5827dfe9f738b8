"""Page maps and sizes say what is true, for the smallest files too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hctef._repr import BLOCKS, filled, format_bytes, page_map_text
from hctef._stats import Stats


@given(st.data(), st.integers(1, 5000), st.sampled_from([1, 7, 64, 360]))
def test_a_map_covers_what_the_ranges_cover(data: st.DataObject, size: int, columns: int) -> None:
    """Each column's share is that of its bytes, also where a byte is wider than a column."""
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=10)))
    ranges = list(zip(cuts[::2], cuts[1::2], strict=False))
    parts = filled(size, ranges, columns)
    assert len(parts) == columns
    assert all(0 <= part <= 1 for part in parts)
    assert sum(parts) * size / columns == pytest.approx(sum(stop - start for start, stop in ranges))


@pytest.mark.parametrize("size", [1, 5, 63, 64, 65, 4096, 10**15])
def test_a_full_file_is_full(size: int) -> None:
    """To its last column, whatever its size; a last page that reaches beyond the end is cut."""
    assert page_map_text(size, [(0, size)]) == BLOCKS[-1] * 64
    assert page_map_text(size, [(0, size + 4096)]) == BLOCKS[-1] * 64


def test_sizes_go_on_to_the_next_unit() -> None:
    """No '1024.0 KiB'."""
    assert [format_bytes(n) for n in (1023, 1024**2 - 1, 1024**3 - 1)] == ["1023 B", "1.0 MiB", "1.0 GiB"]


def test_statistics_are_shown_to_the_last_digit() -> None:
    """Counts as they are, however large; seconds to the millisecond."""
    shown = str(Stats(requests=7, bytes_fetched=4_001_792, bytes_read=10**15, seconds_waited=1234.56789))
    assert "requests=7, bytes_fetched=4001792, bytes_read=1000000000000000, hits=0," in shown
    assert shown.endswith("seconds_waited=1234.568")
    assert str(Stats(seconds_waited=1e-5)).endswith("seconds_waited=0.000")
