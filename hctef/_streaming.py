"""Streaming: one long pass over a file, past the memory that others read by."""

from __future__ import annotations

from typing import Any

from hctef._delivery import Delivery
from hctef._ranges import PAGE
from hctef._steps import Deliver, FetchPlan, PlanGen
from hctef._transfer import PIECE, Sink


class Streaming(Delivery):
    """The streams of one file."""

    def stream(self, start: int, stop: int) -> PlanGen[None]:
        """Deliver `[start, stop)` in order. Resident bytes come from memory, others from the network and are not
        kept."""
        at = start

        def advance(to: int) -> None:
            nonlocal at
            at = to
            self._check_open()

        sink = Sink(lambda _, data: Deliver(bytes(data)), passes=True)
        while at < stop:
            self._check_open()
            self._spring(at, stop)
            end = self.pages.resident_end(at, min(stop, at + PIECE))
            if end > at:
                data = self.arena.bytes[at:end]
                at = end
                yield Deliver(data)
                continue
            claims = self.cache.claims(at, stop)
            if claims and claims[0].at <= at:
                self.stats.waits += 1
                yield FetchPlan(wait=(claims[0].wait_for(min(stop, claims[0].stop, at + PAGE)),))
                continue
            if self.disk is not None and (data := (yield from self._stored_bytes(self.disk, at, stop))):
                at += len(data)
                yield Deliver(data)
                continue
            absent = self.pages.missing_end(at - at % PAGE, self.local.missing_end(at - at % PAGE, stop))
            end = min(absent, claims[0].at if claims else stop)
            yield from self._lending(self.requester.fetch(at, end, sink, advance))

    def _lending(self, fetching: PlanGen[None]) -> PlanGen[None]:
        """Fetch in a turn of its own, which others have while the caller looks at what was delivered: he may read
        meanwhile, or have other streams that he goes on with."""
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                if fetching not in self._slots.holders and error is None:
                    yield from self._slots.acquire(fetching)
                try:
                    step = fetching.send(value) if error is None else fetching.throw(error)
                except StopIteration:
                    return
                if type(step) is Deliver:
                    self._slots.holders.discard(fetching)
                    self._slots.give()
                value = error = None
                try:
                    value = yield step
                except BaseException as raised:  # noqa: BLE001  # raised again by what is fetching
                    error = raised
        finally:
            error = None  # its traceback holds this frame
            self._slots.holders.discard(fetching)
            self._slots.give()
