"""What a workload is, and how its bytes are checked."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.adapters import Adapter
from benchmarks.files import PeerFile, Range


class WrongBytesError(Exception):
    """A library returned what the file doesn't hold."""


class Workload:
    """Something to do with a file. The clock runs in `open` and `run` only.

    Args:
        name: as PERFORMANCE names it.
        title: what it does, in a line.
        file: which of the files in `data`.
    """

    family = "reads"
    """What an adapter must be capable of."""
    after_open = False
    """The time that counts begins once the file is open."""
    links: Sequence[str] | None = None
    """Those it says something on; None: all."""
    per = 1
    """Seconds are divided by it: how many times `run` does one thing."""

    def __init__(self, name: str, title: str, file: str = data.FLAT) -> None:
        self.name = name
        self.title = title
        self.file = file

    def accepts(self, adapter: Adapter) -> bool:
        """Whether it makes sense to run it with this adapter."""
        return self.family in adapter.families

    def ranges(self, path: Path) -> Sequence[Range]:
        """What will be read, for the limit that knows it beforehand."""
        raise NotImplementedError(f"{self.name} does not tell what it reads")

    def prepare(self, path: Path) -> None:
        """Before the clock runs: imports, and decisions."""

    def open(self, adapter: Adapter, url: str) -> Any:
        """The first timed part."""
        return adapter.open(url)

    def run(self, adapter: Adapter, file: Any) -> Any:
        """The second one. Returns what `verify` needs."""
        raise NotImplementedError

    def verify(self, output: Any, path: Path) -> None:
        """After the clock. Raises WrongBytesError."""
        raise NotImplementedError


def mapped(path: Path) -> mmap.mmap:
    """A local file as memory."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def check(parts: Iterable[tuple[Range, Any]], path: Path) -> None:
    """That each part is what the local file holds in its range."""
    with mapped(path) as local:
        for (start, stop), part in parts:
            if bytes(part) != local[start:stop]:
                raise WrongBytesError(f"[{start}, {stop}) came back wrong ({len(part)} bytes)")


def record(path: Path, use: Any) -> list[Range]:
    """The ranges that `use(file)` reads, in order."""
    ranges: list[Range] = []
    with mapped(path) as local:

        def pread(start: int, stop: int) -> bytes:
            ranges.append((start, stop))
            return local[start:stop]

        use(PeerFile(pread, len(local)))
    return ranges
