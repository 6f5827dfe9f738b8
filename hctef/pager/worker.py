"""The worker: the loop that reads faults and messages. One thread waits for both; requests run on threads of their own.

It is forked by the supervisor, with every descriptor that it needs, and may be killed at any moment: all that it knows
is told to the supervisor before it is answered, and what is in the arenas is looked up in the memfds. What it does not
understand ends it: another begins where it was, and wakes whoever waits.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import mmap
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hctef import _uffd
from hctef._link import Link
from hctef._ranges import PAGE, ByteRange
from hctef._urls import parse_url
from hctef.exceptions import PagerError
from hctef.pager import wire
from hctef.pager.filling import table_bytes
from hctef.pager.resolver import Resolver
from hctef.pager.state import Departures, Hold, Holds, State

CALLS = 64
"""Requests in words that are worked on at once, for each file: they wait for the network, each in a thread."""

AGAIN_SECONDS = 1.0
"""A file that a new worker could not take over is tried again after these."""

SILENT_SECONDS = 1.0
"""After these it is looked again whether a client is there that says nothing any longer."""

TIDY_SECONDS = 0.5
"""After a file went, until its parts, which refer to each other, are collected: its transfers have ended by then. Its
mappings and descriptors would stay until the collector comes of itself, which may be never."""


class Worker:
    """One worker's life."""

    def __init__(self, state: State, supervisor: socket.socket, *, again: bool) -> None:
        self._state = state
        self._supervisor: socket.socket | None = supervisor
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._resolvers: dict[str, Resolver] = {}
        self._own: dict[tuple[str, int], int] = {}
        """By link and client: the descriptor that this worker reads."""
        self._lines: dict[tuple[str, str, int], Link] = {}
        """By server: what is known of the line to it."""
        self._calls: dict[str, ThreadPoolExecutor] = {}
        self._outgoing: dict[int, deque[wire.Message]] = {}
        self._done: deque[Callable[[], None]] = deque()
        """What other threads leave to this one."""
        self._departures = Departures()
        self._holds = Holds(self._release)
        self._due: float | None = None
        self._untidy = False
        self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
        self._selector.register(supervisor, selectors.EVENT_READ, self._supervisor_gone)
        for client, sock in state.clients.items():
            self._serve(client, sock)
        for link in state.links:
            try:
                self._take_over(link, again=again)
            except (OSError, MemoryError) as error:
                wire.say(f"hctef: the pager's new worker does not take over a file yet: {error}\n")
                self._due = time.monotonic() + AGAIN_SECONDS
        if state.silent:
            self._due = time.monotonic() + SILENT_SECONDS
        if again:
            for client in list(state.clients):
                self._say(client, {"again": True, "lost": state.lost})

    def run(self) -> None:
        """Until no client is left."""
        while self._state.wanted:
            timeout = None if self._due is None else max(0.0, self._due - time.monotonic())
            for key, events in self._selector.select(timeout):
                now = self._selector.get_map().get(key.fd)
                if now is None or now.data is not key.data:  # what came before has closed it; another has its number
                    continue
                if events & selectors.EVENT_WRITE:
                    self._flush(key.fd)
                if events & selectors.EVENT_READ:
                    action: Callable[[], None] = key.data
                    action()
            while self._done:
                self._done.popleft()()
            if self._due is not None and time.monotonic() >= self._due:
                self._tick()

    def _tick(self) -> None:
        waits = [wait for resolver in list(self._resolvers.values()) if (wait := resolver.tick()) is not None]
        for link in [link for link in self._state.links if link not in self._resolvers]:
            try:
                self._take_over(link, again=True)
            except (OSError, MemoryError):
                waits.append(AGAIN_SECONDS)
        for client in [client for client in self._state.silent if not self._lives(client)]:
            self._state.silent.discard(client)
            self._forget(client)
        if self._state.silent:
            waits.append(SILENT_SECONDS)
        if self._untidy:
            self._untidy = False
            gc.collect()
        self._due = time.monotonic() + min(waits) if waits else None

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _soon(self, action: Callable[[], None]) -> None:
        """In any thread: have the loop do it."""
        self._done.append(action)
        os.eventfd_write(self._wake, 1)

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
        try:
            received = wire.receive(self._state.clients[client])
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
        finally:
            wire.close(descriptors)

    def _handle(self, client: int, message: wire.Message, descriptors: list[int]) -> None:
        """Do what a message says. What it keeps of `descriptors` it takes out."""
        match message.get("op"):
            case "attach":
                self._attach(client, message, descriptors)
            case "client":
                self._welcome(descriptors)
            case "detach":
                self._detach(message["link"], client, lambda: self._answer(client, message, {}))
            case "let_go":
                self._holds.let_go((message["link"], client, message["hold"]))
            case "look":
                self._look(self._resolver(message), wire.unpack_ranges(message["ranges"]))
            case "advise":
                self._resolver(message).advise(message["hint"])
            case "read" | "prefetch" | "evict":
                self._submit(client, message)
            case op:
                raise PagerError(f"the pager knows no {op!r}")

    def _resolver(self, message: wire.Message) -> Resolver:
        found = self._resolvers.get(message["link"])
        if found is None:
            raise PagerError("the file is not attached to the pager")
        return found

    def _attach(self, client: int, message: wire.Message, descriptors: list[int]) -> None:
        link = message["link"]
        if link in self._state.links:
            self._attach_also(client, message, descriptors)
            return
        uffd, *others = wire.taken(descriptors, 3)
        self._resolve(link, message, others)  # first: what cannot be done is not to be done by the next worker either
        try:
            self._listen(link, client, uffd)
        except OSError:
            self._dissolve(link)
            raise
        self._tell_supervisor({**message, "client": client}, descriptors)
        descriptors.clear()
        self._state.links[link] = message, others
        self._answer(client, message, {})

    def _attach_also(self, client: int, message: wire.Message, descriptors: list[int]) -> None:
        """What is attached already: a forked child maps it too, or it is asked twice."""
        link = message["link"]
        resolver = self._resolver(message)
        if (link, client) not in self._state.uffds:
            uffd = wire.taken(descriptors, 1)[0]
            self._listen(link, client, uffd)
            descriptors.remove(uffd)
            self._tell_supervisor({"op": "rearm", "link": link, "client": client}, [uffd])
        resolver.arena.wake(0, resolver.size)
        self._answer(client, message, {})

    def _welcome(self, descriptors: list[int]) -> None:
        client = self._state.last + 1
        self._tell_supervisor({"op": "client", "client": client}, wire.taken(descriptors, 1))
        self._state.last = client
        self._state.clients[client] = socket.socket(fileno=descriptors.pop(0))
        self._serve(client, self._state.clients[client])

    def _take_over(self, link: str, *, again: bool) -> None:
        """A link of the worker's before. Raises OSError, MemoryError: not now."""
        message, descriptors = self._state.links[link]
        self._resolve(link, message, descriptors)
        try:
            for (name, client), uffd in list(self._state.uffds.items()):
                if name == link:
                    self._listen(link, client, uffd)
        except OSError:
            self._dissolve(link)
            raise
        if again:  # what the one before me had read cannot be read again
            self._resolvers[link].arena.wake(0, self._resolvers[link].size)

    def _resolve(self, link: str, message: wire.Message, descriptors: list[int]) -> None:
        memfd, table = descriptors
        wire.set_environment(message.get("environment", {}))
        mirror = mmap.mmap(table, table_bytes(message["size"]))
        line = self._lines.setdefault(parse_url(message["url"]).origin, Link())
        line.told(message["line"])
        own = os.dup(memfd)
        try:
            resolver = Resolver(message, own, mirror, line)
        except BaseException:
            os.close(own)
            raise
        resolver.planner.requester.hint = message.get("hint", "")
        resolver.on_failure = self._failure
        resolver.arena.uses.close = self._unlisten
        self._resolvers[link] = resolver
        self._calls[link] = ThreadPoolExecutor(CALLS, "hctef-call")

    def _listen(self, link: str, client: int, uffd: int) -> None:
        """Read a process's faults, by a descriptor of this resolver's own; `uffd` is kept. Raises OSError."""
        resolver, own = self._resolvers[link], os.dup(uffd)
        try:
            self._selector.register(own, selectors.EVENT_READ, lambda: self._faults(resolver, own))
        except OSError:
            os.close(own)
            raise
        self._state.uffds[link, client] = uffd
        self._own[link, client] = own
        resolver.arena.add(own)

    def _dissolve(self, link: str) -> None:
        """Resolve nothing of it any longer."""
        for key in [key for key in self._own if key[0] == link]:
            del self._own[key]
        self._resolvers.pop(link).close()
        self._calls.pop(link).shutdown(wait=False, cancel_futures=True)
        self._untidy = True
        self._due = min(self._due or math.inf, time.monotonic() + TIDY_SECONDS)

    def _unlisten(self, uffd: int) -> None:
        """In any thread: the descriptor's process is gone."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(uffd)
        os.close(uffd)

    def _faults(self, resolver: Resolver, uffd: int) -> None:
        try:
            found = list(_uffd.faults(uffd))
        except OSError:  # the process is gone
            resolver.arena.drop(uffd)
            return
        for fault in found:
            resolver.fault(fault)
        if self._due is None:
            self._due = time.monotonic() + 0.5

    def _detach(self, link: str, client: int, then: Callable[[], None]) -> None:
        """A process has unmapped the arena; the last one takes it with it.

        `then`: done when no call is under way that would fill the process's memory there: the next file may be mapped.
        """
        if (link, client) not in self._state.uffds and (link, client) not in self._departures:
            then()
            return
        if not self._departures.detach(link, client, then):  # asked twice
            return
        over = functools.partial(self._departures.over, link, client)
        self._tell_supervisor({"op": "detach", "link": link, "client": client}, [])
        for key in self._holds.of(link, client):
            self._holds.let_go(key)
        own = self._own.pop((link, client), -1)
        resolver = self._resolvers.get(link)
        if resolver is not None:
            if own in resolver.arena.uffds:  # else it was dropped before, and its number may be another's
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(own)
            with contextlib.suppress(OSError):  # what I have read and not resolved is for others, where there are any
                _uffd.wake(self._state.uffds[link, client], resolver.base, -(-resolver.size // PAGE) * PAGE)
            resolver.arena.drop(own)
            resolver.arena.uses.then(lambda: self._soon(over))
        else:
            self._soon(over)
        self._state.leave(link, client)
        if link not in self._state.links and link in self._resolvers:
            self._dissolve(link)

    def _leave(self, client: int) -> None:
        """A client's process has ended, or left us, or something has closed its end."""
        sock = self._state.clients.pop(client)
        self._selector.unregister(sock)
        del self._outgoing[client]
        if wire.is_closed(sock) and self._lives(client):
            sock.close()
            self._state.silent.add(client)
            self._tell_supervisor({"op": "silence", "client": client}, [])
            self._due = min(self._due or math.inf, time.monotonic() + SILENT_SECONDS)
            return
        self._forget(client)
        self._departures.leave(client, sock)

    def _lives(self, client: int) -> bool:
        """Whether a client's memory is there, which was attached and never detached."""
        return any(of == client and _uffd.lives(uffd) for (_, of), uffd in self._state.uffds.items())

    def _forget(self, client: int) -> None:
        for link, of in list(self._state.uffds):
            if of == client:
                self._detach(link, client, lambda: None)
        self._tell_supervisor({"op": "leave", "client": client}, [])

    # requests

    def _submit(self, client: int, message: wire.Message) -> None:
        resolver = self._resolver(message)
        key, attempt = None, object()
        if message.get("hold") is not None:
            key = message["link"], client, message["hold"]
            self._holds.let_go(key, attempt)
        self._calls[message["link"]].submit(self._call, resolver, client, message, key, attempt)

    def _call(self, resolver: Resolver, client: int, message: wire.Message, key: Hold | None, attempt: object) -> None:
        """In a thread of its own."""
        try:
            reply = self._perform(resolver, message, key, attempt)
        except Exception as error:  # noqa: BLE001  # raised again by who asked
            reply = wire.pack_error(error)
        self._soon(lambda: self._say(client, {**reply, "id": message.get("id", 0)}))

    def _perform(self, resolver: Resolver, message: wire.Message, key: Hold | None, attempt: object) -> wire.Message:
        match message["op"]:
            case "read":
                extent = ByteRange(message["start"], message["stop"])
                pin = resolver.read(extent, hold=key is not None)
                if key is not None and not self._holds.keep(key, attempt, pin):
                    resolver.let_go(pin)
            case "prefetch":
                return {"count": resolver.prefetch(wire.unpack_ranges(message["ranges"]), wait=message["wait"])}
            case "evict":
                resolver.evict(ByteRange(message["start"], message["stop"]))
        return {}

    def _release(self, link: str, pin: Any) -> None:
        """A pin is held no longer."""
        resolver = self._resolvers.get(link)
        if resolver is not None:
            resolver.let_go(pin)

    def _look(self, resolver: Resolver, ranges: list[ByteRange]) -> None:
        """A client has filled pages itself, before it handed its arena over."""
        with resolver.driver.lock:
            for start, stop in resolver.arena.found():
                for extent in ranges:
                    begin, end = max(start, extent.start), min(stop, extent.stop, resolver.size)
                    for gap in resolver.pages.missing(begin, end) if begin < end else ():
                        resolver.planner.took(gap)
            resolver.planner.trim()
        resolver.show()

    # answers

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
            pass
        except (OSError, ValueError):  # it is gone: its end is heard next
            queue.clear()
        key = self._selector.get_key(sock)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if queue else 0)
        if events != key.events:
            self._selector.modify(sock, events, key.data)
