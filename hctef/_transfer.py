"""Requester: one verified exchange after the other with the server of one file.

It follows redirects, renews expired URLs and headers, asks again where the policy lets it, and believes no response
that it has not checked: status, Content-Range, length, size and validator (RFC 9110 sections 13 to 15). No I/O: it
yields steps.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping

from hctef._heads import Expected, Likeness
from hctef._http import (
    CHANGED_HINT,
    EXPIRED,
    REDIRECTS,
    Head,
    Part,
    Validator,
    check_version,
    checked_headers,
    parse_part,
    range_header,
    redirect_target,
    request_headers,
    status_error,
)
from hctef._lanes import Lane
from hctef._link import Link
from hctef._options import Options, UrlSource
from hctef._ranges import ByteRange
from hctef._retries import Attempts, TransportError, brief, redirects, retry_policy
from hctef._stats import Stats
from hctef._steps import Ahead, Call, PlanGen, Receive, Send, Sleep, Step
from hctef._urls import Url, parse_url
from hctef.exceptions import HctefNetworkError, HctefUrlError, RangeRequestsUnsupportedError, RemoteFileChangedError

log = logging.getLogger("hctef")

PIECE = 256 * 1024
"""Bytes asked of the transport at once: beyond that a recv gains nothing, and waiters are served the sooner."""


LARGE_PIECE = 1024 * 1024
"""The same where a round trip is short, and the last piece came fast."""
FAST = 100e6
"""Bytes/s: a piece that is waited for as a whole takes some milliseconds, and a server that stalls is noticed."""


class Sink:
    """Where the bytes of a body go. `put` makes the step that stores a piece; `room`, where it has any, is where they
    can be received instead."""

    __slots__ = ("_end", "_keep", "_least", "_staging", "passes", "put", "room")

    def __init__(
        self,
        put: Callable[[int, bytes | memoryview], Step],
        room: Callable[[int, int, int], memoryview | None] | None = None,
        *,
        end: int = 0,
        least: int = 1,
        passes: bool = False,
        keep: Callable[[int, bytes | memoryview], PlanGen[None]] | None = None,
    ) -> None:
        """`end`: up to there all will come. `least`: bytes to wait for, each time. `passes`: they are handed on as they
        come, and not kept. `keep`: what else is done with each piece."""
        self.put, self.room, self._end, self._least, self.passes, self._keep = put, room, end, least, passes, keep
        self._staging: memoryview | None = None

    def take(self, at: int, limit: int, *, whole: bool) -> PlanGen[int]:
        """Receive at most `limit` bytes, which belong at `at`; `whole`: as many, where so many are left. Returns how
        many came, 0 at the body's end."""
        if self.room is None:
            data: bytes = yield Receive(limit)
            if data:
                yield from self.store(at, data)
            return len(data)
        into = self.room(at, at + limit, self._end)
        direct = into is not None
        if into is None:
            if self._staging is None or len(self._staging) < limit:
                self._staging = memoryview(bytearray(limit))
            into = self._staging[:limit]
        count: int = yield Receive(len(into), into, len(into) if whole else self._least)
        if count and not direct:
            yield self.put(at, into[:count])
        if count and self._keep is not None:
            yield from self._keep(at, into[:count])
        return count

    def store(self, at: int, data: bytes | memoryview) -> PlanGen[None]:
        """Put bytes that were received elsewhere."""
        yield self.put(at, data)
        if self._keep is not None:
            yield from self._keep(at, data)


class Requester:
    """The server's side of one file: where it is, what version it is, how it is asked."""

    def __init__(
        self, source: UrlSource, options: Options, stats: Stats, link: Link, clock: Callable[[], float]
    ) -> None:
        """Raises HctefUrlError: `source` is neither an http(s) URL nor callable."""
        self.link = link
        self._clock = clock
        self._source = source
        self._options = options
        self.stats = stats
        self._policy = retry_policy(options.retries)
        self._redirects = redirects(self._policy)
        self._url: Url | None = None if callable(source) else parse_url(source)
        self._target: Url | None = None
        self.size = 0
        self.size_hidden = False
        """The server says `*` in place of the size; it was learnt in another way."""
        self.validator = Validator()
        self._later = Validator()
        """An ETag that came with a later response, where there was none on opening."""
        self._likeness = Likeness()
        self.hint = ""
        """What to say beside a 401 or 403: a copy that came by pickle lacks its credentials."""

    @property
    def url(self) -> Url | None:
        """The URL as last resolved; None before a callable was first asked."""
        return self._url

    def adopt(self, url: Url, target: Url | None, validator: Validator, size: int, hidden: bool) -> None:
        """Go on where another process's requester is: the file was opened there."""
        self._url, self._target, self.validator = url, target, validator
        self.size, self.size_hidden = size, hidden

    @property
    def target(self) -> Url | None:
        """Where a redirect led last."""
        return self._target

    def where(self, start: int | None = None, stop: int | None = None) -> str:
        """The file, and the range, for messages."""
        safe = self._url.safe if self._url else "(a URL that is not resolved yet)"
        return safe if start is None else f"{safe} [{start}, {stop})"

    def attempts(self) -> Attempts:
        return Attempts(self._policy)

    def conditions(self) -> dict[str, str]:
        return self.validator.conditions if self._options.validate == "strict" else {}

    def ask(
        self,
        attempts: Attempts,
        extra: Mapping[str, str],
        where: str,
        *,
        method: str = "GET",
        retry: bool = True,
        lane: Lane | None = None,
        expects: Expected | None = None,
    ) -> PlanGen[Head]:
        """Send a request until an answer comes that is no redirect, no "later" and no expired credential.

        `lane`: what is to be asked for in the same way next; `expects`: see `Send`.

        Raises:
            HctefNetworkError: the policy allows no further attempt, or the redirects do not end.
        """
        options, hops, renewed = self._options, 0, False
        url = self._url or (yield from self.resolve())
        target = self._target or url
        while True:
            headers = options.headers
            own = checked_headers((yield Call(headers)) if callable(headers) else headers)
            self.stats.requests += 1
            try:
                sent = request_headers(own, url, target, extra)
                began = self._clock()
                foreign = target.origin != url.origin
                then = None
                if lane is not None and not callable(headers):
                    lane.like = functools.partial(self._like, target.request, sent, foreign)
                    then = lane.following
                head: Head = yield Send(method, target.request, sent, foreign, then, expects=expects)
            except TransportError as error:
                if not retry:
                    raise HctefNetworkError(f"{where}: {error}") from error
                yield from self.again(attempts, error, where)
                self._target, target, hops = None, url, 0
                continue
            log.debug("%s: %s %s -> %d", where, method, extra.get("Range", ""), head.status)
            if head.status in REDIRECTS:
                hops += 1
                if hops > self._redirects:
                    why = "do they go in a circle?" if self._redirects else "`retries` allows none"
                    message = f"{where}: more than {self._redirects} redirects (status {head.status}): {why}"
                    raise HctefNetworkError(message, status=head.status)
                target = redirect_target(target, head)
                continue
            if target is self._target and (head.status in EXPIRED or head.status in (404, 410)):
                self._target, target = None, url  # what the redirect gave us has expired: ask for another
                continue
            if head.status in EXPIRED and not renewed and (callable(headers) or callable(self._source)):
                hops, self._target = 0, None
                known = self._url if callable(self._source) and self._url is not url else None  # to another reader
                renewed = known is None
                url = target = known or (yield from self.resolve())
                continue
            if retry and attempts.retryable(head):
                yield from self.again(attempts, head, where)
                self._target, target, hops = None, url, 0
                continue
            if head.status in (200, 206):
                if not head.ahead:
                    self.link.answered(self._clock() - began if head.seconds is None else head.seconds)
                if target is not url:
                    self._target = target
            return head

    def again(self, attempts: Attempts, failure: Head | TransportError, where: str) -> PlanGen[None]:
        """Wait as the policy says. Raises HctefNetworkError: it says "enough"."""
        seconds = attempts.after(failure)
        if isinstance(failure, TransportError):
            if seconds is None:
                raise HctefNetworkError(f"{where}: {failure}") from failure
        elif seconds is None:
            after = failure.headers.get("retry-after", "")[:40]
            hint = f"Retry-After: {after}" if after else "every attempt of `retries` was answered so"
            raise status_error(failure, where, hint=hint)
        self.stats.retries += 1
        log.info("%s: %s; trying again in %.2f s", where, failure, seconds)
        if seconds:
            yield Sleep(seconds)

    def fetch(
        self,
        start: int,
        stop: int,
        sink: Sink,
        commit: Callable[[int], None],
        lane: Lane | None = None,
        *,
        patient: bool = True,
    ) -> PlanGen[None]:
        """Get the bytes of `[start, stop)` in order into `sink`; `commit` hears how far they are. `lane`: what its
        connection is to bring behind them; not `patient`: give up before any wait, for somebody waits for those.

        A body that was cut is resumed at its next byte; a shorter range than asked for is taken, the rest asked for.
        """
        attempts, at = self.attempts() if patient else Attempts(brief(self._policy)), start
        while at < stop:
            where = self.where(at, stop)
            extra = {"Range": range_header(at, stop), **self.conditions()}
            expects = self._likeness.expected(at, stop) if self.link.near else None
            head = yield from self.ask(attempts, extra, where, lane=lane, expects=expects)
            if head.expected:
                end = stop
                self._likeness.confirmed()
            else:
                end = self.check(head, at, stop).extent.stop
                if head.block is not None and self.link.near:
                    self._likeness.learn(head.block, head.headers)
            at = yield from self.body(attempts, head, at, end, sink, commit, lane)

    def body(  # noqa: PLR0917  # one for each thing that a body is
        self,
        attempts: Attempts,
        head: Head,
        at: int,
        stop: int,
        sink: Sink,
        commit: Callable[[int], None],
        lane: Lane | None = None,
    ) -> PlanGen[int]:
        """Read the body of a checked response, which holds `[at, stop)`. Returns how far it came before it was cut.

        What joins the `lane` meanwhile is asked for behind it.
        """
        measured = head.expected or head.length is not None  # `check` lets none through that is chunked besides
        if not (measured or sink.passes):
            return (yield from self._unmeasured(attempts, head, at, stop, sink, commit))
        start, train, clock, fast = at, self.link.train(), self._clock, False
        try:
            self.link.pipelines = head.pipelines and not callable(self._options.headers)
            if lane is not None:
                lane.begin(pipelines=head.pipelines)
            while at < stop:
                began = clock()
                count = yield from sink.take(at, min(LARGE_PIECE if fast else PIECE, stop - at), whole=fast)
                if not count:
                    if head.chunked:
                        raise self._misstated(head, self.where(start, stop), "fewer")
                    raise TransportError(f"the body ended {stop - at} bytes early")
                ended = clock()
                train.received(began, ended, count)
                fast = self.link.near and count > FAST * (ended - began)
                at += count
                self.stats.bytes_fetched += count
                attempts.progress(count)
                commit(at)
                if lane is not None and lane.fresh and at < stop:
                    lane.fresh = False
                    yield Ahead(tuple(lane.following()))
            more = b"" if measured else (yield Receive(1))
        except TransportError as error:
            if at < stop:
                yield from self.again(attempts, error, self.where(start, stop))
            return at
        if more:
            raise self._misstated(head, self.where(start, stop), "more")
        return at

    def _unmeasured(  # noqa: PLR0917  # as above
        self, attempts: Attempts, head: Head, start: int, stop: int, sink: Sink, commit: Callable[[int], None]
    ) -> PlanGen[int]:
        """The same of a body whose end alone tells that it has the bytes it says, no more and no fewer: nothing of it
        is put away before."""
        where, pieces, at = self.where(start, stop), list[bytes](), start
        cut: TransportError | None = None
        try:
            while at <= stop and (data := (yield Receive(min(PIECE, stop - at) or 1))):
                pieces.append(data)
                at += len(data)
        except TransportError as error:
            cut = error
        if at < stop and cut is None and not head.chunked:
            cut = TransportError(f"the body ended {stop - at} bytes early")
        if at > stop or (at < stop and cut is None):
            raise self._misstated(head, where, "more" if at > stop else "fewer")
        self.stats.bytes_fetched += at - start
        attempts.progress(at - start)
        at = start
        for data in pieces:
            yield from sink.store(at, data)
            at += len(data)
            commit(at)
        if at < stop and cut is not None:
            yield from self.again(attempts, cut, where)
        return at

    @staticmethod
    def _misstated(head: Head, where: str, what: str) -> HctefNetworkError:
        return HctefNetworkError(f"{where}: the server sends {what} bytes than it says", status=head.status)

    def check(self, head: Head, start: int, stop: int) -> Part:
        """What a response to a request for `[start, stop)` of the file that was opened brings.

        Raises:
            RemoteFileChangedError: it is of another version of the file.
            RangeRequestsUnsupportedError, RemotePermissionError, RemoteFileNotFoundError, HctefNetworkError: see there.
        """
        where, status = self.where(start, stop), head.status
        if status in (200, 206) and self._options.validate == "strict":
            check_version(self.validator, head, where)
            if self._later.contradicts(head.validator):
                check_version(self._later, head, where)
            elif not self.validator.etag and head.validator.etag:
                self._later = Validator(head.validator.etag)
        if status == 416 and head.unsatisfied_size() not in (None, self.size):
            message = (
                f"{where}: the file changed: it had {self.size} bytes, now {head.unsatisfied_size()} ({CHANGED_HINT})"
            )
            raise RemoteFileChangedError(message, status=status)
        if status != 206:
            raise status_error(head, where, hint=self.hint if status in (401, 403) else "")
        part = parse_part(head, where)
        if part.size is None:
            if not (self.size_hidden or (self.validator and self._options.validate == "strict")):
                message = f"{where}: the server hides the size (Content-Range …/*), so a change could not be noticed"
                raise RangeRequestsUnsupportedError(message, status=status, reason="content-range-hidden")
        elif part.size != self.size:
            message = f"{where}: the file changed: it had {self.size} bytes, now {part.size} ({CHANGED_HINT})"
            raise RemoteFileChangedError(message, status=status)
        if part.extent.start != start or part.extent.stop > stop:
            message = f"{where}: the server sent [{part.extent.start}, {part.extent.stop}) instead"
            raise HctefNetworkError(message, status=status)
        return part

    def _like(self, url: str, headers: Mapping[str, str], foreign: bool, extent: ByteRange) -> Send:
        """The request for another range, like one that was made."""
        return Send("GET", url, {**headers, **self.conditions(), "Range": range_header(*extent)}, foreign)

    def resolve(self) -> PlanGen[Url]:
        """The URL, asked of the caller's callable where it is one. Raises HctefUrlError."""
        if callable(self._source):
            url = parse_url((yield Call(self._source)))
            if self._url is not None and url.origin[0] == "http" and self._url.origin[0] == "https":
                raise HctefUrlError(f"{self._url.safe}: the renewed URL is http, the first was https")
            self._url = url
        if self._url is None:
            raise HctefUrlError("no URL")
        return self._url
