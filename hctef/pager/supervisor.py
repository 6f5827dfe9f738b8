"""The supervisor: the helper that holds every descriptor, and forks the worker anew when it dies.

    an "alive" socket: who started us holds the other end; when the last holder is gone, the worker ends, and so do we
    SIGINT is ignored: Ctrl-C in a terminal or in Jupyter goes to the whole process group
    one thread only: it forks
    no PR_SET_PDEATHSIG: it fires when the thread that started us ends, not the process

While we live, some descriptor of each userfaultfd is open, so that no hole becomes readable as zeros.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
import time

from hctef.pager import wire
from hctef.pager.worker import State, Worker, leave

QUICK = 1.0
"""A worker that lived for less than these seconds was no success: the next one is forked after a pause."""


def main(fd: int) -> None:
    """Serve the process at the other end of socket `fd` until it is gone."""
    _settle(fd)
    state = State({1: socket.socket(fileno=fd)})
    wire.send(state.clients[1], {"ready": os.getpid()})
    gc.freeze()  # what is there now is shared with each worker: collections would copy it
    again, pause = False, 0.0
    while state.clients:
        began = time.monotonic()
        pid, control = _fork(state, again=again)
        status = _watch(state, pid, control)
        if status == 0:
            return
        pause = min(1.0, 2 * pause + 0.01) if time.monotonic() - began < QUICK else 0.0
        time.sleep(pause)
        again = True


def _settle(fd: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir("/")  # no file system is kept from being unmounted
    os.closerange(3, fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(fd + 1, min(soft, 65536))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _name("hctef-pager")


def _name(name: str) -> None:
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME: what ps and top show


def _fork(state: State, *, again: bool) -> tuple[int, socket.socket]:
    """A worker that begins where the last one ended."""
    mine, its = wire.pair()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            mine.close()
            _name("hctef-worker")
            Worker(state, its, again=again).run()
            status = 0
        except BaseException:  # noqa: BLE001  # shown, and the supervisor forks another
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            os._exit(status)  # not through the supervisor's own ends
    its.close()
    return pid, mine


def _watch(state: State, pid: int, control: socket.socket) -> int:
    """Keep what the worker says until it ends. Returns how it ended: 0 where nobody needs another."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    try:
        ended = False
        while not ended:
            ended = any(fd == pidfd for fd, _ in poll.poll())
            while _take(state, control):  # what it said before it died, too
                pass
            if ended:
                return os.waitpid(pid, 0)[1]
    finally:
        os.close(pidfd)
        control.close()
    return 0


def _take(state: State, control: socket.socket) -> bool:
    """Keep one message of the worker's, if there is any."""
    control.setblocking(False)
    try:
        received = wire.receive(control)
    except BlockingIOError:
        return False
    if received is None:
        return False
    message, descriptors = received
    client = message["client"]
    match message["op"]:
        case "attach":
            uffd, *others = descriptors
            state.links[message["link"]] = (client, message, others)
            state.uffds[message["link"], client] = uffd
        case "rearm":
            state.uffds[message["link"], client] = descriptors[0]
        case "client":
            state.clients[client] = socket.socket(fileno=descriptors[0])
        case "detach":
            leave(state, message["link"], client)
        case "leave":
            state.clients.pop(client).close()
    return True
