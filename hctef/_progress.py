"""Progress: when a wait is told of, and what is said. No I/O but the bar's, no thread: drivers call `Watch.tick`.

- A `Watch` is of one operation, which one thread or task waits for: its driver calls `tick` behind each step, and at
  the latest after `patience` seconds where it waits for what others bring. So a caller's function runs in the caller's
  own thread, and what it raises ends the operation as an interrupt does.
- Time counts from the first wait for the network on: what is in memory is never told of, nor what is short.
- `done` is what is not missing any longer: it is reckoned from the page table, whoever brought the pages. What was
  handed on (`took`) is there for good, though its pages were evicted behind the reader.
"""

from __future__ import annotations

import inspect
import logging
import math
import operator
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self

log = logging.getLogger("hctef")

MOMENT = 0.5
"""Seconds that nobody needs to hear of."""

INTERVAL = 0.1
"""Seconds between reports: nobody reads more than ten a second. tqdm's own `mininterval`."""

SHARE = 9
"""Times that a report took, before the next one: all of them take a tenth of the time at the most."""

NAME_LENGTH = 40
"""Characters of a bar's description: an 80-column terminal has room for as many beside the bar."""

type Progress = bool | Callable[[int, int], object] | None


class Shown(Protocol):
    """Who is told."""

    def __call__(self, done: int, total: int) -> object:
        """Bytes."""

    def close(self) -> None:
        """The operation is over, well or not."""


class Watch:
    """One operation, told of while it lasts. Entered again inside of itself, it ends with the outermost `with`."""

    __slots__ = ("_began", "_clock", "_depth", "_due", "_last", "_left", "_missing", "_shown", "taken", "total")

    def __init__(
        self,
        shown: Shown,
        missing: Callable[[int, int], int],
        ranges: Iterable[tuple[int, int]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`missing(start, stop)`: bytes of it that are absent. `ranges`: what is wanted, in the order in which it is
        handed on; they may be told later (`expect`), and nothing is shown before."""
        self._shown, self._missing, self._clock = shown, missing, clock
        self._left: deque[tuple[int, int]] = deque()
        self.taken = self.total = 0
        """Bytes that were handed on; of all."""
        self._began: float | None = None
        self._due = math.inf
        self._last = -1
        self._depth = 0
        self.expect(ranges)

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """What the operation consists of, where nobody has said so yet."""
        if not self.total:
            self._left.extend(ranges)
            self.total = sum(stop - start for start, stop in self._left)

    def took(self, count: int) -> None:
        """So many bytes more were handed on."""
        self.reach(self.taken + count)

    def reach(self, taken: int) -> None:
        """So many bytes in all were."""
        while self.taken < taken and self._left:
            start, stop = self._left.popleft()
            count = min(taken - self.taken, stop - start)
            self.taken += count
            if start + count < stop:
                self._left.appendleft((start + count, stop))

    def keep(self, start: int, stop: int) -> None:
        """Nothing but `[start, stop)` is wanted any longer."""
        self._left = deque([(start, stop)])
        self.taken = self.total - (stop - start)

    # while it lasts

    def begin(self) -> None:
        """It waits for the network."""
        if self._began is None:
            self._began = self._clock()
            self._due = self._began + MOMENT

    def tick(self) -> None:
        """Tell, where it is time to. What it raises is of whom it tells: the operation is to end."""
        if self._clock() >= self._due:
            self._tell()

    @property
    def over(self) -> bool:
        """Whether who is told raised, which is to end the operation."""
        return self._began is not None and self._due == math.inf

    @property
    def patience(self) -> float | None:
        """Seconds until `tick` has something to do; None: it never will."""
        return None if self._due == math.inf else max(0.0, self._due - self._clock())

    def _tell(self, *, ended: bool = False) -> None:
        began, self._due = self._clock(), math.inf  # who raises is told nothing more
        if self.total:
            done = self.total if ended else self.total - sum(self._missing(*extent) for extent in self._left)
            if done > self._last or not ended:
                self._last = max(self._last, done)
                self._shown(self._last, self.total)
        now = self._clock()
        self._due = math.inf if ended else now + max(INTERVAL, SHARE * (now - began))

    # its ends

    def __enter__(self) -> Self:
        self._depth += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        try:
            if kind is None and self._began is not None and self._clock() >= self._began + MOMENT:
                self._tell(ended=True)
        finally:
            self._shown.close()


class Told:
    """A function of the caller's."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[int, int], object]) -> None:
        self._function = function

    def __call__(self, done: int, total: int) -> None:
        self._function(done, total)

    def close(self) -> None:
        """It hears of the last byte, or of none."""


class Bar:
    """A bar of tqdm's, drawn when there is something to show. It leaves no line: a loop of reads would leave one for
    each."""

    __slots__ = ("_bar", "_load", "_name")

    def __init__(self, name: Callable[[], str], load: Callable[[], Any]) -> None:
        """`name`: returns the file's, without credentials. `load`: returns tqdm's class, or None."""
        self._name, self._load = name, load
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            if sys.stderr is None or getattr(sys.stderr, "closed", False):  # a service: nobody would see it
                return
            make = self._load()
            if make is None:
                return
            # `initial`: the rate is that of what comes from now on.
            # `miniters`, `mininterval`: each report is drawn. tqdm would wait for as many bytes as came at its best.
            look = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False}
            look |= {"miniters": 0, "mininterval": 0}
            self._bar = make(total=total, initial=done, desc=self._name(), **look)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


_lacking: list[str] = []


def load_tqdm() -> Any:
    """The bar that fits a terminal or a notebook; None where tqdm is not installed, which is said once."""
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415  # an extra, and slow to import
    except ImportError as error:
        if not _lacking:
            _lacking.append(str(error))
            log.warning("progress=True shows nothing: pip install tqdm (%s)", error)
        return None

    def display(self: Any, *given: Any, **named: Any) -> Any:
        try:
            return tqdm.display(self, *given, **named)
        except OSError as error:
            if error.errno is None:  # not the system's: a signal handler raised it
                raise
            self.disable = True  # stderr is full, or a pipe that nobody reads: no read fails for that
            return False

    # Its thread that draws what is overdue would outlive the bar, and make each fork one beside threads.
    return type("tqdm", (tqdm,), {"monitor_interval": 0, "display": display})


def short_name(url: str) -> str:
    """What to call a file: the last part of its URL, which has no query any longer."""
    name = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    return name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}"


# the option


def checked_progress(value: Any) -> Progress:
    """The option's value; False is None. Raises TypeError."""
    if value is None or value is False:
        return None
    if value is True:
        return True
    if not callable(value):
        raise TypeError(f"progress must be True, None or a callable(done, total), not {type(value).__name__}")
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004
        raise TypeError("progress must be a plain function, not an async one: nobody would await it")
    return value  # type: ignore[no-any-return]  # callable


def portable(progress: Progress) -> bool:
    """Whether a pickle takes it along: functions that a module has by their name. Others (lambdas, methods of a widget)
    belong to this process, and nobody would hear them there."""
    if not callable(progress):
        return True
    try:
        module = sys.modules[progress.__module__]
        return operator.attrgetter(progress.__qualname__)(module) is progress
    except (AttributeError, KeyError, TypeError):
        return False
