"""Workers: the threads that bring what readers do not bring themselves."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from hctef._locks import Condition

log = logging.getLogger("hctef")

PATIENCE = 0.005
"""Seconds in which something gets done on a near line."""
IDLE_SECONDS = 5.0  # a thread's start costs about 50 us: not worth keeping one for long


class Workers:
    """Threads for transfers that run beside the caller. Daemons: a program's end does not wait for a prefetch.

    There are as many as are worth it (`enough`), and more, up to `most`, one after the other, while nothing gets done:
    a server that was quick may keep them all waiting.
    """

    def __init__(self, most: int, enough: Callable[[], int]) -> None:
        self._most, self._enough = most, enough
        self.done = 0
        """Requests ever answered, to see whether anything gets done."""
        self._tasks: deque[Callable[[], None]] = deque()
        self._changed = Condition()
        self._idle = 0
        self._count = 0
        self._patient = False
        """One of the threads waits for that."""
        self._closed = False

    def close(self, *, garbage: bool = False) -> None:
        """Threads end when nothing is left to do, and are not kept for more. `garbage`: called by the garbage
        collector, perhaps inside of a call of this object's: the idle ones hear of it when their time is over."""
        self._closed = True
        if not garbage:
            with self._changed:
                self._changed.notify_all()

    def submit(self, tasks: Sequence[Callable[[], None]], *, urgent: bool = False) -> None:
        """Have them done soon, in this order; `urgent`: before those that wait already. Raises RuntimeError: there is
        no thread, and none can be started."""
        with self._changed:
            if urgent:
                self._tasks.extendleft(reversed(tasks))
            else:
                self._tasks.extend(tasks)
            self._changed.notify(len(tasks))
            lacking = len(self._tasks) - self._idle
        for _ in range(min(lacking, len(tasks))):
            with self._changed:
                patient = self._reckon()
            if patient is None:
                return
            try:
                self._start(patient)
            except RuntimeError:  # no thread: after a KeyboardInterrupt there is one, which may have taken the task
                with self._changed:
                    if self._count == 0:  # nobody would ever do them
                        self._tasks = deque(task for task in self._tasks if task not in tasks)
                        raise
                log.warning("no further thread could be started: the transfer waits for its turn")
                return

    def _reckon(self) -> bool | None:
        """Under the lock: whether the next thread, which is counted, is to be patient; None: there is to be none."""
        if self._count >= self._most or self._patient:
            return None
        self._patient = self._count >= self._enough()
        self._count += 1
        return self._patient

    def _start(self, patient: bool) -> None:
        """A thread that was counted."""
        try:
            threading.Thread(target=self._work, args=(patient,), name="hctef-transfer", daemon=True).start()
        except RuntimeError:
            with self._changed:
                self._count -= 1
                self._patient = self._patient and not patient
            raise

    def _is_needed(self) -> bool:
        """In a patient thread: wait until nothing gets done. False: there is nothing left to do, and it may end."""
        while True:
            before = self.done
            time.sleep(PATIENCE)
            with self._changed:
                if not self._tasks:
                    self._count -= 1
                    self._patient = False
                    return False
                if self.done > before:
                    continue
                self._patient = False
                another = self._reckon()
            if another is not None:
                with contextlib.suppress(RuntimeError):  # then there are as many as there can be
                    self._start(another)
            return True

    def _work(self, patient: bool) -> None:
        if patient and not self._is_needed():
            return
        while True:
            with self._changed:
                if not self._tasks:
                    self._idle += 1
                    self._changed.wait_for(lambda: self._tasks or self._closed, IDLE_SECONDS)
                    self._idle -= 1
                if not self._tasks:
                    self._count -= 1
                    return
                task = self._tasks.popleft()
            task()
            del task
