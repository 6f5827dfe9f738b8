"""Views whose pages are filled when they are touched: what they take, beside plain requests and the round trip.

    python -m benchmarks.views [FOLDER]

FOLDER, a temporary one by default, gets 512 MiB of data. Each measurement is a fresh process, as in the other
benchmarks; the links are loopback, and a round trip of 20 ms without a bound on the rate to speak of (10 Gbit/s).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import links

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SUMMED = 512 * MIB
SPARSE = 64 * GIB
ROUNDS = 5

links.LINKS["d20"] = links.Link("d20", 0.020, 10_000_000_000)


# in a client's process


def _memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stream(url: str) -> dict[str, float]:
    """A plain GET, as urllib3 streams it."""
    import urllib3  # of the client alone

    with urllib3.PoolManager() as pool:
        begin = time.perf_counter()
        response = pool.request("GET", url, preload_content=False)
        assert sum(map(len, response.stream())) == SUMMED
        seconds = time.perf_counter() - begin
        response = pool.request("GET", url, preload_content=False)
        begin = time.perf_counter()
        while response.read(MIB):
            pass
        return {"seconds": seconds, "by_mib": time.perf_counter() - begin}


def one_by_one(url: str) -> dict[str, float]:
    """A request of 1 MiB after the other."""
    import urllib3

    with urllib3.PoolManager() as pool:
        begin = time.perf_counter()
        for at in range(0, SUMMED, MIB):
            response = pool.request("GET", url, headers={"Range": f"bytes={at}-{at + MIB - 1}"})
            assert len(response.data) == MIB
        return {"seconds": time.perf_counter() - begin}


def total(url: str) -> dict[str, float]:
    """`a.sum()` over all of it."""
    import numpy as np

    import hctef

    begin = time.perf_counter()
    with hctef.RemoteBuffer(url) as buf:
        array = np.frombuffer(buf, np.uint8)
        mapped = time.perf_counter() - begin
        value = int(array.sum())
        seconds = time.perf_counter() - begin - mapped
        assert buf.paging == "fault"
        return {"seconds": seconds, "mapped": mapped, "value": value, "requests": buf.stats.requests}


def in_memory(path: str) -> dict[str, float]:
    """The same of an array in memory."""
    import numpy as np

    array = np.fromfile(path, np.uint8)
    begin = time.perf_counter()
    value = int(array.sum())
    return {"seconds": time.perf_counter() - begin, "value": value}


def column(url: str) -> dict[str, float]:
    """256 floats, 1 MiB apart."""
    import numpy as np

    import hctef

    with hctef.RemoteBuffer(url) as buf:
        array = np.frombuffer(buf, "f4")
        begin = time.perf_counter()
        array[:: MIB // 4][:256].copy()
        return {"seconds": time.perf_counter() - begin}


def sparse(url: str) -> dict[str, float]:
    """Open, map and close; then a byte of each GiB."""
    import numpy as np

    import hctef

    before, begin = _memory(), time.perf_counter()
    with hctef.RemoteBuffer(url) as buf:
        array = np.frombuffer(buf, np.uint8)
        memory = _memory() - before
        assert len(array) == SPARSE
        del array
    seconds = time.perf_counter() - begin
    with hctef.RemoteBuffer(url) as buf:
        assert int(np.frombuffer(buf, np.uint8)[::GIB].sum()) == 0
        return {"seconds": seconds, "memory": memory, "bytes": buf.stats.bytes_fetched}


CLIENTS = {each.__name__: each for each in (stream, one_by_one, total, in_memory, column, sparse)}


# beside them


def _measured(network: links.Network, link: str, what: str, where: str) -> dict[str, Any]:
    command = [*network.command(link), sys.executable, "-m", "benchmarks.views", what, where]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _line(what: str, reached: str, bar: str = "") -> None:
    print(f"{what:<58} {reached:>9}  {bar}")


def main(folder: Path) -> None:
    """Measure, and print each figure beside its bar."""
    data = folder / "summed"
    if not data.exists():
        with data.open("wb") as file:
            for _ in range(SUMMED // MIB):
                file.write(os.urandom(MIB))
    with (folder / "sparse").open("wb") as file:
        file.truncate(SPARSE)
    with links.Network(folder, ["raw", "d20"], tag="views") as network:
        _loopback(network, data)
        if "d20" in {link.name for link in network.links}:
            _far(network, data)
        else:
            print(f"no link of 20 ms here, for lack of {', '.join(links.missing())}")


def _loopback(network: links.Network, data: Path) -> None:
    url = network.url("raw", "views", data.name)
    gets, sums, local = [], [], []
    for _ in range(ROUNDS):
        gets.append(_measured(network, "raw", "stream", url))
        sums.append(_measured(network, "raw", "total", url))
        local.append(_measured(network, "raw", "in_memory", str(data)))
        assert sums[-1]["value"] == local[-1]["value"]
    ratio = statistics.median(get["seconds"] / mine["seconds"] for get, mine in zip(gets, sums, strict=True))
    _line("loopback: sum of 512 MiB", f"{_median_of('seconds', sums):.2f} s")
    _line("    open and map", f"{_median_of('mapped', sums):.2f} s")
    _line("    urllib3's stream() of as much", f"{_median_of('seconds', gets):.2f} s")
    _line("    its read(1 MiB)", f"{_median_of('by_mib', gets):.2f} s")
    _line("    the sum of as much in memory", f"{_median_of('seconds', local):.2f} s")
    _line("    rate, of stream()'s", f"{ratio:.2f}", "at least 0.6")
    found = _measured(network, "raw", "sparse", network.url("raw", "views", "sparse"))
    _line("64 GiB: open, map, close", f"{found['seconds']:.2f} s", "under 0.5 s")
    _line("    memory of this process", f"{found['memory'] / MIB:.1f} MiB", "under 40 MiB")
    _line("    a byte of each GiB fetches", f"{found['bytes'] / KIB:.0f} KiB", f"at most {64 * 64 + 1024} KiB")


def _far(network: links.Network, data: Path) -> None:
    url = network.url("d20", "views", data.name)
    ones = _measured(network, "d20", "one_by_one", url)["seconds"]
    sums = [_measured(network, "d20", "total", url) for _ in range(ROUNDS)]
    seconds, mapped = _median_of("seconds", sums), _median_of("mapped", sums)
    strided = _median_of("seconds", [_measured(network, "d20", "column", url) for _ in range(ROUNDS)])
    _line("20 ms: a MiB of 512 after the other", f"{ones:.1f} s")
    _line("    sum of 512 MiB", f"{seconds:.2f} s")
    _line("    open and map", f"{mapped:.2f} s")
    _line("    times as fast", f"{ones / seconds:.1f}", "at least 8")
    _line("    the same with opening and mapping", f"{ones / (seconds + mapped):.1f}")
    _line("    256 floats 1 MiB apart", f"{strided:.2f} s")
    _line("    part of 256 round trips", f"{strided / (256 * 0.02):.3f}", "at most 0.25")


def _median_of(name: str, found: list[dict[str, Any]]) -> float:
    return float(statistics.median(each[name] for each in found))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in CLIENTS:
        print(json.dumps(CLIENTS[sys.argv[1]](sys.argv[2])))
    elif len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory(prefix="hctef-views-") as temporary:
            main(Path(temporary))
