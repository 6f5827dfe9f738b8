"""Locks that no interrupt leaves held.

A signal's handler, KeyboardInterrupt's too, runs in the main thread between two bytecodes, where a call has returned.
So it may come between `lock.acquire()` and the `try` behind it, and into the `__enter__` and `__exit__` of
`threading.Condition`, which are written in Python: the lock would stay held, and whoever wants it would hang. Nothing
comes between the `__enter__` of a lock that is written in C and its block. Here is what is built on that.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import compress
from operator import methodcaller
from typing import Any

BRIEF = 0.01
"""Seconds, for which no lock is held: what is done under one waits for nothing."""


class Condition(threading.Condition):
    """One whose `with` is that of its lock, an RLock."""

    __enter__: Any = property(lambda self: self._lock.__enter__)  # looked up, they are the lock's own
    __exit__: Any = property(lambda self: self._lock.__exit__)

    def wait(self, timeout: float | None = None) -> bool:
        try:
            return super().wait(timeout)
        except BaseException:  # raised again: an interrupt may have come when the lock was given up
            lock: Any = self._lock  # type: ignore[attr-defined]  # threading's
            if not lock._is_owned():
                lock.acquire()
            raise


class Event(threading.Event):
    """One that a wait which is interrupted leaves usable."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = Condition()


class Waiter(Future[Any]):
    """A future whose waiting may be interrupted: whoever sets it, holding a file's lock perhaps, is not held up."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()


def if_free(lock: Any, action: Callable[[], object], timeout: float = 0.0) -> bool:
    """Do it under a lock, where that is had within `timeout` seconds (-1: whenever it is). Whether it was done."""
    held: list[bool] = []
    try:
        held.extend(map(lock.acquire, (True,), (timeout,)))  # in C: no interrupt comes between the lock and the list
        if held[0]:
            action()
    finally:
        if held and held[0]:
            lock.release()
    return held[0]


def patience() -> float:
    """Seconds to wait for a lock, for `if_free`, where a generator ends. The garbage collector may be who throws it
    away, inside of what this very thread does under that lock; another thread holds one for less."""
    return BRIEF if isinstance(sys.exception(), GeneratorExit) else -1.0


def take(lock: Any, held: list[Any]) -> None:
    """Acquire a lock. It is in `held` where it was acquired, whatever interrupts this."""
    held.extend(compress((lock,), map(lock.acquire, (True,))))


def release_all(held: list[Any]) -> None:
    """Release what `take` acquired, and forget it, each at once."""
    with contextlib.suppress(IndexError):  # none is left
        deque(map(methodcaller("release"), iter(held.pop, None)), 0)
