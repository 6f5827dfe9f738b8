"""The client: this process's side of its pager.

One pair of helpers a process, for all its buffers: started when the first buffer that lacks pages is exported, ended a
second after the last mapping is gone. A thread of the client's hears answers and watches the helpers; it starts others
where both die, and attaches everything again. A forked child talks to its parent's helpers by a socket of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any

from hctef import _faulting, _uffd
from hctef._faulting import Mapping
from hctef._planner import Cancelled
from hctef._ranges import ByteRange
from hctef.exceptions import PagerError
from hctef.pager import wire

START_SECONDS = 30.0
LINGER_SECONDS = 1.0
"""The helpers outlive the last mapping by this: the next file is often opened at once, and a start takes 0.1 s."""


@dataclass(slots=True)
class _Asked:
    """A request that was not answered yet."""

    message: wire.Message
    descriptors: list[int]
    future: Future[Any]


class Link:
    """One attached arena, as the planner of this process sees it: see `hctef._planner.Pager`."""

    def __init__(self, client: Client, mapping: Mapping, message: wire.Message, table: int) -> None:
        self.client = client
        self.mapping = mapping
        self.name: str = message["link"]
        self.message = message
        self.table = table
        self._holds: dict[int, ByteRange] = {}
        self._waiting: set[Future[Any]] = set()

    def read(self, wanted: ByteRange, ahead: int, hold: object) -> Future[None]:
        key = None if hold is None else id(hold)
        if key is not None:
            self._holds[key] = wanted
        return self._ask({"op": "read", "start": wanted.start, "stop": wanted.stop, "ahead": ahead, "hold": key})

    def prefetch(self, ranges: Sequence[ByteRange], *, wait: bool) -> Future[int]:
        total: Future[int] = Future()
        parts: list[Future[Any]] = []
        for batch in itertools.batched(ranges, wire.MOST_RANGES):
            message = {"op": "prefetch", "ranges": wire.pack_ranges(batch), "wait": wait}
            parts.append(self._ask(message))
        left = itertools.count(len(parts) - 1, -1)

        def came(_: Future[Any]) -> None:
            if next(left) == 0 and total.set_running_or_notify_cancel():
                errors = [error for part in parts if (error := part.exception()) is not None]
                if errors:
                    total.set_exception(errors[0])
                else:
                    total.set_result(sum(part.result()["count"] for part in parts))

        for part in parts:
            part.add_done_callback(came)
        return total

    def evict(self, start: int, stop: int) -> Future[None]:
        return self._ask({"op": "evict", "start": start, "stop": stop})

    def let_go(self, hold: object) -> None:
        if self._holds.pop(id(hold), None) is not None:
            self.client.tell({"op": "let_go", "link": self.name, "hold": id(hold)})

    def cancel(self) -> None:
        for future in list(self._waiting):
            _fail(future, Cancelled())

    def _ask(self, message: wire.Message) -> Future[Any]:
        future = self.client.ask({**message, "link": self.name})
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def holds(self) -> list[wire.Message]:
        """What to ask of a pager that knows nothing of this process: what is held."""
        found = list(self._holds.items())
        return [
            {"op": "read", "link": self.name, "start": a, "stop": b, "ahead": 0, "hold": key} for key, (a, b) in found
        ]


class Client:
    """The pager of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._ids = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._links: dict[str, Link] = {}
        self._socket: socket.socket | None = None
        self._pid = 0
        self._pidfd = -1
        self._thread: threading.Thread | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = False
        self._late: deque[wire.Message] = deque()
        """What the garbage collector wants told, which may run while this very thread holds the lock."""

    # starting

    def start(self) -> None:
        """Have the helpers run. Raises PagerError: they do not start."""
        with self._lock:
            if self._socket is None:
                self._spawn()
                self._listen()

    def _spawn(self) -> None:
        mine, its = wire.pair()
        try:
            number = its.fileno()
            code = f"import sys; sys.path[:] = {sys.path!r}; from hctef.pager.supervisor import main; main({number})"
            null = "/dev/null"
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, number, number),  # to the same number: it survives the exec
            ]
            arguments = [sys.executable, "-I", "-c", code]
            signals = [signal.SIGINT, signal.SIGTERM, signal.SIGPIPE]
            self._pid = os.posix_spawn(
                sys.executable, arguments, os.environ, file_actions=actions, setsid=True, setsigdef=signals
            )
        except OSError as error:
            mine.close()
            raise PagerError(f"the pager's process cannot be started: {error}") from error
        finally:
            its.close()
        self._pidfd = os.pidfd_open(self._pid)
        mine.settimeout(START_SECONDS)
        try:
            ready = wire.receive(mine)
        except OSError:
            ready = None
        if ready is None:
            mine.close()
            self._reap()
            raise PagerError(
                "the pager's process ended at once, or did not say that it is ready: its errors are on stderr"
            )
        mine.settimeout(None)
        self._socket = mine

    def _reap(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # somebody waited for all children
            os.waitpid(self._pid, 0)
        os.close(self._pidfd)
        self._pid, self._pidfd = 0, -1

    def _listen(self) -> None:
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="hctef-pager", daemon=True)
        self._thread.start()

    # asking

    def attach(self, mapping: Mapping, message: wire.Message, table: int) -> Link:
        """Have the faults of a mapping resolved. `table` is the descriptor of its shared page table, which it takes over.

        Raises PagerError.
        """
        link = Link(self, mapping, {**message, "op": "attach", "link": secrets.token_hex(8)}, table)
        with self._lock:
            self._links[link.name] = link
        try:
            descriptors = [mapping.uffd, mapping.memfd, table]
            self.ask(link.message, descriptors).result(START_SECONDS)
        except TimeoutError:
            self._forget(link.name)
            raise PagerError("the pager does not answer") from None
        except BaseException:
            self._forget(link.name)
            raise
        mapping.closed = lambda _: self._gone(link.name)
        return link

    def ask(self, message: wire.Message, descriptors: Sequence[int] = ()) -> Future[Any]:
        """Send a request. The future has its reply, or raises what the reply says."""
        future: Future[Any] = Future()
        with self._lock:
            self._tell_late()  # in order: what was let go before is let go first
            number = next(self._ids)
            asked = _Asked({**message, "id": number}, list(descriptors), future)
            self._asked[number] = asked
            self._send(asked.message, asked.descriptors)
        return future

    def tell(self, message: wire.Message) -> None:
        """Send what needs no reply, soon. Never blocks."""
        self._late.append(message)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def _send(self, message: wire.Message, descriptors: Sequence[int] = ()) -> None:
        if self._socket is None:
            raise PagerError("the pager is not there")
        with contextlib.suppress(ConnectionError, BrokenPipeError):  # it died: all is asked again of the next one
            wire.send(self._socket, message, descriptors)

    def _gone(self, name: str) -> None:
        """A mapping's last view is gone. Perhaps by the garbage collector: no lock is waited for."""
        self.tell({"op": "detach", "link": name})

    def _forget(self, name: str) -> None:
        with self._lock:
            link = self._links.pop(name, None)
        if link is not None:
            os.close(link.table)
            link.cancel()

    # hearing

    def _run(self) -> None:
        """The client's thread."""
        idle_since: float | None = None
        while not self._stop:
            sock = self._socket
            if sock is None:
                return
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            poll.register(self._wake, select.POLLIN)
            if self._pidfd >= 0:
                poll.register(self._pidfd, select.POLLIN)
            events = [fd for fd, _ in poll.poll(100 if idle_since is not None else None)]
            if self._wake in events:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                self._tell_late()
            if (sock.fileno() in events and not self._hear(sock)) or self._pidfd in events:
                self._restart()
            idle_since = None if self._links else idle_since or time.monotonic()
            if idle_since is not None and time.monotonic() - idle_since >= LINGER_SECONDS and self._end():
                return

    def _tell_late(self) -> None:
        while self._late:
            message = self._late.popleft()
            with self._lock, contextlib.suppress(PagerError):
                self._send(message)
            if message["op"] == "detach":
                self._forget(message["link"])

    def _hear(self, sock: socket.socket) -> bool:
        """Take one message. False: the helpers are gone."""
        received = wire.receive(sock)
        if received is None:
            return False
        reply, _ = received
        if reply.get("again"):
            with self._lock:
                self._ask_again()
            return True
        with self._lock:
            asked = self._asked.pop(reply.get("id", 0), None)
        if asked is not None:
            if "error" in reply:
                _fail(asked.future, wire.unpack_error(reply))
            else:
                _settle(asked.future, reply)
        return True

    def _ask_again(self) -> None:
        for link in list(self._links.values()):
            for message in link.holds():
                self._send({**message, "id": next(self._ids)})
        for asked in list(self._asked.values()):
            self._send(asked.message, asked.descriptors)

    def _restart(self) -> None:
        """The supervisor is gone, or both: start others, and attach all that can be touched."""
        pause = 0.01
        while True:
            with self._lock:
                old, self._socket = self._socket, None
                if self._pidfd >= 0:
                    self._reap()
                try:
                    self._spawn()
                except PagerError as error:
                    self._socket = old
                    line = f"hctef: {error}; trying again in {pause:.2f} s: who touches a remote page waits\n"
                else:
                    if old is not None:
                        old.close()  # a worker that was left alone ends
                    for link in list(self._links.values()):
                        descriptors = [link.mapping.uffd, link.mapping.memfd, link.table]
                        self._send({**link.message, "id": next(self._ids)}, descriptors)
                    for number, asked in list(self._asked.items()):
                        if asked.message["op"] in ("attach", "rearm"):  # what was just sent says the same
                            del self._asked[number]
                            asked.future.set_result({})
                    self._ask_again()
                    break
            os.write(2, line.encode())
            time.sleep(pause)
            pause = min(2 * pause, 10.0)
        for _ in range(3):  # what a dying worker reads last is read again
            for link in list(self._links.values()):
                with contextlib.suppress(OSError):
                    _uffd.wake(link.mapping.uffd, link.mapping.base, link.mapping.length)
            time.sleep(0.05)

    def _end(self) -> bool:
        """Nothing is attached any longer: let the helpers go. False: something came."""
        with self._lock:
            if self._links or self._asked:
                return False
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if self._pidfd >= 0:
                pidfd = self._pidfd
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(2000)
                self._reap()
            self._thread = None
            return True

    # forking

    def before_fork(self) -> None:
        """No thread of ours is there while the process is copied."""
        self._lock.acquire()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._stop = True
            os.eventfd_write(self._wake, 1)
            self._lock.release()
            thread.join()
            self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        if self._socket is not None and self._stop:
            self._listen()
        self._lock.release()

    def in_child(self, parent: Client, alive: list[Mapping]) -> None:
        """Take over what was mapped again here, and have the parent's helpers listen to it."""
        self._links = {name: link for name, link in parent._links.items() if link.mapping in alive}
        for link in self._links.values():
            link.client, link._holds, link._waiting = self, {}, set()
        inherited = parent._socket
        if parent._pidfd >= 0:
            os.close(parent._pidfd)
        os.close(parent._wake)
        if inherited is None:
            return
        if self._links:
            mine, its = wire.pair()
            with contextlib.suppress(OSError):
                wire.send(inherited, {"op": "client"}, [its.fileno()])
            its.close()
            self._socket = mine
            for link in self._links.values():
                link.mapping.closed = lambda _, name=link.name: self._gone(name)  # type: ignore[misc]
                self.ask({"op": "rearm", "link": link.name, "base": link.mapping.base}, [link.mapping.uffd])
            self._listen()
        inherited.close()


def _settle(future: Future[Any], reply: wire.Message) -> None:
    with contextlib.suppress(InvalidStateError, RuntimeError):  # it was given up in another thread at this moment
        if future.set_running_or_notify_cancel():
            future.set_result(reply)


def _fail(future: Future[Any], error: Exception) -> None:
    with contextlib.suppress(Exception):  # it ended in another thread at this moment
        if future.set_running_or_notify_cancel():
            future.set_exception(error)


_client = Client()


def the_client() -> Client:
    """This process's."""
    return _client


def _before_fork() -> None:
    _client.before_fork()


def _after_fork_in_parent() -> None:
    _client.after_fork_in_parent()


def _after_fork_in_child(alive: list[Mapping]) -> None:
    global _client  # a new process, a new client
    parent, _client = _client, Client()
    _client.in_child(parent, alive)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
_faulting.rearmed.append(_after_fork_in_child)
