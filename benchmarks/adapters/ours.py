"""hctef, and the other hctef."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.adapters.base import MANY, Adapter, Kind, UnavailableError
from benchmarks.files import Range, blocking, completed


class Hctef(Adapter):
    """HttpFile."""

    kind: Kind = "hctef"
    packages = ("hctef",)
    modules = ("hctef",)
    families = MANY | {"views"}  # "views" by its own reads: what views are compared with

    def open(self, url: str, **options: Any) -> Any:
        import hctef

        return hctef.HttpFile(url, **self.options, **options)

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        parts: Sequence[Any] = file.read_ranges(ranges)
        return parts


class HctefPrefetch(Hctef):
    """HttpFile, where the ranges are prefetched, then read one by one."""

    families = frozenset({"vectored"})

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        file.prefetch([(start, stop - start) for start, stop in ranges])
        return Adapter.read_ranges(self, file, ranges)


class HctefBuffer(Hctef):
    """RemoteBuffer."""

    families = frozenset({"hot", "vectored", "views"})
    slices = True

    def load(self) -> None:
        """The helper processes, one pair a process and mostly imports, are started before the clock runs, too."""
        super().load()
        import hctef
        from tests.range_server import RangeServer

        with RangeServer() as server, hctef.RemoteBuffer(server.add("data", bytes(1 << 20))) as buf:
            memoryview(buf).release()

    def open(self, url: str, **options: Any) -> Any:
        import hctef

        return hctef.RemoteBuffer(url, **self.options, **options)


class HctefAsync(Hctef):
    """AsyncHttpFile."""

    modules = ("hctef.aio",)
    families = frozenset({"reads", "vectored"})

    def load(self) -> None:
        super().load()
        self.loop = asyncio.new_event_loop()

    def open(self, url: str, **options: Any) -> Any:
        import hctef.aio

        file = self.loop.run_until_complete(hctef.aio.AsyncHttpFile(url, **self.options, **options).open())
        return blocking(self.loop, file, file.size)

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        parts: Sequence[Any] = self.loop.run_until_complete(file.raw.read_ranges(ranges))
        return parts


class _Old:
    """hctef 0.4.1 as PyPI serves it: another code base of the same purpose and name, in a folder of its own."""

    kind: Kind = "peer"

    def load(self) -> None:
        folder = Path(sys.prefix) / "peers" / "hctef-0.4.1"
        if not folder.exists():
            raise UnavailableError(f"not installed in {folder.relative_to(sys.prefix)} of the environment")
        sys.path.insert(0, str(folder))
        super().load()  # type: ignore[misc]  # a mixin: Adapter's

    def version(self) -> str:
        return "hctef 0.4.1"


class HctefOld(_Old, Hctef):
    """HttpFile; many ranges are prefetched, then read one by one."""

    families = MANY

    def open(self, url: str, **options: Any) -> Any:
        import hctef

        file = hctef.HttpFile(url, **self.options, **options).open()
        size = file.seek(0, 2)
        file.seek(0)
        return completed(file, size)

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        file.raw.prefetch([(start, stop - start) for start, stop in ranges])
        return Adapter.read_ranges(self, file, ranges)


class HctefOldAsync(_Old, HctefAsync):
    """AsyncHttpFile."""
