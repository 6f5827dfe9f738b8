"""What the helpers keep: descriptors and what was said of them, so that a worker can begin where another ended; and, in
the worker alone, who holds which pages, and who is on his way out.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hctef.pager import wire

Hold = tuple[str, int, int]
"""Link, client, the client's number of it."""


@dataclass(slots=True)
class State:
    """What the supervisor keeps, and each worker begins with."""

    clients: dict[int, socket.socket] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    """Clients whose sockets' ends are closed, and whose memory is there yet: a program has closed descriptors that it
    did not open, as daemons do. Their pages are filled as before; without userfaultfd they would become zeros."""
    links: dict[str, tuple[wire.Message, list[int]]] = field(default_factory=dict)
    """By link: what `attach` said, and the descriptors [memfd, table]."""
    uffds: dict[tuple[str, int], int] = field(default_factory=dict)
    """By link and client: the descriptor of that process."""
    last: int = 1
    """The highest number that a client had. None is used twice: a call of one that has ended may be answered yet."""
    lost: bool = False
    """Something is missing here: there was no room for its descriptors. Clients tell the next worker all anew."""

    def keep(self, message: wire.Message, descriptors: list[int]) -> None:
        """Hold what a worker was told."""
        client, op = message["client"], message["op"]
        self.last = max(self.last, client)
        if len(descriptors) < {"attach": 3, "rearm": 1, "client": 1}.get(op, 0):
            self.lost = True
            return
        match op:
            case "attach":
                uffd, *others = descriptors
                self.links[message["link"]] = message, others
                self.uffds[message["link"], client] = uffd
            case "rearm":
                self.uffds[message["link"], client] = descriptors[0]
            case "client":
                self.clients[client] = socket.socket(fileno=descriptors[0])
            case "detach":
                self.leave(message["link"], client)
            case "silence":
                self.silent.add(client)
                self._hang_up(client)
            case "leave":
                self.silent.discard(client)
                self._hang_up(client)

    def _hang_up(self, client: int) -> None:
        if client in self.clients:
            self.clients.pop(client).close()

    @property
    def wanted(self) -> bool:
        """Whether anybody needs the helpers."""
        return bool(self.clients or self.silent)

    def leave(self, link: str, client: int) -> None:
        """A process has unmapped an arena: its descriptors go, and with the last one all of the link."""
        uffd = self.uffds.pop((link, client), None)
        if uffd is not None:
            os.close(uffd)
        if link in self.links and not any(name == link for name, _ in self.uffds):
            wire.close(self.links.pop(link)[1])


class Departures:
    """Processes that have unmapped an arena, or ended, while calls may still fill their memory: another file may be
    mapped there only when those are over."""

    def __init__(self) -> None:
        self._detached: dict[tuple[str, int], list[Callable[[], None]]] = {}
        """By link and client: what is to be done when nothing fills that process's memory."""
        self._left: dict[int, socket.socket] = {}
        """Of clients: closed when nothing fills their memory, for their ends say so."""

    def __contains__(self, process: tuple[str, int]) -> bool:
        """Whether a link's client is detached, and that is not over."""
        return process in self._detached

    def detach(self, link: str, client: int, then: Callable[[], None]) -> bool:
        """Have `then` done when it is `over`. False: that was on its way already."""
        actions = self._detached.setdefault((link, client), [])
        actions.append(then)
        return len(actions) == 1

    def over(self, link: str, client: int) -> None:
        """Nothing fills that process's memory at this link any longer."""
        for action in self._detached.pop((link, client)):
            action()
        self._see_out(client)

    def leave(self, client: int, sock: socket.socket) -> None:
        """A client's process has ended, or closed its end, and all its links are being detached."""
        self._left[client] = sock
        self._see_out(client)

    def _see_out(self, client: int) -> None:
        if client in self._left and not any(of == client for _, of in self._detached):
            self._left.pop(client).close()


class Holds:
    """The pins that clients hold. Thread-safe."""

    def __init__(self, release: Callable[[str, Any], None]) -> None:
        """`release`: called with a hold's link and the pin that it had."""
        self._release = release
        self._pins: dict[Hold, Any] = {}
        """The pin of each; until its pages are there, an object that tells one attempt from another."""
        self._lock = threading.Lock()

    def of(self, link: str, client: int) -> list[Hold]:
        """Those of a client in a file."""
        with self._lock:
            return [key for key in self._pins if key[:2] == (link, client)]

    def keep(self, key: Hold, attempt: object, pin: Any) -> bool:
        """Keep a pin, unless it was let go while its pages were fetched."""
        with self._lock:
            wanted = self._pins.get(key) is attempt
            if wanted:
                self._pins[key] = pin
            return wanted

    def let_go(self, key: Hold, attempt: object | None = None) -> None:
        """Let a hold go; where it is asked for again, `attempt` stands for it."""
        with self._lock:
            before = self._pins.pop(key, None)
            if attempt is not None:
                self._pins[key] = attempt
        if before is not None and type(before) is not object:
            self._release(key[0], before)
