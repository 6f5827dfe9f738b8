"""W7, W8, W9: libraries that read formats out of an open file."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.adapters import Adapter
from benchmarks.files import Range
from benchmarks.workloads.base import Workload, WrongBytesError, record
from benchmarks.workloads.reads import Views

COLUMNS = (2, 9, 16)


def read_zip(file: Any) -> Any:
    """The names of all members, and 20 members here and there."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        chosen = np.random.default_rng(7).choice(len(names), 20, replace=False)
        return names, [archive.read(names[n]) for n in chosen]


def read_hdf5(file: Any) -> Any:
    """3 of 30 datasets, whole."""
    import h5py

    with h5py.File(file, "r") as opened:
        return [opened[name][:] for name in ("run0/channel05", "run1/channel14", "run2/channel27")]


def read_parquet(file: Any) -> Any:
    """3 of 20 columns."""
    import pyarrow.parquet as pq

    return pq.read_table(file, columns=[f"c{n:02}" for n in COLUMNS])


def read_arrow(file: Any) -> Any:
    """3 of 20 columns."""
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(included_fields=list(COLUMNS))
    with pa.ipc.open_file(file, options=options) as reader:
        return reader.read_all()


class Format(Workload):
    """`use(file)`, whose result must be what it is for the local file."""

    family = "formats"

    def __init__(self, name: str, title: str, file: str, use: Callable[[Any], Any], module: str) -> None:
        super().__init__(name, title, file)
        self._use = use
        self._module = module

    def ranges(self, path: Path) -> Sequence[Range]:
        return record(path, self._use)

    def prepare(self, path: Path) -> None:
        importlib.import_module(self._module)

    def run(self, adapter: Adapter, file: Any) -> Any:
        return self._use(file)

    def verify(self, output: Any, path: Path) -> None:
        with path.open("rb") as file:
            expected = self._use(file)
        if isinstance(output, list):
            same = len(output) == len(expected) and all(map(np.array_equal, output, expected))
        else:
            same = output == expected
        if not same:
            raise WrongBytesError(f"{self._use.__name__} did not return what it returns for the local file")


WORKLOADS = (
    Format("W7", "zipfile: 2,000 names, 20 members", data.ZIP, read_zip, "zipfile"),
    Format("W8", "h5py: 3 of 30 datasets (20 of 200 MiB)", data.HDF5, read_hdf5, "h5py"),
    Format("W9", "pyarrow Parquet: 3 of 20 columns (22 of 150 MiB)", data.PARQUET, read_parquet, "pyarrow.parquet"),
    Format("W9b", "Arrow IPC: 3 of 20 columns (22 of 150 MiB)", data.ARROW, read_arrow, "pyarrow"),
)
VIEWS = (Views("W14-W8", "W8's ranges through np.frombuffer(buf)", lambda path: record(path, read_hdf5), data.HDF5),)
