"""The conversation with the helpers: what was asked and not answered, what is attached, who is alive, who takes over.

All of it is one thread's, the client's (`client.py`): others append to `_posted` and wake it.

    what is asked is kept until it is answered: helpers that take over are told all that they must know, and asked again
    a worker that dies is its supervisor's to replace; both gone, or the supervisor, are replaced here
    helpers that are left are seen off: their socket's end says that their worker is gone
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import time
import traceback
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from hctef import _uffd
from hctef._memory import high
from hctef.exceptions import PagerError
from hctef.pager import wire
from hctef.pager.helpers import Helpers, start_helpers
from hctef.pager.link import Link, settle

ROBBED = "this program has closed descriptors of hctef's, as daemons do"

LINGER_SECONDS = 1.0
"""The helpers outlive the last mapping by this: the next file is often opened at once, and a start takes 0.1 s."""

REFUSED_SECONDS = 1.0

PAUSE_MOST = 10.0
"""Seconds between attempts to start helpers, at the most."""


class Robbed(Exception):
    """The program has closed descriptors that it did not open."""


@dataclass(slots=True, eq=False)
class Request:
    """What is to be said, and the future of its answer, where there is one."""

    link: Link
    message: wire.Message
    future: Future[Any] | None = None


class Conversation:
    """With the helpers of one process. But for what is posted, its thread's own."""

    def __init__(self) -> None:
        self._posted: deque[Request] = deque()
        self._wake = high(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._ids = itertools.count(1)
        self._links: dict[str, Link] = {}
        self._asked: dict[int, Request] = {}
        self._refused: dict[str, float] = {}
        """By link: when to attach it again, where new helpers could not take it over."""
        self._helpers: Helpers | None = None
        self._next: Helpers | None = None
        """Those that will take the place of orphaned ones, once all is attached to them. Not before: whoever holds the
        GIL in a fault needs a worker that knows of its page."""
        self._left: list[Helpers] = []
        self._pause, self._again_at = 0.0, 0.0
        self._idle_since: float | None = None
        """Since when nothing is attached."""
        self._robbed = False
        """Of its descriptors."""

    # hearing and saying

    def _turn(self, *, wait: bool = True) -> None:
        """Say what is to be said, and hear what comes next."""
        while self._posted:
            request = self._posted.popleft()
            try:
                self._take(request)
            except Exception:
                settle(request.future, error=PagerError("the pager's client failed: stderr tells how"))
                raise
        now = time.monotonic()
        if self._links and self._next is None and (self._helpers is None or self._helpers.orphaned):
            if now >= self._again_at:
                self._begin()
        elif self._next is not None:
            self._promote(self._next)
        for name in [name for name, due in self._refused.items() if now >= due]:
            del self._refused[name]
            if name in self._links:
                self._take(Request(self._links[name], self._links[name].message))
        for left in self._left:
            if left.deadline is not None and now >= left.deadline:
                left.deadline = None
                left.kill()
        ready = self._wait(now, wait=wait)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        for left in list(self._left):
            self._see_off(left, ready)
        for helpers in self._current():
            if (helpers.socket.fileno() in ready and not self._hear(helpers)) or (
                helpers.deadline is not None and (time.monotonic() >= helpers.deadline or helpers.pidfd in ready)
            ):
                self._lost(helpers)
            elif helpers.pidfd in ready:
                helpers.reap()
                helpers.orphaned = True

    def _alone(self, link: Link) -> bool:
        """Whether there is nobody who could fill anything of a link, or was asked to."""
        asked = any(request.link is link and request.message["op"] == "attach" for request in list(self._posted))
        return not (asked or self._links or self._helpers or self._next or self._left)

    def _current(self) -> list[Helpers]:
        return [helpers for helpers in (self._helpers, self._next) if helpers is not None]

    def _wait(self, now: float, *, wait: bool) -> set[int]:
        """The descriptors that something has happened to, none where something else is due."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        due = [*self._refused.values(), *([] if wait else [now])]
        for helpers in self._current():
            self._flush(helpers)
        for helpers in (*self._left, *self._current()):
            if helpers.socket.fileno() >= 0:
                poll.register(helpers.socket, select.POLLIN | (select.POLLOUT if helpers.sending else 0))
            if helpers.pidfd >= 0:
                poll.register(helpers.pidfd, select.POLLIN)
            if helpers.deadline is not None:
                due.append(helpers.deadline)
        if self._links and self._next is None and (self._helpers is None or self._helpers.orphaned):
            due.append(self._again_at)
        if not self._links and self._idle_since is None:
            due.append(now)  # for `_over` to see it
        if self._idle_since is not None and (self._helpers is not None or not self._left):
            due.append(self._idle_since + LINGER_SECONDS)
        found = poll.poll(max(0.0, min(due) - now) * 1000 + 1 if due else None)
        if any(events & select.POLLNVAL for _, events in found):
            raise Robbed
        return {fd for fd, _ in found}

    def _take(self, request: Request) -> None:
        """Something to be said, which is answered or not."""
        link, op = request.link, request.message["op"]
        if op == "detach":
            self._forget(link)
            return
        if op == "attach":
            self._links[link.name] = link
        elif link.name not in self._links:
            settle(request.future, error=PagerError("the file is not attached to the pager"))
            return
        if request.future is not None and request.future.done():  # given up before it was sent
            return
        if op in wire.ANSWERED:
            number = next(self._ids)
            request.message = {**request.message, "id": number}
            self._asked[number] = request
        if self._helpers is not None:
            self._say(self._helpers, request)
        elif self._pause and op in wire.ANSWERED - {"attach"}:
            del self._asked[request.message["id"]]
            settle(request.future, error=PagerError("the pager's process is gone, and none can be started now"))

    def _say(self, helpers: Helpers, request: Request) -> None:
        helpers.sending.append((request.message, request.link))
        if request.message["op"] == "attach":
            helpers.told.add(request.link.name)

    def _flush(self, helpers: Helpers) -> None:
        while helpers.sending:
            message, link = helpers.sending[0]
            attaches = message["op"] == "attach"
            if attaches and not link.descriptors:  # its mapping has gone meanwhile
                helpers.sending.popleft()
                continue
            try:
                wire.send(helpers.socket, message, link.descriptors if attaches else ())
            except BlockingIOError:
                return
            except ConnectionError:  # it is gone, which is heard next
                helpers.sending.clear()
                return
            except (OSError, ValueError) as error:
                self._answer(message.get("id", 0), error=PagerError(f"the pager cannot be asked: {error}"))
            helpers.sending.popleft()

    def _hear(self, helpers: Helpers) -> bool:
        """Take what came. False: the helpers are gone."""
        while True:
            try:
                received = wire.receive(helpers.socket)
            except BlockingIOError:
                return True
            if received is None:
                return False
            reply, descriptors = received
            wire.close(descriptors)
            if "ready" in reply:
                helpers.deadline, self._pause = None, 0.0
            elif "again" in reply:
                self._ask_again(helpers)
                if reply.get("lost"):
                    helpers.told.clear()
                    self._attach_all(helpers)
            elif "error" in reply:
                self._answer(reply.get("id", 0), error=wire.unpack_error(reply))
            else:
                helpers.ending.pop(reply.get("id", 0), None)
                self._answer(reply.get("id", 0), reply)

    def _answer(self, number: int, reply: Any = None, error: Exception | None = None) -> None:
        request = self._asked.pop(number, None)
        if request is None:
            return
        link, op = request.link, request.message["op"]
        if error is not None and link.name in self._links:
            if op == "attach" and request.future is None:  # it was attached once, so somebody may be blocked
                wire.say(f"hctef: a new pager does not take over a file, which waits {REFUSED_SECONDS:g} s: {error}\n")
                self._refused[link.name] = time.monotonic() + REFUSED_SECONDS
                if self._helpers is not None and self._helpers.pidfd < 0:  # another process's: to have our own may help
                    self._helpers.orphaned = True
                return
            if op == "attach":
                del self._links[link.name]
        settle(request.future, reply, error)

    def _forget(self, link: Link) -> None:
        """Its mapping is gone."""
        attached = self._links.pop(link.name, None) is not None
        for number in [number for number, request in self._asked.items() if request.link is link]:
            settle(self._asked.pop(number).future, error=PagerError("the file is not attached to the pager"))
        for helpers in self._current() if attached or link.descriptors else ():
            number = next(self._ids)
            self._asked[number] = Request(link, {"op": "detach", "link": link.name, "id": number})
            helpers.ending[number] = link.room
            self._say(helpers, self._asked[number])
            helpers.told.discard(link.name)
        for left in self._left:
            if left.socket.fileno() >= 0:  # its end is the answer
                left.ending[next(self._ids)] = link.room
        link.close()

    # helpers

    def _begin(self) -> None:
        """Start helpers, and tell them all that they must know."""
        try:
            helpers = start_helpers()
        except PagerError as error:
            self._failed(error)
            return
        self._refused.clear()
        self._attach_all(helpers)
        if self._helpers is None:
            self._helpers = helpers
            self._tell_rest(helpers)
        else:
            self._next = helpers

    def _is_attaching(self) -> bool:
        """Whether helpers were told of something, and have not answered that they know of it."""
        return any(request.message["op"] == "attach" for request in self._asked.values())

    def _is_settled(self) -> bool:
        """Whether there are helpers that know of all, and no others are to take their place."""
        helpers = self._helpers
        there = helpers is not None and not helpers.orphaned and self._next is None
        return there and not self._refused and not self._is_attaching()

    def _attach_all(self, helpers: Helpers) -> bool:
        """Tell helpers of the links that they do not know yet. Whether there were any."""
        asked = {request.link.name: request for request in self._asked.values() if request.message["op"] == "attach"}
        new = [link for link in self._links.values() if link.name not in helpers.told]
        for link in new:
            if link.name not in asked:
                number = next(self._ids)
                asked[link.name] = self._asked[number] = Request(link, {**link.message, "id": number})
            self._say(helpers, asked[link.name])
        return bool(new)

    def _promote(self, helpers: Helpers) -> None:
        """Have the next helpers take over, once all is attached to them, or there are no others."""
        if self._helpers is not None:
            if helpers.deadline is not None or self._attach_all(helpers) or self._is_attaching():
                return
            self._leave(self._helpers)
        self._helpers, self._next = helpers, None
        self._tell_rest(helpers)

    def _ask_again(self, helpers: Helpers) -> None:
        """A new worker stands there, and knows what is attached; or was attached, for it may not have come so far."""
        for request in self._asked.values():
            if request.message["op"] == "attach":
                self._say(helpers, request)
        self._tell_rest(helpers)

    def _tell_rest(self, helpers: Helpers) -> None:
        """What those who know what is attached do not know."""
        for link in self._links.values():
            for message in link.again():
                self._say(helpers, Request(link, {**message, "id": next(self._ids)}))
        for request in self._asked.values():
            if request.message["op"] != "attach":
                self._say(helpers, request)

    def _lost(self, helpers: Helpers) -> None:
        """The worker is gone, and nobody starts another."""
        ready = helpers.deadline is None
        self._leave(helpers)
        if not ready:
            why = "ended at once, or did not say that it is ready: its errors are on stderr"
            self._failed(PagerError(f"the pager's process {why}"))

    def _leave(self, *which: Helpers) -> None:
        for helpers in which:
            helpers.leave()
            self._left.append(helpers)
        self._helpers = None if self._helpers in which else self._helpers
        self._next = None if self._next in which else self._next

    def _see_off(self, left: Helpers, ready: set[int]) -> None:
        """Helpers that were left: the worker is gone when its socket is, the supervisor when its descriptor says so."""
        if left.socket.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                while (received := wire.receive(left.socket)) is not None:
                    wire.close(received[1])
                left.socket.close()
                left.ending.clear()
                for link in self._links.values():  # what it read last cannot be read again
                    with contextlib.suppress(OSError):
                        _uffd.wake(link.descriptors[0], *link.place)
        if left.pidfd in ready:
            left.reap()
        if left.pidfd < 0 and left.socket.fileno() < 0:
            self._left.remove(left)

    def _failed(self, error: PagerError) -> None:
        """Helpers could not be started: who asked is told, who touched an absent page waits for the next attempt."""
        self._pause = min(PAUSE_MOST, 2 * self._pause + 0.05)
        self._again_at = time.monotonic() + self._pause
        if self._helpers is not None:  # orphaned, and as good as ever
            return
        for request in self._give_up_asking():
            settle(request.future, error=error)
        if self._links:
            wire.say(f"hctef: {error}; trying again in {self._pause:.2f} s: who touches an absent page waits\n")
        else:
            self._pause = self._again_at = 0.0

    def _give_up_asking(self) -> list[Request]:
        """What was asked and not answered. What was never attached is not to be attached later."""
        asked, self._asked = list(self._asked.values()), {}
        for request in asked:
            if request.future is not None and request.message["op"] == "attach":
                self._links.pop(request.link.name, None)
        return asked

    def _give_up(self) -> None:
        """Nothing can be said any longer. The worker goes on filling pages, for it has descriptors of its own."""
        wire.say(f"hctef: {ROBBED}: pages come as before, requests are refused\n")
        self._robbed = True
        for request in self._give_up_asking():
            settle(request.future, error=PagerError(ROBBED))
        while self._posted:
            settle(self._posted.popleft().future, error=PagerError(ROBBED))

    def _begin_anew(self) -> None:
        """Where an exception was caught that nobody thought of. It is shown, and who asked is told; the worker serves
        faults until there is another, whose conversation begins anew."""
        wire.say(f"hctef: the pager's client failed, and begins anew:\n{traceback.format_exc()}")
        error = PagerError("the pager's client failed: stderr tells how")
        for request in self._give_up_asking():
            settle(request.future, error=error)
        if self._next is not None:
            self._leave(self._next)
        if self._helpers is not None:
            self._helpers.orphaned = True
            self._helpers.sending.clear()
        self._pause = min(PAUSE_MOST, 2 * self._pause + 0.05)
        self._again_at = time.monotonic() + self._pause
        time.sleep(min(self._pause, 1.0))  # it may happen again at once
