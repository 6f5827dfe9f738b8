"""Storing: what of one file is kept on disk (`_disk.py`), and how it comes from there.

What is there needs no request: where pages are absent, the network is asked for what is neither in memory nor on disk
(`local`), and what is on disk becomes claims of its own, which their readers bring as others bring theirs. What came
from the network is on disk before its pages are marked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from hctef._arena import Buffer
from hctef._disk import DiskCache, Keeper
from hctef._intervals import Claim
from hctef._lanes import Lane
from hctef._ranges import PAGE, ByteRange, align
from hctef._steps import Cancelled, Disk, FetchPlan, Fill, PlanGen, Wait
from hctef._transfer import PIECE
from hctef._wishing import Wishing

LOAD_LEAST, LOAD_MOST = 64 * 1024, 4 * 1024 * 1024
"""Bytes that are read from the disk where a page of them is wanted: a read takes longer to begin than to go on. Twice
as many for each that begins where the last one ended."""

LOADED = 1024 * 1024
"""Bytes that are read from the disk at once."""


class Storing(Wishing):
    """The pages of one file that are on disk."""

    # claims

    def _commit(self, claim: Claim, upto: int) -> None:
        """A claim's whole pages before `upto` were filled. Raises Cancelled: nobody wants them any longer."""
        if claim.cancelled or self.closed:
            raise Cancelled
        if upto > claim.at:
            self._arrived(claim.at, upto, ahead=claim.ahead)
            if claim.behind:
                self._wishes.came(upto - claim.at)
            claim.advance(upto)

    def _drop_remnant(self, claim: Claim) -> None:
        """It is of use just once: a claim's pages will be marked, and may be evicted then."""
        if claim.start < self._remnant.stop and self._remnant.start < claim.stop:
            self._remnant = ByteRange(0, 0)

    def _one_by_one(self, claims: tuple[Claim, ...], behind: tuple[Claim, ...]) -> PlanGen[None]:
        """Fetch claims in this reader's own turn. Where one fails, those after it are given back."""
        try:
            for claim in claims:
                yield FetchPlan(claims=(claim,), background=behind)
                behind = ()
                if claim.error is not None:
                    break
        finally:  # of an interrupt between two of them too
            self.cancel(claim for claim in claims if not claim.started)

    def cancel(self, claims: Iterable[Claim]) -> None:
        """Stop transfers at their next piece; those that did not begin are given back at once."""
        for claim in claims:
            claim.cancelled = True
            if not claim.started:
                self.give_back(claim)

    def _raise_first(self, claims: Iterable[Claim]) -> None:
        """Raise the error of the first transfer that failed. One that another reader stopped is not ours: we look
        again."""
        for claim in claims:
            if claim.error is not None and (self.closed or not isinstance(claim.error, Cancelled)):
                raise claim.error

    # to the disk

    @property
    def _stores(self) -> bool:
        """Whether what is asked for from now on is to be stored on disk."""
        disk = self.disk
        return disk is not None and not disk.broken and self.clock() >= disk.since

    def _keeping(self) -> Callable[[int, Buffer], PlanGen[None]] | None:
        """Stores what comes of one transfer that was not begun yet, in order, on disk; None: it is not to."""
        disk = self.disk
        if disk is None or not self._stores:
            return None
        keeper = Keeper(self.size)

        def keep(at: int, data: Buffer) -> PlanGen[None]:
            for start, pages in keeper.pages(at, data):
                if (yield Disk(functools.partial(disk.store, start), pages)):
                    disk.pages.mark(start, start + len(pages))

        return keep

    def _filling(self, lane: Lane) -> tuple[Callable[[int, memoryview], object], list[ByteRange]]:
        """The same for a lane's whole claims that came together: what puts their bytes where they belong, and a list of
        those that it has stored on disk, too."""
        fill, disk, stored = self.arena.fill, self.disk, list[ByteRange]()
        if disk is None or not lane.keeps:
            return fill, stored

        def put(start: int, data: memoryview) -> None:
            fill(start, data)
            if disk.store(start, data):
                stored.append(ByteRange(start, start + len(data)))

        return put, stored

    # from the disk

    def _load(self, claim: Claim) -> PlanGen[None]:
        """Bring a claim's bytes from the disk, up to what is not there as it was stored: whoever wants that asks the
        network, and for the rest again."""
        disk, tail, at = self.disk, self._tail, claim.start
        if self._asked(claim) < claim.stop and tail is not None and tail.open:
            yield Wait(tail.wait_for(tail.start + 1))  # what comes of its first page would be taken for a remnant later
        self._drop_remnant(claim)
        while disk is not None and at < claim.stop:
            stop = min(claim.stop, at + LOADED)
            data: bytes
            data, wrong = yield Disk(functools.partial(disk.load, at, stop))
            if data:
                yield Fill(at, data)
                self.stats.bytes_loaded += len(data)
                at += len(data)
                self._commit(claim, at)
            if wrong:
                self._forget_stored(wrong)
                return

    def _forget_stored(self, wrong: Iterable[ByteRange]) -> None:
        """What is on disk of these pages is of no use."""
        disk = self.disk
        if disk is None:
            return
        for extent in wrong:
            for table in {self.local, disk.pages}:
                for run in list(table.runs(*extent)):
                    table.clear(*run)
            if self.pager is None:
                for run in self.pages.runs(*extent):
                    self.local.mark(*run)

    def _stored(self, missing: Iterable[ByteRange]) -> tuple[Claim, ...]:
        """Claim what of absent runs is on disk, and nobody brings yet."""
        runs = [run for extent in missing for run in self.disk.pages.runs(*extent)] if self.disk is not None else ()
        claims = tuple(self.cache.claim(part) for run in runs for part in self._gaps.free(run))
        for claim in claims:
            claim.stored = claim.sending = claim.urgent = claim.awaited = True
        return claims

    def _near(self, wanted: ByteRange) -> list[ByteRange]:
        """What is absent of a range, and of so many bytes from its start on as are read from the disk at once."""
        start = wanted.start - wanted.start % PAGE
        at, length = self._last_load
        length = min(2 * length if at == start else LOAD_LEAST, LOAD_MOST, self.window)
        stop = min(self.size, max(wanted.stop, start + length))
        self._last_load = (stop, length)
        return self.pages.missing(start, stop)

    def _load_stored(self, missing: Iterable[ByteRange]) -> PlanGen[bool]:
        """Have what is on disk of absent runs in memory. Returns whether there was something that nobody brought."""
        found = False
        while self.pager is None and (claims := self._stored(missing)):
            found = True
            yield from self._one_by_one(claims, ())
            self._raise_first(claims)
            missing = [ByteRange(claim.at, claim.stop) for claim in claims if claim.at < claim.stop]  # behind a flaw
        return found

    def _stored_bytes(self, disk: DiskCache, at: int, stop: int) -> PlanGen[bytes]:
        """Bytes from `at` on, straight from the disk; none where they are not there."""
        end = disk.pages.resident_end(at, min(stop, at + PIECE))
        first, last = align(at, end, self.size)
        if end <= at:
            return b""
        pages: bytes
        pages, wrong = yield Disk(functools.partial(disk.load, first, last))
        self._forget_stored(wrong)
        found = pages[at - first : end - first]
        self.stats.bytes_loaded += len(found)
        return found

    def _unclaimed(self, missing: Iterable[ByteRange]) -> list[ByteRange]:
        """What of absent runs is to be asked of the network, and nobody does yet."""
        if self.disk is not None:
            missing = [run for extent in missing for run in self.local.missing(*extent)]
        return [gap for run in missing for gap in self._gaps.free(run)]
