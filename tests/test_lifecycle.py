"""Files over the life of a program: TLS, pickling, forks, garbage, threads that end, clones and their positions."""

from __future__ import annotations

import copy
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import ssl
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import urllib3

import hctef
from hctef._pools import shared_pool
from hctef._ranges import ByteRange
from hctef._steps import FetchPlan
from tests.helpers import pattern, wait_until
from tests.nginx_server import NginxServer
from tests.range_server import Gate, RangeServer, status, trickle

DATA = pattern(1 << 20)
TOKEN = "not a secret that a test would leak"


@pytest.fixture
def url(range_server: RangeServer) -> str:
    return range_server.add("f", DATA)


# TLS


def test_tls_is_verified_by_default(tls_range_server: RangeServer) -> None:
    """An untrusted certificate is an error at once, without a retry."""
    url = tls_range_server.add("f", DATA)
    with pytest.raises(hctef.HctefNetworkError, match="certificate is not trusted"):
        hctef.HttpFile(url)
    assert tls_range_server.requests == 0


@pytest.mark.parametrize("ours", [True, False])
def test_close_takes_no_tls_away(
    tls_range_server: RangeServer, ca_file: Path, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    """`SSLSocket.shutdown` does: what its thread sent and received then would be in the clear."""
    taken: list[object] = []
    shutdown = ssl.SSLSocket.shutdown

    def watched(sock: ssl.SSLSocket, how: int) -> None:
        taken.extend([] if sock.server_side else [sock])
        shutdown(sock, how)

    def read(file: hctef.HttpFile) -> None:
        with pytest.raises(ValueError, match="closed"):
            file.read(400_000)

    monkeypatch.setattr(ssl.SSLSocket, "shutdown", watched)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    url = tls_range_server.add("f", DATA)
    with urllib3.PoolManager(ca_certs=str(ca_file)) as pool:
        given: Any = {"pool": None if ours else pool, "prefetch_bytes": 0}
        held: Any
        for held in (trickle(50_000), *([Gate()] if ours else [])):  # the head in a pool of the caller's is waited for
            file = hctef.HttpFile(url, **given)
            tls_range_server.behave("f", held)
            reading = threading.Thread(target=read, args=(file,))
            reading.start()
            if isinstance(held, Gate):
                held.wait_for(1)
            else:
                wait_until(lambda file=file: file.stats.bytes_fetched > 20_000)  # type: ignore[misc]
            file.close()
            reading.join(10)
            assert not reading.is_alive()
            if isinstance(held, Gate):
                held.open()
            tls_range_server.behave("f")
    assert not taken


def test_a_trusted_authority(tls_range_server: RangeServer, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the caller's pool, and by SSL_CERT_FILE as OpenSSL takes it."""
    url = tls_range_server.add("f", DATA)
    with urllib3.PoolManager(ca_certs=str(ca_file)) as pool:
        with hctef.HttpFile(url, pool=pool) as file:
            assert file.read() == DATA
        assert pool.request("GET", url).status == 200  # not closed by hctef
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    with urllib3.PoolManager() as pool, hctef.HttpFile(url, pool=pool) as file:
        assert file.read() == DATA


def test_a_wrong_host_name(tls_range_server: RangeServer, ca_file: Path) -> None:
    """The certificate must be the host's."""
    url = tls_range_server.add("f", DATA).replace("localhost", "127.0.0.1")
    context = ssl.create_default_context(cafile=str(ca_file))
    with urllib3.PoolManager(ssl_context=context) as pool, pytest.raises(hctef.HctefNetworkError, match="TLS"):
        hctef.HttpFile(url, pool=pool)


# pickling


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_opens_on_first_use(range_server: RangeServer, url: str, protocol: int) -> None:
    """URL, options, position and validator; no request until it is read."""
    with hctef.HttpFile(url, prefetch_bytes=5000, headers={"X-Plain": "yes"}) as file:
        file.seek(1000)
        data = pickle.dumps(file, protocol)
    requests = range_server.requests
    other = pickle.loads(data)
    assert "not open yet" in repr(other)
    assert not other.closed
    assert range_server.requests == requests
    assert other.read(10) == DATA[1000:1010]
    assert range_server.log[-1].headers["x-plain"] == "yes"
    other.close()
    assert other.closed
    with pytest.raises(ValueError, match="closed"):
        other.read()


def test_a_pickled_buffer(url: str) -> None:
    """As a file."""
    with hctef.RemoteBuffer(url, paging="fill", max_export_bytes=5) as buf:
        other = pickle.loads(pickle.dumps(buf))
    assert other[10:20] == DATA[10:20]
    with pytest.raises(BufferError, match="max_export_bytes"):
        memoryview(other)
    other.close()


def test_a_copy_fetches_nothing_on_open(range_server: RangeServer, url: str) -> None:
    """It is one of many perhaps, each for a part. What the caller wants to be fetched on open still is."""
    given: Any
    for given, least, most in (({}, 0, 100_000), ({"prefetch_bytes": 300_000}, 300_000, 500_000)):
        with hctef.HttpFile(url, **given) as file:
            wait_until(lambda file=file, least=least: file.resident_bytes >= (least or len(DATA)))  # type: ignore[misc]
            pickled = [pickle.dumps(file), pickle.dumps(file.buffer)]
        for data in pickled:
            range_server.forget()
            with pickle.loads(data) as other:
                assert other.read(100) == DATA[:100]
                wait_until(lambda other=other, least=least: other.stats.bytes_fetched >= least)  # type: ignore[misc]
                assert range_server.bytes_sent <= most


def test_what_a_buffer_is_to_fetch_on_open_its_copy_is_too(url: str) -> None:
    """It was asked for, though a file's default is as much."""
    with hctef.RemoteBuffer(url, prefetch_bytes=1 << 20) as buf, pickle.loads(pickle.dumps(buf)) as again:
        assert again._options.prefetch_bytes == 1 << 20


def test_what_close_breaks_off_is_no_failure(range_server: RangeServer, caplog: pytest.LogCaptureFixture) -> None:
    """It was logged as one, and as to be tried again."""
    url = range_server.add("large", pattern(4 << 20))
    caplog.set_level("INFO", "hctef")
    for retries in (0, 5):
        range_server.behave("large", trickle(200_000))
        file = hctef.HttpFile(url, retries=retries)
        file.prefetch([(0, 1 << 20)], wait=False)
        wait_until(lambda file=file: file.stats.bytes_fetched > 30_000)  # type: ignore[misc]
        file.close()
        range_server.behave("large")
    wait_until(lambda: not any(thread.name == "hctef-transfer" for thread in threading.enumerate()))
    assert not caplog.records


def test_a_pickle_refuses_a_file_that_changed(range_server: RangeServer, url: str) -> None:
    """RemoteFileChangedError on first use, each time."""
    with hctef.HttpFile(url) as file:
        other = pickle.loads(pickle.dumps(file))
    range_server.add("f", DATA[::-1], etag='"v2"')
    for _ in range(2):
        with pytest.raises(hctef.RemoteFileChangedError, match="pickled"):
            other.read(1)


def test_a_pickle_holds_no_credential(range_server: RangeServer, url: str) -> None:
    """And the error that follows says why."""
    secret = url.replace("http://", "http://user:SECRET@")
    with hctef.HttpFile(secret, headers={"X-Api-Token": "SECRET", "Accept-Language": "de"}) as file:
        data = pickle.dumps(file)
    assert b"SECRET" not in data
    range_server.behave("f", status(401))
    with pytest.raises(hctef.RemotePermissionError, match="not pickled"):
        pickle.loads(data).read(1)


def test_copies_are_clones_or_nothing(url: str) -> None:
    """copy.copy would share a position by accident."""
    with hctef.HttpFile(url) as file:
        with pytest.raises(TypeError, match="clone"):
            copy.copy(file)
        with pytest.raises(TypeError, match="clone"):
            copy.deepcopy(file)


# cursors


def test_clones_share_pages_and_have_their_own_positions(range_server: RangeServer, url: str) -> None:
    """No request to clone, none for what another fetched."""
    with hctef.HttpFile(url) as file:
        file.read()
        requests = range_server.requests
        file.seek(500)
        clone = file.clone()
        assert clone.tell() == 500
        clone.seek(7)
        assert file.read(5) == DATA[500:505]
        assert clone.read(5) == DATA[7:12]
        buf = file.buffer
        assert buf is file.buffer
        assert buf.file().read(5) == DATA[:5]
        assert range_server.requests == requests
    assert clone.read(5) == DATA[12:17]
    assert buf[0:5] == DATA[:5]
    clone.close()
    buf.close()


def test_a_buffer_outlives_the_file_it_came_from(url: str) -> None:
    """`HttpFile(url).buffer` is an idiom."""
    buf = hctef.HttpFile(url).buffer
    gc.collect()
    assert buf[100:110] == DATA[100:110]


def test_stats_are_those_of_all_readers(url: str) -> None:
    """Hits and bytes of clones, open and closed."""
    with hctef.HttpFile(url, prefetch_bytes=65_536) as file:
        wait_until(lambda: file.resident_bytes == 65_536)  # it comes behind the opening where the line is slow
        file.seek(-100, 2)
        file.read(100)
        with file.clone() as clone:
            clone.seek(-50, 2)
            clone.read(10)
        file.buffer[len(DATA) - 5 : len(DATA)]
        stats = file.stats
        assert (stats.hits, stats.misses, stats.bytes_read) == (3, 0, 115)
        file.seek(0)
        file.read(1)
        stats = file.stats
        assert stats.misses == 1
        assert stats.requests >= 2
        assert stats.seconds_waited > 0
        assert "requests=" in str(stats)


def test_repr_and_html(url: str) -> None:
    """A line, and a table with a picture."""
    with hctef.RemoteBuffer(url) as buf:
        buf[500_000:500_010]
        assert "1.0 MiB" in repr(buf)
        html = buf._repr_html_()
        assert "<svg" in html
        assert "<rect" in html
    assert "closed" in repr(buf)
    assert "closed" in buf._repr_html_()


@pytest.fixture(params=["fault", "fill"])
def paging(request: pytest.FixtureRequest) -> Any:
    """Both ways to page; nginx serves, for a thread that faults would keep a server in this process from answering."""
    if request.param == "fault" and not hctef.paging_support():
        pytest.skip(f"no demand paging: {hctef.paging_support().reason}")
    return request.param


def test_garbage_collection_in_any_order(nginx: NginxServer, paging: Any) -> None:
    """Views keep the bytes; nothing else keeps anything."""
    url = nginx.add("garbage", DATA)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]):
        buf = hctef.RemoteBuffer(url, paging=paging)
        file = buf.file()
        array = np.frombuffer(buf, "u1")
        arena = weakref.ref(file._remote)
        objects: list[Any] = [file, buf, array]
        del file, buf, array
        for index in order:
            if index == 2:
                assert objects[2].tobytes() == DATA
            objects[index] = None
            gc.collect()
        wait_until(lambda ref=arena: (gc.collect(), ref() is None)[1])  # type: ignore[misc]


def test_views_outlive_the_buffer(nginx: NginxServer, paging: Any) -> None:
    """numpy, memoryview and slices of them, after close and after garbage collection."""
    buf = hctef.RemoteBuffer(nginx.add("outlived", DATA), paging=paging)
    array = np.frombuffer(buf, "<u8")
    view = buf.view(1000, 2000)[10:20]
    part = buf.array("u1", 100, 5)[3:7]
    buf.close()
    del buf
    gc.collect()
    assert array.tobytes() == DATA
    assert view == DATA[1010:1020]
    assert part.tobytes() == DATA[8:12]


def test_threads_of_transfers_end(range_server: RangeServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle ones go by themselves."""
    monkeypatch.setattr("hctef._workers.IDLE_SECONDS", 0.05)
    with hctef.HttpFile(url) as file:
        file.read()
        wait_until(lambda: not any(thread.name == "hctef-transfer" for thread in threading.enumerate()))


def test_closing_stops_a_prefetch(range_server: RangeServer, url: str) -> None:
    """The transfer ends at its next piece, and asks for nothing more."""
    buf = hctef.RemoteBuffer(url, max_connections=1)
    range_server.behave("f", trickle(50))
    buf.prefetch([(0, 100_000), (300_000, 10), (600_000, 10)], wait=False)
    wait_until(lambda: range_server.requests == 2)
    buf.close()
    wait_until(lambda: not any(thread.name == "hctef-transfer" for thread in threading.enumerate()), 30)
    assert range_server.requests == 2


# interrupts and forks


@pytest.fixture
def _sigint() -> Iterator[None]:
    """KeyboardInterrupt, also where the tests run in the background of a shell, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint")
def test_ctrl_c_interrupts_a_read(range_server: RangeServer, url: str) -> None:
    """And the file is as good as before."""
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        gate = Gate()
        range_server.behave("f", gate)
        main = threading.get_ident()

        def interrupt() -> None:
            gate.wait_for(1)
            signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            file.read(10)
        thread.join()
        gate.open()
        range_server.behave("f")
        assert file.tell() == 0
        assert file.read(10) == DATA[:10]


FORKED: Any = None


def read_forked(at: int) -> bool:
    """In a child of fork."""
    return bool(FORKED[at : at + 3000] == DATA[at : at + 3000])


def hang_if_broken(_: int) -> bool:
    return bool(FORKED.find(DATA[700_000:700_016], 0) == 700_000)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # that is what is tested
def test_fork_while_transfers_run(nginx: NginxServer) -> None:
    """Children read what is there and fetch the rest by connections of their own."""
    global FORKED  # a child of fork finds it here
    url = nginx.add("forked.bin", DATA)
    with hctef.RemoteBuffer(url, max_connections=4) as FORKED:
        FORKED.prefetch([(n * 20_000, 5000) for n in range(30)], wait=False)
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert all(pool.map(read_forked, range(0, 1_000_000, 7919)))
            assert all(pool.map(hang_if_broken, range(4)))
        assert all(map(read_forked, range(0, 1_000_000, 7919)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_in_the_middle_of_a_read(range_server: RangeServer, url: str) -> None:
    """The child drops the parent's claims: it does not wait for a thread that it has not."""
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        gate = Gate()
        range_server.behave("f", gate)
        reader = threading.Thread(target=file.clone().read, args=(10,))
        reader.start()
        gate.wait_for(1)
        range_server.behave("f")
        pid = os.fork()
        if pid == 0:
            os._exit(0 if file.read(10) == DATA[:10] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        gate.open()
        reader.join(20)
        assert file.read(10) == DATA[:10]


def test_spawned_processes_get_a_copy(nginx: NginxServer) -> None:
    """By pickle."""
    url = nginx.add("spawned.bin", DATA)
    with hctef.HttpFile(url) as file, multiprocessing.get_context("spawn").Pool(1) as pool:
        file.seek(10)
        assert pool.apply(hctef.HttpFile.read, (file, 20)) == DATA[10:30]


def test_proxies_of_the_environment(range_server: RangeServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """http_proxy is honoured, no_proxy too; the proxy's credentials are sent to it and never shown."""
    seen: list[str] = []
    range_server.add("f", DATA)
    range_server.behave("http://example.test/f", lambda request, reply: seen.append(request.target))
    range_server.files["http://example.test/f"] = range_server.files["f"]
    monkeypatch.setenv("http_proxy", f"http://user:SECRET@127.0.0.1:{range_server.port}")
    with hctef.HttpFile("http://example.test/f") as file:
        assert file.read(10) == DATA[:10]
        assert "SECRET" not in repr(file)
    assert seen
    assert "proxy-authorization" in range_server.log[0].headers
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with hctef.HttpFile(url) as file:
        assert file.read(10) == DATA[:10]


def test_a_reader_that_is_garbage_never_waits_for_a_lock(url: str) -> None:
    """The garbage collector may run inside a step of the planner, which holds the file's lock."""
    file = hctef.HttpFile(url)
    clone, view = file.clone(), file.buffer.view(0, 10)
    remote = file._remote
    assert remote is not None
    with remote.driver.lock:
        del clone, view, file
        gc.collect()
    assert remote.planner.closed


def test_prefetch_keeps_to_the_bound(range_server: RangeServer, url: str) -> None:
    """What there is no room for is not fetched."""
    with hctef.RemoteBuffer(url, max_resident_bytes=100_000) as buf:
        range_server.forget()
        assert buf.prefetch([(0, 1_000_000)]) <= 100_000
        assert range_server.bytes_sent <= 100_000


# streams and those who read beside them


def test_who_reads_a_stream_may_read_meanwhile(url: str) -> None:
    """Other places, and other streams, by one connection at a time."""
    with hctef.HttpFile(url, prefetch_bytes=0, max_connections=1, max_resident_bytes=64 * 1024) as file:
        got = bytearray()
        for piece in file.stream():
            got += piece
            file.seek(len(got) * 7 % len(DATA))
            at = file.tell()
            assert file.read(10) == DATA[at : at + 10]
        assert got == DATA
        streams = [file.stream(start, start + 300_000) for start in (0, 300_000, 600_000)]
        parts = [bytearray() for _ in streams]
        going = dict(enumerate(streams))
        while going:
            for number, stream in list(going.items()):
                piece = next(stream, b"")
                parts[number] += piece
                if not piece:
                    del going[number]
        assert b"".join(parts) == DATA[:900_000]


def test_a_stream_may_be_thrown_away_while_the_lock_is_held(url: str) -> None:
    """As the garbage collector does, inside of a step of this very thread: it is ended by the next step."""
    with hctef.HttpFile(url, prefetch_bytes=0, max_connections=1, max_resident_bytes=64 * 1024) as file:
        driver = file._open().driver
        stream: Any = file.stream()
        next(stream)
        with driver.lock:
            stream.close()
        assert driver.planner.later
        file.seek(500_000)
        assert file.read(10) == DATA[500_000:500_010]
        assert not driver.planner.later
        assert not driver.planner.full


def test_a_stream_may_be_thrown_away_in_the_last_step_of_a_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes after that: the read itself ends it."""
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        driver = file._open().driver
        unpin, stream = driver.planner.unpin, file.stream()
        next(stream)

        def throw_away(pin: Any) -> None:
            stream.close()  # type: ignore[attr-defined]  # a generator
            assert driver.planner.later
            unpin(pin)

        monkeypatch.setattr(driver.planner, "unpin", throw_away)
        file.seek(500_000)
        assert file.read(10) == DATA[500_000:500_010]
        assert not driver.planner.later
        assert not driver._active


@pytest.mark.parametrize("pipelines", [None, False])
def test_a_read_of_many_gaps_ends_where_one_fails(
    range_server: RangeServer, url: str, monkeypatch: pytest.MonkeyPatch, pipelines: bool | None
) -> None:
    """Over a near line they are asked for on one connection, at once where that can be: none waits for the timeout of
    another, or is retried."""
    monkeypatch.setattr("hctef._link.NEARBY", 1.0)
    monkeypatch.setattr(shared_pool(None).connection_from_url(url), "pipelines", pipelines)
    with hctef.HttpFile(url, prefetch_bytes=0, readahead="off", retries=0) as file:
        file.prefetch([(at, 10) for at in range(0, 500_000, 50_000)])
        asked = range_server.requests
        range_server.behave("f", status(503))
        with pytest.raises(hctef.HctefNetworkError, match="503"):
            file.read(500_000)
        if pipelines is False:
            assert range_server.requests == asked + 1
        assert range_server.requests <= asked + 10
        assert not file._open().planner.cache.all_claims()
        range_server.behave("f")
        assert file.read(500_000) == DATA[:500_000]


def test_a_stream_whose_file_another_thread_closes(range_server: RangeServer, url: str) -> None:
    """It says what a read says, also while it waits until it may ask the server again."""
    file = hctef.HttpFile(url, prefetch_bytes=0)
    range_server.behave("f", status(503, **{"Retry-After": "100"}))
    with ThreadPoolExecutor(1) as pool:
        piece = pool.submit(next, file.stream())
        wait_until(lambda: file.stats.retries == 1)
        file.close()
        with pytest.raises(ValueError, match="closed file"):
            piece.result(20)


def test_a_stream_counts_the_time_it_waits(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not what its consumer does between two pieces."""
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        before, now = file.stats.seconds_waited, itertools.count()
        monkeypatch.setattr("hctef._remote.time", SimpleNamespace(perf_counter=lambda: next(now)))
        pieces = 0
        for _ in file.stream():
            pieces += 1
            for _ in range(1000):
                next(now)
        assert file.stats.seconds_waited - before == pieces + 1


def test_who_waits_for_a_prefetch_waits_for_all_of_it(url: str) -> None:
    """Also for what another reader has begun to bring."""
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        driver = file._open().driver
        with driver.lock:
            claim = driver.planner.cache.claim(ByteRange(0, 4096))
        claim.started = True
        waiting = threading.Thread(target=driver._fetch, args=(FetchPlan(claims=(claim,)),))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        with driver.lock:
            driver.planner.give_back(claim)
        waiting.join()
