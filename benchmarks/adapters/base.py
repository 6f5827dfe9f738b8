"""What an adapter is."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any, Literal

from benchmarks.files import Range

Kind = Literal["hctef", "peer", "limit"]

THREADS = 16  # for what has no way of its own to ask for several ranges: as many as hctef's connections


FILE = frozenset({"tail", "reads", "whole", "hot", "formats"})
"""What an open file can do. Further: "vectored" takes many ranges in one call, "views" is memory."""
MANY = FILE | {"vectored"}


class UnavailableError(Exception):
    """A library that cannot run here; the message says why."""


class Adapter:
    """A way to read a remote file. What it can't do, it lacks: workloads look at the attributes."""

    kind: Kind = "peer"
    packages: Sequence[str] = ()
    """Distributions whose versions are printed."""
    modules: Sequence[str] = ()
    """What it imports; the first adapter of a library also measures the cost of that."""
    families = FILE
    """The kinds of workloads it takes part in."""
    slices = False
    """`file[a:b]` is its way to read."""
    eager = False
    """Its `open` fetches what will be read, so that the time of that always counts."""
    local = False
    """It reads the file on disk: what it opens is a path."""

    def __init__(self, name: str, *, bare: dict[str, Any] | None = None, **options: Any) -> None:
        self.name = name
        self.options = options
        self.bare = bare
        """What `open` takes to fetch nothing beforehand; None if there is no such thing."""

    def load(self) -> None:
        """Import the library: before the clock runs."""
        for module in self.modules:
            importlib.import_module(module)

    def version(self) -> str:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)

    def prepare(self, url: str, ranges: Sequence[Range], size: int) -> None:
        """Told what will be read, before the clock runs. Only a limit may listen."""

    def open(self, url: str, **options: Any) -> Any:
        """An open file."""
        raise NotImplementedError

    def whole(self, url: str) -> Any:
        """All bytes."""
        return self.open(url).read()

    def tail(self, url: str, size: int, **options: Any) -> Any:
        """Open and read the last `size` bytes."""
        file = self.open(url, **options)
        file.seek(-size, 2)
        return file.read(size)

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        """All of them, in one call of the library's if it has such a call."""
        parts = []
        for start, stop in ranges:
            file.seek(start)
            parts.append(file.read(stop - start))
        return parts
