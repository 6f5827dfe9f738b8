"""HttpFile is an open file: any sequence of calls gives what io.BytesIO gives. RemoteBuffer is an mmap."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import inspect
import io
import itertools
import mmap
import pickle
import re
import struct
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import hctef
from tests.helpers import pattern
from tests.nginx_server import NginxServer
from tests.range_server import Gate, RangeServer, status

SIZE = 300_001
LINES = b"".join(b"%d\n" % n * (n % 7) for n in range(9_000)) + b"no newline at the end"
CONTENT = (pattern(SIZE - len(LINES)) + LINES) if len(LINES) < SIZE else LINES
OFFSET = st.integers(0, len(CONTENT) + 10_000)
COUNT = st.one_of(st.none(), st.integers(-2, 300), st.integers(0, 20_000), st.integers(0, 2**40))
OPTIONS = st.sampled_from(
    [
        {},
        {"prefetch_bytes": 0},
        {"prefetch_bytes": 0, "minimum_range_request_bytes": 1, "readahead": "off"},
        {"prefetch_bytes": 5000, "prefetch_direction": "START"},
        {"prefetch_bytes": 0, "max_resident_bytes": 64 * 1024},
        {"prefetch_bytes": 100_000, "max_resident_bytes": 8192},
    ]
)


@pytest.fixture(scope="module")
def url(nginx: NginxServer) -> str:
    return nginx.add("interface.bin", CONTENT)


@pytest.fixture(scope="module", autouse=True)
def _served(url: str) -> None:
    FileMachine.url = BufferMachine.url = url


class FileMachine(RuleBasedStateMachine):
    """The same calls on an HttpFile and an io.BytesIO."""

    url = ""

    @initialize(options=OPTIONS)
    def begin(self, options: dict[str, Any]) -> None:
        self.file = hctef.HttpFile(self.url, **options)
        self.model = io.BytesIO(CONTENT)

    @rule(count=COUNT)
    def read(self, count: int | None) -> None:
        assert self.file.read(count) == self.model.read(count)

    @rule(count=st.integers(0, 20_000))
    def read1(self, count: int) -> None:
        assert self.file.read1(count) == self.model.read1(count)

    @rule()
    def read1_of_any_size(self) -> None:
        data = self.file.read1()
        assert data == self.model.read(len(data))
        assert data or not self.model.read(1)

    @rule(count=st.integers(0, 20_000))
    def readinto(self, count: int) -> None:
        mine, theirs = bytearray(count), bytearray(count)
        assert self.file.readinto(mine) == self.model.readinto(theirs)
        assert mine == theirs

    @rule(count=COUNT)
    def readline(self, count: int | None) -> None:
        assert self.file.readline(count) == self.model.readline(count)

    @rule(hint=st.integers(1, 2000))
    def readlines(self, hint: int) -> None:
        opened = io.BufferedReader(io.BytesIO(CONTENT))  # BytesIO alone stops at the hint, files beyond it
        opened.seek(self.model.tell())
        assert self.file.readlines(hint) == opened.readlines(hint)
        self.model.seek(opened.tell())

    @rule(count=st.integers(1, 30))
    def iterate(self, count: int) -> None:
        assert list(itertools.islice(self.file, count)) == list(itertools.islice(self.model, count))

    @rule(size=st.integers(0, 10_000))
    def peek(self, size: int) -> None:
        at = self.model.tell()
        data = self.file.peek(size)
        assert CONTENT[at : at + len(data)] == data
        assert data or at >= len(CONTENT)

    @rule(offset=OFFSET)
    def seek(self, offset: int) -> None:
        assert self.file.seek(offset) == self.model.seek(offset)

    @rule(offset=OFFSET, whence=st.sampled_from([1, 2]))
    def seek_from(self, offset: int, whence: int) -> None:
        base = self.model.tell() if whence == 1 else len(CONTENT)
        for delta in (offset, -min(offset, base)):
            assert self.file.seek(delta, whence) == self.model.seek(delta, whence)
            base = self.model.tell() if whence == 1 else base

    @rule(ranges=st.lists(st.tuples(st.integers(0, len(CONTENT)), st.integers(0, 5000)), max_size=5))
    def read_ranges(self, ranges: list[tuple[int, int]]) -> None:
        pairs = [(a, min(len(CONTENT), a + n)) for a, n in ranges]
        assert self.file.read_ranges(pairs) == [CONTENT[a:b] for a, b in pairs]

    @rule(a=OFFSET, b=OFFSET)
    def evict(self, a: int, b: int) -> None:
        a, b = sorted((min(a, len(CONTENT)), min(b, len(CONTENT))))
        self.file.evict(a, b)

    @rule(a=OFFSET, b=OFFSET)
    def stream(self, a: int, b: int) -> None:
        a, b = sorted((min(a, len(CONTENT)), min(b, len(CONTENT))))
        assert b"".join(self.file.stream(a, b)) == CONTENT[a:b]

    @rule()
    def clone(self) -> None:
        clone = self.file.clone()
        assert clone.tell() == self.model.tell()
        self.file.close()
        self.file = clone

    @rule()
    def tell(self) -> None:
        assert self.file.tell() == self.model.tell()

    def teardown(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


class BufferMachine(RuleBasedStateMachine):
    """The same calls on a RemoteBuffer and an mmap.mmap."""

    url = ""

    @initialize(options=OPTIONS)
    def begin(self, options: dict[str, Any]) -> None:
        self.buffer = hctef.RemoteBuffer(self.url, **options)
        self.backing = tempfile.TemporaryFile()  # noqa: SIM115  # closed in teardown
        self.backing.write(CONTENT)
        self.backing.flush()
        self.model = mmap.mmap(self.backing.fileno(), 0, prot=mmap.PROT_READ)

    def same(self, call: Callable[[Any], Any]) -> None:
        """The same result, or the same kind of error."""
        try:
            expected = call(self.model)
        except (ValueError, IndexError, TypeError) as error:
            with pytest.raises(type(error)):
                call(self.buffer)
        else:
            assert call(self.buffer) == expected

    @rule(a=st.none() | st.integers(-400_000, 400_000), b=st.none() | st.integers(-400_000, 400_000))
    def slice(self, a: int | None, b: int | None) -> None:
        self.same(lambda m: m[a:b])

    @rule(a=OFFSET, n=st.integers(0, 5000))
    def short_slice(self, a: int, n: int) -> None:
        self.same(lambda m: m[a : a + n])

    @rule(
        a=st.none() | st.integers(-400_000, 400_000),
        b=st.none() | st.integers(-400_000, 400_000),
        step=st.integers(-60_000, 60_000),
    )
    def stride(self, a: int | None, b: int | None, step: int) -> None:
        step = step if abs(step) < 100 or abs(step) > 5000 else 7
        self.same(lambda m: m[a:b:step])

    @rule(index=st.integers(-400_000, 400_000))
    def item(self, index: int) -> None:
        self.same(lambda m: m[index])

    @rule(count=COUNT)
    def read(self, count: int | None) -> None:
        self.same(lambda m: m.read(count))
        self.same(lambda m: m.tell())

    @rule()
    def read_byte(self) -> None:
        self.same(lambda m: m.read_byte())

    @rule()
    def readline(self) -> None:
        self.same(lambda m: m.readline())

    @rule(offset=st.integers(-400_000, 400_000), whence=st.sampled_from([0, 1, 2, 3]))
    def seek(self, offset: int, whence: int) -> None:
        def call(m: Any) -> int:
            m.seek(offset, whence)
            return int(m.tell())

        self.same(call)

    @rule(
        at=st.integers(0, len(CONTENT)),
        n=st.integers(0, 30),
        a=st.none() | st.integers(-400_000, 400_000),
        b=st.none() | st.integers(-400_000, 400_000),
        name=st.sampled_from(["find", "rfind"]),
    )
    def find(self, at: int, n: int, a: int | None, b: int | None, name: str) -> None:
        needle = CONTENT[at : at + n]
        args = [needle] if a is None else [needle, a] if b is None else [needle, a, b]
        self.same(lambda m: getattr(m, name)(*args))

    @rule(a=st.integers(0, len(CONTENT)), b=st.integers(0, len(CONTENT)))
    def view(self, a: int, b: int) -> None:
        a, b = sorted((a, b))
        with self.buffer.view(a, b) as view:
            assert view.readonly
            assert view == CONTENT[a:b]

    @rule(
        advice=st.sampled_from(["MADV_WILLNEED", "MADV_DONTNEED", "MADV_SEQUENTIAL", "MADV_RANDOM"]),
        page=st.integers(0, 90),
    )
    def madvise(self, advice: str, page: int) -> None:
        self.same(lambda m: m.madvise(getattr(mmap, advice), page * mmap.PAGESIZE, 20_000))

    @rule()
    def size(self) -> None:
        self.same(lambda m: m.size())
        self.same(len)

    def teardown(self) -> None:
        if hasattr(self, "buffer"):
            self.buffer.close()
            self.model.close()
            self.backing.close()


STATEFUL = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestFile = FileMachine.TestCase
TestFile.settings = STATEFUL
TestBuffer = BufferMachine.TestCase
TestBuffer.settings = STATEFUL


def test_empty_needles_and_whole_iteration(url: str) -> None:
    """bytes(buf), reversed(buf) and `in` go over all of it."""
    with hctef.RemoteBuffer(url) as buf:
        assert bytes(iter(buf)) == CONTENT
        assert bytes(reversed(buf)) == CONTENT[::-1]
        assert b"no newline" in buf
        assert b"\xff\xfe\xfd never there" not in buf
        assert CONTENT[5] in buf
        assert buf
        with pytest.raises(TypeError):
            "text" in buf  # noqa: B015
        with pytest.raises(ValueError, match="range"):
            300 in buf  # noqa: B015


def test_the_buffer_protocol_gives_the_bytes_without_a_copy(url: str) -> None:
    """memoryview, numpy, struct and re take the buffer itself; all is read-only."""
    with hctef.RemoteBuffer(url, paging="fill") as buf:
        view = memoryview(buf)
        assert view == CONTENT
        assert view.readonly
        array = np.frombuffer(buf, "<u4", count=1000, offset=4)
        assert np.array_equal(array, np.frombuffer(CONTENT, "<u4", count=1000, offset=4))
        assert not array.flags.writeable
        assert array.__array_interface__["data"][0] == np.frombuffer(buf, "u1").__array_interface__["data"][0] + 4
        assert struct.unpack_from("<Q", buf, 800) == struct.unpack_from("<Q", CONTENT, 800)
        found = re.search(rb"4321\n", buf)
        expected = re.search(rb"4321\n", CONTENT)
        assert found is not None
        assert expected is not None
        assert found.span() == expected.span()
        with pytest.raises(BufferError, match="read-only"):
            buf.__buffer__(inspect.BufferFlags.WRITABLE)
        with pytest.raises(TypeError):
            io.BytesIO(b"bytes").readinto(buf)


def test_arrays_lie_in_the_file(url: str) -> None:
    """dtype, shape, offset and order as np.ndarray has them; read-only; only its bytes are fetched."""
    with hctef.RemoteBuffer(url, paging="fill", readahead="off") as buf:
        array = buf.array("<f4", (10, 20), offset=100_000, order="F")
        assert array.tobytes() == np.ndarray((10, 20), "<f4", CONTENT, 100_000, order="F").tobytes()
        assert not array.flags.writeable
        assert buf.resident_bytes < 40_000
        assert buf.array("<u2", offset=len(CONTENT) - 5).shape == (2,)
        assert buf.array([("a", "<u2"), ("b", "u1")], 3, 6)["b"][2] == CONTENT[6 + 2 * 3 + 2]
        bad: Callable[[], object]
        for bad in (
            lambda: buf.array("<u4", (10,), offset=len(CONTENT) - 39),
            lambda: buf.array("<u4", (-1,)),
            lambda: buf.array("<u4", (2**62,)),
            lambda: buf.array(object),
            lambda: buf.array("<u4", 4, order="X"),
        ):
            with pytest.raises(ValueError):
                bad()


@given(st.integers(0, len(CONTENT)), st.integers(1, 50_000))
@settings(max_examples=20, deadline=None)
def test_a_view_pins_its_bytes_while_it_lives(url: str, start: int, length: int) -> None:
    """Eviction leaves what a view shows, and takes it once the view is gone."""
    stop = min(len(CONTENT), start + length)
    with hctef.RemoteBuffer(url, max_resident_bytes=16_384) as buf:
        view = buf.view(start, stop)
        buf.evict()
        assert buf[0:50_000] == CONTENT[0:50_000]
        assert view == CONTENT[start:stop]
        del view
        buf.evict()
        assert buf.resident_ranges() == []


NUMPY_INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize("kind", NUMPY_INTEGERS)
def test_a_read_counts_in_no_numpy_arithmetic(url: str, kind: Any) -> None:
    """A size of any width gives its bytes from any position, and position and statistics stay ints."""
    with hctef.HttpFile(url, prefetch_bytes=len(CONTENT)) as file:
        size = min(4096, np.iinfo(kind).max)
        for at in (0, 100, 300, 65_000, 70_000):
            file.seek(at)
            assert file.read(kind(size)) == CONTENT[at : at + size]
            assert file.read(300) == CONTENT[at + size : at + size + 300]
            assert type(file.tell()) is int
        assert {type(value) for value in (file._position, file._hits, file._hit_bytes)} == {int}


@pytest.mark.parametrize("kind", NUMPY_INTEGERS)
def test_a_slice_counts_in_no_numpy_arithmetic(url: str, kind: Any) -> None:
    """Bounds of any width, one or both of them, give the same bytes after many hits, and the statistics stay ints."""
    with hctef.RemoteBuffer(url, paging="fill", prefetch_bytes=len(CONTENT)) as buf:
        for _ in range(20):
            assert buf[0:4096] == CONTENT[:4096]
        for bounds in (
            (kind(0), kind(10)),
            (kind(5), 300),
            (5, kind(100)),
            (kind(100), 4_000),
            (kind(1), None),
            (kind(9), kind(3)),
        ):
            assert buf[slice(*bounds)] == CONTENT[slice(*bounds)]
        buf[np.uint16(0) : np.uint16(4096)]
        assert {type(value) for value in (buf._hits, buf._hit_bytes)} == {int}


def test_integers_of_any_kind_are_bytes_to_look_for(url: str) -> None:
    """What `in` takes for a number is what bytes take for one."""
    with hctef.RemoteBuffer(url, paging="fill") as buf:
        items: list[Any] = [
            np.int64(CONTENT[5]),
            np.uint8(CONTENT[5]),
            np.array(CONTENT[5]),
            True,
            np.array([10], "u1"),
        ]
        for item in items:
            assert item in buf
            assert item in CONTENT
        for item in (np.int64(256), np.int8(-1), 2**70):
            with pytest.raises(ValueError, match="range"):
                item in buf  # noqa: B015


def shared(step: Callable[[], Any]) -> list[Any]:
    """What eight threads got that called `step` until it gave nothing."""
    got: list[Any] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        with contextlib.suppress(StopIteration, ValueError):  # the end, as next() and read_byte() tell it
            while found := step():
                got.append(found)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


@pytest.fixture
def _restless() -> Iterator[None]:
    """Threads that switch whenever they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless")
@pytest.mark.parametrize("options", [{}, {"prefetch_bytes": 0}])
@pytest.mark.parametrize("name", ["readline", "__next__", "readline of a buffer", "read_byte", "seek"])
def test_threads_that_share_a_position_share_what_is_there(nginx: NginxServer, name: str, options: Any) -> None:
    """Each line, each byte, goes to one of them, and each step is taken."""
    text = b"".join(b"%08d line\n" % n for n in range(3000 if name != "read_byte" else 500))
    url = nginx.add("shared.txt", text)
    with hctef.HttpFile(url, **options) as file, hctef.RemoteBuffer(url, paging="fill", **options) as buf:
        if name == "read_byte":
            assert sorted(shared(buf.read_byte)) == sorted(text)
        elif name == "seek":
            assert sorted(shared(lambda: (at := file.seek(1, 1)) < len(text) and at)) == [*range(1, len(text))]
        else:
            step = buf.readline if "buffer" in name else getattr(file, name)
            assert sorted(shared(step)) == text.splitlines(keepends=True)


def test_a_read_that_failed_takes_back_no_other_threads_step(range_server: RangeServer) -> None:
    """The position stays where another thread has taken it meanwhile."""
    url = range_server.add("f", CONTENT)
    with hctef.HttpFile(url, prefetch_bytes=0, readahead="off", retries=0) as file:
        gate = Gate()
        range_server.behave("f", gate, status(500))

        def move_and_let_go() -> None:
            gate.wait_for(1)
            file.seek(5000)
            gate.open()

        other = threading.Thread(target=move_and_let_go)
        other.start()
        with pytest.raises(hctef.HctefNetworkError):
            file.read(100)
        other.join()
        assert file.tell() == 5000


def test_arguments_that_are_no_integers_are_type_errors(url: str) -> None:
    """As BufferedReader and mmap have it: sizes, whence and advice."""
    with hctef.HttpFile(url) as file, hctef.RemoteBuffer(url, paging="fill") as buf:
        bad: Any
        call: Callable[[Any], object]
        for bad in (1.0, "x", b"x", [1]):
            for call in (
                file.read1,
                file.peek,
                lambda bad: file.seek(0, bad),
                lambda bad: buf.seek(0, bad),
                buf.madvise,
            ):
                with pytest.raises(TypeError):
                    call(bad)
        calls: list[Callable[[Any], object]] = [file.read1, file.peek, buf.madvise]
        for call in calls:
            with pytest.raises(TypeError):
                call(None)
        with pytest.raises(TypeError):
            file.seek(0, 0.0)  # type: ignore[arg-type]  # that is what is tested
        assert file.read1(np.uint8(200)) == CONTENT[:200]
        assert file.seek(np.int16(5), np.int8(1)) == 205
        assert (file.tell(), buf.tell()) == (205, 0)


@pytest.mark.parametrize("paging", ["auto", "fill"])
def test_an_array_over_a_view_keeps_it(url: str, paging: Any) -> None:
    """np.ndarray(buffer=view) keeps `view.obj` alone, which was nothing: pages went under it, and all with the file."""
    buf = hctef.RemoteBuffer(url, paging=paging, max_resident_bytes=1 << 20, readahead="off")
    arrays = [np.ndarray((50_000,), "u1", buffer=buf.view(1000, 51_000))]
    arrays += [np.ndarray((70_000,), "u1", buffer=view) for view in buf.read_ranges([(60_000, 130_000)])]
    expected = [CONTENT[1000:51_000], CONTENT[60_000:130_000]]
    buf.evict()
    for at in range(0, len(CONTENT), 100_000):
        assert buf[at : at + 5000] == CONTENT[at : at + 5000]
    assert [array.tobytes() for array in arrays] == expected
    buf.close()
    del buf
    gc.collect()
    assert [array.tobytes() for array in arrays] == expected
    assert not any(array.flags.writeable for array in arrays)


@pytest.mark.parametrize("switching", [1e-5, 0.005])
def test_a_read_that_meets_a_close_is_an_error(url: str, switching: float) -> None:
    """And no b'' nor zero: the memory that it would have looked at is gone in the middle of it."""
    line = CONTENT.index(b"\n") + 1
    with hctef.HttpFile(url) as base:
        base.read()
        remote: Any = base._remote
        calls: list[tuple[Callable[[], Any], Callable[[Any], Any], Any]] = [
            (lambda: hctef.RemoteBuffer._sharing(remote), lambda each: each[0:8192], CONTENT[:8192]),
            (lambda: hctef.RemoteBuffer._sharing(remote), lambda each: each[5:105], CONTENT[5:105]),
            (lambda: hctef.RemoteBuffer._sharing(remote), lambda each: each.find(CONTENT[5000:5016], 0), 5000),
            (base.clone, lambda each: (each.seek(0), each.read(8192))[1], CONTENT[:8192]),
            (base.clone, lambda each: (each.seek(0), each.readline())[1], CONTENT[:line]),
            (base.clone, lambda each: (each.seek(0), each.readinto(bytearray(9000)))[1], 9000),
        ]
        usual = sys.getswitchinterval()
        sys.setswitchinterval(switching)
        try:
            for make, call, expected in calls:
                for n in range(60):
                    reader, wrong = make(), list[Any]()

                    def read(reader: Any = reader, wrong: list[Any] = wrong) -> None:
                        with contextlib.suppress(ValueError):  # closed
                            while not wrong:
                                wrong += [got for got in [call(reader)] if got != expected]  # noqa: B023  # of this round

                    thread = threading.Thread(target=read)
                    thread.start()
                    time.sleep(n % 7 * 2e-4)
                    reader.close()
                    thread.join()
                    assert not wrong
        finally:
            sys.setswitchinterval(usual)


def test_readinto_what_has_no_format(url: str) -> None:
    """numpy's dates, and records of them, as io fills them."""
    with hctef.HttpFile(url) as file:
        for kind in ("M8[s]", "m8[ns]", "i4,M8[s]"):
            target, expected = np.zeros(40, kind), np.zeros(40, kind)
            file.seek(0)
            assert file.readinto(target) == io.BytesIO(CONTENT).readinto(expected)
            assert target.tobytes() == expected.tobytes()
        with pytest.raises(TypeError, match="contiguous"):
            file.readinto(np.zeros((4, 4), "M8[s]")[:, 1])


def test_integers_beyond_63_bits_are_no_positions(url: str, tmp_path: Path) -> None:
    """As for files."""
    (tmp_path / "f").write_bytes(b"bytes")
    with hctef.HttpFile(url) as file, (tmp_path / "f").open("rb", buffering=0) as real:
        for each in (file, io.BytesIO(b"bytes"), real):
            with pytest.raises(OverflowError):
                each.seek(2**63)
        assert file.tell() == 0
        assert file.seek(2**62) == 2**62
        assert file.read(1) == b""


def test_a_position_before_the_start_is_an_error_of_both_kinds(url: str, tmp_path: Path) -> None:
    """OSError (EINVAL) as a file has it, which libraries look for, ValueError as BytesIO."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with hctef.HttpFile(url) as file, path.open("rb") as local:
        for offset, whence in ((-1, 0), (-1, 1), (-len(CONTENT) - 1, 2)):
            for each in (file, local):
                with pytest.raises(OSError) as caught:
                    each.seek(offset, whence)
                assert caught.value.errno == errno.EINVAL
            with pytest.raises(ValueError, match="negative"):
                file.seek(offset, whence)
        assert file.tell() == 0


def test_a_wrong_option_is_told_what_there_is_instead(url: str) -> None:
    """A name that was mistyped, and what another class has."""
    wrong: list[tuple[Callable[..., object], dict[str, Any], str]] = [
        (hctef.HttpFile, {"max_conections": 3}, "did you mean max_connections"),
        (hctef.HttpFile, {"paging": "fill"}, "one of RemoteBuffer"),
        (hctef.RemoteBuffer, {"session": None}, "takes pool="),
        (hctef.AsyncHttpFile, {"pool": None}, "takes session="),
        (hctef.HttpFile, {"zzz": 1}, "no option 'zzz'$"),
    ]
    for kind, options, message in wrong:
        with pytest.raises(TypeError, match=message):
            kind(url, **options)


def test_signatures_tell_the_options() -> None:
    """To help() and to completion, with their defaults; a subclass with arguments of its own has its own."""
    file = inspect.signature(hctef.HttpFile).parameters
    assert (file["prefetch_bytes"].default, file["max_connections"].default) == (1 << 20, 16)
    assert "pool" in file
    assert not {"paging", "session"} & file.keys()
    assert inspect.signature(hctef.RemoteBuffer).parameters["prefetch_bytes"].default == 0
    assert "session" in inspect.signature(hctef.AsyncRemoteBuffer).parameters
    documented = (inspect.getdoc(hctef.HttpFile) or "").splitlines()
    assert all(any(line.startswith(f"    {name}: ") for line in documented) for name in file)

    class Mine(hctef.HttpFile):
        def __init__(self, number: int) -> None:
            super().__init__(f"http://127.0.0.1/{number}")

    assert list(inspect.signature(Mine).parameters) == ["number"]


def test_a_url_that_is_none_is_named_unless_it_may_hold_a_secret() -> None:
    """In a loop over many, which?"""
    for url, shown in (
        ("data.bin?token=s3cret", "'data.bin': not an"),
        ("ftp://u:s3cret@h/x", "not an"),
        ("http://u:s3?cret@h", "not a valid"),
    ):
        with pytest.raises(hctef.HctefUrlError) as caught:
            hctef.HttpFile(url)
        assert str(caught.value).startswith(shown)


def test_peek_fetches_little_however_much_it_is_asked_for(range_server: RangeServer) -> None:
    """64 KiB and what a page needs; the position stays."""
    url = range_server.add("peeked", CONTENT)
    with hctef.HttpFile(url, prefetch_bytes=0, readahead="off") as file:
        before = file.stats.bytes_fetched
        file.seek(5)
        for size in (10**9, 2**70, 100_000):
            assert CONTENT[5:].startswith(file.peek(size))
        assert 1 <= file.stats.bytes_fetched - before <= 80 * 1024
        assert file.tell() == 5


def test_advice_that_does_not_exist_is_an_error(url: str) -> None:
    """EINVAL, as the system answers; each of the mmap module's is taken."""
    with hctef.RemoteBuffer(url, paging="fill") as buf:
        for option in (9999, -1, 2**70):
            with pytest.raises(OSError) as caught:
                buf.madvise(option)
            assert caught.value.errno == errno.EINVAL
        for name in dir(mmap):
            if name.startswith("MADV_"):
                buf.madvise(getattr(mmap, name), 0, 4096)
        buf.madvise(np.int64(mmap.MADV_DONTNEED))
        assert buf.resident_bytes == 0


BOUNDED = b"".join(b"a line of text %06d\n" % n for n in range(10_000))


@pytest.mark.parametrize("bound", [16 * 1024, 20_000, 32 * 1024, 64 * 1024, 256 * 1024])
def test_lines_under_a_small_bound_are_fetched_once(range_server: RangeServer, bound: int) -> None:
    """No more is asked for than stays until the next line is read: short lines and long ones."""
    for lines, most in (
        (BOUNDED.splitlines(keepends=True), 1.05),
        ([b"x" * n + b"\n" for n in range(0, 9000, 60)], 1.25),
    ):
        text = b"".join(lines)
        url = range_server.add("f", text)
        range_server.forget()
        with hctef.HttpFile(url, max_resident_bytes=bound, prefetch_bytes=0) as file:
            assert list(file) == lines
        with hctef.RemoteBuffer(url, max_resident_bytes=bound) as buf:
            assert [*iter(buf.readline, b"")] == lines
        assert range_server.bytes_sent <= 2 * most * len(text)
        assert range_server.requests <= 2 * len(text) / 7000


def test_a_line_under_the_least_bound_takes_one_request(range_server: RangeServer) -> None:
    """Nothing stays, so nothing more is asked for than one request's worth."""
    url = range_server.add("f", BOUNDED)
    with hctef.HttpFile(url, max_resident_bytes=1, prefetch_bytes=0) as file:
        range_server.forget()
        assert file.readlines(2000) == BOUNDED[:2002].splitlines(keepends=True)
    assert range_server.bytes_sent <= 91 * 8192


@pytest.mark.parametrize("bound", [16 * 1024, 32 * 1024, 64 * 1024, 256 * 1024])
@pytest.mark.parametrize("backwards", [False, True])
def test_searches_under_a_small_bound_go_on_where_the_last_one_ended(
    range_server: RangeServer, bound: int, *, backwards: bool
) -> None:
    """What a search fetches beyond the found is there for the next one, in both directions."""
    url = range_server.add("f", BOUNDED)
    expected = [n for n, byte in enumerate(BOUNDED) if byte == ord("\n")]
    with hctef.RemoteBuffer(url, max_resident_bytes=bound) as buf:
        found = [buf.rfind(b"\n") if backwards else buf.find(b"\n")]
        while found[-1] >= 0:
            found.append(buf.rfind(b"\n", 0, found[-1]) if backwards else buf.find(b"\n", found[-1] + 1))
    assert found[:-1] == (expected[::-1] if backwards else expected)
    assert range_server.bytes_sent <= 1.4 * len(BOUNDED)


def test_a_search_fetches_nothing_where_what_is_sought_is_resident(range_server: RangeServer) -> None:
    """Neither forwards nor backwards."""
    with hctef.RemoteBuffer(range_server.add("f", BOUNDED), readahead="off") as buf:
        at = BOUNDED.index(b"005000")
        buf[at - 10_000 : at + 10_000]
        range_server.forget()
        assert buf.find(b"005000", at - 9_000) == buf.rfind(b"005000", 0, at + 9_000) == at
        assert range_server.requests == 0


def test_peek_under_a_small_bound_fetches_what_stays(range_server: RangeServer) -> None:
    """However much it is asked for: what it brought is there for the next peek."""
    with hctef.HttpFile(range_server.add("f", BOUNDED), max_resident_bytes=16 * 1024, prefetch_bytes=0) as file:
        range_server.forget()
        assert len({file.peek(100_000) for _ in range(20)}) == 1
    assert range_server.bytes_sent <= 16 * 1024


def test_a_stream_keeps_its_file_open(range_server: RangeServer) -> None:
    """A file that nobody keeps is not closed in the middle of its stream; what is asked for is checked at once."""
    url = range_server.add("f", CONTENT)
    assert b"".join(hctef.HttpFile(url, prefetch_bytes=0).stream()) == CONTENT
    pieces = hctef.HttpFile(url, prefetch_bytes=0).stream(10, 200_000)
    first = next(pieces)
    gc.collect()
    assert first + b"".join(pieces) == CONTENT[10:200_000]
    with pytest.raises(ValueError):
        hctef.HttpFile(url).stream(0, len(CONTENT) + 1)


def test_a_stream_ends_with_its_file(range_server: RangeServer) -> None:
    """After close() there is nothing to stream from, begun or not."""
    url = range_server.add("f", pattern(3_000_000))
    file = hctef.HttpFile(url, prefetch_bytes=0)
    begun, waiting = file.stream(), file.stream()
    next(begun)
    file.close()
    for pieces in (begun, waiting):
        with pytest.raises(ValueError, match="closed file"):
            b"".join(pieces)
    with pytest.raises(ValueError, match="closed file"):
        file.stream()


def test_a_stream_that_is_dropped_lets_its_file_go(range_server: RangeServer) -> None:
    """Without the garbage collector's help: the two are in no circle."""
    file = hctef.HttpFile(range_server.add("f", CONTENT), prefetch_bytes=0)
    pieces, watched = file.stream(), weakref.ref(file)
    next(pieces)
    del file
    assert watched() is not None
    del pieces
    assert watched() is None


def test_a_closed_file_has_its_name(range_server: RangeServer) -> None:
    """The URL without what is secret in it: open, pickled, closed, and where a callable gave it."""
    url = range_server.add("f", CONTENT)
    shown = url + "?sig=…"
    secret = url.replace("//", "//user:SECRET@") + "?sig=SECRET"
    for source in (secret, lambda: secret):
        file = hctef.HttpFile(source)
        assert file.name == shown
        file.close()
        assert file.name == shown
    pickled = pickle.loads(pickle.dumps(hctef.HttpFile(secret)))
    assert pickled.name == shown
    pickled.close()
    assert pickled.name == shown


@pytest.mark.parametrize(
    "arguments",
    [
        (mmap.MADV_WILLNEED, 1, 10),
        (mmap.MADV_WILLNEED, 1, 0),
        (mmap.MADV_WILLNEED, len(CONTENT) - 1, 1),
        (mmap.MADV_WILLNEED, 0, 0),
        (mmap.MADV_WILLNEED, 0, -1),
        (mmap.MADV_WILLNEED, 1, -1),
        (mmap.MADV_WILLNEED, len(CONTENT)),
        (mmap.MADV_WILLNEED, -1, -1),
        (mmap.MADV_WILLNEED, 4096, 10**9),
        (9999, 1, 10),
        (9999, 0, -1),
        (9999, len(CONTENT), 1),
    ],
)
def test_advice_is_checked_as_mmap_checks_it(url: str, arguments: tuple[int, ...]) -> None:
    """The same kind of error, with the same errno, for the first thing that is wrong."""

    def outcome(mapped: Any) -> object:
        try:
            return mapped.madvise(*arguments)
        except (ValueError, OSError) as error:
            return type(error), getattr(error, "errno", None)

    with tempfile.TemporaryFile() as backing, hctef.RemoteBuffer(url, paging="fill") as buf:
        backing.write(CONTENT)
        backing.flush()
        with mmap.mmap(backing.fileno(), 0, prot=mmap.PROT_READ) as model:
            assert outcome(buf) == outcome(model)


def test_what_cannot_be_copied_names_what_can_be_had(url: str) -> None:
    """Methods that the object has."""
    with hctef.HttpFile(url) as file, hctef.RemoteBuffer(url) as buf:
        for reader, methods in ((file, {"clone"}), (buf, {"file", "view"})):
            for duplicate in (copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="cannot be copied") as caught:
                    duplicate(reader)
                assert set(re.findall(r"(\w+)\(", str(caught.value))) == methods
                assert methods <= set(dir(reader))
