"""The pager's side of an arena, filled by this process in its own memory: no network, no helpers."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import hctef
from hctef._ranges import PAGE

if not hctef.paging_support():
    pytest.skip(f"no demand paging: {hctef.paging_support().reason}", allow_module_level=True)

from hctef import _uffd
from hctef._faulting import FaultingArena
from hctef._shared_memory import populated
from hctef.pager.filling import FillingArena
from hctef.pager.resolver import Resolver


@contextmanager
def filling(size: int) -> Iterator[tuple[FaultingArena, FillingArena]]:
    """An arena, and who fills it."""
    arena = FaultingArena(size)
    mapping = arena.mapping
    filler = FillingArena(size, mapping.base, os.dup(mapping.memfd))
    filler.add(os.dup(mapping.uffd))
    try:
        yield arena, filler
    finally:
        filler.close()


def test_a_page_of_which_a_part_came_before_is_withheld_whole() -> None:
    """What a transfer that broke off had of it is forgotten when another brings all of it."""
    with filling(8 * PAGE) as (arena, filler):
        filler.watch(3 * PAGE)
        filler.fill(2 * PAGE, b"a" * (PAGE + 100))
        filler.publish(2 * PAGE, 3 * PAGE)
        filler.fill(3 * PAGE, b"b" * 2 * PAGE)
        filler.publish(3 * PAGE, 5 * PAGE)
        assert list(populated(arena.mapping.memfd, 0, 8 * PAGE)) == [(2 * PAGE, 3 * PAGE), (4 * PAGE, 5 * PAGE)]
        filler.unwatch(3 * PAGE, 4 * PAGE)
        assert arena.bytes[2 * PAGE : 5 * PAGE] == b"a" * PAGE + b"b" * 2 * PAGE


def test_what_one_process_has_not_mapped_is_filled_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who waits there for the rest is woken, for all of them share the pages."""
    with filling(8 * PAGE) as (_, filler):
        first, base = filler.uffds[0], filler.base
        gone = os.dup(first), os.dup(first)
        filler.uffds[:] = [gone[0], first, gone[1]]
        said: list[tuple[str, int, int, int]] = []

        def copy(fd: int, start: int, source: int, length: int) -> list[tuple[int, int]]:
            said.append(("copy", fd, start - base, length))
            if fd == gone[0]:
                return [(PAGE, 2 * PAGE), (3 * PAGE, 5 * PAGE)]
            return []

        def wake(fd: int, start: int, length: int) -> None:
            said.append(("wake", fd, start - base, length))

        monkeypatch.setattr(_uffd, "copy", copy)
        monkeypatch.setattr(_uffd, "wake", wake)
        filler.fill(PAGE, bytes(6 * PAGE))
        assert said == [
            ("copy", gone[0], PAGE, 6 * PAGE),
            ("wake", first, PAGE, 6 * PAGE),
            ("copy", first, 2 * PAGE, PAGE),
            ("copy", first, 4 * PAGE, 2 * PAGE),
            ("wake", gone[1], PAGE, 6 * PAGE),
        ]


def _resolver(run: Callable[[int], None], **planner: Any) -> Resolver:
    """One without a network: `run` is told of each byte whose page is demanded."""
    resolver = Resolver.__new__(Resolver)
    resolver.__dict__.update(
        base=0,
        size=4 * PAGE,
        pages=SimpleNamespace(rows=bytearray(4)),
        driver=SimpleNamespace(lock=threading.Lock(), run=run),
        planner=SimpleNamespace(
            coming=lambda page: False, demand=lambda at: at, cache=SimpleNamespace(claims=lambda *_: []), **planner
        ),
        options=SimpleNamespace(fault_timeout=300.0),
        failures=[],
        _blocked={},
        _faults=0,
        _say_after=60.0,
        _latest=-1,
        _show_at=math.inf,
    )
    return resolver


def test_a_page_that_no_thread_can_be_had_for_is_asked_for_again() -> None:
    """The system has no more threads, which root cannot have happen: the worker goes on, and `fault_timeout` runs."""
    tries: list[int] = []

    def run(at: int) -> None:
        tries.append(at)
        raise RuntimeError("can't start new thread")

    resolver = _resolver(run)
    resolver.fault(_uffd.Fault(2 * PAGE + 5, 0))
    assert tries == [2 * PAGE + 5]
    assert resolver._blocked[2 * PAGE].why == "can't start new thread"
    resolver.tick()
    assert tries == [2 * PAGE + 5, 2 * PAGE]


def test_the_policy_hears_how_long_a_thread_was_blocked() -> None:
    """As it hears how long a reader waited: what a miss costs decides what is bought. Of the latest access alone."""
    waited: list[float] = []
    resolver = _resolver(lambda at: None, policy=SimpleNamespace(waited=waited.append))
    for page in (2, 3):
        resolver.fault(_uffd.Fault(page * PAGE + 5, 0))
    resolver._came(0, 3 * PAGE)
    assert not waited
    resolver._blocked[3 * PAGE].since -= 5.0
    resolver._came(3 * PAGE, 4 * PAGE)
    assert [round(seconds) for seconds in waited] == [5]
    resolver._came(3 * PAGE, 4 * PAGE)
    resolver.fault(_uffd.Fault(PAGE, 0))
    resolver._blocked[PAGE].failures = 1  # then it tells of the network's failure, not of the line
    resolver._came(PAGE, 2 * PAGE)
    assert len(waited) == 1
