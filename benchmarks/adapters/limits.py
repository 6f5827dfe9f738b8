"""What nobody who reads that file over that link can be faster than."""

from __future__ import annotations

import io
import mmap
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.adapters.base import Adapter, Kind, UnavailableError
from benchmarks.files import Clairvoyant, Connection, PeerFile, Range


class Sockets(Adapter):
    """One raw socket, a range request for each read: the least that a serial reader without foresight pays."""

    kind: Kind = "limit"
    families = frozenset({"tail", "reads", "whole"})

    def open(self, url: str, **options: Any) -> Any:
        connection = Connection(url)
        return PeerFile(lambda start, stop: connection.get(start, stop - 1), connection.size, connection)

    def whole(self, url: str) -> Any:
        return Connection(url).get(0, "")

    def tail(self, url: str, size: int, **options: Any) -> Any:
        return Connection(url).get("", size)


class Foresight(Adapter):
    """Knows what will be read, and asks for all of it at once over 64 connections that are established already."""

    kind: Kind = "limit"
    families = frozenset({"reads", "formats", "vectored"})
    eager = True

    def prepare(self, url: str, ranges: Sequence[Range], size: int) -> None:
        self._plan = Clairvoyant(url, ranges, size)

    def open(self, url: str, **options: Any) -> Any:
        return self._plan.fetch()


class Curl(Adapter):
    """curl to /dev/null: its bytes are not checked."""

    kind: Kind = "limit"
    families = frozenset({"whole"})

    def load(self) -> None:
        if not shutil.which("curl"):
            raise UnavailableError("curl is not installed")

    def version(self) -> str:
        return subprocess.run(["curl", "-V"], capture_output=True, text=True, check=True).stdout.split(" (")[0]

    def whole(self, url: str) -> Any:
        subprocess.run(["curl", "-sSfo", "/dev/null", url], check=True)


class Local(Adapter):
    """The file on this machine's disk, in its page cache: the work that is not the network's."""

    kind: Kind = "limit"
    families = frozenset({"reads", "whole", "formats"})
    local = True

    def open(self, url: str, **options: Any) -> Any:
        return Path(url).open("rb")


class LocalBytesIO(Local):
    """An io.BytesIO with the same bytes."""

    families = frozenset({"hot"})

    def open(self, url: str, **options: Any) -> Any:
        return io.BytesIO(Path(url).read_bytes())


class LocalMmap(Local):
    """An mmap of the same bytes."""

    families = frozenset({"hot", "views"})
    slices = True

    def open(self, url: str, **options: Any) -> Any:
        with Path(url).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
