"""`cache_dir`: what was fetched is on disk for whoever opens the same version next, and nothing else is believed."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hctef
from hctef._disk import DiskCache, Keeper
from hctef._http import Head, settles_in
from hctef._ranges import PAGE
from hctef._urls import cache_name, parse_url
from tests.helpers import by_fault, descriptors, needs_address_space, pattern, run_clean, wait_until
from tests.nginx_server import NginxServer
from tests.range_server import Gate, RangeServer, after, cut, hide_total, slow, times, trickle

KIB, MIB = 1 << 10, 1 << 20
SIZE = 3 * MIB + 1234
DATA = pattern(SIZE)
FIRST = 8 * KIB
"""What an opening asks for where something of the file is kept."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "here"


def kept(folder: Path, kind: str = "*") -> list[Path]:
    """The files of the cache."""
    return sorted(path for path in folder.rglob(f"*.{kind}") if path.is_file())


def read_all(url: str, folder: Path, **options: Any) -> bytes:
    with hctef.HttpFile(url, cache_dir=folder, **options) as file:
        data: bytes = file.read()
    return data


# the ways of reading


def _by_file(url: str, folder: Path) -> bytes:
    return read_all(url, folder)


def _by_small_reads(url: str, folder: Path) -> bytes:
    with hctef.HttpFile(url, cache_dir=folder, max_resident_bytes=MIB) as file:
        return b"".join(iter(lambda: file.read(10_000), b""))


def _by_ranges(url: str, folder: Path) -> bytes:
    with hctef.HttpFile(url, cache_dir=folder) as file:
        cuts = [*range(0, SIZE, 100_000), SIZE]
        return b"".join(file.read_ranges(list(itertools.pairwise(cuts))))


def _by_prefetch(url: str, folder: Path) -> bytes:
    with hctef.RemoteBuffer(url, cache_dir=folder, paging="fill") as buf:
        assert buf.prefetch([(0, SIZE)]) <= SIZE
        return buf[:]


def _by_view(url: str, folder: Path) -> bytes:
    with hctef.RemoteBuffer(url, cache_dir=folder, paging="fill") as buf:
        return bytes(buf.view())


def _by_fault(url: str, folder: Path) -> bytes:
    """In a process of its own: a touch holds the GIL, which the server needs."""
    program = f"""
        import sys, numpy, hctef
        with hctef.RemoteBuffer({url!r}, cache_dir={str(folder)!r}, paging="fault") as buf:
            sys.stdout.buffer.write(numpy.frombuffer(buf, "u1").tobytes())
        """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=True, timeout=60
    ).stdout


def _by_stream(url: str, folder: Path) -> bytes:
    with hctef.HttpFile(url, cache_dir=folder) as file:
        return b"".join(file.stream())


def _by_task(url: str, folder: Path) -> bytes:
    async def main() -> bytes:
        async with hctef.AsyncHttpFile(url, cache_dir=folder) as file:
            data: bytes = await file.read()
            return data

    return run_clean(main)


def _by_load(url: str, folder: Path) -> bytes:
    async def main() -> bytes:
        async with hctef.AsyncRemoteBuffer(url, cache_dir=folder) as buf:
            return bytes(await buf.load(0, SIZE))

    return run_clean(main)


WAYS = [_by_file, _by_small_reads, _by_ranges, _by_prefetch, _by_view, _by_stream, _by_task, _by_load]
if hctef.paging_support():
    WAYS.append(_by_fault)


@needs_address_space
@pytest.mark.parametrize("way", WAYS)
def test_what_was_fetched_is_asked_for_once(
    range_server: RangeServer, folder: Path, way: Callable[[str, Path], bytes]
) -> None:
    """Whoever opens it next asks for no more than whether it is the same version."""
    url = range_server.add("f", DATA)
    assert read_all(url, folder) == DATA
    range_server.forget()
    assert way(url, folder) == DATA
    assert range_server.bytes_sent <= FIRST
    assert range_server.requests == 1


@needs_address_space
@pytest.mark.parametrize("way", [way for way in WAYS if way is not _by_stream])
def test_each_way_of_reading_keeps_what_it_fetches(
    range_server: RangeServer, folder: Path, way: Callable[[str, Path], bytes]
) -> None:
    url = range_server.add("f", DATA)
    assert way(url, folder) == DATA
    range_server.forget()
    assert read_all(url, folder) == DATA
    assert range_server.bytes_sent <= FIRST


def test_a_stream_keeps_nothing(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, cache_dir=folder, prefetch_bytes=0) as file:
        assert b"".join(file.stream()) == DATA
    range_server.forget()
    assert read_all(url, folder) == DATA
    assert range_server.bytes_sent > SIZE - 2 * FIRST


@needs_address_space
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", [1, 3, 7])
def test_what_is_kept_in_part(
    range_server: RangeServer, folder: Path, way: Callable[[str, Path], bytes], step: int
) -> None:
    """Some of it comes from the disk, the rest from the network, and nothing twice."""
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, cache_dir=folder, prefetch_bytes=0, readahead="off") as file:
        for at in range(0, SIZE, step * 64 * KIB):
            file.seek(at)
            assert file.read(40_000) == DATA[at : at + 40_000]
        there = file.stats.bytes_fetched
    range_server.forget()
    assert way(url, folder) == DATA
    assert range_server.bytes_sent <= SIZE - there + 2 * FIRST


def test_what_was_evicted_comes_from_the_disk(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, cache_dir=folder, max_resident_bytes=256 * KIB) as file:
        assert file.read() == DATA
        asked = range_server.requests
        for _ in range(2):
            file.seek(0)
            assert b"".join(iter(lambda: file.read(5000), b"")) == DATA
        assert file.resident_bytes <= 256 * KIB
        assert file.stats.bytes_loaded > 2 * (SIZE - 512 * KIB)
    assert range_server.requests == asked


def test_prefetch_counts_what_it_requests(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    with hctef.RemoteBuffer(url, cache_dir=folder, paging="fill") as buf:
        assert buf.prefetch([(0, MIB)]) == MIB
    with hctef.RemoteBuffer(url, cache_dir=folder, paging="fill") as buf:
        assert buf.prefetch([(0, MIB)], wait=False) == 0
        assert buf.resident_bytes <= 2 * FIRST
        assert buf.prefetch([(0, 2 * MIB)]) == MIB
        assert buf.resident_bytes >= 2 * MIB


@needs_address_space
def test_the_ways_of_a_page_table_and_threads(nginx: NginxServer, folder: Path) -> None:
    """Random reads by threads under a bound on memory, with a real server: right bytes, whatever comes from where."""
    path = folder.parent.parent / "data"
    path.write_bytes(DATA)
    os.utime(path, (1e9, 1e9))
    url = nginx.add("disk-threads", path)
    for seed in range(3):
        with hctef.HttpFile(url, cache_dir=folder, max_resident_bytes=512 * KIB) as file:

            def look(number: int, file: Any = file, seed: int = seed) -> None:
                chance, own = random.Random(f"{seed} {number}"), file.clone()
                for _ in range(150):
                    at = chance.randrange(SIZE)
                    own.seek(at)
                    length = chance.choice([10, 5000, 100_000])
                    assert own.read(length) == DATA[at : at + length]

            _together(look, 4)


def _together(function: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(function, range(count)))


# versions


def test_another_version_has_other_files(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    assert read_all(url, folder) == DATA
    before = kept(folder)
    newer = pattern(SIZE, seed=5)
    range_server.add("f", newer, etag='"v2"')
    assert read_all(url, folder) == newer
    assert len(before) == len(kept(folder)) == 2
    assert not {*before} & {*kept(folder)}


def test_what_was_asked_for_too_early(range_server: RangeServer, folder: Path) -> None:
    """It may be of the version before, however late it comes."""
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, cache_dir=folder, prefetch_bytes=0, readahead="off") as file:
        disk, gate = file._open().planner.disk, Gate()
        assert disk is not None
        disk.since = time.monotonic() + 1000
        range_server.behave("f", gate)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(file.read, 100_000)
            gate.wait_for(1)
            disk.since = 0.0
            gate.open()
            assert reading.result(20) == DATA[:100_000]
        file.seek(MIB)
        assert file.read(100_000) == DATA[MIB : MIB + 100_000]
    marks = kept(folder, "index")[0].read_bytes()
    assert not any(marks[: 100_000 // PAGE])
    assert all(marks[MIB // PAGE : (MIB + 100_000) // PAGE])


def test_nodes_that_agree_on_the_etag_alone(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    assert read_all(url, folder) == DATA
    range_server.add("f", DATA, last_modified=DAY.format(5))
    range_server.forget()
    assert read_all(url, folder) == DATA
    assert range_server.bytes_sent <= FIRST


def test_a_version_that_another_process_still_reads(range_server: RangeServer, folder: Path) -> None:
    """Its files are removed under it: it goes on with what it has open."""
    url, newer = range_server.add("f", DATA), pattern(SIZE, seed=5)
    with hctef.HttpFile(url, cache_dir=folder, max_resident_bytes=256 * KIB) as file:
        assert file.read() == DATA
        range_server.add("f", newer, etag='"v2"')
        assert read_all(url, folder) == newer
        file.seek(0)
        assert file.read() == DATA


DAY = "Wed, 21 Oct 2015 07:28:{:02} GMT"
SECONDS = 0x56273E80  # of DAY at :00


@pytest.mark.parametrize(
    ("validators", "seconds"),
    [
        ({"etag": '"a"'}, 0),
        ({"etag": 'W/"a"'}, None),
        ({"etag": "odd"}, None),
        ({"etag": '"a"', "last-modified": DAY.format(0)}, 0),
        ({"etag": '"a"', "last-modified": DAY.format(0), "date": DAY.format(1)}, 0),
        ({"etag": '"a"', "last-modified": DAY.format(0), "date": DAY.format(0)}, 1),
        ({"etag": '"a"', "last-modified": DAY.format(9), "date": DAY.format(0)}, 1),
        ({"etag": '"a"', "last-modified": "yesterday", "date": DAY.format(0)}, 0),
        ({"etag": f'"{SECONDS:x}-4d2"', "last-modified": DAY.format(0), "date": DAY.format(1)}, 0),
        ({"etag": f'"{SECONDS:x}-4d2"', "last-modified": DAY.format(0), "date": DAY.format(0)}, 1),
        ({"etag": f'"{SECONDS:x}-4d2"', "last-modified": DAY.format(0)}, None),
        ({"last-modified": DAY.format(0)}, None),
        ({"last-modified": DAY.format(0), "date": DAY.format(1)}, 0),
        ({"last-modified": DAY.format(0), "date": DAY.format(0)}, 1),
        ({"last-modified": DAY.format(9), "date": DAY.format(0)}, 10),
        ({"last-modified": "yesterday", "date": DAY.format(0)}, None),
        ({}, None),
    ],
)
def test_when_a_validator_stands_for_one_version(validators: dict[str, str], seconds: float | None) -> None:
    assert settles_in(Head(206, validators)) == seconds


@needs_address_space
@pytest.mark.parametrize("way", [_by_file, _by_fault] if hctef.paging_support() else [_by_file])
def test_a_file_that_was_changed_just_now(nginx: NginxServer, folder: Path, way: Callable[[str, Path], bytes]) -> None:
    """nginx would give its next change in this second the same ETag: what was fetched in it is not kept."""
    name = f"young-{way.__name__}"
    ahead = time.time() + 3600
    path = folder.parent.parent / "young"
    path.write_bytes(DATA)
    os.utime(path, (ahead, ahead))
    url = nginx.add(name, path)
    assert way(url, folder) == DATA
    path.write_bytes(newer := pattern(SIZE, seed=5))
    os.utime(path, (ahead, ahead))
    assert way(url, folder) == newer


def test_a_file_that_settles_while_it_is_open(nginx: NginxServer, folder: Path) -> None:
    path = folder.parent.parent / "settling"
    path.write_bytes(DATA)
    url = nginx.add("settling", path)
    with hctef.HttpFile(url, cache_dir=folder, prefetch_bytes=0) as file:
        time.sleep(2.1)
        assert file.read() == DATA
    before = sum(entry.sent for entry in nginx.log("settling"))
    assert read_all(url, folder) == DATA
    assert sum(entry.sent for entry in nginx.log("settling")) - before <= 3 * FIRST


@pytest.mark.parametrize(
    ("validators", "options"),
    [
        ({"etag": 'W/"a"'}, {}),
        ({"etag": None, "last_modified": "Fri, 01 Jan 2100 00:00:00 GMT"}, {}),
        ({"etag": None, "last_modified": None}, {}),
        ({}, {"validate": "size"}),
        ({}, {"cache_dir": ""}),
    ],
)
def test_what_could_be_another_version_is_not_kept(
    range_server: RangeServer, folder: Path, validators: dict[str, Any], options: dict[str, Any]
) -> None:
    url = range_server.add("f", DATA, **validators)
    with hctef.HttpFile(url, **{"cache_dir": folder, **options}) as file:
        assert file.read() == DATA
    assert not any(path.read_bytes().strip(b"\0") for path in kept(folder, "index"))


# what is wrong on the disk


def _zero(path: Path, start: int, stop: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(stop - start))


def _lose_data(data: Path, index: Path) -> None:
    _zero(data, 64 * KIB, 2 * MIB)


def _lose_sums(data: Path, index: Path) -> None:
    _zero(index, PAGE + 80, PAGE + 400)


def _flip(data: Path, index: Path) -> None:
    for path, places in ((data, (0, 100_000, SIZE - 1)), (index, (PAGE + 404,))):
        with path.open("r+b") as file:
            for at in places:
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 0x10]))


def _truncate_data(data: Path, index: Path) -> None:
    os.truncate(data, MIB + 5)


def _truncate_index(data: Path, index: Path) -> None:
    os.truncate(index, PAGE + 100)


def _empty(data: Path, index: Path) -> None:
    os.truncate(data, 0)
    os.truncate(index, 0)


def _mark_all(data: Path, index: Path) -> None:
    """Marks that came to the disk before anything else did."""
    count = -(-SIZE // PAGE)
    os.truncate(data, 0)
    index.write_bytes(b"\1" * count)


def _garbage(data: Path, index: Path) -> None:
    index.write_bytes(random.Random(3).randbytes(3 * PAGE))


def _shift(data: Path, index: Path) -> None:
    """Right bytes in the wrong place."""
    data.write_bytes(DATA[PAGE:] + DATA[:PAGE])


@needs_address_space
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "damage",
    [_lose_data, _lose_sums, _flip, _truncate_data, _truncate_index, _empty, _mark_all, _garbage, _shift],
)
def test_nothing_wrong_is_believed(
    range_server: RangeServer,
    folder: Path,
    damage: Callable[[Path, Path], None],
    way: Callable[[str, Path], bytes],
) -> None:
    """What is damaged, or was lost when the power went, is fetched anew, and is right on the disk afterwards."""
    url = range_server.add("f", DATA)
    assert read_all(url, folder) == DATA
    damage(kept(folder, "data")[0], kept(folder, "index")[0])
    assert way(url, folder) == DATA
    assert read_all(url, folder) == DATA
    range_server.forget()
    assert read_all(url, folder) == DATA
    assert range_server.bytes_sent <= FIRST


@pytest.mark.parametrize("at", [MIB, MIB + 100_000, SIZE - 1])
def test_a_flaw_costs_its_page(range_server: RangeServer, folder: Path, at: int) -> None:
    url = range_server.add("f", DATA)
    assert read_all(url, folder) == DATA
    with kept(folder, "data")[0].open("r+b") as file:
        file.seek(at)
        file.write(bytes([DATA[at] ^ 1]))
    range_server.forget()
    assert read_all(url, folder) == DATA
    assert range_server.bytes_sent <= FIRST + PAGE


def test_a_body_that_was_cut(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    range_server.behave("f", times(5, cut(100_001)))
    assert read_all(url, folder, retries=20) == DATA
    assert kept(folder, "data")[0].read_bytes() == DATA
    range_server.behave("f")
    range_server.forget()
    assert read_all(url, folder) == DATA
    assert range_server.bytes_sent <= FIRST


def test_a_disk_that_is_full(range_server: RangeServer, folder: Path) -> None:
    """A process that may write files of 1 MiB only: it reads what it needs, and says so once."""
    url = range_server.add("f", DATA)
    program = f"""
        import logging, resource
        logging.basicConfig(format="%(levelname)s %(message)s")
        import hctef
        from tests.helpers import pattern
        with hctef.HttpFile({url!r}, cache_dir={str(folder)!r}, prefetch_bytes=0) as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB}, {MIB}))
            assert file.read() == pattern({SIZE})
        """
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stderr.count("WARNING nothing more is kept in cache_dir") == 1
    assert read_all(url, folder) == DATA


def test_a_folder_that_cannot_be_had(
    range_server: RangeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    url = range_server.add("f", DATA)
    with caplog.at_level(logging.WARNING, "hctef"):
        assert read_all(url, tmp_path / "file" / "below") == DATA
    assert "cache_dir is not used" in caplog.text


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_is_not_followed(
    range_server: RangeServer, folder: Path, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    """Somebody who may write to the folder points it at a file of this user's."""
    url = range_server.add("f", DATA)
    assert read_all(url, folder) == DATA
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    data = kept(folder, "data")[0]
    data.unlink()
    link(precious, data)
    assert read_all(url, folder) == DATA
    assert precious.read_bytes() == b"precious"


def test_what_cannot_be_removed(range_server: RangeServer, folder: Path) -> None:
    """As what NFS keeps of a file that is removed and still open."""
    url = range_server.add("f", DATA)
    assert read_all(url, folder) == DATA
    (kept(folder)[0].parent / ".nfs0001").mkdir()
    range_server.forget()
    assert read_all(url, folder) == DATA
    assert range_server.bytes_sent <= FIRST


def test_a_size_that_is_hidden(range_server: RangeServer, folder: Path) -> None:
    """What came before it was known is kept, too."""
    url = range_server.add("f", DATA)
    range_server.behave("f", hide_total)
    with hctef.HttpFile(url, cache_dir=folder, prefetch_bytes=64 * KIB) as file:
        assert file.read() == DATA
        asked = range_server.bytes_sent
        file.buffer.evict(0, SIZE)
        file.seek(0)
        assert file.read() == DATA
    assert range_server.bytes_sent <= asked + PAGE
    range_server.forget()
    assert read_all(url, folder) == DATA
    assert range_server.bytes_sent <= 2 * FIRST + PAGE


@by_fault
@pytest.mark.parametrize("way", ["read", "prefetch", "view"])
def test_a_view_is_exported_while_another_thread_reads_the_disk(
    nginx: NginxServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    os.utime(path, (1e9, 1e9))
    url, length = nginx.add("disk-handover", path), 400_000
    with hctef.HttpFile(url, cache_dir=folder, prefetch_bytes=0, readahead="off") as file:
        file.read(64 * KIB)
    begun, go, load = threading.Event(), threading.Event(), DiskCache.load

    def held(disk: DiskCache, start: int, stop: int) -> Any:
        begun.set()
        assert go.wait(20)
        return load(disk, start, stop)

    with hctef.RemoteBuffer(url, cache_dir=folder, prefetch_bytes=0, paging="fault") as buf:

        def read() -> bytes:
            if way == "prefetch":
                buf.prefetch([(0, length)])
            return bytes(buf.view(0, length)) if way == "view" else buf[:length]

        monkeypatch.setattr(DiskCache, "load", held)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read)
            assert begun.wait(20)
            whole = memoryview(buf)
            go.set()
            assert reading.result(20) == DATA[:length]
        whole.release()


@by_fault
def test_the_pager_leaves_a_newer_version_alone(nginx: NginxServer, folder: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(DATA)
    os.utime(old, (1e9, 1e9))
    new.write_bytes(pattern(SIZE, seed=5))
    os.utime(new, (1.1e9, 1.1e9))
    url = nginx.add("disk-newer", old)
    with hctef.RemoteBuffer(url, cache_dir=folder, paging="fault") as buf:
        nginx.add("disk-newer", new)
        assert read_all(url, folder) == new.read_bytes()
        memoryview(buf).release()
    with hctef.HttpFile(url, cache_dir=folder) as file:
        assert file.read() == new.read_bytes()
        assert file.stats.bytes_fetched <= FIRST


# processes


def test_a_process_that_ends_while_it_stores(range_server: RangeServer, folder: Path, tmp_path: Path) -> None:
    """What others open at its end has the numbers of no files that are still written to."""
    url = range_server.add("f", DATA)
    range_server.behave("f", after(1, trickle(2e6)))
    program = f"""
        import atexit, os, time
        def late():
            for number in range(4):
                os.open({str(tmp_path)!r} + f"/late{{number}}", os.O_RDWR | os.O_CREAT)
            time.sleep(0.4)
        atexit.register(late)
        import hctef
        file = hctef.HttpFile({url!r}, cache_dir={str(folder)!r}, prefetch_bytes=0)
        file.prefetch([(0, {SIZE})], wait=False)
        time.sleep(0.2)
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
    assert [path.stat().st_size for path in sorted(tmp_path.glob("late*"))] == [0] * 4


READER = """
import random, sys
import hctef
from tests.helpers import pattern
url, folder, seed, kind = sys.argv[1:]
data, chance = pattern({size}), random.Random(int(seed))
with hctef.HttpFile(url, cache_dir=folder, prefetch_bytes=0) as file:
    for _ in range(400):
        at = chance.randrange(len(data))
        file.seek(at)
        assert file.read(20_000) == data[at : at + 20_000]
        print(file.stats.bytes_fetched, flush=True)
"""


@contextmanager
def _reader(url: str, folder: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", READER.format(size=SIZE), url, str(folder), str(seed), ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


def test_several_processes_at_once(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    with _reader(url, folder, 1) as one, _reader(url, folder, 2) as two, _reader(url, folder, 3) as three:
        for process in (one, two, three):
            process.communicate(timeout=60)
            assert process.returncode == 0
    assert read_all(url, folder) == DATA
    assert kept(folder, "data")[0].read_bytes() == DATA


def test_processes_that_are_killed(range_server: RangeServer, folder: Path) -> None:
    """At any moment: whatever they left is right, or is not believed."""
    url = range_server.add("f", DATA)
    for seed in range(8):
        with _reader(url, folder, seed) as process:
            assert process.stdout is not None
            for _ in range(5 * seed + 1):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    assert read_all(url, folder) == DATA
    range_server.forget()
    assert read_all(url, folder) == DATA
    assert range_server.bytes_sent <= FIRST


@needs_address_space
def test_a_forked_child_goes_on_with_it(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, cache_dir=folder, max_resident_bytes=512 * KIB) as file:
        assert file.read(MIB) == DATA[:MIB]
        inherited[:] = [file]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            got = pool.map(_read_inherited, range(0, SIZE, 256 * KIB))
        inherited.clear()
        assert b"".join(got) == DATA
        file.seek(0)
        assert file.read() == DATA
    assert read_all(url, folder) == DATA


inherited: list[Any] = []
"""What a forked child is to read by: files are not pickled for it."""


def _read_inherited(at: int) -> bytes:
    own = inherited[0].clone()
    own.seek(at)
    data: bytes = own.read(256 * KIB)
    return data


def test_a_copy_that_came_by_pickle(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, cache_dir=folder) as file:
        assert file.read() == DATA
        copy = pickle.loads(pickle.dumps(file))
    range_server.forget()
    with copy:
        copy.seek(0)
        assert copy.read() == DATA
    assert range_server.bytes_sent <= FIRST


def test_nothing_stays_open(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    before = descriptors()
    for _ in range(3):
        assert read_all(url, folder) == DATA
    gc.collect()
    wait_until(lambda: [name for name in descriptors() if str(folder) in name] == [])
    assert [name for name in before if str(folder) in name] == []


# tasks


@pytest.mark.parametrize("full", [False, True])
def test_tasks_that_are_cancelled(range_server: RangeServer, folder: Path, full: bool) -> None:
    """While they read from the disk, or write to it: who reads on gets the right bytes."""
    url = range_server.add("f", DATA)
    if full:
        assert read_all(url, folder) == DATA

    async def main() -> None:
        async with hctef.AsyncHttpFile(url, cache_dir=folder, max_resident_bytes=MIB) as file:
            for number in range(60):
                at = number * 50_000
                cursor = file.clone()
                cursor.seek(at)
                task = asyncio.create_task(cursor.read(200_000))
                for _ in range(number % 12):
                    await asyncio.sleep(0)
                task.cancel()
                other = file.clone()
                other.seek(at)
                assert await other.read(100_000) == DATA[at : at + 100_000]
                await asyncio.gather(task, return_exceptions=True)
                await cursor.close()
                await other.close()

    run_clean(main)
    assert read_all(url, folder) == DATA
    assert read_all(url, folder) == DATA


def test_a_file_that_is_closed_meanwhile(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    assert read_all(url, folder) == DATA
    for _ in range(20):
        file = hctef.HttpFile(url, cache_dir=folder)
        file.prefetch([(0, SIZE)])
        file.close()
        with pytest.raises(ValueError, match="closed"):
            file.read()
    assert read_all(url, folder) == DATA


def test_readers_in_all_threads_of_the_loop(range_server: RangeServer, folder: Path) -> None:
    """They wait for what a task brings, which is stored by a thread that none of them has."""
    url = range_server.add("f", DATA)

    async def main() -> None:
        async with hctef.AsyncRemoteBuffer(url, cache_dir=folder, prefetch_bytes=0, readahead="off") as buf:
            range_server.behave("f", slow(0.3))
            sync = buf.sync
            task = asyncio.create_task(buf.load(MIB, MIB + 100_000))
            await asyncio.sleep(0.1)
            readers = [asyncio.to_thread(lambda: sync[MIB : MIB + 100_000]) for _ in range(40)]
            async with asyncio.timeout(20):
                assert {*await asyncio.gather(*readers)} == {DATA[MIB : MIB + 100_000]}
            del task

    run_clean(main)


# names and options


def test_names_and_modes_tell_nothing(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("secret-name", DATA).replace("http://", "http://user:pass-word@") + "?token=abcdef"
    assert read_all(url, folder) == DATA
    found = list(folder.rglob("*"))
    assert found
    for path in found:
        name = str(path.relative_to(folder))
        assert re.fullmatch(r"[0-9a-f]{32}(/[0-9a-f]{32}\.(data|index))?", name)  # a hash may hold "127" by chance
        assert not any(word in name for word in ("secret", "pass", "user", "abcdef", "127.0.0.1"))
        assert path.stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0


def test_names_of_urls() -> None:
    def name(url: str) -> str:
        return cache_name(parse_url(url))

    plain = name("https://host/a/b.bin")
    assert name("https://user:pass@HOST/a/b.bin#x") == plain
    assert name("https://host/a/b.bin?v=1") != plain
    assert name("https://host/a/b.bin?v=1") != name("https://host/a/b.bin?v=2")
    assert name("http://host/a/b.bin") != plain
    assert name("https://host:444/a/b.bin") != plain
    signed = "https://host/a/b.bin?versionId=7&X-Amz-Date={0}&X-Amz-Signature={0}&X-Amz-Credential=k%2F{0}"
    assert name(signed.format(1)) == name(signed.format(2)) == name("https://host/a/b.bin?versionId=7")
    azure = "https://host/a/b.bin?sv=2020-08-04&se={0}&sr=b&sp=r&sig={0}"
    assert name(azure.format(1)) == name(azure.format(2)) == plain
    assert name("https://host/a/b.bin?se=1") != name("https://host/a/b.bin?se=2")  # nothing is signed
    assert name("https://host/get?st=1&sig=a") != name("https://host/get?st=2&sig=b")  # no service's that is known
    assert name("https://host/get?policy=1&signature=a") != name("https://host/get?policy=2&signature=a")
    front = "https://host/a/b.bin?Expires={0}&Signature={0}&Key-Pair-Id=K"
    assert name(front.format(1)) == name(front.format(2)) == plain


def test_the_environment(range_server: RangeServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = range_server.add("f", DATA)
    monkeypatch.setenv("HCTEF_CACHE_DIR", str(folder))
    with hctef.HttpFile(url) as file:
        assert file.read() == DATA
        assert "cache_dir" not in pickle.dumps(file).decode("latin-1")
    range_server.forget()
    with hctef.HttpFile(url) as file:
        assert file.read() == DATA
    assert range_server.bytes_sent <= FIRST
    with hctef.HttpFile(url, cache_dir="") as file:
        assert file.read() == DATA
    assert range_server.bytes_sent > SIZE


def test_a_path_that_begins_at_home(range_server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    url = range_server.add("f", DATA)
    with hctef.HttpFile(url, cache_dir="~/kept") as file:
        assert file.read() == DATA
    assert len(kept(tmp_path / "kept")) == 2


@pytest.mark.parametrize("wrong", [5, b"folder", True, ["folder"]])
def test_what_is_no_path(wrong: Any) -> None:
    with pytest.raises(TypeError, match="cache_dir must be a str or a path"):
        hctef.HttpFile("http://127.0.0.1:9/f", cache_dir=wrong)


def test_a_path_with_a_nul() -> None:
    with pytest.raises(ValueError, match="NUL"):
        hctef.HttpFile("http://127.0.0.1:9/f", cache_dir="a\0b")


# pure


@given(
    st.integers(0, 5 * PAGE), st.integers(1, 6 * PAGE), st.lists(st.integers(1, 3 * PAGE), max_size=20), st.booleans()
)
def test_pages_are_cut_out_of_pieces(start: int, length: int, cuts: list[int], to_end: bool) -> None:
    """Whole pages, each once, in order, with their own bytes, however the pieces lie."""
    stop = start + length
    size = stop if to_end else stop + 2 * PAGE
    data = pattern(size, seed=9)
    keeper, at, found = Keeper(size), start, dict[int, bytes]()
    for step in [*cuts, size]:
        end = min(stop, at + step)
        if at < end:
            for begin, pages in keeper.pages(at, data[at:end]):
                for offset in range(0, len(pages), PAGE):
                    assert begin + offset not in found
                    found[begin + offset] = bytes(pages[offset : offset + PAGE])
        at = end
    first, last = -(-start // PAGE), -(-stop // PAGE) if to_end else stop // PAGE
    assert found == {page * PAGE: data[page * PAGE : page * PAGE + PAGE] for page in range(first, last)}
    assert list(found) == sorted(found)


def test_stats_say_where_bytes_came_from(range_server: RangeServer, folder: Path) -> None:
    url = range_server.add("f", DATA)
    assert read_all(url, folder) == DATA
    with hctef.HttpFile(url, cache_dir=folder, prefetch_bytes=0) as file:
        assert file.read(MIB) == DATA[:MIB]
        stats = file.stats
    assert MIB <= stats.bytes_loaded <= 2 * MIB
    assert stats.bytes_fetched == FIRST
    assert json.loads(json.dumps(stats.requests)) == 1
