"""No needless request, byte or copy: counted on the server's side."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hctef
from tests.helpers import by_fault, needs_address_space, pattern, wait_until
from tests.nginx_server import NginxServer
from tests.range_server import Gate, RangeServer, Reply, Request, slow, status

MIB = 1 << 20
DATA = pattern(64 * MIB)


@pytest.fixture(scope="module")
def big(nginx: NginxServer) -> str:
    return nginx.add("big.bin", DATA)


@pytest.mark.parametrize("reader", [hctef.HttpFile, hctef.RemoteBuffer])
def test_open_and_a_first_read_inside_the_prefetch(nginx: NginxServer, reader: Any) -> None:
    """Two requests at most: the opening's, and the rest of the prefetch behind it."""
    name = f"first-{reader.__name__}"
    url = nginx.add(name, DATA[: 8 * MIB])
    with reader(url) as file:
        file.seek(-100, 2)
        assert file.read(100) == DATA[8 * MIB - 100 : 8 * MIB]
        wait_until(lambda: file.resident_bytes >= (MIB if reader is hctef.HttpFile else 4096))
    log = nginx.log(name)
    assert len(log) <= 2
    assert sum(entry.sent for entry in log) <= MIB + 4096


@pytest.mark.parametrize("direction", ["END", "START"])
@pytest.mark.parametrize("size", [1, 4095, 4096, 8192, 65_536, 65_537, 100_000, MIB, MIB + 1, 3 * MIB])
def test_no_byte_twice_from_opening_to_reading_all(range_server: RangeServer, size: int, direction: Any) -> None:
    """Whatever the file's size is to the prefetch's."""
    url = range_server.add("f", DATA[:size])
    with hctef.HttpFile(url, prefetch_direction=direction) as file:
        assert file.read() == DATA[:size]
    assert range_server.sent_twice() == []
    assert range_server.bytes_sent == size


def test_strided_elements_come_along_on_a_near_line(nginx: NginxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked for once, and one that is waited for brings the next ones with it."""
    monkeypatch.setattr("hctef._link.NEARBY", 1.0)  # on a machine that has other work, too
    url = nginx.add("strided.bin", DATA)
    with hctef.HttpFile(url) as file:
        for at in range(0, len(DATA), MIB // 4):
            file.seek(at)
            assert file.read(4) == DATA[at : at + 4]
        assert file.stats.misses < 64  # of 256
    log = nginx.log("strided.bin")
    assert len(log) <= 256 + 2
    assert sum(entry.sent for entry in log) <= 256 * 16_384 + MIB


def test_what_comes_along_and_fails_is_nobodys_error(
    range_server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has an end of the file that it cannot read: who reads before it is not told, and does not wait."""
    monkeypatch.setattr("hctef._link.NEARBY", 1.0)
    url = range_server.add("f", DATA[: 16 * MIB])

    def unreadable(request: Request, reply: Reply) -> None:
        if int(request.asked.removeprefix("bytes=").partition("-")[0]) >= 8 * MIB:
            reply.fail(500)

    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        range_server.behave("f", unreadable)
        for at in range(0, 8 * MIB, MIB // 4):
            file.seek(at)
            assert file.read(4) == DATA[at : at + 4]
        assert file.stats.retries == 0
    assert any(request.status == 500 for request in range_server.log)


def test_a_thousand_ranges_by_prefetch(range_server: RangeServer) -> None:
    """The server saw no byte twice, few requests for near ranges, and at most max_connections at once."""
    url = range_server.add("f", DATA[: 32 * MIB])
    ranges = [(n * 32_768 + n % 7 * 1000, 100 + n % 5 * 700) for n in range(1000)]
    with hctef.RemoteBuffer(url, max_connections=8) as buf:
        range_server.forget()
        count = buf.prefetch(ranges[::-1])
        assert range_server.sent_twice() == []
        assert count == range_server.bytes_sent
        assert count <= 1000 * 12_288
        assert range_server.most_in_flight <= 8
        requests = range_server.requests
        assert [buf[a : a + n] for a, n in ranges] == [DATA[a : a + n] for a, n in ranges]
        assert buf.prefetch(ranges) == 0
        assert range_server.requests == requests


def test_prefetch_runs_several_requests_at_once(range_server: RangeServer) -> None:
    """Up to max_connections, and not one more."""
    url = range_server.add("f", DATA[:MIB])
    gate = Gate()
    with hctef.RemoteBuffer(url, max_connections=5) as buf:
        range_server.behave("f", gate)
        range_server.forget()
        assert buf.prefetch([(n * 50_000, 10) for n in range(12)], wait=False) == 12 * 8192
        gate.wait_for(5)
        assert range_server.requests == 5
        gate.open()
        wait_until(lambda: buf.resident_bytes >= 12 * 8192)
        assert range_server.most_in_flight == 5


def test_who_waits_goes_before_what_is_prefetched(range_server: RangeServer) -> None:
    """A reader's request is the next, also for bytes that a prefetch has claimed and not asked for yet."""
    url = range_server.add("f", DATA[:MIB])
    gate = Gate()
    with hctef.RemoteBuffer(url, max_connections=1, readahead="off") as buf, ThreadPoolExecutor(2) as pool:
        range_server.behave("f", gate)
        range_server.forget()
        buf.prefetch([(n * 100_000, 10) for n in range(1, 8)], wait=False)
        gate.wait_for(1)
        claimed = pool.submit(buf.__getitem__, slice(600_000, 600_010))
        new = pool.submit(buf.__getitem__, slice(50_000, 50_010))
        remote = buf._remote
        assert remote is not None
        wait_until(lambda: len(remote.planner._slots._urgent) == 2)
        gate.open()
        assert claimed.result(20) == DATA[600_000:600_010]
        assert new.result(20) == DATA[50_000:50_010]
        wait_until(lambda: buf.resident_bytes >= 8 * 8192)
        asked = [start // 10_000 for start, _ in range_server.asked_ranges()]
        assert asked[0] == 9
        assert set(asked[1:3]) == {4, 59}
    assert range_server.sent_twice() == []


def test_gaps_smaller_than_the_minimum_are_filled(range_server: RangeServer) -> None:
    """One request for two near ranges, two for far ones."""
    url = range_server.add("f", DATA[:MIB])
    with hctef.HttpFile(url, prefetch_bytes=0, minimum_range_request_bytes=20_000) as file:
        range_server.forget()
        file.read_ranges([(0, 4000), (20_000, 24_000)])
        assert range_server.requests == 1
        file.read_ranges([(100_000, 100_010), (200_000, 200_010)])
        assert range_server.requests == 3


def test_one_large_read_is_split_over_connections(range_server: RangeServer) -> None:
    """64 MiB are fetched by several requests in flight at once, none of a byte that another asked for."""
    url = range_server.add("f", DATA)
    gate = Gate()
    with hctef.HttpFile(url, prefetch_bytes=0, max_connections=4) as file:
        range_server.behave("f", gate)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(file.read)
            gate.wait_for(4)
            gate.open()
            assert future.result() == DATA
    assert range_server.sent_twice() == []


def test_sixteen_threads_read_the_same_64_mib(nginx: NginxServer, big: str) -> None:
    """The server sends each byte once."""
    url = nginx.add("threads.bin", DATA)
    with hctef.HttpFile(url, prefetch_bytes=0) as file:

        def read(n: int) -> bool:
            clone = file.clone()
            clone.seek(0)
            step = 100_003 + n * 65_537
            return all(clone.read(step) == DATA[at : at + step] for at in range(0, len(DATA), step))

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(read, range(16)))
    assert sum(entry.sent for entry in nginx.log("threads.bin")) == len(DATA)


def test_sixteen_threads_on_one_file_object(range_server: RangeServer) -> None:
    """Each read takes the next bytes: together they have all of the file, none twice."""
    url = range_server.add("f", DATA[: 4 * MIB])
    pieces: list[bytes] = []
    with hctef.HttpFile(url) as file:

        def read(_: int) -> None:
            while piece := file.read(8192):
                pieces.append(piece)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(read, range(16)))
    assert sorted(pieces) == sorted(DATA[at : at + 8192] for at in range(0, 4 * MIB, 8192))
    assert range_server.sent_twice() == []


def test_threads_under_a_bound_on_memory(range_server: RangeServer) -> None:
    """Eviction all the time, hits without a lock: never a wrong byte, and the bound holds."""
    url = range_server.add("f", DATA[: 2 * MIB])
    with hctef.RemoteBuffer(url, max_resident_bytes=256 * 1024) as buf:

        def read(seed: int) -> bool:
            random = np.random.default_rng(seed)
            for _ in range(400):
                at, n = int(random.integers(0, 2 * MIB)), int(random.integers(1, 60_000))
                if random.random() < 0.5:
                    at, n = at % 100_000, n % 4096 + 1
                if buf[at : at + n] != DATA[at : min(2 * MIB, at + n)]:
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(8)))
        assert buf.resident_bytes <= 256 * 1024
        assert buf.stats.evictions > 100


def test_random_reads_under_a_bound_on_memory_cost_blocks(nginx: NginxServer, big: str) -> None:
    """8 threads touch 64 MiB at 4,000 places with room for 8 MiB: at most 64 KiB a read, for what is bought goes
    again."""
    url = nginx.add("bounded.bin", DATA)
    with hctef.RemoteBuffer(url, max_resident_bytes=8 * MIB) as buf:

        def touch(seed: int) -> bool:
            places = np.random.default_rng(seed).integers(0, len(DATA), 500).tolist()
            return all(buf[at] == DATA[at] for at in places)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(touch, range(8)))
    assert sum(entry.sent for entry in nginx.log("bounded.bin")) <= 4000 * 65536 + MIB


def test_what_is_read_again_stays(range_server: RangeServer) -> None:
    """Least recently used goes first: a hot page survives a scan."""
    url = range_server.add("f", DATA[: 4 * MIB])
    with hctef.HttpFile(url, prefetch_bytes=0, max_resident_bytes=MIB, readahead="off") as file:
        file.seek(0)
        file.read(4096)
        for at in range(MIB, 3 * MIB, 8192):
            file.seek(at)
            file.read(8192)
            file.seek(0)
            file.read(4096)
        assert file.stats.evictions > 0
    assert [start for start, _ in range_server.asked_ranges()].count(0) == 1


def test_more_readers_than_connections_leave_no_backlog(range_server: RangeServer) -> None:
    """What each miss had fetched before its own bytes waited for a turn that never came, thousands of them."""
    url, most = range_server.add("f", DATA), 0
    range_server.behave("f", slow(0.005))

    async def read(file: hctef.AsyncHttpFile, seed: int) -> None:
        nonlocal most
        places, own = random.Random(seed), file.clone()
        for _ in range(50):
            at = places.randrange(len(DATA) - 4096)
            own.seek(at)
            assert await own.read(4096) == DATA[at : at + 4096]
            claims = file._open().planner.cache.all_claims()
            waiting = [claim for claim in claims if not (claim.sending or claim.urgent or claim.behind)]
            most = max(most, len(waiting))

    async def main() -> None:
        async with hctef.AsyncHttpFile(url, prefetch_bytes=0) as file:
            await asyncio.gather(*(read(file, seed) for seed in range(32)))

    asyncio.run(main())
    assert most <= 64


@pytest.mark.parametrize("paging", ["fill", pytest.param("fault", marks=by_fault)])
@pytest.mark.parametrize("streams", [1, 3, 16])
def test_sequences_side_by_side_under_a_bound_on_memory(nginx: NginxServer, streams: int, paging: Any) -> None:
    """What comes ahead of a reader is not pushed out by what comes ahead of others, nor by what was read already, as
    long as it is: 16 streams fetched 25 times what they read."""
    url, each = nginx.add(f"{streams}.bin", DATA), len(DATA) // streams // 65536 * 65536
    turns = [start for start in range(0, len(DATA), each) if start + each <= len(DATA)] * (each // 65536)
    random.Random(1).shuffle(turns)
    places = {start: itertools.count(start, 65536) for start in turns}
    before = sum(entry.sent for entry in nginx.log(f"{streams}.bin"))
    with hctef.RemoteBuffer(url, max_resident_bytes=8 * MIB, paging=paging) as buf:
        view = memoryview(buf) if paging == "fault" else buf
        for start in turns:
            at = next(places[start])
            assert bytes(view[at : at + 65536]) == DATA[at : at + 65536]
        del view
    sent = sum(entry.sent for entry in nginx.log(f"{streams}.bin")) - before
    assert sent <= 1.15 * len(turns) * 65536 + 2 * MIB


def test_what_comes_ahead_of_its_reader_stays_until_he_comes(nginx: NginxServer) -> None:
    """He was slower than the line, so that all that he read had been read as hits: that went after what he had not."""
    url = nginx.add("slow.bin", DATA)
    with hctef.HttpFile(url, prefetch_bytes=0, max_resident_bytes=4 * MIB) as file:
        while piece := file.read(65536):
            wait_until(lambda: not file._open().planner.cache.all_claims())
        assert not piece
    assert sum(entry.sent for entry in nginx.log("slow.bin")) <= len(DATA) + MIB // 2


@pytest.mark.parametrize("bound", [None, 48 * MIB])
def test_it_is_said_when_memory_runs_short(
    nginx: NginxServer, big: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bound: int | None
) -> None:
    """Once, with what helps, before the system ends the process; where a bound was asked for, it holds."""
    monkeypatch.setattr("hctef._residency.LOOK_EVERY", 16 * MIB)
    monkeypatch.setattr("hctef._residency.free_memory", lambda: 10 * MIB)
    with hctef.HttpFile(f"{big}?token=SECRET", max_resident_bytes=bound) as file:
        while piece := file.read(65536):
            assert len(piece) == 65536
            if file.resident_bytes < 40 * MIB:
                assert "free" not in caplog.text
    said = [record.getMessage() for record in caplog.records if "MiB are free" in record.getMessage()]
    assert len(said) == (bound is None)
    assert all("10 MiB" in each and "max_resident_bytes" in each and "SECRET" not in each for each in said)


def test_a_read_larger_than_the_bound(range_server: RangeServer) -> None:
    """Goes through in windows."""
    url = range_server.add("f", DATA[: 4 * MIB])
    with hctef.HttpFile(url, max_resident_bytes=MIB) as file:
        assert file.read() == DATA[: 4 * MIB]
        assert file.resident_bytes <= MIB


@pytest.mark.parametrize("n", [5000, 100_000])
def test_an_eviction_in_the_middle_of_a_hit(range_server: RangeServer, n: int) -> None:
    """Between the look at the page table and the copy: the reader notices, and fetches again."""
    url = range_server.add("f", DATA[:MIB])
    with hctef.HttpFile(url) as file:
        file.read()
        rows = file._rows

        class Rows:
            """The page table, and another thread that evicts right after it was looked at."""

            def find(self, *arguments: Any) -> int:
                found = rows.find(*arguments)
                file.evict()
                return found

            def __getitem__(self, index: Any) -> Any:
                return rows[index]

        def resident() -> None:
            file._rows = rows
            file.prefetch([(0, MIB)])
            file._rows = Rows()  # type: ignore[assignment]
            file.seek(10)

        resident()
        assert file.read(n) == DATA[10 : 10 + n]
        resident()
        target = bytearray(n)
        file.readinto(target)
        assert target == DATA[10 : 10 + n]
        resident()
        file.seek(MIB - 50)  # to the end, where zeros without a line's end would pass for a last line
        assert file.readline() == DATA[MIB - 50 : MIB].splitlines(keepends=True)[0]


def test_a_hit_makes_no_request_and_takes_no_lock(range_server: RangeServer) -> None:
    """It goes through while another thread holds the file's lock."""
    url = range_server.add("f", DATA[:MIB])
    with hctef.HttpFile(url) as file:
        file.read()
        requests = range_server.requests
        remote = file._remote
        assert remote is not None
        buffer = file.buffer  # made before: a new reader of the pages is registered under a lock

        def hits() -> list[bytes | int]:
            file.seek(100)
            return [file.read(50), file.read(100_000), file.readline(20), buffer[5:10], buffer[7]]

        line = DATA[100_150:100_170].partition(b"\n")
        expected = [DATA[100:150], DATA[150:100_150], line[0] + line[1], DATA[5:10], DATA[7]]
        with remote.driver.lock, ThreadPoolExecutor(1) as pool:
            assert pool.submit(hits).result(20) == expected
        assert range_server.requests == requests


def test_a_failed_reader_fails_nobody_else(range_server: RangeServer) -> None:
    """Those who waited for its bytes fetch them themselves."""
    url = range_server.add("f", DATA[:MIB])
    gate = Gate()
    with hctef.HttpFile(url, prefetch_bytes=0, retries=0) as file:
        range_server.behave("f", gate, status(500))
        range_server.forget()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(file.clone().read, 10)
            gate.wait_for(1)
            second = pool.submit(file.clone().read, 10)
            wait_until(lambda: file.stats.waits == 1)
            range_server.behave("f")
            gate.open()
            with pytest.raises(hctef.HctefNetworkError, match="500"):
                first.result(20)
            assert second.result(20) == DATA[:10]


def test_stream_goes_past_the_cache(range_server: RangeServer) -> None:
    """What is resident is not fetched again, what is not is not kept."""
    url = range_server.add("f", DATA[: 4 * MIB])
    with hctef.HttpFile(url) as file:
        wait_until(lambda: file.resident_bytes >= MIB)
        resident = file.resident_bytes
        assert b"".join(file.stream()) == DATA[: 4 * MIB]
        assert file.resident_bytes == resident
        assert next(file.stream(5, 10)) == DATA[5:10]
    assert range_server.sent_twice() == [(5, 10)]


def test_files_of_a_host_share_connections(range_server: RangeServer) -> None:
    """The tenth file costs no handshake."""
    for n in range(10):
        url = range_server.add(f"f{n}", DATA[:100_000])
        with hctef.HttpFile(url, prefetch_bytes=0, readahead="off") as file:
            assert file.read(10) == DATA[:10]
    assert range_server.connections == 1


def test_peak_memory_of_a_large_range(nginx: NginxServer) -> None:
    """Reading 256 MiB into the arena takes at most that and 32 MiB: no second copy anywhere."""
    url = nginx.add("quarter.bin", bytes(256 * MIB))
    code = f"""
import resource, hctef
buf = hctef.RemoteBuffer({url!r})
buf[0:10]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
view = buf.view()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 <= (256 + 32) * MIB


def test_requests_carry_the_condition(range_server: RangeServer) -> None:
    """Every request after the opening is for the version that was opened."""
    url = range_server.add("f", DATA[:MIB])
    with hctef.HttpFile(url) as file:
        file.read()
    assert all(request.headers.get("if-match") == '"v1"' for request in range_server.log[1:])


@pytest.mark.parametrize("step", [4096, 65_536])
def test_a_sequential_reader_asks_seldom(nginx: NginxServer, step: int) -> None:
    """Few requests, no byte twice."""
    data = pattern(8 * MIB)
    url = nginx.add(f"ahead-{step}", data)
    with hctef.HttpFile(url, prefetch_bytes=0) as file:
        assert b"".join(iter(lambda: file.read(step), b"")) == data
        wait_until(lambda: file.resident_bytes == 8 * MIB)
    log = nginx.log(f"ahead-{step}")
    assert sum(entry.sent for entry in log) <= 8 * MIB + 8192
    assert len(log) <= 80  # a busy machine's loopback may look like a long line, on which connections start slowly


def test_without_readahead_reads_get_what_they_ask_for(range_server: RangeServer) -> None:
    """The minimum a read, whatever was read before; all of them on one connection."""
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, prefetch_bytes=0, readahead="off") as file:
        file.read(300_000)
        file.read(10_000)
        range_server.forget()
        for at in (4_000_000, 5_000_000, 3_000_000):
            file.seek(at)
            file.read(100)
        assert range_server.bytes_sent == 3 * 8192
        assert range_server.connections <= 1


@needs_address_space
def test_random_reads_of_a_huge_file_cost_64_kib_each(nginx: NginxServer, tmp_path: Path) -> None:
    """At the most, on nginx's count, beyond what opening takes."""
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    url = nginx.add("huge", path)
    random = np.random.default_rng(3)
    with hctef.HttpFile(url) as file:
        for at in random.integers(0, (1 << 40) - 4096, 200):
            file.seek(at)
            assert file.read(4096) == bytes(4096)
    assert sum(entry.sent for entry in nginx.log("huge")) <= 200 * 65_536 + 2 * MIB


def test_a_file_left_open_ends_in_silence(nginx: NginxServer) -> None:
    """At the interpreter's end modules go before their objects do."""
    url = nginx.add("left-open", pattern(100_000))
    code = f"import hctef; f = hctef.HttpFile({url!r}); b = hctef.RemoteBuffer({url!r}); f.read(9); b[3]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
