"""The process's pools of connections: one for all files, so that the tenth file of a host needs no handshake, and the
warmest connection of a host first.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

import urllib3

from hctef._http1 import PlainHTTPConnection, PlainHTTPSConnection
from hctef._lanes import PIPELINED_MOST
from hctef._urls import Url

_POOL_SIZE = 64  # idle connections kept a host: more than the default max_connections of a few files
_pools: dict[Url | None, urllib3.PoolManager] = {}
_pools_lock = threading.Lock()


class WarmestFirst(queue.LifoQueue[Any]):
    """Idle connections of a host: the one that carried most lately goes out first, for its congestion window has grown
    most; among equals the one that was used last.

    The garbage collector may put one back inside of a call of this very thread: the lock is one that bears it."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self.mutex = threading.RLock()  # type: ignore[assignment]  # used as a Lock is
        self.not_empty = threading.Condition(self.mutex)
        self.not_full = threading.Condition(self.mutex)
        self.all_tasks_done = threading.Condition(self.mutex)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        with self.mutex:
            if self.queue:  # what takes half as long as all that else may be
                return self._get()
        if not block:
            raise queue.Empty
        return super().get(block, timeout)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self.mutex:  # no Condition, which an interrupt may leave locked: nobody waits for room here
            if 0 < self.maxsize <= len(self.queue):
                raise queue.Full
            self._put(item)
            self.not_empty.notify()

    def _get(self) -> Any:
        idle: list[Any] = self.queue
        best, most, now = len(idle) - 1, -1, time.monotonic()
        for index in range(len(idle) - 1, -1, -1):
            connection = idle[index]
            if connection is None:  # urllib3's for one that is still to be made: they lie below all others
                break
            warmth = connection.warmth(now)
            if warmth > most:
                best, most = index, warmth
        return idle.pop(best)


class PlainPool:
    """What is put before urllib3's pools of one host."""

    QueueCls = WarmestFirst

    pipelines: bool | None = None
    """Whether the server answers pipelined requests as it must; None: nobody knows yet."""
    persists: bool | None = None
    """Whether its connections persist, as far as a response has told; False: it refused a request that others
    followed."""
    depth = PIPELINED_MOST
    """Requests that are sent behind another at most. Halved where an answer among them was such that the rest had to be
    sent anew, for the server has worked for those in vain; one more for each that was answered as it must be."""

    def proved(self, count: int) -> None:
        """So many requests that were sent behind another were answered as they must be."""
        self.pipelines = True
        self.depth = min(PIPELINED_MOST, self.depth + count)

    def ask_idle(self, path: str, headers: Mapping[str, str], timeout: float | None) -> Any:
        """Send a GET on an idle connection, and receive its response, without its body. None: none is idle.

        What `urlopen` does, but for all that it must do for other requests and new connections: it takes as long as
        what is left. `timeout`: seconds between bytes. Raises what it raises, but not in its exceptions.
        """
        pool: Any = self
        connection = pool._get_conn()
        if connection.sock is None:
            pool._put_conn(connection)
            return None
        try:
            connection.timeout = timeout
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was closed, perhaps after an answer
                connection.request("GET", path, headers=headers, preload_content=False)
            response = connection.getresponse()
        except BaseException:  # raised again
            connection.close()
            pool._put_conn(connection)
            raise
        response._connection, response._pool = connection, pool
        return response


class PlainHTTPPool(PlainPool, urllib3.HTTPConnectionPool):
    ConnectionCls = PlainHTTPConnection


class PlainHTTPSPool(PlainPool, urllib3.HTTPSConnectionPool):
    ConnectionCls = PlainHTTPSConnection


def plain_pools(**options: Any) -> urllib3.PoolManager:
    """A PoolManager whose connections are of this kind."""
    pool = urllib3.PoolManager(**options)
    pool.pool_classes_by_scheme = {"http": PlainHTTPPool, "https": PlainHTTPSPool}
    return pool


def shared_pool(proxy: Url | None) -> urllib3.PoolManager:
    """The process's pool for requests by `proxy`, or by none."""
    with _pools_lock:
        pool = _pools.get(proxy)
        if pool is None:
            if proxy is not None:
                headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else None
                pool = urllib3.ProxyManager(proxy.request, proxy_headers=headers, num_pools=32, maxsize=_POOL_SIZE)
            else:
                pool = plain_pools(num_pools=32, maxsize=_POOL_SIZE)
            _pools[proxy] = pool
        return pool


def _reset() -> None:
    """In a forked child: the connections are the parent's."""
    global _pools_lock  # noqa: PLW0603  # its holder may not live in the child
    _pools_lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
