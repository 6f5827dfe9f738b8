"""Hits: bytes that are in memory already, against the local object that each class looks like.

    pytest benchmarks/bench_hits.py --benchmark-enable

`test_ratios` measures both in turns, in one process, and prints the ratio of their medians: the bar is 4.
"""

from __future__ import annotations

import http.server
import io
import mmap
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hctef

SIZE = 1 << 20
AT = 300_100
TIMES = 20_000


class _Handler(http.server.BaseHTTPRequestHandler):
    """As much of a range server as one GET of the end needs."""

    protocol_version = "HTTP/1.1"
    data = b""

    def do_GET(self) -> None:
        value = self.headers["Range"].removeprefix("bytes=")
        first, _, last = value.partition("-")
        start, stop = (SIZE - int(last), SIZE) if not first else (int(first), int(last) + 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{SIZE}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(self.data[start:stop])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    _Handler.data = np.random.default_rng(1).bytes(SIZE)
    path: Path = tmp_path_factory.mktemp("hits") / "data"
    path.write_bytes(_Handler.data)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/data"
        with hctef.HttpFile(url) as file, path.open("rb") as local:
            file.prefetch([(0, SIZE)])
            yield {
                "HttpFile": file,
                "BytesIO": io.BytesIO(_Handler.data),
                "RemoteBuffer": file.buffer,
                "mmap": mmap.mmap(local.fileno(), 0, prot=mmap.PROT_READ),
            }
        server.shutdown()


def seek_and_read(file: Any, times: int) -> None:
    for _ in range(times):
        file.seek(AT)
        file.read(4096)


def slices(buf: Any, times: int) -> None:
    a = AT
    for _ in range(times):
        buf[a : a + 4096]


CASES = [(seek_and_read, "HttpFile", "BytesIO"), (slices, "RemoteBuffer", "mmap")]


@pytest.mark.parametrize(("work", "name"), [(work, name) for work, *names in CASES for name in names])
def test_hit(benchmark: Any, pair: dict[str, Any], work: Callable[[Any, int], None], name: str) -> None:
    """A thousand hits of 4 KiB."""
    benchmark(partial(work, pair[name], 1000))


@pytest.mark.parametrize(("work", "mine", "theirs"), CASES)
def test_ratios(pair: dict[str, Any], work: Callable[[Any, int], None], mine: str, theirs: str) -> None:
    """Prints how much longer hctef's hit takes than the local object's."""
    taken: dict[str, list[float]] = {mine: [], theirs: []}
    for _ in range(15):
        for name in (mine, theirs):
            begin = time.perf_counter()
            work(pair[name], TIMES)
            taken[name].append((time.perf_counter() - begin) / TIMES * 1e9)
    a, b = (statistics.median(taken[name]) for name in (mine, theirs))
    print(f"\n{mine} {a:.0f} ns, {theirs} {b:.0f} ns: {a / b:.2f} x (bar: 4)")
