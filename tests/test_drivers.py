"""The synchronous driver's threads: how many there are, how long, and what happens where there is none."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest

import hctef
from hctef._intervals import Claim
from hctef._lanes import Lane
from hctef._ranges import ByteRange
from hctef._steps import NOTHING, PlanGen
from tests.helpers import pattern, wait_until
from tests.range_server import RangeServer, slow

SIZE = 3_000_000
DATA = pattern(SIZE)


@pytest.fixture
def url(range_server: RangeServer) -> str:
    return range_server.add("f", DATA)


def transfers() -> int:
    return sum(thread.name == "hctef-transfer" for thread in threading.enumerate())


def test_a_closed_file_leaves_no_threads(url: str) -> None:
    """They would be kept for seconds, and pile up where many files are opened."""
    before = transfers()
    for _ in range(5):
        with hctef.HttpFile(url, prefetch_bytes=0) as file:
            file.read_ranges([(start, start + 10) for start in range(0, SIZE, 100_000)])
            assert transfers() > before
        wait_until(lambda: transfers() <= before, timeout=4.0)


@pytest.mark.parametrize("late", [False, True])
def test_without_any_thread_the_reader_brings_what_he_wants(
    range_server: RangeServer, url: str, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """As in a container that allows no more of them."""

    proper = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name.startswith("hctef"):  # the server has its own
            raise RuntimeError("can't start new thread")
        proper(self)

    range_server.behave("f", slow(0.005))  # a far line: its bytes are left to others
    if not late:
        monkeypatch.setattr(threading.Thread, "start", start)
    options: dict[str, Any] = {"prefetch_bytes": 1 << 20}
    with hctef.HttpFile(url, **options) as file, file.buffer as buf:
        monkeypatch.setattr(threading.Thread, "start", start)
        assert file.read(2_000_000) == DATA[:2_000_000]
        wanted = [(start, start + 10) for start in range(2_000_000, SIZE, 50_000)]
        assert file.read_ranges(wanted) == [DATA[start:stop] for start, stop in wanted]
        assert buf.prefetch([(0, SIZE)]) >= 0
        assert buf[:] == DATA
        for start_at in range(0, SIZE, 70_000):
            buf.evict()
            file.seek(start_at)
            assert file.read(10) == DATA[start_at : start_at + 10]


def test_an_interrupt_leaves_no_claim_that_nobody_brings(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a step that has claimed something, between a step and its being performed, and as that begins."""
    with hctef.RemoteBuffer(url, paging="fill", readahead="off") as buf:
        remote = buf._open()
        planner, driver = remote.planner, remote.driver

        def claiming() -> PlanGen[None]:
            planner.cache.claim(ByteRange(0, 8192))
            yield NOTHING
            planner.cache.claim(ByteRange(8192, 16384))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            driver.run(claiming())
        assert [(claim.start, claim.stop) for claim in planner.cache.all_claims()] == [(0, 8192)]
        planner.cancel(planner.cache.all_claims())

        class Later(deque[Any]):
            """Is looked at before a step, and between it and its being performed."""

            looks = 0

            def __bool__(self) -> bool:
                self.looks -= 1
                if not self.looks:
                    raise KeyboardInterrupt
                return len(self) > 0

        for look in (1, 2):
            planner.later = later = Later()
            later.looks = look
            with pytest.raises(KeyboardInterrupt):
                buf[0:5000]
            assert not planner.cache.all_claims()

        def interrupted(*_: object) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        for name in ("_perform", "_fetch"):  # signals are looked for where a function begins
            monkeypatch.setattr(driver, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                buf[0:5000]
            assert not planner.cache.all_claims()
        assert buf[0:5000] == DATA[:5000]


def test_an_interrupt_loses_no_claim_of_a_lane() -> None:
    """As it goes on with the next: who waits for that would wait for ever."""

    class Waiting(deque[Claim]):
        def popleft(self) -> Claim:
            super().popleft()
            raise KeyboardInterrupt

    lane, following = Lane(Claim(0, 1)), Claim(1, 2)
    lane.waiting = Waiting([following])
    with pytest.raises(KeyboardInterrupt):
        lane.advance()
    assert following in lane.claims
