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
import weakref
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
from tests.range_server import (
    Behaviour,
    Gate,
    RangeServer,
    after,
    chunked,
    cut,
    hang_up,
    stale,
    times,
    trickle,
    until_close,
    when,
)

MIB = 1 << 20
DATA = pattern(4 * MIB)
MANY = [(at, at + 3000) for at in range(0, 3 * MIB, 16_000)]
ONE = [(0, 4 * MIB)]
KINDS = [TimeoutError, OSError, ConnectionResetError, ValueError, AttributeError, KeyboardInterrupt]

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # a socket that was on its way to its owner
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # an alarm in the garbage collector
]


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
    for kind in (socket.socket, ssl.SSLSocket):

        def recv_into(sock: socket.socket, *arguments: Any, receive: Any = kind.recv_into) -> int:
            count: int = receive(sock, *arguments)
            if threading.current_thread() is threading.main_thread() and left[0]:
                left[0] -= 1
                if not left[0]:
                    signal.raise_signal(signal.SIGALRM)
            return count

        monkeypatch.setattr(kind, "recv_into", recv_into)
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
    assert count > 1


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


def once(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise OSError("once")


HANDLERS = [plain, functools.partial(plain, extra="partial"), Handler().method, Handler(), once]


@pytest.mark.parametrize("handler", HANDLERS)
def test_whose_error_it_is(handler: Any) -> None:
    """A handler's, whatever that is made of, and nobody else's."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(OSError, match=r"plain|partial|method|call|once") as caught:
            signal.raise_signal(signal.SIGALRM)
        assert is_handlers(caught.value)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ConnectionRefusedError) as refused, socket.socket() as sock:
        sock.connect(("127.0.0.1", 1))
    assert not is_handlers(refused.value)


def test_a_handler_that_takes_itself_away(url: str, signalled: list[int], alarm: Any) -> None:
    """As for an alarm that is to come once."""

    def handler(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise TimeoutError("took too long")

    for count in range(1, 7):
        with hctef.HttpFile(url, prefetch_bytes=0, max_connections=1) as file:
            signal.signal(signal.SIGALRM, handler)
            signalled[0] = count
            with pytest.raises(TimeoutError, match="took too long"):
                file.read()
            assert file.read() == DATA


@pytest.mark.parametrize("connections", [2, 16])
def test_an_alarm_waits_for_nobody(range_server: RangeServer, alarm: Any, connections: int) -> None:
    """Neither for the rest of what was asked for, nor for what others bring."""
    url, gate = range_server.add("f", DATA), Gate()
    with hctef.HttpFile(url, prefetch_bytes=0, max_connections=connections) as file:
        assert file.read(10) == DATA[:10]
        range_server.behave("f", gate)
        alarm(TimeoutError)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TimeoutError, match="took too long"):  # with the gate closed
            file.read_ranges([(at, at + 4000) for at in range(MIB, 3 * MIB, 300_000)])
        gate.open()
        range_server.behave("f")
        assert file.read_ranges([(MIB, MIB + 4000)]) == [DATA[MIB : MIB + 4000]]


@pytest.mark.parametrize("spoil", [chunked, until_close, trickle(2e6)])
def test_an_alarm_in_what_libraries_read(range_server: RangeServer, alarm: Any, spoil: Behaviour) -> None:
    """They put errors of their own around it."""
    url = range_server.add("f", DATA)
    range_server.behave("f", after(1, trickle(2e6)), after(1, spoil))
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        alarm(TimeoutError)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TimeoutError, match="took too long"):
            file.read()


def test_an_alarm_while_a_response_is_put_away(range_server: RangeServer, alarm: Any) -> None:
    """It is not the business of whoever closes a stream, but comes out of that all the same."""
    url = range_server.add("f", DATA[:30_000])
    range_server.behave("f", after(1, trickle(100_000)))
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        stream = file.stream(0)
        got = next(stream)
        while len(got) < 20_000:
            got += next(stream)
        alarm(TimeoutError)
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        with contextlib.suppress(TimeoutError):
            stream.close()  # type: ignore[attr-defined]  # a generator
        range_server.behave("f")
        assert file.read() == DATA[:30_000]


def test_a_failure_leaves_no_circle(range_server: RangeServer) -> None:
    """Of an error, its traceback, and the frames in it, which would keep a file's memory."""
    url = range_server.add("f", DATA)
    file = hctef.HttpFile(url, prefetch_bytes=0)
    for spoil in (times(1, hang_up), times(2, cut(20_000)), times(1, stale)):
        range_server.behave("f", spoil)
        file.evict()
        file.seek(MIB)
        assert file.read(300_000) == DATA[MIB : MIB + 300_000]
    planner = weakref.ref(file._open().planner)
    gc.disable()
    try:
        file.close()
        del file
        wait_until(lambda: planner() is None)
    finally:
        gc.enable()


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


def test_who_waits_for_a_slot_gets_it(range_server: RangeServer) -> None:
    """From whoever comes next, where giving it was broken off."""
    url, gate = range_server.add("f", DATA), Gate()
    with hctef.RemoteBuffer(url, paging="fill", max_connections=1, readahead="off") as buf:
        assert buf[:10] == DATA[:10]
        range_server.behave("f", when(lambda request: request.asked.startswith(f"bytes={MIB}-"), gate))
        slots = buf._open().planner._slots

        def prefetch() -> None:
            gate.wait_for(1)
            buf.prefetch([(2 * MIB, 8192)], wait=False)
            wait_until(lambda: bool(slots._queue))
            gate.open()

        thread = threading.Thread(target=prefetch)
        thread.start()

        def line(_: FrameType, event: str, __: object) -> Any:
            if event == "line" and slots._queue and not slots.holders:
                sys.settrace(None)
                raise KeyboardInterrupt
            return line

        sys.settrace(lambda frame, _, __: line if frame.f_code is Slots.give.__code__ else None)
        try:
            with pytest.raises(KeyboardInterrupt):
                buf[MIB : MIB + 5000]
        finally:
            sys.settrace(None)
        thread.join()
        assert buf[2 * MIB : 2 * MIB + 5000] == DATA[2 * MIB : 2 * MIB + 5000]


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
