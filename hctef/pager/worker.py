"""The worker: the loop that reads faults and messages. One thread waits for both; requests run on threads of their own.

It is forked by the supervisor, with every descriptor that it needs, and may be killed at any moment: all that it knows
is told to the supervisor before it is answered, and what is in the arenas is looked up in the memfds.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from hctef import _uffd
from hctef._ranges import ByteRange
from hctef.exceptions import PagerError
from hctef.pager import wire
from hctef.pager.filling import table_bytes
from hctef.pager.resolver import Resolver

CALLS = 64
"""Requests in words that are worked on at once: they wait for the network, each in a thread."""


@dataclass(slots=True)
class State:
    """What the supervisor keeps, so that a worker can begin where another ended."""

    clients: dict[int, socket.socket] = field(default_factory=dict)
    links: dict[str, tuple[int, wire.Message, list[int]]] = field(default_factory=dict)
    """By link: the client, what `attach` said, and the descriptors [memfd, table]."""
    uffds: dict[tuple[str, int], int] = field(default_factory=dict)
    """By link and client: the descriptor of that process."""


class Worker:
    """One worker's life."""

    def __init__(self, state: State, supervisor: socket.socket, *, again: bool) -> None:
        self._state = state
        self._supervisor: socket.socket | None = supervisor
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._resolvers: dict[str, Resolver] = {}
        self._outgoing: dict[int, deque[wire.Message]] = {}
        self._done: deque[tuple[int, wire.Message]] = deque()
        self._holds: dict[tuple[str, int, int], Any] = {}
        self._calls = ThreadPoolExecutor(CALLS, "hctef-call")
        self._due: float | None = None
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self._selector.register(supervisor, selectors.EVENT_READ, self._supervisor_gone)
        for client, sock in state.clients.items():
            self._serve(client, sock)
        for link, (_, message, descriptors) in state.links.items():
            self._resolve(link, message, [os.dup(fd) for fd in descriptors])
        for (link, client), uffd in state.uffds.items():
            self._listen(link, client, os.dup(uffd))
        if again:
            for resolver in self._resolvers.values():  # what the one before me had read cannot be read again
                resolver.arena.wake(0, resolver.size)
            for client in list(state.clients):
                self._say(client, {"again": True})

    def run(self) -> None:
        """Until no client is left."""
        while self._state.clients:
            timeout = None if self._due is None else max(0.0, self._due - time.monotonic())
            for key, events in self._selector.select(timeout):
                if events & selectors.EVENT_WRITE:
                    self._flush(key.fd)
                if events & selectors.EVENT_READ:
                    action: Callable[[], None] = key.data
                    action()
            while self._done:
                self._say(*self._done.popleft())
            if self._due is not None and time.monotonic() >= self._due:
                self._tick()

    def _tick(self) -> None:
        waits = [wait for resolver in list(self._resolvers.values()) if (wait := resolver.tick()) is not None]
        self._due = time.monotonic() + min(waits) if waits else None

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _failure(self) -> None:
        """In a transfer's thread: somebody may wait for what failed."""
        self._due = time.monotonic()
        os.eventfd_write(self._wake, 1)

    def _supervisor_gone(self) -> None:
        """Nobody will stand in for me: go on, the client starts another pair."""
        if self._supervisor is not None and wire.receive(self._supervisor) is None:
            self._selector.unregister(self._supervisor)
            self._supervisor.close()
            self._supervisor = None

    def _tell_supervisor(self, message: wire.Message, descriptors: list[int]) -> None:
        if self._supervisor is not None:
            with contextlib.suppress(OSError):
                wire.send(self._supervisor, message, descriptors)

    # clients

    def _serve(self, client: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._outgoing[client] = deque()
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._hear(client))

    def _hear(self, client: int) -> None:
        sock = self._state.clients.get(client)
        if sock is None:
            return
        try:
            received = wire.receive(sock)
        except BlockingIOError:
            return
        if received is None:
            self._leave(client)
            return
        message, descriptors = received
        try:
            self._handle(client, message, descriptors)
        except Exception as error:  # noqa: BLE001  # told to who asked; the others go on
            self._answer(client, message, wire.pack_error(error))

    def _handle(self, client: int, message: wire.Message, descriptors: list[int]) -> None:
        match message["op"]:
            case "attach":
                self._attach(client, message, descriptors)
            case "rearm":
                self._rearm(client, message, descriptors)
            case "client":
                self._welcome(descriptors)
            case "detach":
                self._detach(message["link"], client)
            case "let_go":
                self._let_go((message["link"], client, message["hold"]))
            case "read" | "prefetch" | "evict":
                self._calls.submit(self._call, client, message)
            case op:
                raise PagerError(f"the pager knows no {op!r}")

    def _attach(self, client: int, message: wire.Message, descriptors: list[int]) -> None:
        uffd, *others = descriptors
        link = message["link"]
        if link not in self._state.links:
            self._tell_supervisor({**message, "client": client}, descriptors)
            self._state.links[link] = (client, message, others)
            self._state.uffds[link, client] = uffd
            self._resolve(link, message, [os.dup(fd) for fd in others])
            self._listen(link, client, os.dup(uffd))
        else:
            for fd in others:
                os.close(fd)
            if (link, client) in self._state.uffds:  # asked twice: the one before me had got so far
                os.close(uffd)
            else:
                self._rearm(client, message, [uffd])
                return
        self._answer(client, message, {})

    def _rearm(self, client: int, message: wire.Message, descriptors: list[int]) -> None:
        link, uffd = message["link"], descriptors[0]
        if link not in self._state.links:
            os.close(uffd)
            raise PagerError("a forked process's pages are not known to this pager")
        if (link, client) in self._state.uffds:
            os.close(uffd)
        else:
            self._tell_supervisor({**message, "op": "rearm", "client": client}, descriptors)
            self._state.uffds[link, client] = uffd
            self._listen(link, client, os.dup(uffd))
        self._resolvers[link].arena.wake(0, self._resolvers[link].size)
        self._answer(client, message, {})

    def _welcome(self, descriptors: list[int]) -> None:
        client = max(self._state.clients, default=0) + 1
        self._tell_supervisor({"op": "client", "client": client}, descriptors)
        self._state.clients[client] = socket.socket(fileno=descriptors[0])
        self._serve(client, self._state.clients[client])

    def _resolve(self, link: str, message: wire.Message, descriptors: list[int]) -> None:
        memfd, table = descriptors
        mirror = mmap.mmap(table, table_bytes(message["size"]))
        os.close(table)
        resolver = Resolver(message, memfd, mirror)
        resolver.on_failure = self._failure
        resolver.arena.dropped = self._unlisten
        self._resolvers[link] = resolver

    def _listen(self, link: str, client: int, uffd: int) -> None:
        del client
        resolver = self._resolvers[link]
        resolver.arena.add(uffd)
        self._selector.register(uffd, selectors.EVENT_READ, lambda: self._faults(resolver, uffd))

    def _unlisten(self, uffd: int) -> None:
        """In any thread: the descriptor's process is gone."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(uffd)
        os.close(uffd)

    def _faults(self, resolver: Resolver, uffd: int) -> None:
        try:
            for fault in _uffd.faults(uffd):
                resolver.fault(uffd, fault)
        except OSError:  # the process is gone
            resolver.arena.drop(uffd)
            return
        if self._due is None:
            self._due = time.monotonic() + 0.5

    def _detach(self, link: str, client: int) -> None:
        """A process has unmapped the arena; the last one takes it with it."""
        if link not in self._state.links:
            return
        self._tell_supervisor({"op": "detach", "link": link, "client": client}, [])
        self._drop_holds(link, client)
        leave(self._state, link, client)
        if link not in self._state.links:
            self._resolvers.pop(link).close()

    def _leave(self, client: int) -> None:
        """A client's process has ended, or closed its end."""
        sock = self._state.clients.pop(client)
        self._selector.unregister(sock)
        sock.close()
        del self._outgoing[client]
        for link, of in list(self._state.uffds):
            if of == client:
                self._detach(link, client)
        self._tell_supervisor({"op": "leave", "client": client}, [])

    # answers

    def _call(self, client: int, message: wire.Message) -> None:
        """In a thread of its own."""
        try:
            reply = self._perform(client, message)
        except Exception as error:  # noqa: BLE001  # raised again by who asked
            reply = wire.pack_error(error)
        self._done.append((client, {**reply, "id": message["id"]}))
        os.eventfd_write(self._wake, 1)

    def _perform(self, client: int, message: wire.Message) -> wire.Message:
        link = message["link"]
        resolver = self._resolvers.get(link)
        if resolver is None:
            raise PagerError("the file is not attached to the pager")
        match message["op"]:
            case "read":
                hold = message["hold"]
                extent = ByteRange(message["start"], message["stop"])
                pin = resolver.read(extent, message["ahead"], hold=hold is not None)
                if hold is not None:
                    self._let_go((link, client, hold), pin)
            case "prefetch":
                return {"count": resolver.prefetch(wire.unpack_ranges(message["ranges"]), wait=message["wait"])}
            case "evict":
                resolver.evict(ByteRange(message["start"], message["stop"]))
        return {}

    def _let_go(self, key: tuple[str, int, int], instead: Any = None) -> None:
        """Let a hold go, or keep `instead` in its place."""
        before = self._holds.pop(key, None)
        if instead is not None:
            self._holds[key] = instead
        resolver = self._resolvers.get(key[0])
        if before is not None and resolver is not None:
            resolver.let_go(before)

    def _drop_holds(self, link: str, client: int) -> None:
        for key in [key for key in list(self._holds) if key[:2] == (link, client)]:
            self._let_go(key)

    def _answer(self, client: int, message: wire.Message, reply: wire.Message) -> None:
        if "id" in message:
            self._say(client, {**reply, "id": message["id"]})

    def _say(self, client: int, message: wire.Message) -> None:
        """Never blocks: a client that is blocked by a fault does not read."""
        if client in self._outgoing:
            self._outgoing[client].append(message)
            self._flush(self._state.clients[client].fileno())

    def _flush(self, fd: int) -> None:
        client = next((name for name, sock in self._state.clients.items() if sock.fileno() == fd), None)
        if client is None:
            return
        sock, queue = self._state.clients[client], self._outgoing[client]
        try:
            while queue:
                wire.send(sock, queue[0])
                queue.popleft()
        except BlockingIOError:
            self._selector.modify(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, lambda: self._hear(client))
            return
        except OSError:  # it is gone: its end is heard next
            queue.clear()
        self._selector.modify(sock, selectors.EVENT_READ, lambda: self._hear(client))


def leave(state: State, link: str, client: int) -> None:
    """A process has unmapped an arena: its descriptors go, and with the last one all of the link."""
    uffd = state.uffds.pop((link, client), None)
    if uffd is not None:
        os.close(uffd)
    if link in state.links and not any(name == link for name, _ in state.uffds):
        for fd in state.links.pop(link)[2]:
            os.close(fd)
