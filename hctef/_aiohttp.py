"""The asynchronous transport: aiohttp carries bytes; no rule of HTTP stands here.

One session an event loop for all files, so that the tenth file of a host needs no handshake; it is closed with the last
file that uses it. A caller's session is used and never closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import weakref
from typing import Any

import aiohttp
from urllib3.util import Timeout
from yarl import URL

from hctef._http import RETRYABLE, Head
from hctef._options import Options
from hctef._proxies import environment_proxy
from hctef._retries import TransportError, untrusted
from hctef._steps import Send
from hctef.exceptions import HctefUrlError

HEADER_BYTES = 64 * 1024
"""Of a line of a response's head, as http.client allows; aiohttp's own 8 KiB are less than some servers send."""

CLOSED = "the session passed as session= is closed"

_sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Any]] = weakref.WeakKeyDictionary()
"""Session and number of users, by loop."""


def close_spoilt(connector: aiohttp.BaseConnector | None) -> None:
    """Close idle connections on which more came than the response: aiohttp would take it for the next one's."""
    for idle in getattr(connector, "_conns", {}).values():
        for protocol, _ in idle:
            if protocol.should_close:
                protocol.close()  # the connector passes over what is not connected


class _Connector(aiohttp.TCPConnector):
    """Looks each time that aiohttp takes a connection: it tries a second one by itself where the first was closed."""

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        close_spoilt(self)
        return await super().connect(*arguments, **options)


class AiohttpTransport:
    """Requests of one file in the running event loop."""

    def __init__(self, options: Options) -> None:
        self._loop = asyncio.get_running_loop()
        self._own = options.session is None
        self._bare: aiohttp.ClientSession | None = None
        self.timeout = client_timeout(options.timeout)
        connect, read = self.timeout.connect, self.timeout.sock_read  # that with the wait for a free connection
        self._patience = connect + read if connect and read else None
        """Seconds for a response's head: behind one that is only on its way (1xx) aiohttp waits for ever."""
        if self._own:
            shared = _sessions.get(self._loop)
            if shared is None or shared[0].closed:
                connector = _Connector(limit=0, ttl_dns_cache=300)  # the core counts connections
                jar = aiohttp.DummyCookieJar()
                session = aiohttp.ClientSession(
                    connector=connector,
                    cookie_jar=jar,
                    auto_decompress=False,
                    max_line_size=HEADER_BYTES,
                    max_field_size=HEADER_BYTES,
                )
                session._retry_connection = False  # the core asks again, and counts that
                shared = _sessions[self._loop] = [session, 0]
            shared[1] += 1
            self._shared = shared
            self.session: aiohttp.ClientSession = shared[0]
        else:
            self.session = options.session
        limits = ", ".join(f"{name}={limit}" for name, limit in _limits(options).items())
        self.hint = f" (or none of the session's was free: its connector has {limits})" if limits else ""

    def exchange(self) -> AiohttpExchange:
        return AiohttpExchange(self)

    async def request(self, request: Send) -> aiohttp.ClientResponse:
        """Send, and wait for the head. Each answer is the core's to judge: no session's rule about statuses holds."""
        session, headers, more = self.session, request.headers, dict[str, Any]()
        if self._own:
            # Not by trust_env, which asks a thread at each request, and adds what ~/.netrc says.
            if (proxy := environment_proxy(request.url)) is not None:
                more["proxy"] = URL(proxy.request, encoded=True)
                if proxy.authorization and request.url.startswith("https:"):  # in the request for a tunnel alone
                    more["proxy_headers"] = {"Proxy-Authorization": proxy.authorization}
                elif proxy.authorization:
                    headers = {**headers, "Proxy-Authorization": proxy.authorization}
        else:
            if session.closed:
                raise TransportError(CLOSED, final=True)
            close_spoilt(session.connector)
            if request.foreign:
                session = self._without_credentials()
                more["proxy"] = getattr(self.session, "_default_proxy", None)  # aiohttp shows it in no public way
                more["proxy_auth"] = getattr(self.session, "_default_proxy_auth", None)
        async with asyncio.timeout(self._patience):
            return await session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=headers,
                allow_redirects=False,
                raise_for_status=False,
                timeout=self.timeout,
                **more,
            )

    def _without_credentials(self) -> aiohttp.ClientSession:
        """A session on the caller's connector without the headers, cookies and auth of the caller's session."""
        if self._bare is None:
            self._bare = aiohttp.ClientSession(
                connector=self.session.connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=self.session.trust_env,
            )
        return self._bare

    def look_after(self) -> None:
        """A response is over: our own connector looks itself, before it hands out a connection."""
        if not self._own:
            close_spoilt(self.session.connector)

    async def close(self) -> None:
        """Let the shared session go; the last file closes it."""
        session = self._let_go()
        if session is not None:
            await session.close()

    def abandon(self) -> None:
        """As `close`, where the loop does not run and nothing can be waited for."""
        session = self._let_go()
        if session is not None and session.connector is not None:
            session.connector._close()
            session.detach()

    def _let_go(self) -> aiohttp.ClientSession | None:
        """The session to close, for the last file of the loop."""
        if self._bare is not None:
            self._bare.detach()
            self._bare = None
        if not self._own:
            return None
        self._own = False
        self._shared[1] -= 1
        if self._shared[1]:
            return None
        if _sessions.get(self._loop) is self._shared:  # else the garbage collector was first
            del _sessions[self._loop]
        return self.session


class AiohttpExchange:
    """One request at a time. See `_async_driver.AsyncExchange`."""

    def __init__(self, transport: AiohttpTransport) -> None:
        self._transport = transport
        self._response: aiohttp.ClientResponse | None = None
        self._protocol: Any = None
        """Of a response whose end is that of its connection: it knows whether that was cut."""

    async def send(self, request: Send) -> Head:
        self.drop()
        try:
            self._response = response = await self._transport.request(request)
        except HctefUrlError:  # of the environment's proxy
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = [translate(error, self._transport.hint)]
        except asyncio.CancelledError:  # by the session's close(), where it waited for a connection
            task = asyncio.current_task()
            if not self._transport.session.closed or (task is not None and task.cancelling()):
                raise
            failure = [TransportError(CLOSED, final=True)]
        else:
            head = _head(response)
            self._protocol = None if head.framed else getattr(response, "_protocol", None)
            return head
        # Out here, without a context: aiohttp's error holds the URL and the request's headers. And no variable is to
        # hold it, in a circle with its traceback and this frame.
        raise failure.pop()

    async def receive(self, limit: int) -> bytes:
        response = self._response
        if response is None:
            return b""
        try:
            data = await response.content.read(limit)
            ended = self._protocol.exception() if not data and self._protocol is not None else None
            if ended is None or isinstance(ended, aiohttp.ServerDisconnectedError):
                return data
            failure = [translate(ended)]
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The stream refuses to hand out what came before the break: it is asked for below its own check.
            with contextlib.suppress(TimeoutError):  # it looks at a ClientTimeout's `total` once more
                rest: bytes = response.content._read_nowait(limit)
                if rest:
                    return rest
            failure = [translate(error)]
        raise failure.pop()  # as in `send`

    def drop(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()  # one that was read to its end has given its connection back before
            self._transport.look_after()

    def abort(self) -> None:
        self.drop()


def _head(response: aiohttp.ClientResponse) -> Head:
    """Its text is latin-1, as http.client has it: a validator that one transport saw, the other compares."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.raw_headers:
        key, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return Head(response.status, headers)


def client_timeout(timeout: Any) -> aiohttp.ClientTimeout:
    """The option `timeout`: seconds to connect and between bytes, a urllib3.Timeout, or an aiohttp.ClientTimeout."""
    if isinstance(timeout, aiohttp.ClientTimeout):
        return timeout
    if isinstance(timeout, Timeout):
        started = timeout.clone()
        started.start_connect()  # with a `total`, it can't be asked before
        connect, read = (
            seconds if isinstance(seconds, int | float) else None
            for seconds in (started.connect_timeout, started.read_timeout)
        )
    else:
        connect = read = timeout
    # `connect` is also for what comes before and after the socket's: a free connection, a proxy's answer.
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect, sock_read=read)


def _limits(options: Options) -> dict[str, int]:
    """How many connections the caller's session has at once at the most, by the names of its connector's options."""
    connector = getattr(options.session, "connector", None)
    found = {name: getattr(connector, name, 0) for name in ("limit", "limit_per_host")}
    return {name: limit for name, limit in found.items() if limit}


def within_limits(options: Options) -> Options:
    """No more requests at once than the caller's session has connections: to wait for one counts as connecting."""
    return options.but(max_connections=min([options.max_connections, *_limits(options).values()]))


def translate(error: Exception, hint: str = "") -> TransportError:
    """aiohttp's exception in words that show no credential (its own messages may hold the URL)."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", None) or "verification failed"
            return untrusted(reason)
        case aiohttp.ServerFingerprintMismatch():
            return TransportError("TLS: the certificate is not the one that the session expects", final=True)
        case aiohttp.ClientSSLError():
            return TransportError("TLS failed", connect=True)
        case aiohttp.ClientHttpProxyError(status=status) if 400 <= status < 500 and status not in RETRYABLE:
            return TransportError(f"the proxy refuses: status {status}", final=True)
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return TransportError("the proxy cannot be reached or refuses", connect=True)
        case aiohttp.ClientConnectorDNSError() | aiohttp.ClientConnectorError(os_error=socket.gaierror()):
            return TransportError("the host's name cannot be resolved", connect=True)
        case aiohttp.ConnectionTimeoutError():
            return TransportError(f"no connection: timeout{hint}", connect=True)
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno  # of several addresses that fail each in its way there is none
            return TransportError(f"no connection: {os.strerror(number) if number else 'unreachable'}", connect=True)
        case TimeoutError():
            return TransportError("no byte came within the timeout")
        case aiohttp.NonHttpUrlClientError() | ValueError():
            why = "do the session's auth and the Authorization header contradict?"
            return TransportError(f"no request can be made of the URL ({type(error).__name__}; {why})", final=True)
        case OSError() if error.errno:
            return TransportError(f"the connection broke: {os.strerror(error.errno)}")
    return TransportError(f"the connection broke ({type(error).__name__})")
