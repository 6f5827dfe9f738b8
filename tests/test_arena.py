"""Arenas: what is in them stays, whatever is advised about it."""

from __future__ import annotations

import os
import platform
import re
import threading
from pathlib import Path

import pytest

from hctef._arena import AnonymousArena
from hctef._huge import HUGE, HUGEPAGE, POPULATE_WRITE, HugePages
from hctef._memory import free_memory
from hctef._ranges import PAGE
from hctef._raw import address
from tests.helpers import mapped_ranges, pattern

SIZE = 4 * HUGE
DATA = pattern(SIZE)


@pytest.fixture(autouse=True)
def _however_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests, and this machine's hypervisor, have taught of huge pages does not count here."""
    pages = HugePages()
    monkeypatch.setattr(pages, "SLOW", 1000.0)
    monkeypatch.setattr("hctef._arena.huge_pages", pages)


def huge_kib(arena: AnonymousArena) -> int:
    """How much of an arena lies in huge pages."""
    at, total = address(arena.bytes), 0
    for first, last, entry in mapped_ranges():
        found = re.search(r"^AnonHugePages: +([0-9]+) kB", entry, flags=re.MULTILINE)
        if first < at + arena.size and at < last and found:
            total += int(found[1])
    return total


def collapses() -> bool:
    """Whether MADV_COLLAPSE (Linux 6.1) finds a whole huge page in an arena (6.7 aligns mapped_ranges to them)."""
    release = tuple(int(number) for number in re.findall("[0-9]+", platform.release())[:2])
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return platform.system() == "Linux" and release >= (6, 7) and enabled.exists()


@pytest.mark.skipif(not collapses(), reason="needs huge pages, and Linux 6.7")
def test_small_pages_become_huge_ones_with_their_bytes() -> None:
    arena = AnonymousArena(SIZE)
    for page in (3, HUGE // PAGE + 100):
        arena.fill(page * PAGE, DATA[page * PAGE : (page + 1) * PAGE])
    with arena.view(3 * PAGE, 4 * PAGE) as view:
        arena.gather(PAGE, SIZE - PAGE)  # the first and the last part are not in it as a whole
        assert huge_kib(arena) == HUGE // 1024
        arena.gather(0, SIZE)
        assert huge_kib(arena) == 2 * HUGE // 1024
        assert view == DATA[3 * PAGE : 4 * PAGE]
    expected = bytearray(SIZE)
    for page in (3, HUGE // PAGE + 100):
        expected[page * PAGE : (page + 1) * PAGE] = DATA[page * PAGE : (page + 1) * PAGE]
    assert arena.bytes[:] == expected
    arena.close()


@pytest.mark.skipif(not collapses(), reason="needs huge pages, and Linux 6.7")
def test_what_comes_as_a_whole_comes_into_huge_pages() -> None:
    """Each when the bytes before it have come; what is not known to come as a whole takes no more memory than it is."""
    arena = AnonymousArena(SIZE)
    for start, stop, end, huge in (
        (0, PAGE, 0, 0),  # nothing is known of what follows
        (PAGE, HUGE, SIZE, 0),  # its first page lies before
        (HUGE, HUGE + PAGE, 2 * HUGE - PAGE, 0),  # it does not come as a whole
        (HUGE, HUGE + PAGE, SIZE, 1),
        (HUGE + PAGE, 2 * HUGE + PAGE, SIZE, 2),
        (2 * HUGE + PAGE, 3 * HUGE, SIZE, 2),
    ):
        room = arena.room(start, stop, end)
        assert room is not None
        assert len(room) == stop - start
        assert huge_kib(arena) == huge * HUGE // 1024
    arena.close()


def test_what_others_read_and_write_meanwhile_is_not_harmed() -> None:
    """Transfers fill pages beside those that are gathered, readers look at them."""
    arena = AnonymousArena(SIZE)
    wrong: list[int] = []
    done = threading.Event()

    def gather() -> None:
        while not done.is_set():
            arena.gather(0, SIZE)

    def fill(first: int) -> None:
        for page in range(first, SIZE // PAGE, 4):
            start, stop = page * PAGE, (page + 1) * PAGE
            room = arena.room(start, stop)
            assert room is not None
            room[:] = DATA[start:stop]
            wrong.extend(at for at in range(first, page + 1, 64) if arena.bytes[at * PAGE] != DATA[at * PAGE])

    threads = [threading.Thread(target=gather), *(threading.Thread(target=fill, args=(n,)) for n in range(4))]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    done.set()
    threads[0].join()
    assert not wrong
    assert arena.bytes[:] == DATA
    arena.close()


def _slow(monkeypatch: pytest.MonkeyPatch) -> HugePages:
    """Huge pages that are all had slowly, and pay until that is known."""
    pages = HugePages()
    for name, value in (("pay", True), ("SLOW", 0.0), ("NOTHING", 0.0)):
        monkeypatch.setattr(pages, name, value)
    monkeypatch.setattr("hctef._arena.huge_pages", pages)
    return pages


def test_huge_pages_that_are_had_slowly_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a hypervisor has taken the memory: two are enough."""
    pages, asked = _slow(monkeypatch), list[tuple[int, int]]()

    def advise(_: AnonymousArena, advice: int, start: int, __: int) -> bool:
        asked.append((advice, start))
        return True

    monkeypatch.setattr(AnonymousArena, "_advise", advise)
    arena = AnonymousArena(SIZE)
    arena.room(0, SIZE, SIZE)
    assert asked == [(HUGEPAGE, 0), (POPULATE_WRITE, 0)]  # the rest comes in small ones
    assert pages.pay
    arena.gather(0, SIZE)
    assert not pages.pay
    asked.clear()
    arena.room(0, SIZE, SIZE)
    arena.gather(0, SIZE)
    assert asked == []
    arena.close()


def test_one_huge_page_that_was_had_slowly_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others are had quickly. Where every other one is slow, they do not pay."""
    pages = _slow(monkeypatch)

    def make(*, slow: bool) -> None:
        monkeypatch.setattr(pages, "SLOW", 0.0 if slow else 1000.0)
        assert pages.populate(lambda *_: True, 0) is not slow

    for _ in range(3):
        make(slow=True)
        for _ in range(4):
            make(slow=False)
    assert pages.pay
    monkeypatch.setattr(pages, "NOTHING", 1000.0)
    for _ in range(3):
        assert pages.populate(lambda *_: True, 0)  # it was there
    monkeypatch.setattr(pages, "NOTHING", 0.0)
    make(slow=True)
    make(slow=False)
    assert pages.pay
    make(slow=True)
    assert not pages.pay


MEMINFO = "MemTotal:       16384000 kB\nMemFree:          200000 kB\nMemAvailable:    8000000 kB\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        pytest.param({}, 8_192_000_000, id="no limits"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/service\n",
                "sys/fs/cgroup/service/memory.max": "max\n",
                "sys/fs/cgroup/service/memory.current": "5000\n",
                "sys/fs/cgroup/memory.max": "1000000\n",
                "sys/fs/cgroup/memory.current": "400000\n",
                "sys/fs/cgroup/memory.stat": "anon 7\ninactive_file 300000\n",
            },
            900_000,
            id="a parent's",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu:/\n4:memory,hugetlb:/elsewhere\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1999999\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 5\ntotal_inactive_file 100\n",
            },
            101,
            id="the first version's, in a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "1000\n",
                "sys/fs/cgroup/memory.current": "4000\n",
            },
            0,
            id="exceeded",
        ),
    ],
)
def test_how_much_memory_is_free(tmp_path: Path, files: dict[str, str], free: int) -> None:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert free_memory(tmp_path) == free


def test_how_much_memory_is_free_where_the_kernel_does_not_tell(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    assert 0 < free_memory() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
