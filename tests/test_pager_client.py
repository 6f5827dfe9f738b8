"""The client's thread: its start, its end and its rest while somebody forks."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

import hctef
from hctef._ranges import ByteRange
from tests.helpers import descriptors, pattern, wait_until
from tests.nginx_server import NginxServer
from tests.pager_programs import children

if not hctef.paging_support():
    pytest.skip(f"no demand paging: {hctef.paging_support().reason}", allow_module_level=True)

from hctef._faulting import FaultingArena
from hctef._shared_memory import memfd
from hctef.pager.client import Client, the_client
from hctef.pager.conversation import Request
from hctef.pager.helpers import start_helpers
from hctef.pager.link import Link, settle


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hctef-pager"]


@pytest.fixture
def client() -> Iterator[Client]:
    """One of no helpers, whose thread ends a second after it began."""
    wait_until(lambda: not threads())
    found = Client()
    yield found
    wait_until(lambda: not threads())
    os.close(found._wake)


def test_threads_that_fork_at_once(client: Client) -> None:
    """One after the other: none takes the thread that another started for the one that it ended itself."""
    with client._guard:
        client._start()
    first: Any = client._thread
    join, ended, go_on = first.join, threading.Event(), threading.Event()

    def slowly() -> None:
        join()
        ended.set()
        go_on.wait()

    def fork() -> None:
        client.before_fork()
        client.after_fork_in_parent()

    first.join = slowly
    one, other = threading.Thread(target=fork), threading.Thread(target=fork)
    one.start()
    ended.wait()
    first.join = join
    other.start()
    other.join(0.2)
    go_on.set()
    one.join()
    other.join()
    assert threads() == [client._thread]
    assert not client._forks


def test_who_forks_again_and_again_keeps_nobody_waiting(client: Client) -> None:
    """What is asked while somebody forks is said afterwards, before the next fork, however quickly that follows."""
    link: Any = SimpleNamespace(name="a")
    future: Future[Any] = Future()
    client.before_fork()
    other = threading.Thread(target=client.ask, args=(link, {"op": "read"}, future))
    other.start()
    other.join()
    assert not threads()
    client.after_fork_in_parent()
    client.before_fork()
    assert isinstance(future.exception(0), hctef.PagerError)
    client.after_fork_in_parent()


def test_ctrl_c_while_the_thread_starts(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether that one begins or not, there is one when the next request comes, and not two."""
    wait, left = threading.Event.wait, [1]

    def interrupted(event: threading.Event, timeout: float | None = None) -> bool:
        if left and threading.current_thread() is threading.main_thread():
            left.pop()
            raise KeyboardInterrupt  # as its handler would; in the background of a shell SIGINT is ignored
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt), client._guard:
        client._start()
    monkeypatch.undo()
    with client._guard:
        client._start()
    wait_until(lambda: threads() == [client._thread])


def test_ctrl_c_while_a_fork_waits_for_the_thread(client: Client) -> None:
    """It goes on to rest while the process forks, and another one serves afterwards."""
    with client._guard:
        client._start()
    first: Any = client._thread
    join = first.join

    def interrupted() -> None:
        raise KeyboardInterrupt

    first.join = interrupted
    with pytest.raises(KeyboardInterrupt):  # which os.fork() shows, and forks
        client.before_fork()
    assert client._thread is None
    assert client._running.acquire(blocking=False)  # else the first one runs yet
    client._running.release()
    join()
    client.after_fork_in_parent()
    wait_until(lambda: threads() == [client._thread] != [first])


def test_a_thread_that_is_no_more(client: Client) -> None:
    """However it ended: who asks has another."""
    link: Any = SimpleNamespace(name="a")
    for _ in range(2):
        client._thread = threading.Thread()
        future: Future[Any] = Future()
        client.ask(link, {"op": "read"}, future)
        assert isinstance(future.exception(10), hctef.PagerError)
        client.before_fork()
        client._thread = threading.Thread()
        client.after_fork_in_parent()
        wait_until(lambda: threads() == [client._thread])
        client.before_fork()
        client.after_fork_in_parent()


def test_a_handler_forks_while_the_thread_starts(client: Client) -> None:
    """The thread waits for who started it, who waits for the thread."""

    def start() -> None:
        with client._guard:
            client._start()
            client.before_fork()
            client.after_fork_in_parent()

    other = threading.Thread(target=start, daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()
    wait_until(lambda: threads() == [client._thread])


def test_a_reply_that_is_none(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a prefetch is told, whatever was answered."""
    link = Link(client, SimpleNamespace(base=0, length=0, uffd=-1, memfd=-1), {"link": "a"}, -1)  # type: ignore[arg-type]
    replies: list[Any] = [{}, None]
    for reply in replies:
        monkeypatch.setattr(client, "ask", lambda link, message, future, reply=reply: future.set_result(reply))
        assert isinstance(link.prefetch([ByteRange(0, 1)], wait=True).exception(0), KeyError | TypeError)


@pytest.mark.parametrize("where", ["socketpair", "pidfd_open"])
def test_no_descriptor_for_a_helper(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error to who asked; neither a descriptor is left, nor a child that nobody waits for."""
    known = set(children(os.getpid()))  # a server of the tests, helpers that other tests had
    before = descriptors()

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket if where == "socketpair" else os, where, refuse)
    with pytest.raises(hctef.PagerError, match="too many open files"):
        start_helpers()
    assert set(children(os.getpid())) <= known
    assert descriptors() == before


def test_a_mapping_goes_when_no_thread_runs(client: Client) -> None:
    """Its descriptors, and the memory of a file, go with it: nobody is there who would fill it, or close them later."""
    before = descriptors()

    def unmapped(*, asked: bool = False) -> Link:
        uffd, memfd, table = (os.memfd_create(name) for name in "abc")
        mapping: Any = SimpleNamespace(base=0, length=4096, uffd=uffd, memfd=memfd)
        link = Link(client, mapping, {"link": "a"}, table)
        client._posted.extend([Request(link, {"op": "attach"})] * asked)
        link.unmapped(mapping, mmap.mmap(-1, 4096))
        return link

    assert unmapped().room is None
    assert descriptors() == before
    assert not client._posted
    left: Any = SimpleNamespace()
    client._left = [left]  # the thread rests while another one forks: they may fill it
    link = unmapped()
    assert link.room is not None
    assert client._posted.pop().link is link
    client._left = []
    link.close()
    link = unmapped(asked=True)
    assert link.room is not None
    assert [request.message["op"] for request in client._posted] == ["attach", "detach"]
    client._posted.clear()
    link.close()
    assert descriptors() == before


def test_an_answer_to_who_gave_up(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is told, neither by an exception nor in a log."""
    answered: Future[int] = Future()
    cancelled: Future[int] = Future()
    answered.set_result(1)
    cancelled.cancel()
    for future in (answered, cancelled, None):
        settle(future, 2)
        settle(future, error=OSError())
    assert answered.result() == 1
    assert not caplog.records


def test_a_child_lets_go_of_what_was_never_attached() -> None:
    """Helpers had not answered when the process forked: the child has nobody who would, and closes what it has."""
    gc.collect()  # what other tests left would be closed in the child too
    wait_until(lambda: not threads())
    arena, client = FaultingArena(1 << 20), the_client()
    link = Link(client, arena.mapping, {"link": "a"}, memfd("table", 4096))
    arena.mapping.closed = link.unmapped
    left: Any = SimpleNamespace(close=lambda: None)
    client._left = [left]  # they may fill it in the parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        pid = os.fork()
    if pid == 0:
        before = len(descriptors())
        del arena
        gc.collect()
        os._exit(before - len(descriptors()))
    client._left = []
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


END = """
import sys, numpy as np, hctef
buf = hctef.RemoteBuffer(sys.argv[1], paging="fault")
array = np.frombuffer(buf, "u1")
class Reader:
    def __init__(self):
        self.buf, self.array = buf, array
    def __del__(self):
        try:
            self.buf[1_000_000:1_000_010]
        except hctef.PagerError as error:
            print(error)
        print(bytes(self.array[2_000_000:2_000_010]).hex())
keep = Reader()
"""


def test_the_interpreter_ends(nginx: NginxServer) -> None:
    """Who asks then is told that nobody answers any longer; who touches an absent page gets it."""
    url = nginx.add("ends", pattern(4 << 20))
    done = subprocess.run([sys.executable, "-c", END, url], capture_output=True, text=True, check=False, timeout=60)
    expected = pattern(2_000_010)[2_000_000:].hex()
    assert (done.stdout, done.stderr) == (f"the interpreter ends, and its pager's thread with it\n{expected}\n", "")


FORKS = """
import importlib.abc, os, signal, sys, threading, time, hctef
importing = threading.Event()
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "hctef.pager.handover":  # with the lock of that module
            importing.set()
            time.sleep(0.3)
sys.meta_path.insert(0, Slow())
first, second = (hctef.RemoteBuffer(sys.argv[1], paging="fault") for _ in range(2))
thread = threading.Thread(target=memoryview, args=[first])
thread.start()
importing.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    os._exit(memoryview(second)[5])
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_fork_while_another_thread_imports_the_pager(nginx: NginxServer) -> None:
    """In the child that import is nobody's: its first view would wait for it."""
    url = nginx.add("imports", pattern(1 << 20))
    command = [sys.executable, "-W", "ignore", "-c", FORKS, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == (f"{pattern(6)[5]}\n", "")
