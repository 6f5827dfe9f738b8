"""Opening a file: one request tells the size and the validator, and brings the bytes that are likely to be read first.

`prefetch_bytes` larger than 64 KiB come as the 64 KiB nearest to the file's end (or start) first and the rest behind
the reader: a cold connection needs several round trips of slow start for a MiB (RFC 6928), one for little.
Servers that refuse or ignore suffix ranges are asked for `bytes=0-0`, then for the tail by its positions.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping

from hctef._disk import DiskCache, holds, open_cache
from hctef._http import (
    Head,
    Part,
    check_version,
    check_whole,
    parse_part,
    range_header,
    settles_in,
    status_error,
    suffix_header,
)
from hctef._intervals import Claim
from hctef._lanes import Lane
from hctef._planner import Planner
from hctef._progress import Watch
from hctef._ranges import PAGE, ByteRange
from hctef._retries import TransportError
from hctef._steps import NOTHING, Disk, Drop, Fill, PlanGen, Receive, Step
from hctef._transfer import PIECE, Sink
from hctef._urls import cache_name
from hctef.exceptions import HctefNetworkError, RangeRequestsUnsupportedError, RemoteFileChangedError

FIRST_BYTES = 64 * 1024
"""The most that an opening asks for first: footers of Parquet and ZIP are read by as many."""
FIRST_WINDOW = 14 * 1024
"""Bytes that come in the round trip of the response's head (RFC 6928): more is not waited for on a far line."""


class Opening:
    """The opening of one file. Used once."""

    def __init__(self, planner: Planner, watch: Watch | None = None) -> None:
        """`watch` hears of a download of all of the file, where its length is known."""
        options = planner.options
        self._planner = planner
        self._watch = watch
        self._requester = planner.requester
        self._options = options
        self._attempts = planner.requester.attempts()
        self._lane = Lane(Claim(0, 0))  # its claim is known when the size is
        self._from_end = options.prefetch_direction == "END"
        self._furthest = 0
        """Bytes of the whole file that any attempt to download it brought."""
        self._want = max(options.minimum_range_request_bytes, min(options.prefetch_bytes, FIRST_BYTES))
        if not self._from_end:
            self._want = -(-self._want // PAGE) * PAGE

    def run(self) -> PlanGen[None]:
        """Open: afterwards the size is known, and what came is in the arena.

        Raises:
            RangeRequestsUnsupportedError, RemotePermissionError, RemoteFileNotFoundError, HctefNetworkError: see there.
        """
        try:
            yield from self._by_range()
        except HctefNetworkError as error:
            # With 200 it was the whole file already.
            useless = isinstance(error, RangeRequestsUnsupportedError) or error.status in (416, 501)
            if not useless or error.status == 200 or self._options.on_no_range == "error":
                raise
            yield from self._no_range((yield from self._whole()))

    def _by_range(self) -> PlanGen[None]:
        if self._options.cache_path and (yield from self._is_kept()):
            self._want = self._options.minimum_range_request_bytes
        header = suffix_header(self._want) if self._from_end else range_header(0, self._want)
        head = yield from self._ask(header)
        tail: int | None = None  # the size, where only the tail is still to be asked for
        if head.status == 206:
            part = parse_part(head, self._where)
            if part.size is None:
                return (yield from self._hidden_size(head, part))
            if self._as_asked(part):
                return (yield from self._take(head, part))
            if not self._from_end:
                message = f"{self._where}: the server sent [{part.extent.start}, {part.extent.stop}) instead"
                raise HctefNetworkError(message, status=206)
            tail = part.size
        elif head.status == 200:
            if head.length == 0 and not head.coded:
                return self._empty(head)
            if not self._from_end or head.length is None:
                return (yield from self._no_range(head))
            tail = head.length
        elif head.status == 416:
            tail = head.unsatisfied_size()
            if tail == 0:
                return self._empty(head)
        elif head.status != 501 or not self._from_end:
            raise self._error(head)
        if tail is None or not self._from_end:
            tail = yield from self._probe()
        if tail:
            yield from self._tail(tail)

    def _probe(self) -> PlanGen[int | None]:
        """The size by `bytes=0-0`; None where that settled it already."""
        head = yield from self._ask(range_header(0, 1))
        if head.status == 206:
            part = parse_part(head, self._where)
            if part.extent != ByteRange(0, 1):
                message = f"{self._where}: asked for its first byte, the server sent {tuple(part.extent)}"
                raise HctefNetworkError(message, status=206)
            if part.size is None:
                yield from self._hidden_size(head, part)
                return None
            return part.size
        if head.status == 416:
            if head.unsatisfied_size() != 0:
                head = yield from self._whole()
                while (is_empty := (yield from self._is_empty(head))) is None:
                    head = yield from self._whole()
                if not is_empty:
                    message = f"{self._where}: the server answers 416 to every range, and has bytes all the same"
                    raise RangeRequestsUnsupportedError(message, status=416)
            self._empty(head)
            return None
        if head.status == 200:
            if head.length == 0 and not head.coded:
                self._empty(head)
            else:
                yield from self._no_range(head)
            return None
        raise self._error(head)

    def _whole(self) -> PlanGen[Head]:
        """The head of a 200 to a request without a range."""
        head = yield from self._requester.ask(self._attempts, {}, self._where)
        if head.status != 200:
            raise self._error(head)
        return head

    def _is_empty(self, head: Head) -> PlanGen[bool | None]:
        """Whether a 200 is of an empty file; None: it was cut before that could be told."""
        if head.coded or head.length is not None:
            return head.length == 0 and not head.coded
        try:
            if (yield Receive(1)):
                return False
            if not head.framed:
                yield from self._check_end(head, 0)
        except TransportError as error:
            yield from self._requester.again(self._attempts, error, self._where)
            return None
        return True

    def _tail(self, size: int) -> PlanGen[None]:
        """Ask for the last bytes of a file of `size` bytes by their positions."""
        start = max(0, size - self._want)
        head = yield from self._ask(range_header(start, size))
        if head.status == 200:
            return (yield from self._no_range(head))
        now = head.unsatisfied_size() if head.status == 416 else size
        if head.status == 206:
            part = parse_part(head, self._where)
            if part.size is None:
                return (yield from self._hidden_size(head, part))
            now = part.size
        if now not in (None, size):
            raise RemoteFileChangedError(f"{self._where}: the file changes: it had {size} bytes, now {now}")
        if head.status != 206:
            raise self._error(head)
        if part.extent.start != start:
            message = f"{self._where}: asked for [{start}, {size}), the server sent {tuple(part.extent)} of {part.size}"
            raise HctefNetworkError(message, status=206)
        yield from self._take(head, part)

    def _as_asked(self, part: Part) -> bool:
        (start, stop), size = part.extent, part.size
        if size is None:
            return False
        if self._from_end:
            return stop == size and start >= max(0, size - self._want)
        return start == 0 and stop <= min(self._want, size)

    def _take(self, head: Head, part: Part, came: bytes | None = None) -> PlanGen[None]:
        """Put the response's bytes into the arena, behind the opening where the line is long, and then prefetch the
        rest."""
        planner, requester = self._planner, self._requester
        size = part.size or part.extent.stop
        self._begin(head, size, (yield from self._kept(head, size)))
        start, stop = part.extent
        lane, commit = self._lane, planner.keep_tail(self._lane, start, stop)
        if came is not None:
            yield from planner.arena_sink().store(start, came)
            commit(stop)
            planner.give_back(lane.claim)
            yield from self._rest()
        elif requester.link.near or stop - start <= FIRST_WINDOW:
            try:
                yield from self._body(head, part, commit)
            finally:
                planner.give_back(lane.claim)
            yield from self._rest()
        else:
            lane.begin(pipelines=head.pipelines)  # now: its thread may begin after the first read
            yield from planner.beside(lane, self._behind(head, part, commit))

    def _is_kept(self) -> PlanGen[bool]:
        """Whether something of the file, perhaps of another version, is on disk: its end is not to be fetched then."""
        url, directory = self._requester.url or (yield from self._requester.resolve()), self._options.cache_path
        found: bool = yield Disk(functools.partial(holds, directory, cache_name(url)))
        return found

    def _kept(self, head: Head, size: int) -> PlanGen[DiskCache | None]:
        """What is on disk of the version that was opened, and will be put there."""
        url, directory = self._requester.url, self._options.cache_path
        if not directory or url is None or self._options.validate != "strict" or (wait := settles_in(head)) is None:
            return None
        since = self._planner.clock() + wait
        disk: DiskCache | None = yield Disk(
            functools.partial(open_cache, directory, cache_name(url), head.validator, size, since, newest=True)
        )
        return disk

    def _behind(self, head: Head, part: Part, commit: Callable[[int], None]) -> PlanGen[None]:
        yield from self._body(head, part, commit)
        if not self._planner.closed:
            yield from self._rest()

    def _body(self, head: Head, part: Part, commit: Callable[[int], None]) -> PlanGen[None]:
        requester, sink, (start, stop) = self._requester, self._planner.arena_sink(), part.extent
        at = yield from requester.body(self._attempts, head, start, stop, sink, commit, self._lane)
        if at < stop:
            yield from requester.fetch(at, stop, sink, commit, self._lane)

    def _rest(self) -> PlanGen[None]:
        """Start the rest of the prefetch."""
        planner = self._planner
        more = min(self._options.prefetch_bytes, self._options.max_resident_bytes or planner.size)
        if more > self._want:
            rest = ByteRange(planner.size - more, planner.size) if self._from_end else ByteRange(0, more)
            wanted = ByteRange(max(0, rest.start), min(rest.stop, planner.size))
            yield from planner.prefetch([wanted], wait=False)

    def _hidden_size(self, head: Head, part: Part) -> PlanGen[None]:
        """The server says `*` for the size: take the bytes, and learn it from where they end, or by HEAD."""
        requester, (start, stop) = self._requester, part.extent
        if stop - start > self._want:
            message = f"{self._where}: asked for {self._want} bytes, the server sends {stop - start} and hides the size"
            raise RangeRequestsUnsupportedError(message, status=206, reason="content-range-hidden")
        pieces: list[bytes] = []

        def put(_: int, data: bytes | memoryview) -> Step:
            pieces.append(bytes(data))
            return NOTHING

        at = yield from requester.body(self._attempts, head, start, stop, Sink(put), lambda _: None)
        if at < stop:
            message = f"{self._where}: the body was cut before the size was known"
            raise HctefNetworkError(message, status=206)
        size = yield from self._end_behind(head, stop)
        if size is None:
            with contextlib.suppress(HctefNetworkError):  # HEAD is forbidden, or hangs: then it tells nothing
                answer = yield from requester.ask(self._attempts, {}, self._where, method="HEAD", retry=False)
                if answer.status == 200 and not answer.coded and head.validator.agrees(answer.validator):
                    size = answer.length
        if size is None or size < stop:
            message = f"{self._where}: the server hides the file's size (Content-Range …/*), and HEAD does not tell it"
            raise RangeRequestsUnsupportedError(message, status=206, reason="content-range-hidden")
        yield Drop()
        requester.size_hidden = True
        yield from self._take(head, Part(part.extent, size), b"".join(pieces))

    def _end_behind(self, head: Head, at: int) -> PlanGen[int | None]:
        """Where the file ends whose response with `head` ended at `at`, as far as further requests tell: a server may
        have cut what it sent, but where it has no byte at all behind another, there is none. Raises
        RemoteFileChangedError: they are answered with another version."""
        least, strict = self._options.minimum_range_request_bytes, self._options.validate == "strict"
        conditions = head.validator.conditions if strict else {}
        for _ in range(2):  # an end, perhaps, and whether it is one
            probe = yield from self._ask(range_header(at, at + least), conditions)
            if probe.status == 412:
                raise self._error(probe)
            if strict and (probe.status in (200, 206) or head.validator.contradicts(probe.validator)):
                check_version(head.validator, probe, self._where)
            if probe.status == 416:
                return at if probe.unsatisfied_size() in (None, at) else None
            if probe.status != 206:
                return None
            (start, stop), size = parse_part(probe, self._where)
            if size is not None or start != at or stop >= at + least:
                return size
            at = stop
        return None

    def _no_range(self, head: Head) -> PlanGen[None]:
        """A 200 to a Range request: an error, or the whole stream into the arena."""
        if self._options.on_no_range == "error":
            raise status_error(head, self._where)
        check_whole(head, self._where)
        while not (yield from self._download(head)):
            again = yield from self._whole()
            check_whole(again, self._where)
            check_version(head.validator, again, self._where)
            head = again

    def _download(self, head: Head) -> PlanGen[bool]:
        """The body of a 200 into the arena; False where it was cut, so that it must be asked for again."""
        planner, limit, size = self._planner, self._options.max_resident_bytes, head.length
        if limit is not None and (size or 0) > limit:
            raise RangeRequestsUnsupportedError(
                f"{self._where}: {size} bytes are more than max_resident_bytes, and without ranges all have to stay",
                status=200,
            )
        if size is not None:
            self._begin(head, size)
            if self._watch is not None:
                self._watch.expect([(0, size)])
        whole, at = bytearray(), 0
        try:
            while size is None or at < size:
                data: bytes = yield Receive(PIECE if size is None else min(PIECE, size - at))
                if not data and size is None:
                    break
                if not data:
                    raise TransportError(f"the body ended {size - at} bytes early" if size else "the body ended early")
                planner.stats.bytes_fetched += len(data)
                if size is None:
                    whole += data  # nobody knows how much will come: the arena is made when it is all here
                    if limit is not None and len(whole) > limit:
                        message = f"{self._where}: more bytes come than max_resident_bytes"
                        raise RangeRequestsUnsupportedError(message, status=200)
                else:
                    yield Fill(at, data)
                at += len(data)
                if at > self._furthest:  # else it begins anew each time, and gets nowhere
                    self._attempts.progress(at - self._furthest)
                    self._furthest = at
                    if self._watch is not None:
                        self._watch.reach(at)
            if not head.framed:
                yield from self._check_end(head, at)
        except TransportError as error:
            yield from self._requester.again(self._attempts, error, self._where)
            return False
        if size is None:
            self._begin(head, at)
            for begin in range(0, at, PIECE):  # never so much at once that an event loop would notice
                yield Fill(begin, bytes(whole[begin : begin + PIECE]))
        if at:
            planner.mark(0, at)
            planner.keep(0, at)  # it could not be fetched again in parts
        return True

    def _check_end(self, head: Head, size: int) -> PlanGen[None]:
        """A body of `size` bytes ended with its connection, which may have been cut: a HEAD tells, where it tells a
        length. Raises TransportError: it is another."""
        with contextlib.suppress(HctefNetworkError):  # it is forbidden, or hangs: then it tells nothing
            answer = yield from self._requester.ask(self._attempts, {}, self._where, method="HEAD", retry=False)
            if answer.status == 200 and answer.length not in (None, size) and not answer.coded:
                raise TransportError(f"the body ended with the connection after {size} of {answer.length} bytes")

    def _empty(self, head: Head) -> None:
        self._begin(head, 0)

    def _begin(self, head: Head, size: int, disk: DiskCache | None = None) -> None:
        self._requester.validator = head.validator
        try:
            self._planner.begin(size, disk)
        except (OSError, OverflowError, ValueError, MemoryError) as error:
            message = f"{self._where}: no address space for the {size} bytes that the server says it has: {error}"
            raise HctefNetworkError(message, status=head.status) from error

    def _ask(self, header: str, conditions: Mapping[str, str] | None = None) -> PlanGen[Head]:
        extra = {"Range": header, **(conditions or {})}
        return self._requester.ask(self._attempts, extra, self._where, lane=self._lane)

    def _error(self, head: Head) -> HctefNetworkError:
        return status_error(head, self._where, hint=self._requester.hint if head.status in (401, 403) else "")

    @property
    def _where(self) -> str:
        return self._requester.where()
