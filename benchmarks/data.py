"""The files that are read: made once, always the same bytes."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

MIB = 1 << 20
FOLDER = Path(tempfile.gettempdir()) / "hctef-bench-data-1"
"""The number at its end changes whenever the bytes do."""

FLAT, ZIP, HDF5, PARQUET, ARROW = "flat.bin", "archive.zip", "data.h5", "table.parquet", "table.arrow"
FLAT_SIZE = 256 * MIB
MEMBERS, DATASETS, COLUMNS, ROWS, ROW_GROUPS = 2_000, 30, 20, 983_040, 10


def _flat(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(FLAT_SIZE))


def _zip(path: Path) -> None:
    """2,000 members of 25 KiB in the mean once deflated, log-normal."""
    random = np.random.default_rng(2)
    sizes = random.lognormal(0, 0.8, MEMBERS)
    sizes = (sizes / sizes.mean() * 43.4 * 1024).astype(int)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for n, size in enumerate(sizes):
            digits = random.integers(0, 16, size, dtype=np.uint8)  # deflates to half
            info = zipfile.ZipInfo(f"reports/{n // 100:02}/{n:04}.txt", (2020, 1, 1, 0, 0, 0))
            archive.writestr(info, digits.tobytes(), zipfile.ZIP_DEFLATED, 1)


def _hdf5(path: Path) -> None:
    """30 datasets of 6.6 MiB in chunks of 64 KiB, one after the other, as an instrument appends them."""
    import h5py

    random = np.random.default_rng(3)
    with h5py.File(path, "w") as file:
        for n in range(DATASETS):
            rows = random.standard_normal((1700, 1024), dtype=np.float32)
            file.create_dataset(f"run{n // 10}/channel{n:02}", data=rows, chunks=(16, 1024))


def _table(path: Path) -> None:
    """20 columns of float64 in 10 row groups (or record batches), 150 MiB, not compressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(4)
    table = pa.table({f"c{n:02}": random.standard_normal(ROWS) for n in range(COLUMNS)})
    if path.name.startswith(PARQUET):
        pq.write_table(table, path, row_group_size=ROWS // ROW_GROUPS, compression="none", use_dictionary=False)
        return
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=ROWS // ROW_GROUPS)


MAKERS: dict[str, Callable[[Path], None]] = {FLAT: _flat, ZIP: _zip, HDF5: _hdf5, PARQUET: _table, ARROW: _table}


def make(folder: Path = FOLDER) -> Path:
    """Make those files that aren't there, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, maker in MAKERS.items():
        if not (folder / name).exists():
            part = folder / f"{name}.part"
            maker(part)
            part.replace(folder / name)
    return folder
