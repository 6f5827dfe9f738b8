"""What is left of a mapping when its last view goes, and for how long: helpers may still be filling it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hctef
from hctef._ranges import PAGE
from tests.helpers import pattern, wait_until
from tests.nginx_server import NginxServer
from tests.pager_programs import helpers, pair

if not hctef.paging_support():
    pytest.skip(f"no demand paging: {hctef.paging_support().reason}", allow_module_level=True)

from hctef._faulting import FaultingArena, mappings
from hctef._shared_memory import reserve
from hctef.pager import wire
from hctef.pager.client import the_client
from hctef.pager.filling import FillingArena
from hctef.pager.state import State
from hctef.pager.worker import Worker

SIZE = 4 << 20


@pytest.fixture
def url(nginx: NginxServer) -> str:
    return nginx.add("ends", pattern(SIZE))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No test begins beside helpers of another, or leaves any."""
    wait_until(lambda: helpers(os.getpid()) is None)
    yield
    wait_until(lambda: gc.collect() >= 0 and not mappings())


def is_free(base: int, length: int) -> bool:
    """Whether nothing is mapped in a range."""
    try:
        reserve(base, length)
    except FileExistsError:
        return False
    ctypes.CDLL(None).munmap(ctypes.c_void_p(base), ctypes.c_size_t(length))
    return True


@pytest.mark.parametrize("then", ["it goes on", "it dies", "both die", "the supervisor dies"])
def test_nothing_is_mapped_where_a_file_was_while_its_helpers_may_fill_it(url: str, then: str) -> None:
    """A worker that does not answer may be about to: until it answers, or is no more, its pages come to nobody."""
    buf = hctef.RemoteBuffer(url, paging="fault")
    array = np.frombuffer(buf, "u1")
    assert array.sum(dtype="u8")
    (mapping,) = mappings()
    supervisor, worker = pair()
    os.kill(worker, signal.SIGSTOP)
    buf.close()
    del array, buf
    assert not mappings()
    wait_until(lambda: not the_client()._links)  # it was told
    assert not is_free(mapping.base, mapping.length)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        pid = os.fork()
    if pid == 0:  # nobody fills its memory
        gc.collect()
        os._exit(0 if is_free(mapping.base, mapping.length) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    if "supervisor" in then or "both" in then:
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: helpers(os.getpid()) is None)
        assert not is_free(mapping.base, mapping.length)
    os.kill(worker, signal.SIGCONT if "on" in then or "supervisor" in then else signal.SIGKILL)
    wait_until(lambda: is_free(mapping.base, mapping.length))


@pytest.mark.parametrize("end", ["detach", "leave"])
def test_a_worker_lets_go_when_no_call_is_under_way(end: str) -> None:
    """Neither is a detach answered nor a client's socket closed while its memory may still be filled."""
    arena = FaultingArena(PAGE)
    mapping = arena.mapping
    filler = FillingArena(PAGE, mapping.base, os.dup(mapping.memfd))
    mine, its = wire.pair()
    other, others = wire.pair()
    control, supervisors = wire.pair()
    worker = Worker(State({1: its, 2: others}), control, again=False)
    resolver: Any = SimpleNamespace(arena=filler, base=mapping.base, size=PAGE, close=filler.close)
    worker._resolvers["a"] = resolver
    worker._calls["a"] = SimpleNamespace(shutdown=lambda **_: None)  # type: ignore[assignment]
    worker._state.links["a"] = {}, []
    worker._listen("a", 1, os.dup(mapping.uffd))

    def said() -> Any:
        """What came by the client's socket: a message, None where it ended."""
        while worker._done:
            worker._done.popleft()()
        mine.setblocking(False)
        try:
            return wire.receive(mine)
        except BlockingIOError:
            return "nothing"

    with filler.uses:
        with filler.uses:
            if end == "leave":
                worker._leave(1)
            else:
                for number in (7, 8):  # it may be asked twice
                    worker._handle(1, {"op": "detach", "link": "a", "id": number}, [])
            assert said() == "nothing"
        assert said() == "nothing"
    if end == "leave":
        assert said() is None
    else:
        assert [said(), said()] == [({"id": 7}, []), ({"id": 8}, [])]
    for sock in (mine, other, control, supervisors, *worker._state.clients.values()):
        sock.close()
    assert ("a", 1) not in worker._departures
    assert not worker._departures._left
    assert isinstance(worker._state.clients[2], socket.socket)
    worker._selector.close()
    os.close(worker._wake)


def test_a_message_whose_descriptors_found_no_room() -> None:
    """It is an error to who sent it, ends no helper, and is said again to the next worker."""
    mine, its = wire.pair()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    wire.send(mine, {"op": "attach", "link": "a", "client": 1}, [mine.fileno()] * 3)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208  # numbers, not paths
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, limit[1]))
    filler = []
    with contextlib.suppress(OSError):
        while True:
            filler.append(os.dup(0))
    os.close(filler.pop())
    try:
        found = wire.receive(its)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        wire.close(filler)
    assert found is not None
    message, descriptors = found
    assert descriptors == []
    with pytest.raises(hctef.PagerError, match="ulimit"):
        wire.taken(descriptors, 3)
    state = State({1: mine})
    state.keep(message, descriptors)
    assert state.lost
    assert not state.links
    state.keep({"op": "client", "client": 2}, [])
    state.keep({"op": "leave", "client": 2}, [])
    control, supervisors = wire.pair()
    worker = Worker(State({1: mine}, lost=True), control, again=True)
    assert wire.receive(its) == ({"again": True, "lost": True}, [])
    worker._selector.close()
    os.close(worker._wake)
    for sock in (mine, its, control, supervisors):
        sock.close()


def test_no_number_is_given_to_two_clients() -> None:
    """A call of a child that has ended may still be answered: not to the next child, nor to one of the next worker."""
    control, supervisors = wire.pair()
    mine, its = wire.pair()
    socks = [mine, its, control, supervisors]

    def welcome(worker: Worker) -> int:
        ends = wire.pair()
        socks.extend(ends)
        worker._handle(1, {"op": "client"}, [os.dup(ends[1].fileno())])
        return max(worker._state.clients)

    kept = State({1: mine})
    worker = Worker(State({1: mine}), control, again=False)
    numbers = []
    for _ in range(2):
        numbers.append(welcome(worker))
        worker._leave(numbers[-1])
    supervisors.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while (received := wire.receive(supervisors)) is not None:
            kept.keep(*received)
    other = Worker(kept, control, again=True)
    numbers.append(welcome(other))
    assert numbers == [2, 3, 4]
    for sock in (*socks, other._state.clients[4]):
        sock.close()
    for each in (worker, other):
        each._selector.close()
        os.close(each._wake)
