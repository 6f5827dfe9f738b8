"""`hctef demo`: the main job, on data that it makes: a column's mean, a member of an archive, two columns of a
table."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hctef import HttpFile, RemoteBuffer, paging_support
from hctef._repr import ASCII_BLOCKS, BLOCKS, format_bytes, page_map_text
from hctef._serve import background_server

ROWS, COLUMNS = 1 << 20, 64
BLOCK_ROWS = 1 << 14
MEAN_ROWS = 10_000


def make_data(folder: Path) -> list[str]:
    """Write the files. Returns what is missing and why, in lines."""
    random = np.random.default_rng(0)
    array = np.lib.format.open_memmap(folder / "measured.npy", "w+", np.dtype("<f4"), (ROWS, COLUMNS))
    block = random.standard_normal((BLOCK_ROWS, COLUMNS), dtype="f4")
    for row in range(0, ROWS, BLOCK_ROWS):
        array[row : row + BLOCK_ROWS] = block + np.float32(row / ROWS)
    array.flush()
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        for n in range(200):
            archive.writestr(f"reports/{n:03}.txt", f"report {n}\n" * 10_000)
    try:
        import pyarrow as pa  # noqa: PLC0415  # not a dependency
        import pyarrow.parquet as pq  # noqa: PLC0415  # as above
    except ImportError:
        return ["pyarrow is not installed: the demo goes on without a Parquet file"]
    columns = {f"c{n}": random.standard_normal(500_000) for n in range(20)}
    pq.write_table(pa.table(columns), folder / "table.parquet", row_group_size=100_000)
    return []


def _column_mean(url: str) -> tuple[float, Any]:
    with HttpFile(url, prefetch_bytes=0, prefetch_direction="START") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        (_, columns), _, dtype = read_header(file)
        offset = file.tell() + (ROWS - MEAN_ROWS) * columns * dtype.itemsize
        rows = file.buffer.array(dtype, (MEAN_ROWS, columns), offset)
        return float(rows[:, 3].mean(dtype="f8")), _cost(file)


def _local_mean(path: Path) -> float:
    return float(np.load(path, mmap_mode="r")[-MEAN_ROWS:, 3].mean(dtype="f8"))


def _member(url: str) -> tuple[bytes, Any]:
    with HttpFile(url, prefetch_bytes=64 * 1024) as file, zipfile.ZipFile(file) as archive:
        return archive.read("reports/077.txt"), _cost(file)


def _local_member(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read("reports/077.txt")


def _columns(url: str) -> tuple[Any, Any]:
    import pyarrow.parquet as pq  # noqa: PLC0415  # the file is there, so pyarrow is

    with HttpFile(url, prefetch_bytes=64 * 1024) as file:
        return pq.read_table(file, columns=["c3", "c7"]), _cost(file)


def _local_columns(path: Path) -> Any:
    import pyarrow.parquet as pq  # noqa: PLC0415  # as above

    return pq.read_table(path, columns=["c3", "c7"])


def _cost(file: HttpFile) -> tuple[int, Any, list[tuple[int, int]]]:
    return file.size, file.stats, file.resident_ranges()


def _touch(url: str) -> tuple[int, Any]:
    """Some bytes here and there of an array over all of the file: where paging is by fault, they alone are fetched."""
    with RemoteBuffer(url) as buf:
        data = np.frombuffer(buf, "u1")
        total = int(data[:: len(data) // 16].sum(dtype="i8"))
        return total, (buf.size(), buf.stats, buf.resident_ranges())


def _local_touch(path: Path) -> int:
    data = np.memmap(path, "u1", "r")
    return int(data[:: len(data) // 16].sum(dtype="i8"))


JOBS: list[tuple[str, str, Callable[[str], tuple[Any, Any]], Callable[[Path], Any]]] = [
    ("measured.npy", f"mean of column 3 over the last {MEAN_ROWS:,} rows", _column_mean, _local_mean),
    ("measured.npy", "a byte at each sixteenth of np.frombuffer(buf)", _touch, _local_touch),
    ("archive.zip", "the member reports/077.txt", _member, _local_member),
    ("table.parquet", "columns c3 and c7 of 20", _columns, _local_columns),
]


def run(folder: Path, out: Callable[[str], object]) -> bool:
    """Make the data in `folder`, serve it, read it. Returns whether all was what the local files give.

    Raises ImportError: aiohttp is not installed.
    """
    import aiohttp  # noqa: F401, PLC0415  # an extra: missing, it should be said before the files are made

    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        BLOCKS.encode(encoding)
        blocks = BLOCKS
    except UnicodeEncodeError:
        blocks = ASCII_BLOCKS
    out(f"making files in {folder} …" if blocks is BLOCKS else f"making files in {folder} ...")
    for line in make_data(folder):
        out(line)
    support = paging_support()
    out(f"demand paging: {support.reason}")
    right = True
    with background_server(folder) as base:
        for name, what, remote, local in JOBS:
            path = folder / name
            if not path.exists():
                continue
            result, (size, stats, ranges) = remote(f"{base}/{name}")
            same = result == local(path)
            right = right and bool(same)
            shown = f" = {result:.6f}" if isinstance(result, float) else ""
            out(f"\n{name}: {what}{shown}: {'as the local file gives' if same else 'WRONG: the local file differs'}")
            share = 100 * stats.bytes_fetched / size
            fetched, whole = format_bytes(stats.bytes_fetched), format_bytes(size)
            out(f"  {stats.requests} requests, {fetched} of {whole} fetched ({share:.2f} %)")
            out(f"  |{page_map_text(size, ranges, blocks=blocks)}|")
    return right
