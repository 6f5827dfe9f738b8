"""Messages between a process and its pager: one JSON object each, with descriptors, over a Unix SEQPACKET socket.

Never pickle: what comes over a socket is data. Every request has an `id`, and its reply has the same.

| op | fields, descriptors | reply |
| --- | --- | --- |
| attach | link, base, size, url, line, …; [uffd, memfd, table]; a forked child says it too | {} |
| client | [socket]: a forked child's own | none |
| read | link, start, stop, hold | {} |
| prefetch | link, ranges, wait | {count} |
| let_go | link, hold | none |
| look | link, ranges: pages that are there | none |
| advise | link, hint | none |
| evict | link, start, stop | {} |
| detach | link | {} |

The supervisor says {ready: pid} once. A worker says {again: true, lost} when it stands in for one that died: what was
not answered is asked again, and, where `lost`, what is attached is said again. All requests may come twice, therefore.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import urllib3
from urllib3.util import Retry, Timeout

from hctef import exceptions
from hctef._http import Validator, checked_headers
from hctef._memory import high
from hctef._options import Options, UrlSource
from hctef._ranges import ByteRange
from hctef._urllib3 import pool_headers, pool_timeout
from hctef._urls import Url, parse_url
from hctef.exceptions import HctefError, HctefNetworkError, PagerError

MOST_BYTES = 128 * 1024
"""Of a message: with its descriptors it fits into any socket's buffer (net.core.wmem_default is 208 KiB)."""

MOST_RANGES = 1000
"""In one message."""

MOST_DESCRIPTORS = 8

ANSWERED = frozenset({"attach", "read", "prefetch", "evict", "detach"})

_PROXIES = [f(f"{name}_proxy") for name in ("http", "https", "all", "no") for f in (str.lower, str.upper)]
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Of the environment: paths, which may be relative."""

SAY_AFTER, SAY_EVERY = 5.0, 30.0
"""Seconds that a thread was blocked when stderr is told for the first time, and between the lines that follow."""

Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection that keeps messages apart. Neither is 0, 1 or 2, which a program may have closed."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if min(end.fileno() for end in ends) > 2:
        return ends
    mine, its = (socket.socket(fileno=high(end.detach())) for end in ends)
    return mine, its


def send(sock: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Raises OSError: the other side is gone, or (BlockingIOError) does not read. ValueError: it is too long."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MOST_BYTES:
        raise ValueError(f"a message of {len(data)} bytes is too long for the pager")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([data], ancillary)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, which the caller closes; None: the other side is gone, or speaks another
    language, and need not be heard any longer. Where this process has no room for all the descriptors, it has none.

    Raises BlockingIOError where there is none on a socket that does not block.
    """
    size = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
    try:
        data, ancillary, flags, _ = sock.recvmsg(MOST_BYTES, size, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError:
        return None
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    try:
        message = json.loads(data) if data and not flags & socket.MSG_TRUNC else None
    except (ValueError, RecursionError):
        message = None
    if flags & socket.MSG_CTRUNC:
        close(descriptors)
        descriptors = array.array("i")
    if not isinstance(message, dict):
        close(descriptors)
        return None
    return message, list(descriptors)


def is_closed(sock: socket.socket) -> bool:
    """Whether the other end is closed; whoever leaves on purpose only sends no more."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def taken(descriptors: list[int], count: int) -> list[int]:
    """The descriptors that a message must have come with. Raises PagerError: it did not."""
    if len(descriptors) < count:
        raise PagerError("the pager got no descriptors: it has as many open as it may (ulimit -n)")
    return descriptors


def close(descriptors: Iterable[int]) -> None:
    """Close what came with a message that nobody wants."""
    for fd in descriptors:
        os.close(fd)


def say(text: str) -> None:
    """A line on stderr, where there is one that takes it: nobody stops for a line, least of all one that has pages to
    fill."""
    if sys.__stderr__ is None:  # 2 was closed when this process began: it is closed, or somebody's file
        return
    with contextlib.suppress(OSError):
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if any(events & select.POLLOUT for _, events in poll.poll(0)):
            os.write(2, text[:4096].encode(errors="backslashreplace"))


# errors


def pack_error(error: BaseException) -> Message:
    """An exception of hctef's tree as a reply; of any other only what kind it is."""
    if not isinstance(error, HctefError):
        return {"error": "PagerError", "message": f"the pager failed: {type(error).__name__}: {error}"}
    found = {"error": type(error).__name__, "message": str(error)}
    return found | {name: value for name in ("status", "reason") if (value := getattr(error, name, None)) is not None}


def unpack_error(reply: Message) -> Exception:
    name = reply["error"]
    kind = getattr(exceptions, name) if name in exceptions.__all__ else PagerError
    given = {key: reply[key] for key in ("status", "reason") if key in reply} if kind is not PagerError else {}
    if not issubclass(kind, exceptions.RangeRequestsUnsupportedError):
        given.pop("reason", None)
    error: Exception = (
        kind(reply["message"], **given) if issubclass(kind, HctefNetworkError) else kind(reply["message"])
    )
    return error


# what a worker must know to ask a file's server as this process would

_PLAIN = (str, int, float, bool, type(None))
_RETRY = [
    "total",
    "connect",
    "read",
    "redirect",
    "status",
    "other",
    "backoff_factor",
    "backoff_max",
    "backoff_jitter",
    "raise_on_redirect",
    "raise_on_status",
    "respect_retry_after_header",
]
_PATHS = ("ca_certs", "ca_cert_dir", "cert_file", "key_file")
_SETS = ("allowed_methods", "status_forcelist", "remove_headers_on_redirect")
_SENT = [
    "minimum_range_request_bytes",
    "max_connections",
    "max_resident_bytes",
    "readahead",
    "validate",
    "fault_timeout",
    "prefetch_direction",
]


def why_not(source: UrlSource, options: Options) -> str | None:
    """Why another process cannot ask for this file as its caller's objects would; None where it can."""
    if callable(source):
        return "url is a callable: a thread that waits for a page may keep this process from calling it"
    if callable(options.headers):
        return "headers is a callable: a thread that waits for a page may keep this process from calling it"
    if options.session is not None:
        return "a caller's aiohttp session cannot be used in another process"
    if type(options.retries) not in (int, Retry):
        return "retries is of a class of the caller's own"
    pool = options.pool
    if pool is not None:
        if type(pool) not in (urllib3.PoolManager, urllib3.ProxyManager):
            return "pool is of a class of the caller's own"
        odd = sorted(name for name, value in _pool_settings(pool).items() if not _is_plain(value))
        config = getattr(pool, "proxy_config", None)
        if config is not None and any(config):
            odd.append("the proxy's own TLS")
        if odd:
            return f"pool has settings that cannot be sent to another process: {', '.join(odd)}"
    try:
        json.dumps(_pack_options(options))
    except (TypeError, ValueError) as error:  # said here: the client's thread serves other files too
        return f"an option has a value that cannot be sent to another process: {error}"
    return None


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def _pool_settings(pool: Any) -> dict[str, Any]:
    proxy = getattr(pool, "proxy", None)
    known = {"timeout", "retries", "headers", "_proxy", "_proxy_headers", "_proxy_config", "maxsize", "block"}
    settings = {name: value for name, value in pool.connection_pool_kw.items() if name not in known}
    settings |= {name: absolute(settings[name]) for name in _PATHS if isinstance(settings.get(name), str)}
    if proxy is not None:
        settings |= {"proxy_url": proxy.url, "proxy_headers": None}
        settings |= {f"proxy:{name}": value for name, value in pool.proxy_headers.items()}
    return settings


def pack_source(url: Url, target: Url | None, options: Options) -> Message:
    """The URL and the options of a file for which `why_not` is None."""
    found = _pack_options(options)
    found["url"], found["authorization"] = url.request, url.authorization
    found["target"] = target.request if target else None
    found["environment"], found["cache_dir"] = _environment(), options.cache_path
    found["say_after"], found["say_every"] = SAY_AFTER, SAY_EVERY
    return found


def _pack_options(options: Options) -> Message:
    """What `pack_source` says of the options. Values that JSON has not are left as they are."""
    timeout, retries, pool = pool_timeout(options.timeout), options.retries, options.pool
    found: Message = {name: getattr(options, name) for name in _SENT}
    headers = checked_headers(options.headers)
    found["headers"] = headers if pool is None else pool_headers(pool, headers) | headers
    found["timeout"] = (
        None
        if timeout is None
        else {
            name: value if isinstance(value := getattr(timeout, f"_{name}", None), int | float) else None
            for name in ("connect", "read")
        }
        | {"total": timeout.total if isinstance(timeout.total, int | float) else None}
    )
    if isinstance(retries, Retry):
        found["retries"] = {name: getattr(retries, name, None) for name in _RETRY} | {
            name: _pack_set(getattr(retries, name)) for name in _SETS
        }
    else:
        found["retries"] = retries
    found["pool"] = None if pool is None else _pool_settings(pool)
    return found


def _pack_set(value: Any) -> Any:
    """One of Retry's sets: None and False mean any, and JSON has them; an empty set it has not."""
    return value if value is None or value is False else sorted(value)


def _environment() -> Message:
    """What requests depend on, and a program may have changed since the helpers began."""
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    found: Message = {name: os.environ[name] for name in names}
    return found | {name: absolute(os.environ.get(name)) for name in (*_PROXIES, *CERTIFICATES) if name not in found}


def set_environment(wanted: dict[str, str | None]) -> None:
    """What the client's process has in its environment now: proxies, certificates."""
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def absolute(path: str | None) -> str | None:
    """A path for a process in another working directory."""
    with contextlib.suppress(FileNotFoundError):  # ours is gone
        return path and os.path.abspath(path)  # noqa: PTH100  # text, as the environment has it
    return path


def unpack_source(message: Message) -> tuple[Url, Url | None, Options]:
    """What `pack_source` packed."""
    given: dict[str, Any] = {name: message[name] for name in _SENT}
    url = parse_url(message["url"])._replace(authorization=message["authorization"])
    target = parse_url(message["target"]) if message["target"] else None
    timeout, retries, pool = message["timeout"], message["retries"], message["pool"]
    if isinstance(retries, dict):
        retries = Retry(**retries)
    if pool is not None:
        proxy_url = pool.pop("proxy_url", None)
        pool.pop("proxy_headers", None)
        proxy_headers = {name[6:]: pool.pop(name) for name in list(pool) if name.startswith("proxy:")}
        pool = {name: _tuples(value) for name, value in pool.items()}
        sizes: dict[str, Any] = {"num_pools": 8, "maxsize": given["max_connections"]}
        if proxy_url:
            pool = urllib3.ProxyManager(proxy_url, proxy_headers=proxy_headers, **sizes, **pool)
        else:
            pool = urllib3.PoolManager(**sizes, **pool)
    given |= {"timeout": None if timeout is None else Timeout(**timeout), "retries": retries, "pool": pool}
    return url, target, Options(headers=message["headers"], cache_dir=message["cache_dir"], **given)


def _tuples(value: Any) -> Any:
    """JSON has lists only; a source address, or a socket's option, must be a tuple."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def pack_validator(validator: Validator) -> Message:
    return validator._asdict()


def pack_ranges(ranges: Sequence[ByteRange]) -> list[list[int]]:
    return [[start, stop] for start, stop in ranges]


def unpack_ranges(ranges: Sequence[Sequence[int]]) -> list[ByteRange]:
    return [ByteRange(start, stop) for start, stop in ranges]
