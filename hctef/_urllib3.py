"""The synchronous transport: urllib3 carries bytes; no rule of HTTP stands here.

The process's pools (`_pools.py`) serve all files; a caller's pool is used and never closed.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Timeout

from hctef._heads import PlainHeaders
from hctef._http import OURS, Head, range_header
from hctef._http1 import PlainResponse
from hctef._interrupts import Interrupted, handlers_error
from hctef._options import Options
from hctef._pools import PlainPool, shared_pool
from hctef._proxies import environment_proxy
from hctef._ranges import ByteRange
from hctef._replay import Urllib3Response, stop_receiving
from hctef._retries import TransportError
from hctef._steps import Send
from hctef._urllib3_errors import translate
from hctef.exceptions import HctefUrlError

log = logging.getLogger("hctef")

DRAIN_BYTES, DRAIN_SECONDS = 16 * 1024, 0.1
"""A discarded body of up to this many bytes is read, to keep the connection, if it comes soon: a longer one costs more
than a new one, and nobody who is interrupted waits for it."""

AHEAD_BYTES = 14 * 1024
"""Of requests that are sent at once: what a new connection's initial window holds (RFC 6928)."""
UNPROVEN_SECONDS, PROVEN_SECONDS = 1.0, 5.0
"""A server that may have thrown away what was sent ahead is waited for so long, or four times as long as the first
response took; one that has answered such requests before, for longer."""

HOSTS = 16
"""Servers that a file's requests are sent to, of which it is remembered how: itself, and where it redirects to."""

_BROKEN = (HTTPError, OSError, ValueError, AttributeError)  # AttributeError: aborted by another thread
_ONCE = urllib3.Retry(False)  # the core asks again, not the pool


class Urllib3Transport:
    """Requests of one file."""

    def __init__(self, options: Options) -> None:
        self.pool: urllib3.PoolManager | None = options.pool
        self.timeout = pool_timeout(options.timeout)
        self._between: Any = None
        """Seconds between bytes, where no time goes by to connect."""
        self._connect: float | None = None
        """Seconds to wait for a connection of a caller's pool that lends no more than so many."""
        if self.timeout is not None:
            started = self.timeout.clone()
            started.start_connect()
            # Of a total some microseconds are over already: rounded, it is what its socket has from the request before.
            between = started.read_timeout
            self._between = math.ceil(between * 1000) / 1000 if isinstance(between, int | float) else between
            connect = started.connect_timeout
            self._connect = connect if isinstance(connect, int | float) else None
        self._hosts: dict[str, urllib3.HTTPConnectionPool | None] = {}

    def exchange(self) -> Urllib3Exchange:
        return Urllib3Exchange(self)

    @property
    def pipelines(self) -> bool:
        return any(isinstance(host, PlainPool) and host.pipelines is not False for host in self._hosts.values())

    def host(self, url: str) -> urllib3.HTTPConnectionPool | None:
        """The way to a URL's server; None: a caller's pool, or a proxy's, is asked for each request. Looked up once:
        that takes as long as the request itself."""
        origin = url[: url.find("/", 8)]
        if origin not in self._hosts:
            direct = self.pool is None and not environment_proxy(origin)
            while len(self._hosts) >= HOSTS:  # a server chooses where it redirects to
                self._hosts.pop(list(self._hosts)[0], None)  # noqa: RUF015  # another thread may change it meanwhile
            self._hosts[origin] = shared_pool(None).connection_from_url(origin) if direct else None
        return self._hosts.get(origin)

    def plain(self, url: str) -> PlainPool | None:
        """The pool of a URL's server where its connections are ours."""
        host: Any = self.host(url)  # a PlainPool is put before a class of urllib3's
        return host if isinstance(host, PlainPool) else None

    def open(self, request: Send, headers: PlainHeaders) -> PlainResponse | Urllib3Response:
        """Send a request, with `headers`, which are its own."""
        method, url = request.method, request.url
        host = self.host(url)
        response: Any = None
        if method == "GET" and isinstance(host, PlainPool):
            response = host.ask_idle(path(url), headers, self._between)
        options: dict[str, Any] = {"preload_content": False, "decode_content": False, "redirect": False}
        options |= {"retries": _ONCE, "timeout": self.timeout}
        if response is None and host is not None:
            headers.target = path(url)  # urllib3 would write it otherwise, and into its log
            response = host.urlopen(method, "/", assert_same_host=False, headers=headers, **options)
        elif response is None and self.pool is None:
            response = shared_pool(environment_proxy(url)).request(method, url, headers=headers, **options)
        elif response is None and self.pool is not None:
            theirs = {} if request.foreign else pool_headers(self.pool, headers)
            response = self.pool.request(method, url, headers=theirs | headers, pool_timeout=self._connect, **options)
        return response if isinstance(response, PlainResponse) else Urllib3Response(response)

    def after_fork(self) -> None:
        self._hosts.clear()
        if self.pool is not None:
            self.pool.clear()  # closes our copies of its sockets; the parent's stay open


def pool_headers(pool: object, ours: Mapping[str, str]) -> dict[str, str]:
    """What a caller's pool sends with each request, as far as it neither decides which bytes come nor stands in
    `ours`."""
    taken = OURS | {name.lower() for name in ours}
    theirs: Mapping[str, str] = getattr(pool, "headers", None) or {}
    return {name: value for name, value in theirs.items() if name.lower() not in taken}


def _named(requests: Iterable[Send]) -> list[tuple[str, Mapping[str, str]]]:
    """Requests as their connection has them."""
    return [(path(each.url), each.headers) for each in requests]


def _fitting(requests: Iterable[Send], first: Send, pool: PlainPool) -> list[Send]:
    """As many as may be under way behind `first`."""
    size = len(first.url) + sum(len(name) + len(value) + 4 for name, value in first.headers.items())
    return list(itertools.islice(requests, max(0, min(AHEAD_BYTES // size - 1, pool.depth))))


def _brings(response: PlainResponse, request: Send) -> bool:
    """Whether a response has the bytes that its request asked for, as far as its place among others tells."""
    first = request.headers["Range"].removeprefix("bytes=").partition("-")[0]
    return response.status == 206 and response.headers.get("content-range", "").startswith(f"bytes {first}-")


def _pipelines(pool: PlainPool | None, response: PlainResponse) -> bool:
    """Whether a request may be sent behind a response."""
    return response.persistent and pool is not None and pool.pipelines is not False


def _head(
    pool: PlainPool | None, response: PlainResponse, *, ahead: bool = False, seconds: float | None = None
) -> Head:
    return Head(
        response.status,
        response.headers,
        ahead=ahead,
        pipelines=_pipelines(pool, response),
        seconds=seconds,
        block=response.block,
        expected=response.expected,
    )


def path(url: str) -> str:
    """What a request to a server names."""
    return url[url.find("/", 8) :]


def pool_timeout(timeout: Any) -> Timeout | None:
    """The option `timeout`: seconds to connect and between bytes, a urllib3.Timeout, or an aiohttp.ClientTimeout."""
    if timeout is None or isinstance(timeout, Timeout):
        return timeout
    if hasattr(timeout, "sock_read"):  # aiohttp's, known by its form: the synchronous half does not import aiohttp
        connect = timeout.sock_connect or timeout.connect or timeout.total
        return Timeout(connect=connect, read=timeout.sock_read or timeout.total)
    return Timeout(float(timeout))


class Urllib3Exchange:
    """One request at a time, and what follows it sent ahead (pipelined) where that is of use. See `_drivers.Exchange`.

    A server is sent no second request before a response of its has told that connections persist. One that was not seen
    to pipeline and then refuses the first of several requests is asked for that by itself, and from then on for more
    only when the first response has come; one that answers what follows wrongly, or not soon, is never asked so again.
    What was sent ahead and is not answered is sent anew by itself: GET is idempotent (RFC 9110 section 9.2.2).
    """

    def __init__(self, transport: Urllib3Transport) -> None:
        self._transport = transport
        self._response: PlainResponse | Urllib3Response | None = None
        self._method = ""
        self._ahead: deque[Send] = deque()
        """Sent, and not answered yet."""
        self._sent = 0.0  # when
        self._patience = 0.0
        self._failed = False
        """A connection ended with such requests: a new one's first response is waited for (RFC 9112 section 9.3.2)."""
        self._aborted = False
        self._sock: Any = None
        """Where the head of a response is waited for."""
        self._giving_back = threading.Lock()
        """A connection is, whose next user nobody may abort."""

    def send(self, request: Send) -> Head:
        head = self._sent_ahead(request) if self._ahead else None
        if head is not None:
            return head
        self.drop()
        if self._aborted:
            raise TransportError("stopped by another thread")
        self._method, headers = request.method, PlainHeaders(request.headers)
        headers.started, headers.expects = self._started, request.expects
        then, besides = list[Send](), sys.exception()
        pool: PlainPool | None = None
        try:
            pool = self._transport.plain(request.url)
            if request.then is not None and pool is not None and pool.pipelines is not False:
                then = _fitting(request.then(), request, pool)
                if (pool.pipelines or pool.persists) and not self._failed:
                    headers.following = _named(then)
            response = self._transport.open(request, headers)
        except HctefUrlError:
            raise
        except (HTTPError, OSError, ValueError, http.client.HTTPException) as error:
            self._heed(error, besides)
            doubted = self._sock is not None and self._doubt(pool, headers)
            if doubted and not isinstance(error, ReadTimeoutError | TimeoutError):  # who waited that long is told
                return self.send(request)
            failure = [translate(error)]
        else:
            return self._answered(request, headers, pool, response, then)
        finally:
            self._sock = None
        # Out here, without a context: urllib3's error may hold the URL. And no variable is to hold it, in a circle with
        # its traceback and this frame.
        raise failure.pop()

    def _answered(
        self,
        request: Send,
        headers: PlainHeaders,
        pool: PlainPool | None,
        response: PlainResponse | Urllib3Response,
        then: list[Send],
    ) -> Head:
        """The head of the response to a request that was sent with `headers`; `then`: what may be sent behind it."""
        if not isinstance(response, PlainResponse):
            self._response = response
            if (response.status == 400 or response.status >= 500) and self._doubt(pool, headers):
                self._close()
                return self.send(request)
            return Head(response.status, response.headers)
        seconds = time.monotonic() - self._sent
        self._response, self._patience = response, 4 * seconds
        if self._aborted:  # just before there was a response to abort
            self._close()
            raise TransportError("stopped by another thread")
        if (
            headers.following
            and response.status == 206
            and not _brings(response, request)
            and self._doubt(pool, headers)
        ):
            self._close()
            return self.send(request)
        if response.persistent:
            if pool is not None and pool.persists is None:
                pool.persists = True
            self._ahead.extend(then[: response.unanswered])
            self.send_ahead(then)
        return _head(pool, response, seconds=seconds)

    def _doubt(self, pool: PlainPool | None, headers: PlainHeaders) -> bool:
        """Whether a request may have failed for those that were sent behind it: the server was not seen to bear it."""
        if pool is None or not headers.following or pool.pipelines or self._aborted:
            return False
        pool.persists = False
        self._failed = True
        log.debug("a server refused a request that others followed: it is asked by itself")
        return True

    def send_ahead(self, requests: Sequence[Send]) -> None:
        response, known = self._response, len(self._ahead)
        if list(self._ahead) != list(requests[:known]):
            return
        pool = self._transport.plain(requests[0].url) if requests else None
        more = _fitting(requests, requests[0], pool)[known:] if pool is not None else ()
        if more and isinstance(response, PlainResponse) and _pipelines(pool, response):
            try:
                response.send(_named(more))
                self._ahead.extend(more)
            except OSError:  # the connection is broken: what reads this response finds that too
                log.debug("requests could not be sent ahead", exc_info=True)

    def _started(self, sock: Any) -> None:
        """A connection is there, and the request goes out on it."""
        self._sock, self._sent = sock, time.monotonic()
        if self._aborted:
            raise TransportError("stopped by another thread")

    def _sent_ahead(self, request: Send) -> Head | None:
        """The head of the response to `request`, where that was sent already and is answered as it must be."""
        response, pool = self._response, self._transport.plain(request.url)
        if self._ahead[0] != request or not isinstance(response, PlainResponse) or pool is None:
            return None
        self._ahead.popleft()
        following: PlainResponse | None = None
        failure: list[TransportError] = []
        besides = sys.exception()
        try:
            if response.left <= DRAIN_BYTES:
                response.drain(UNPROVEN_SECONDS)
            if response.left or not response.persistent:
                return None
            patience = max(self._patience, PROVEN_SECONDS if pool.pipelines else UNPROVEN_SECONDS)
            following = response.follow(patience, request.expects)
        except _BROKEN as error:
            self._heed(error, besides)
            self._close()
            if self._aborted:
                failure = [translate(error)]
            else:
                self._failed = True
                pool.pipelines = bool(pool.pipelines) and not isinstance(error, TimeoutError)
                log.debug("a request that was sent ahead was not answered", exc_info=True)
        except BaseException:  # raised again: its answer would pass for that to the connection's next request
            self._close()
            raise
        else:
            if following is None:  # an error, perhaps: by itself it is sent again
                pool.depth = max(1, pool.depth // 2)
                self._close()
                return None
            self._response = following
            if _brings(following, request):
                pool.proved(1)
                return _head(pool, following, ahead=True)
            self._close()
            pool.pipelines = False
            log.info("the server does not answer pipelined requests in their order: they are sent one by one")
        if failure:
            raise failure.pop()
        return None

    def collect(self, extents: Iterable[ByteRange], put: Callable[[int, memoryview], object]) -> int:
        response, ahead = self._response, self._ahead
        pool = self._transport.plain(ahead[0].url) if ahead else None
        if not isinstance(response, PlainResponse) or pool is None:
            return 0

        def is_next(extent: ByteRange) -> bool:
            return bool(ahead) and ahead[0].headers.get("Range") == range_header(*extent)

        def take(start: int, body: memoryview) -> None:
            ahead.popleft()
            put(start, body)

        try:
            count = response.collect(itertools.takewhile(is_next, extents), take)
        except BaseException:  # raised again: bytes may be lost
            self._close()
            raise
        if count:
            pool.proved(count)
        return count

    def receive(self, limit: int) -> bytes:
        response, besides = self._response, sys.exception()
        if response is None:
            return b""
        try:
            return response.read(limit)
        except _BROKEN as error:
            self._heed(error, besides)
            self._was_cut()
            failure = [translate(error)]
        except BaseException:  # as below
            self._close()
            raise
        raise failure.pop()

    def receive_into(self, room: memoryview, least: int) -> int:
        response, besides = self._response, sys.exception()
        if response is None:
            return 0
        try:
            count = response.readinto(room, least)
        except _BROKEN as error:
            self._heed(error, besides)
            self._was_cut()
            failure = [translate(error)]
        except BaseException:  # raised again: bytes may be lost
            self._close()
            raise
        else:
            if not count and response.left:
                self._was_cut()
            return count
        raise failure.pop()

    def _heed(self, error: Exception, besides: BaseException | None = None) -> None:
        """Raises Interrupted: it is no failure of the connection, but what a signal's handler raised. `besides`: see
        `handlers_error`."""
        found = handlers_error(error, besides)
        if found is not None:
            self._close()
            raise Interrupted(found) from None

    def _was_cut(self) -> None:
        """A body was. A server that closes with requests unread may lose what it had sent (RFC 9112 section 9.6): where
        it was not seen to bear requests behind another, it is sent none again."""
        pool = self._transport.plain(self._ahead[0].url) if self._ahead else None
        self._failed = self._failed or pool is not None
        if pool is not None and pool.pipelines is None and not self._aborted:
            pool.pipelines = False
            log.debug("a body was cut that requests followed: they are sent one by one")
        self._close()

    def drop(self) -> None:
        self._ahead.clear()
        response = self._response
        if response is None:
            return
        # http.client reads no body of these: what came would pass for the next response.
        bodiless = response.status < 200 or response.status in (204, 304) or self._method == "HEAD"
        left, besides = response.left, sys.exception()
        try:
            if not bodiless and left is not None and left <= DRAIN_BYTES:
                if left:
                    response.drain(DRAIN_SECONDS)
                if not response.left:
                    with self._giving_back:
                        response.release()
                        self._response = None
        except _BROKEN as error:
            self._heed(error, besides)
            log.debug("a response could not be put away: %s", type(error).__name__)
        finally:
            self._close()

    def abort(self) -> None:
        self._aborted = True
        if not self._giving_back.acquire(blocking=False):  # in this very thread perhaps, by the garbage collector
            return
        try:
            response, sock = self._response, self._sock
            with contextlib.suppress(Exception):  # it may end in its own thread at this moment
                if response is not None:
                    response.shutdown()
                if sock is not None:
                    stop_receiving(sock)
        finally:
            self._giving_back.release()

    def _close(self) -> None:
        self._ahead.clear()
        response, self._response = self._response, None
        if response is not None:
            with contextlib.suppress(HTTPError, OSError, ValueError):
                response.close()
                response.release()
