"""The client: this process's side of its pager.

One pair of helpers a process, for all its buffers: started when the first buffer that lacks pages is exported, ended a
second after the last mapping is gone. A forked child talks to its parent's helpers by a socket of its own.

    one thread owns all of it (`conversation.py`): the socket, what was asked, what is attached, the helpers' life
    any other thread appends to `_posted` and wakes that one: it never waits for a lock, a socket or a helper, so that
        it may hold a file's lock, or be the garbage collector
    who waits, waits for the future of a request; each is answered, or failed when nobody can be had who would answer

A thread that is blocked by a fault may hold the GIL. Where the supervisor AND the worker are killed just then, nothing
can start others, and the thread waits for ever; docs/pager.md says more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

from hctef import _faulting
from hctef._faulting import Mapping
from hctef._locks import Waiter
from hctef.exceptions import PagerError
from hctef.pager import wire
from hctef.pager.conversation import LINGER_SECONDS, ROBBED, Conversation, Request, Robbed
from hctef.pager.helpers import START_SECONDS, Helpers
from hctef.pager.link import Link

FORK_SECONDS = 10.0
"""Who forks does not wait longer for another to have forked."""

JOIN_SECONDS = 5.0
"""A forked child does not wait longer for helpers to have room for what it says, and to know of its pages."""


class Client(Conversation):
    """The pager of this process."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.RLock()  # a signal's handler may fork, or ask, in the thread that holds it
        """Held for a moment, to start the thread and to end it; never where an answer is waited for."""
        self._thread: threading.Thread | None = None
        self._running = threading.RLock()
        """Held by the thread as long as it runs: no two do at once."""
        self._stop = False
        self._forking = threading.RLock()
        """Held from before a fork until after it: threads that fork at once do so one after the other."""
        self._forks: list[int] = []
        """The threads that hold it; twice where a signal's handler forks within a fork."""

    # in any thread

    def attach(self, mapping: Mapping, message: wire.Message, table: int) -> Link:
        """Have the faults of a mapping resolved. Takes over `table`, the descriptor of its shared page table.

        Raises PagerError: the helpers do not start, or refuse. What was taken over goes when the mapping does.
        """
        link = Link(self, mapping, {**message, "op": "attach", "link": secrets.token_hex(8)}, table)
        future: Future[Any] = Waiter()
        mapping.closed = link.unmapped
        self.ask(link, link.message, future)
        _result(future, 2 * START_SECONDS)
        return link

    def ask(self, link: Link, message: wire.Message, future: Future[Any]) -> None:
        """Send a request soon. The future has its reply, or raises what the reply says. Raises PagerError."""
        if sys.is_finalizing():  # the thread stands still by now
            raise PagerError("the interpreter ends, and its pager's thread with it")
        if self._robbed:
            raise PagerError(ROBBED)
        with self._guard:
            self._posted.append(Request(link, {**message, "link": link.name}, future))
            if self._rests() and (not self._forks or threading.get_ident() in self._forks):
                try:
                    self._start()
                except RuntimeError as error:  # the system has no more threads, or the interpreter ends
                    self._posted.pop()
                    raise PagerError(f"the pager's thread cannot be started: {error}") from error
        self._poke()

    def tell(self, link: Link, message: wire.Message) -> None:
        """Say what needs no answer, soon. Takes no lock: the garbage collector may call it anywhere."""
        request = Request(link, {**message, "link": link.name})
        self._posted.append(request)
        if message["op"] == "detach" and self._thread is None and self._alone(link):
            with contextlib.suppress(ValueError):  # a thread that began just now has taken it
                self._posted.remove(request)
                link.close()
        self._poke()

    def _poke(self) -> None:
        try:
            os.eventfd_write(self._wake, 1)
        except OSError as error:
            if error.errno == errno.EBADF and self._wake >= 0 and not self._robbed:
                self._give_up()

    def _start(self) -> None:
        """With the guard. Raises RuntimeError; and KeyboardInterrupt, when the thread may begin later."""
        self._stop = False
        self._thread = thread = threading.Thread(target=self._run, name="hctef-pager", daemon=True)
        try:
            thread.start()
        except BaseException:  # raised again
            if self._thread is thread:
                self._thread = None
            raise

    def _rests(self) -> bool:
        """With the guard: whether there is no thread."""
        return self._thread is None or not self._thread.is_alive()

    # the thread

    def _run(self) -> None:
        if self._is_wanted():
            with self._running:
                if self._is_wanted():
                    self._converse()

    def _is_wanted(self) -> bool:
        """In a thread that begins: not where whoever started it was interrupted, for another may have begun."""
        while not self._guard.acquire(timeout=0.05):
            if self._stop:  # a signal's handler forks in who starts it, and waits for it
                return False
        try:
            return self._thread is threading.current_thread()
        finally:
            self._guard.release()

    def _converse(self) -> None:
        while True:  # one turn at least: who forks again and again does not keep all from being said
            try:
                self._turn(wait=not self._stop)
                if self._stop or self._over():
                    return
            except Robbed:
                self._give_up()
                return
            except Exception:  # noqa: BLE001  # whatever it is: nobody may wait for ever, for an answer or for a page
                self._begin_anew()
                if self._stop:
                    return

    def _over(self) -> bool:
        """Whether nothing is attached, nothing to be said, and the helpers are gone: the thread ends then."""
        if self._links or self._posted:
            self._idle_since = None
            return False
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        if now - self._idle_since < LINGER_SECONDS:
            return False
        self._asked.clear()
        self._leave(*self._current())
        if self._left or not self._guard.acquire(blocking=False):
            return False
        try:
            self._thread = None  # first: who posts from now on sees that nobody listens
            if self._posted:
                self._thread = threading.current_thread()
                return False
            self._idle_since = None
            return True
        finally:
            self._guard.release()

    # forking

    def before_fork(self) -> None:
        """Python warns of a fork beside threads. It ends no wait, and holds no lock but the one that is for forks: the
        file's own may be held."""
        if self._thread is threading.current_thread():
            return
        if self._forking.acquire(timeout=FORK_SECONDS):
            self._forks.append(threading.get_ident())
        with self._guard:
            thread = self._thread
        if thread is None:
            return
        self._stop = True
        self._poke()
        if self._robbed:  # it waits for what is closed, perhaps for ever
            return
        try:
            with contextlib.suppress(RuntimeError):  # a signal's handler forks in the midst of its start
                thread.join()
        finally:
            self._ended(thread)

    def _ended(self, thread: threading.Thread) -> None:
        """The thread ends: see it out, however often Ctrl-C is pressed meanwhile. Its own word for it does not do: when
        a `join` was interrupted, Python 3.12 takes a thread for ended that runs."""
        try:
            with self._running, self._guard:
                if self._thread is thread:
                    self._thread = None
        except BaseException:  # raised again
            self._ended(thread)
            raise

    def after_fork_in_parent(self) -> None:
        if self._helpers is not None and self._links:
            self._helpers.shared = True
        if threading.get_ident() in self._forks:
            self._forks.remove(threading.get_ident())
            self._forking.release()
        with self._guard, contextlib.suppress(RuntimeError):  # the next request starts it
            if self._rests() and not self._forks and (self._stop or self._posted):
                self._start()

    def in_child(self, parent: Client, alive: list[Mapping]) -> None:
        """Take over what was mapped again here, and have the parent's helpers listen to it."""
        for link in list(parent._links.values()):
            mapping = link.mapping
            link.client, link._waiting = self, set()
            if mapping is None or mapping.mode != "user-mode-only":  # there views are for system calls, here too
                link._holds.clear()
            if mapping is not None and mapping in alive:
                link.descriptors[0] = mapping.uffd
                self._links[link.name] = link
            else:
                wire.close(link.descriptors[0 if mapping is None else 2 :])  # the first two are the mapping's
                link.descriptors = []
                if mapping is not None:
                    mapping.closed = lambda *_: None
        for left in (*parent._left, *([parent._next] if parent._next else [])):
            left.close()
        helpers = parent._helpers
        if helpers is not None:
            if helpers.deadline is None and self._links:
                with contextlib.suppress(OSError):  # no more descriptors: the thread tries until it has others
                    self._join(helpers)
            helpers.close()
        parent._links, parent._helpers, parent._next, parent._left = {}, None, None, []  # what was never attached
        parent._posted.clear()  # is still the parent's, who is nobody here
        if self._links:
            self._be_attached()
            with self._guard, contextlib.suppress(RuntimeError):  # the next request starts it
                self._start()

    def _join(self, helpers: Helpers) -> None:
        """Talk to the parent's helpers. Where they do not hear of it, the socket's end says so, and others start."""
        mine, its = wire.pair()
        mine.setblocking(False)
        with its, contextlib.suppress(OSError):
            poll = select.poll()
            poll.register(helpers.socket, select.POLLOUT)
            poll.poll(1000 * JOIN_SECONDS)
            wire.send(helpers.socket, {"op": "client"}, [its.fileno()])
        self._helpers = Helpers(mine, shared=True)
        for link in self._links.values():  # with all that there is to say: the parent may be faster to let go of it
            self._take(Request(link, link.message))
        self._tell_rest(self._helpers)  # what is held

    def _be_attached(self) -> None:
        """Converse, in a forked child, until helpers know of all: the supervisor too, who tells the next worker. Who
        touches a page next may hold the GIL, so that this process's thread would neither say nor hear anything."""
        give_up = time.monotonic() + JOIN_SECONDS
        try:
            while not (self._is_settled() or self._pause) and time.monotonic() < give_up:
                self._turn(wait=False)
        except Robbed:
            self._give_up()
        except Exception:  # noqa: BLE001  # as in `_converse`: the thread tries again
            self._begin_anew()


def _result(future: Future[Any], timeout: float) -> Any:
    """What a future has after at most about `timeout` seconds in which this process did run: while another thread is
    blocked in a fault and holds the GIL, time goes by in which nobody can answer. Raises PagerError: nothing came."""
    for _ in range(int(timeout / 0.5)):
        with contextlib.suppress(TimeoutError):
            return future.result(0.5)
    raise PagerError("the pager does not answer")


_client = Client()


def the_client() -> Client:
    """This process's."""
    return _client


def _before_fork() -> None:
    _client.before_fork()


def _after_fork_in_parent() -> None:
    _client.after_fork_in_parent()


def _after_fork_in_child(alive: list[Mapping]) -> None:
    global _client  # noqa: PLW0603  # a new process, a new client
    parent = _client
    os.close(parent._wake)  # first: there may be room for no more descriptors
    parent._wake = -1
    _client = Client()
    _client.in_child(parent, alive)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
_faulting.rearmed.append(_after_fork_in_child)
