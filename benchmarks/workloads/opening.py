"""W1, W6: opening a file, and reading what is there already. W12: importing the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.adapters import ADAPTERS, Adapter
from benchmarks.files import PeerFile
from benchmarks.workloads.base import Workload, check

PAGE = 4096
AT = 100_000_100
TIMES = 20_000
KEEP_NOTHING = {"urllib3", "obstore", "obstore-reader", "fsspec-none", "smart_open", "seekablehttpfile"}


class Tail(Workload):
    """Open, read 4 KiB at the end. `bare`: with nothing fetched beforehand, by those that otherwise would."""

    family = "tail"

    def __init__(self, name: str, title: str, *, bare: bool) -> None:
        super().__init__(name, title)
        self._bare = bare

    def accepts(self, adapter: Adapter) -> bool:
        return super().accepts(adapter) and (not self._bare or adapter.bare is not None)

    def open(self, adapter: Adapter, url: str) -> Any:
        return url

    def run(self, adapter: Adapter, file: Any) -> Any:
        return adapter.tail(file, PAGE, **((adapter.bare or {}) if self._bare else {}))

    def verify(self, output: Any, path: Path) -> None:
        check([((data.FLAT_SIZE - PAGE, data.FLAT_SIZE), output)], path)


class Hot(Workload):
    """The same 4 KiB again, after a first read: by seek and read, or by a slice. The best of 5 rounds."""

    family = "hot"
    after_open = True
    links = ("raw",)
    per = TIMES

    def accepts(self, adapter: Adapter) -> bool:
        return super().accepts(adapter) and adapter.name not in KEEP_NOTHING

    def open(self, adapter: Adapter, url: str) -> Any:
        file = adapter.open(url)
        if isinstance(file, PeerFile) and hasattr(file.raw, "seek"):
            file = file.raw  # without our wrapper
        if not adapter.slices:
            file.seek(AT)
            file.read(PAGE)
        return file

    def run(self, adapter: Adapter, file: Any) -> Any:
        part = b""
        if adapter.slices:
            for _ in range(TIMES):
                part = file[AT : AT + PAGE]
        else:
            for _ in range(TIMES):
                file.seek(AT)
                part = file.read(PAGE)
        return part

    def verify(self, output: Any, path: Path) -> None:
        check([((AT, AT + PAGE), output)], path)


class Import(Workload):
    """The import statement alone, in an interpreter that has imported nothing else."""

    links = ("raw",)

    def accepts(self, adapter: Adapter) -> bool:
        same = [other for other in ADAPTERS.values() if (other.kind, other.modules) == (adapter.kind, adapter.modules)]
        return bool(adapter.modules) and same[0] is adapter


WORKLOADS = (
    Tail("W1", "open and read 4 KiB at the end, with the defaults", bare=False),
    Tail("W1-bare", "the same, with nothing fetched beforehand", bare=True),
    Hot("W6", "one hot 4 KiB again"),
    Import("W12", "import: time and memory"),
)
