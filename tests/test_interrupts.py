"""What a signal's handler raises in the midst of a read comes out of it, whatever its type, and spoils nothing."""

from __future__ import annotations

import contextlib
import functools
import gc
import random
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import trustme

import hctef
from hctef import _views
from hctef._delivery import Delivery
from hctef._interrupts import is_handlers
from hctef._intervals import IntervalCache
from hctef._pools import plain_pools
from hctef._remote import Remote, _Waiting
from hctef._residency import Residency
from hctef._slots import Slots
from hctef._storing import Storing
from tests.helpers import pattern, wait_until
from tests.nginx_server import NginxServer
from tests.range_server import RangeServer

MIB = 1 << 20
DATA = pattern(4 * MIB)
MANY = [(at, at + 3000) for at in range(0, 3 * MIB, 16_000)]
ONE = [(0, 4 * MIB)]
KINDS = [TimeoutError, OSError, ConnectionResetError, ValueError, AttributeError, KeyboardInterrupt]

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # a socket that was on its way to its owner


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What an interrupt leaves to the garbage collector is collected where the above holds."""
    yield
    gc.collect()


@pytest.fixture
def alarm() -> Iterator[Callable[[type[BaseException] | None], None]]:
    """Sets what the handler of SIGALRM raises; None: nothing."""
    raised: list[type[BaseException] | None] = [None]

    def handler(_: int, __: FrameType | None) -> None:
        if raised[0] is not None:
            raise raised[0]("took too long")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield lambda kind: raised.__setitem__(0, kind)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """SIGALRM comes when the main thread has received for so many more times, and what came is on its way out."""
    left = [0]
    receive = socket.socket.recv_into

    def recv_into(sock: socket.socket, *arguments: Any) -> int:
        count = receive(sock, *arguments)
        if threading.current_thread() is threading.main_thread() and left[0]:
            left[0] -= 1
            if not left[0]:
                signal.raise_signal(signal.SIGALRM)
        return count

    monkeypatch.setattr(socket.socket, "recv_into", recv_into)
    return left


@pytest.fixture
def url(nginx: NginxServer) -> str:
    return nginx.add("interrupted.bin", DATA)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how", [(MANY, 1), (MANY, 16), (ONE, 1), (ONE, 16)], ids=["many-1", "many-16", "one-1", "one-16"]
)
def test_what_was_received_when_a_handler_raised_is_asked_for_again(
    url: str, signalled: list[int], alarm: Any, kind: type[BaseException], how: tuple[list[tuple[int, int]], int]
) -> None:
    """The bytes are lost with it, and nothing that follows on that connection is taken for them."""
    ranges, connections = how
    for count in range(1, 30):
        with hctef.HttpFile(url, prefetch_bytes=0, max_connections=connections) as file:
            alarm(kind)
            signalled[0] = count
            try:
                file.read_ranges(ranges)
            except kind as error:
                assert str(error) == "took too long"  # noqa: PT017  # the loop ends where none is raised
            else:
                assert signalled[0], "the handler's error was swallowed"
                break
            finally:
                signalled[0] = 0
            assert file.read_ranges(ranges) == [DATA[start:stop] for start, stop in ranges]
    assert count > 3


def alarmed(url: str, alarm: Any, **options: Any) -> int:
    """Reads that `signal.setitimer` breaks off at any moment, as recipes have it. Returns how many it did."""
    rng, raised = random.Random(5), 0
    for _ in range(100):
        with hctef.HttpFile(url, prefetch_bytes=0, **options) as file:
            alarm(TimeoutError)
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 8e-3))
                file.read()
            except TimeoutError:
                raised += 1
            finally:
                alarm(None)
                signal.setitimer(signal.ITIMER_REAL, 0)
            file.seek(0)
            assert file.read() == DATA
    return raised


@pytest.mark.parametrize("pool", [False, True])
def test_an_alarm_at_any_moment(url: str, alarm: Any, pool: bool) -> None:
    """All that is read afterwards is right."""
    raised = alarmed(url, alarm, pool=plain_pools()) if pool else alarmed(url, alarm)
    assert raised > 10


def test_over_tls(ca: trustme.CA, ca_file: Path, signalled: list[int], alarm: Any) -> None:
    """Whose sockets are written in Python."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    with RangeServer(context) as server:
        url = server.add("f", DATA)
        receive = ssl.SSLSocket.recv_into

        def recv_into(sock: ssl.SSLSocket, *arguments: Any) -> int:
            count = receive(sock, *arguments)
            if threading.current_thread() is threading.main_thread() and signalled[0]:
                signalled[0] -= 1
                if not signalled[0]:
                    signal.raise_signal(signal.SIGALRM)
            return count

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ssl.SSLSocket, "recv_into", recv_into)
            for count in (1, 2, 3, 5, 8):
                with hctef.HttpFile(url, prefetch_bytes=0, pool=plain_pools(ca_certs=str(ca_file))) as file:
                    alarm(TimeoutError)
                    signalled[0] = count
                    with pytest.raises(TimeoutError, match="took too long"):
                        file.read()
                    alarm(None)
                    assert file.read() == DATA


class Handler:
    def method(self, _: int, __: FrameType | None) -> None:
        raise OSError("method")

    def __call__(self, _: int, __: FrameType | None) -> None:
        raise OSError("call")


def plain(_: int, __: FrameType | None, *, extra: str = "plain") -> None:
    raise OSError(extra)


@pytest.mark.parametrize("handler", [plain, functools.partial(plain, extra="partial"), Handler().method, Handler()])
def test_whose_error_it_is(handler: Any) -> None:
    """A handler's, whatever that is made of, and nobody else's."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(OSError, match=r"plain|partial|method|call") as caught:
            signal.raise_signal(signal.SIGALRM)
        assert is_handlers(caught.value)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ConnectionRefusedError) as refused, socket.socket() as sock:
        sock.connect(("127.0.0.1", 1))
    assert not is_handlers(refused.value)


# between any two steps


def interrupted(action: Callable[[], object], code: CodeType, lines: int) -> bool:
    """KeyboardInterrupt when so many lines of a function were reached, wherever it is called. Whether it came to
    that."""
    left = lines

    def line(_: FrameType, event: str, __: object) -> Any:
        nonlocal left
        left -= event == "line"
        if not left:
            sys.settrace(None)
            raise KeyboardInterrupt
        return line

    sys.settrace(lambda frame, _, __: line if frame.f_code is code else None)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            action()
    finally:
        sys.settrace(None)
    return not left


def settle(reader: hctef.HttpFile | hctef.RemoteBuffer) -> None:
    """Until nobody brings anything, and holds nothing."""
    planner = reader._open().planner
    wait_until(lambda: not planner.cache.all_claims() and not planner._slots.holders)


@pytest.mark.parametrize("function", [Slots.give, Slots.acquire, Delivery.give_back, Storing._commit])
def test_no_slot_is_lost(url: str, function: Any) -> None:
    """With one alone every later miss would hang."""
    for lines in range(1, 40):
        with hctef.RemoteBuffer(url, paging="fill", max_connections=1, timeout=5) as buf:
            came = interrupted(functools.partial(buf.find, DATA[:3000]), function.__code__, lines)
            settle(buf)
            assert buf[2 * MIB : 2 * MIB + 3000] == DATA[2 * MIB : 2 * MIB + 3000]
        if not came:
            break
    assert lines > 2


ON_THE_WAY = [
    IntervalCache.let_go,
    IntervalCache.pin,
    Residency.unpin,
    Residency.let_go,
    Remote.load,
    Remote.unpin,
    Delivery._do_later,
    _views._Pinned.__init__,
    _views._kept,
    _views.loaded_view,
    _views.pinned_view,
    _Waiting.__exit__,
]
"""Of a pin, to the view that has it, and back."""


@pytest.mark.parametrize("function", ON_THE_WAY, ids=lambda function: function.__qualname__)
@pytest.mark.parametrize("resident", [True, False])
def test_no_page_is_pinned_for_ever(url: str, monkeypatch: pytest.MonkeyPatch, function: Any, resident: bool) -> None:
    """What an interrupt lost is let go with the next step."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # in a `__release_buffer__`; pytest's keeps all there is

    def use(buf: hctef.RemoteBuffer) -> None:
        assert bytes(buf.view(MIB, MIB + 3000)) == DATA[MIB : MIB + 3000]
        assert buf[:5000] == DATA[:5000]

    for lines in range(1, 40):
        with hctef.RemoteBuffer(url, paging="fill") as buf:
            if resident:
                buf.prefetch([(0, 2 * MIB)])
            came = interrupted(functools.partial(use, buf), function.__code__, lines)
            gc.collect()
            settle(buf)
            buf.evict()
            assert buf.resident_bytes == 0
        if not came:
            break
    assert lines > 1


def test_no_claim_is_left_with_nobody(range_server: RangeServer, tmp_path: Path) -> None:
    """Of what is on disk, and comes one after the other: whoever wants it next would wait for ever."""
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, cache_dir=tmp_path) as file:
        file.read()
    ranges = [(0, 10), (MIB, MIB + 10), (2 * MIB, 2 * MIB + 10)]
    for lines in range(1, 40):
        with hctef.HttpFile(url, cache_dir=tmp_path, prefetch_bytes=0) as file:
            came = interrupted(functools.partial(file.read_ranges, ranges), Storing._one_by_one.__code__, lines)
            settle(file)
            assert file.read_ranges(ranges) == [DATA[start:stop] for start, stop in ranges]
        if not came:
            break
    assert lines > 8
