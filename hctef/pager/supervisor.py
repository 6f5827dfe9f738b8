"""The supervisor: the helper that holds every descriptor, and forks the worker anew when it dies.

    an "alive" socket: who started us holds the other end; when the last holder is gone, the worker ends, and so do we
    SIGINT is ignored: Ctrl-C in a terminal or in Jupyter goes to the whole process group
    one thread only: it forks
    no PR_SET_PDEATHSIG: it fires when the thread that started us ends, not the process

While we live, some descriptor of each userfaultfd is open, so that no hole becomes readable as zeros.
"""

from __future__ import annotations

import contextlib
import ctypes
import encodings.idna  # noqa: F401  # asked for with the first connection, which somebody may wait for
import gc
import logging
import os
import resource
import select
import signal
import socket
import time
import traceback
import warnings

from hctef.pager import wire
from hctef.pager.state import State
from hctef.pager.worker import Worker

QUICK = 1.0
"""A worker that lived for less than these seconds was no success: the next one is forked after a pause."""

KILLED_PAUSE, FAILED_PAUSE = 0.05, 1.0
"""The most seconds of it, after a signal and after an error of the worker's own, which may well come again at once."""


def main(fd: int) -> None:
    """Serve the process at the other end of socket `fd` until it is gone."""
    _settle(fd)
    state = State({1: socket.socket(fileno=fd)})
    try:
        wire.send(state.clients[1], {"ready": os.getpid()})
    except OSError:  # it is gone already
        return
    gc.freeze()  # what is there now is shared with each worker: collections would copy it
    again, pause = False, 0.0
    while state.wanted:
        began = time.monotonic()
        try:
            pid, control = _fork(state, again=again)
        except OSError as error:  # no more processes, for now
            wire.say(f"hctef: the pager's worker cannot be started: {error}\n")
            status = 1 << 8
        else:
            status = _watch(state, pid, control)
        if status == 0:
            return
        most = KILLED_PAUSE if os.WIFSIGNALED(status) else FAILED_PAUSE
        pause = min(most, 2 * pause + 0.01) if time.monotonic() - began < QUICK else 0.0
        time.sleep(pause)
        again = True


def _settle(fd: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")  # no file system is kept from being unmounted
    _close_all_but(fd)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.getLogger().addHandler(logging.NullHandler())  # a failure is told as this package's rules say, not twice
    warnings.simplefilter("ignore")
    _name("hctef-pager")


def _close_all_but(fd: int) -> None:
    """What a program lets its children inherit is not for us: who waits for the end of a pipe would wait for ours."""
    try:
        last = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208  # numbers, not paths
    except OSError:
        last = 65536
    os.closerange(3, fd)
    os.closerange(fd + 1, last + 1)


def _name(name: str) -> None:
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME: what ps and top show


def _fork(state: State, *, again: bool) -> tuple[int, socket.socket]:
    """A worker that begins where the last one ended. Raises OSError."""
    mine, its = wire.pair()
    try:
        pid = os.fork()
    except OSError:
        mine.close()
        its.close()
        raise
    if pid == 0:
        status = 1
        try:
            mine.close()
            _name("hctef-worker")
            Worker(state, its, again=again).run()
            status = 0
        except BaseException:  # noqa: BLE001  # shown, and the supervisor forks another
            wire.say(f"hctef: the pager's worker failed, and another begins:\n{traceback.format_exc()}")
        finally:
            os._exit(status)  # not through the supervisor's own ends
    its.close()
    return pid, mine


def _watch(state: State, pid: int, control: socket.socket) -> int:
    """Keep what the worker says until it ends. Returns how it ended: 0 where nobody needs another."""
    control.setblocking(False)
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    try:
        while True:
            ready = {fd for fd, _ in poll.poll()}
            while (received := _received(control)) is not None:  # what it said before it died, too
                state.keep(*received)
            if pidfd in ready:
                return os.waitpid(pid, 0)[1]
    finally:
        os.close(pidfd)
        control.close()


def _received(control: socket.socket) -> tuple[wire.Message, list[int]] | None:
    with contextlib.suppress(BlockingIOError):
        return wire.receive(control)
    return None
