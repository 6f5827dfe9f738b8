"""Link: one attached arena, as the planner of its process sees it. It says what is wanted; the client passes it on."""

from __future__ import annotations

import contextlib
import itertools
import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from hctef._faulting import Mapping
from hctef._locks import Waiter
from hctef._ranges import ByteRange
from hctef._steps import Cancelled
from hctef.pager import wire

if TYPE_CHECKING:
    from hctef.pager.client import Client


class Link:
    """One attached arena, as the planner of this process sees it: see `hctef._residency.Pager`."""

    def __init__(self, client: Client, mapping: Mapping, message: wire.Message, table: int) -> None:
        self.client = client
        self.mapping: Mapping | None = mapping
        self.name: str = message["link"]
        self.message = message
        self.place = mapping.base, mapping.length
        self.descriptors = [mapping.uffd, mapping.memfd, table]
        """Open until the pager was told that the mapping is gone: the order of a teardown is unmap, detach, close."""
        self.room: mmap.mmap | None = None
        """When the mapping is gone: keeps its address taken. Helpers that may still fill it keep it on."""
        self.hint: str | None = None
        self._numbers = itertools.count(1)
        self._holds: dict[int, tuple[int, ByteRange]] = {}
        self._waiting: set[Future[Any]] = set()

    def read(self, wanted: ByteRange, hold: object) -> Future[None]:
        message = {"op": "read", "start": wanted.start, "stop": wanted.stop, "hold": None}
        if hold is not None:
            number = message["hold"] = next(self._numbers)  # an id() may be another object's soon
            self._holds[id(hold)] = number, wanted
        return self._ask(message)

    def prefetch(self, ranges: Sequence[ByteRange], *, wait: bool) -> Future[int]:
        total: Future[int] = Waiter()
        parts = [
            self._ask({"op": "prefetch", "ranges": wire.pack_ranges(batch), "wait": wait})
            for batch in itertools.batched(ranges, wire.MOST_RANGES)
        ]
        left = itertools.count(len(parts) - 1, -1)

        def came(_: Future[Any]) -> None:
            if next(left) > 0:
                return
            try:
                errors = [error for part in parts if (error := part.exception()) is not None]
                count = 0 if errors else sum(part.result()["count"] for part in parts)
            except Exception as error:  # noqa: BLE001  # whatever it is: nobody may wait for ever
                errors, count = [error], 0
            settle(total, count, errors[0] if errors else None)

        for part in parts:
            part.add_done_callback(came)
        if not parts:
            total.set_result(0)
        return total

    def evict(self, start: int, stop: int) -> Future[None]:
        return self._ask({"op": "evict", "start": start, "stop": stop})

    def let_go(self, hold: object) -> None:
        held = self._holds.pop(id(hold), None)
        if held is not None:
            self.client.tell(self, {"op": "let_go", "hold": held[0]})

    def advise(self, hint: str) -> None:
        self.hint = hint
        self.client.tell(self, {"op": "advise", "hint": hint})

    def cancel(self) -> None:
        for future in list(self._waiting):
            settle(future, error=Cancelled())

    def look(self, ranges: Sequence[ByteRange]) -> None:
        """Whole pages were filled here: the pager is to count them among its own."""
        for batch in itertools.batched(ranges, wire.MOST_RANGES):
            self.client.tell(self, {"op": "look", "ranges": wire.pack_ranges(batch)})

    def unmapped(self, mapping: Mapping, room: mmap.mmap) -> None:
        """The mapping's last view is gone, perhaps by the garbage collector. Its descriptors are the client's now."""
        self.room = room
        self.descriptors[:2] = mapping.uffd, mapping.memfd  # in a forked child not what they were
        mapping.uffd = mapping.memfd = -1
        mapping.closed = lambda *_: None
        self.mapping = None
        self.client.tell(self, {"op": "detach"})

    def close(self) -> None:
        """The pager was told that the mapping is gone, or there is none."""
        self.room = None
        descriptors, self.descriptors = self.descriptors, []
        wire.close(descriptors)

    def _ask(self, message: wire.Message) -> Future[Any]:
        future: Future[Any] = Waiter()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        self.client.ask(self, message, future)
        return future

    def again(self) -> Iterator[wire.Message]:
        """What a pager that stands in for another must be told: what is held, and the advice."""
        if self.hint is not None:
            yield {"op": "advise", "link": self.name, "hint": self.hint}
        for number, (start, stop) in list(self._holds.values()):
            yield {"op": "read", "link": self.name, "start": start, "stop": stop, "hold": number}


def settle(future: Future[Any] | None, result: Any = None, error: BaseException | None = None) -> None:
    """Have a future done, unless it is: who waits may have given it up at this moment."""
    if future is None or future.done():
        return
    with contextlib.suppress(InvalidStateError):
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
