"""The pair of helpers, as a process that talks to them sees it: how they are started, left, killed and reaped."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from hctef._memory import high
from hctef.exceptions import PagerError
from hctef.pager import wire

if TYPE_CHECKING:
    from hctef.pager.link import Link

START_SECONDS = 30.0
"""A helper that has not said that it is ready by then never will."""

END_SECONDS = 10.0
"""A helper that was left and is still there after these seconds is killed."""


class Helpers:
    """A pair of helpers, as one that talks to them sees it."""

    def __init__(
        self, sock: socket.socket, pidfd: int = -1, deadline: float | None = None, *, shared: bool = False
    ) -> None:
        self.socket = sock
        self.pidfd = pidfd
        """Of the supervisor; -1 where it is not our child."""
        self.deadline = deadline
        """When it must have said that it is ready; once it was left, when it must be gone."""
        self.shared = shared
        """Forked children talk to them too: they need not end when we leave."""
        self.orphaned = False
        """The supervisor is gone, and the worker goes on."""
        self.sending: deque[tuple[wire.Message, Link]] = deque()
        self.told: set[str] = set()
        """The links that it was told of."""
        self.ending: dict[int, mmap.mmap | None] = {}
        """By the number of a request to detach: what keeps the address taken, until that is answered. These helpers may
        still fill it, with one file's bytes where another's would be."""

    def leave(self) -> None:
        """Nothing more is said. They end, and their sockets with them, unless others need them."""
        self.sending.clear()
        self.deadline = None if self.shared else time.monotonic() + END_SECONDS
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        if self.pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> None:
        """The supervisor has ended. By its descriptor: its number may be another process's by now."""
        with contextlib.suppress(OSError):  # the program waits for all children, or ignores SIGCHLD
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        self.pidfd = -1

    def close(self) -> None:
        self.socket.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def start_helpers() -> Helpers:
    """Start a supervisor, which forks the worker. Raises PagerError: it cannot be."""
    try:
        mine, its = wire.pair()
        try:
            with its:
                mine.setblocking(False)
                pidfd = _descriptor(_spawn(its.fileno()))
        except BaseException:  # raised again
            mine.close()
            raise
    except (OSError, ValueError, NotImplementedError) as error:
        raise PagerError(f"the pager's process cannot be started: {error}") from error
    return Helpers(mine, pidfd, time.monotonic() + START_SECONDS)


def _spawn(number: int) -> int:
    """A supervisor that talks by descriptor `number`. Raises OSError, ValueError, NotImplementedError."""
    code = f"import sys; sys.path[:] = {_path()!r}; from hctef.pager.supervisor import main; main({number})"
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, number, number),  # to the same number: it survives the exec
    ]
    if sys.__stderr__ is None:  # 2 was closed when we began: it is closed, or somebody's file
        actions.insert(0, (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", *(["-B"] if sys.dont_write_bytecode else []), "-c", code],
        _environment(),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def _descriptor(pid: int) -> int:
    """Of a child that was just started. Raises OSError: there is no room for one, and the child is no more."""
    try:
        return high(os.pidfd_open(pid))
    except OSError:
        with contextlib.suppress(OSError):  # the program waits for all children, or ignores SIGCHLD
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise


def _path() -> list[str]:
    """Where modules are found: as here, in absolute terms, and where this package lies."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # the working directory is gone: so are its modules
        found = list(map(os.path.abspath, sys.path))
    found = found or [entry for entry in sys.path if Path(entry).is_absolute()]
    return [*found, str(Path(__file__).parents[2])]


def _environment() -> dict[str, str]:
    """This process's, for another working directory."""
    found = dict(os.environ)
    return found | {name: wire.absolute(found[name]) or "" for name in wire.CERTIFICATES if name in found}
