"""The libraries, each behind the same few methods. A library's defaults, unless its name says otherwise."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import importlib
import importlib.metadata
import importlib.util
import io
import mmap
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.files import Clairvoyant, Connection, PeerFile, Range, blocking, completed

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
    imports: str = ""
    """The statement whose cost W12 measures."""
    families = FILE
    """The kinds of workloads it takes part in."""
    slices = False
    """`file[a:b]` is its way to read."""
    local = False
    """It reads the file on disk: what it opens is a path."""

    def __init__(self, name: str, *, bare: dict[str, Any] | None = None, **options: Any) -> None:
        self.name = name
        self.options = options
        self.bare = bare
        """What `open` takes to fetch nothing beforehand; None if there is no such thing."""

    def load(self) -> None:
        """Import the library: before the clock runs."""
        for statement in self.imports.split(";"):
            if statement:
                importlib.import_module(statement.strip().removeprefix("import "))

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


class Hctef(Adapter):
    """HttpFile."""

    kind: Kind = "hctef"
    packages = ("hctef",)
    imports = "import hctef"
    families = MANY | {"views"}  # "views" by its own reads: what views are compared with

    def open(self, url: str, **options: Any) -> Any:
        import hctef

        return hctef.HttpFile(url, **self.options, **options)

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        parts: Sequence[Any] = file.read_ranges(ranges)
        return parts


class HctefPrefetch(Hctef):
    """HttpFile, where the ranges are prefetched, then read one by one."""

    imports = ""
    families = frozenset({"vectored"})

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        file.prefetch([(start, stop - start) for start, stop in ranges])
        return Adapter.read_ranges(self, file, ranges)


class HctefBuffer(Hctef):
    """RemoteBuffer."""

    imports = ""
    families = frozenset({"hot", "vectored", "views"})
    slices = True

    def open(self, url: str, **options: Any) -> Any:
        import hctef

        return hctef.RemoteBuffer(url, **self.options, **options)


class HctefAsync(Hctef):
    """AsyncHttpFile; many ranges are cursors that read at once."""

    imports = "import hctef.aio"
    families = frozenset({"reads", "vectored"})

    def load(self) -> None:
        super().load()
        self.loop = asyncio.new_event_loop()

    def open(self, url: str, **options: Any) -> Any:
        import hctef.aio

        file = self.loop.run_until_complete(hctef.aio.AsyncHttpFile(url, **self.options, **options).open())
        return blocking(self.loop, file, file.size)

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        async def one(start: int, stop: int) -> Any:
            cursor = file.raw.clone()
            cursor.seek(start)
            return await cursor.read(stop - start)

        async def every() -> Sequence[Any]:
            return await asyncio.gather(*(one(*extent) for extent in ranges))

        return self.loop.run_until_complete(every())


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
    """HttpFile."""

    families = FILE

    def open(self, url: str, **options: Any) -> Any:
        import hctef

        file = hctef.HttpFile(url, **self.options, **options).open()
        size = file.seek(0, 2)
        file.seek(0)
        return completed(file, size)


class HctefOldAsync(_Old, HctefAsync):
    """AsyncHttpFile; many ranges are cursors that read at once."""


class Fsspec(Adapter):
    packages = ("fsspec", "aiohttp")
    imports = "import fsspec.implementations.http"

    def open(self, url: str, **options: Any) -> Any:
        import fsspec

        return fsspec.filesystem("http").open(url, "rb", **self.options, **options)


class FsspecCat(Fsspec):
    """cat_ranges, which needs no open file."""

    imports = ""
    families = frozenset({"vectored"})

    def open(self, url: str, **options: Any) -> Any:
        import fsspec.implementations.http

        return fsspec.filesystem("http"), url

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        filesystem, url = file
        starts, stops = zip(*ranges, strict=True)
        parts: Sequence[Any] = filesystem.cat_ranges([url] * len(ranges), list(starts), list(stops))
        return parts


class SmartOpen(Adapter):
    packages = ("smart_open", "requests")
    imports = "import smart_open.http"

    def open(self, url: str, **options: Any) -> Any:
        import smart_open

        return smart_open.open(url, "rb", compression="disable")


class Remfile(Adapter):
    packages = ("remfile", "requests")
    imports = "import remfile"

    def open(self, url: str, **options: Any) -> Any:
        import remfile

        file = remfile.File(url)
        return completed(file, file.length)


class Httpio(Adapter):
    """With blocks of 64 KiB: its default keeps nothing, and is what urllib3 is here."""

    packages = ("httpio", "requests")
    imports = "import httpio"

    def open(self, url: str, **options: Any) -> Any:
        import httpio

        return httpio.open(url, **self.options)


class SeekableHttpFile(Adapter):
    packages = ("seekablehttpfile",)
    imports = "import seekablehttpfile"

    def open(self, url: str, **options: Any) -> Any:
        import seekablehttpfile

        file = seekablehttpfile.SeekableHttpFile(url, **options)
        return completed(file, file.length)


class Obstore(Adapter):
    packages = ("obstore",)
    imports = "import obstore; import obstore.store"
    families = MANY

    def _store(self, url: str) -> tuple[Any, str]:
        import obstore.store

        base, name = url.rsplit("/", 1)
        return obstore.store.HTTPStore.from_url(base, client_options={"allow_http": True}), name

    def open(self, url: str, **options: Any) -> Any:
        import obstore

        store, name = self._store(url)

        def pread(start: int, stop: int) -> Any:
            return obstore.get_range(store, name, start=start, end=stop).to_bytes()

        return PeerFile(pread, lambda: int(obstore.head(store, name)["size"]), (store, name))

    def whole(self, url: str) -> Any:
        import obstore

        return obstore.get(*self._store(url)).bytes()

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        import obstore

        starts, stops = zip(*ranges, strict=True)
        parts: Sequence[Any] = obstore.get_ranges(*file.raw, starts=list(starts), ends=list(stops))
        return parts


class ObstoreReader(Obstore):
    imports = ""
    families = FILE

    def load(self) -> None:
        importlib.import_module("obstore.store")

    def open(self, url: str, **options: Any) -> Any:
        import obstore

        file = obstore.open_reader(*self._store(url))

        class Reader:
            seek = staticmethod(file.seek)

            @staticmethod
            def read(size: int) -> Any:
                return file.read(size).to_bytes()

        return completed(Reader, file.size)


class Gdal(Adapter):
    """/vsicurl/, out of the libgdal within rasterio's wheel: PyPI has no wheel of the osgeo package."""

    packages = ("rasterio",)
    families = MANY

    def load(self) -> None:
        spec = importlib.util.find_spec("rasterio")
        root = Path(spec.origin).parent.parent if spec and spec.origin else Path()
        found = [*root.glob("rasterio.libs/libgdal*"), *root.glob("rasterio/.dylibs/libgdal*")]
        if not spec or not found:
            raise UnavailableError("no wheel of rasterio with a libgdal is installed")
        self.library = library = ctypes.CDLL(str(found[0]))
        library.GDALVersionInfo.restype = ctypes.c_char_p
        library.VSIFOpenL.restype = ctypes.c_void_p
        library.VSIFTellL.restype = ctypes.c_uint64
        library.VSIFTellL.argtypes = [ctypes.c_void_p]
        library.VSIFSeekL.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int]
        library.VSIFReadL.restype = ctypes.c_size_t
        library.VSIFReadL.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
        library.VSIFReadMultiRangeL.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 4]
        library.CPLSetConfigOption(b"GDAL_DISABLE_READDIR_ON_OPEN", b"EMPTY_DIR")  # it would list the folder first
        self._new = ctypes.pythonapi.PyBytes_FromStringAndSize
        self._new.restype = ctypes.py_object
        self._new.argtypes = [ctypes.c_char_p, ctypes.c_ssize_t]

    def version(self) -> str:
        return f"GDAL {self.library.GDALVersionInfo(b'RELEASE_NAME').decode()} ({super().version()})"

    def open(self, url: str, **options: Any) -> Any:
        handle = self.library.VSIFOpenL(f"/vsicurl/{url}".encode(), b"rb")
        if not handle:
            raise OSError(f"VSIFOpenL cannot open {url}")

        def pread(start: int, stop: int) -> bytes:
            data = self._new(None, stop - start)
            self.library.VSIFSeekL(handle, start, 0)
            if self.library.VSIFReadL(data, 1, stop - start, handle) != stop - start:
                raise OSError(f"VSIFReadL read less than [{start}, {stop})")
            return bytes(data)

        def size() -> int:
            self.library.VSIFSeekL(handle, 0, 2)
            return int(self.library.VSIFTellL(handle))

        return PeerFile(pread, size, handle)

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        count = len(ranges)
        parts = [self._new(None, stop - start) for start, stop in ranges]
        pointers = (ctypes.c_char_p * count)(*parts)
        offsets = (ctypes.c_uint64 * count)(*(start for start, _ in ranges))
        sizes = (ctypes.c_size_t * count)(*(stop - start for start, stop in ranges))
        if self.library.VSIFReadMultiRangeL(count, pointers, offsets, sizes, file.raw):
            raise OSError("VSIFReadMultiRangeL failed")
        return parts


class Urllib3(Adapter):
    """A range request for each read over a kept connection, and no cache: what a few lines of one's own come to."""

    packages = ("urllib3",)
    imports = "import urllib3"
    families = MANY

    def open(self, url: str, **options: Any) -> Any:
        import urllib3

        pool = urllib3.PoolManager(maxsize=THREADS)

        def pread(start: int | str, stop: int) -> bytes:
            return pool.request("GET", url, headers={"Range": f"bytes={start}-{stop - 1}"}).data

        file = PeerFile(pread, lambda: int(pool.request("HEAD", url).headers["Content-Length"]), pool)
        file.pread = pread  # type: ignore[attr-defined]  # for `read_ranges`
        return file

    def whole(self, url: str) -> Any:
        import urllib3

        return urllib3.request("GET", url).data

    def tail(self, url: str, size: int, **options: Any) -> Any:
        import urllib3

        return urllib3.request("GET", url, headers={"Range": f"bytes=-{size}"}).data

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
            return list(threads.map(lambda extent: file.pread(*extent), ranges))


class Download(Adapter):
    """All of the file into a temporary one first, then reads of that."""

    packages = ("urllib3",)

    def load(self) -> None:
        importlib.import_module("urllib3")

    def open(self, url: str, **options: Any) -> Any:
        import urllib3

        file = tempfile.TemporaryFile()  # noqa: SIM115 # it is what is returned
        with urllib3.request("GET", url, preload_content=False) as response:
            shutil.copyfileobj(response, file, 1 << 20)
        file.seek(0)
        return file


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


ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Hctef("hctef", bare={"prefetch_bytes": 0}),
        HctefBuffer("hctef-buffer"),
        HctefPrefetch("hctef-prefetch"),
        HctefAsync("hctef-async"),
        HctefOld("hctef-0.4.1", bare={"prefetch_bytes": 0}),
        HctefOldAsync("hctef-0.4.1-async"),
        Fsspec("fsspec"),
        Fsspec("fsspec-blockcache", cache_type="blockcache"),
        Fsspec("fsspec-background", cache_type="background"),
        Fsspec("fsspec-none", cache_type="none"),
        FsspecCat("fsspec-cat"),
        SmartOpen("smart_open"),
        Remfile("remfile"),
        Httpio("httpio", block_size=64 << 10),
        SeekableHttpFile("seekablehttpfile", bare={"precache": 0}),
        Obstore("obstore"),
        ObstoreReader("obstore-reader"),
        Gdal("gdal"),
        Urllib3("urllib3", bare={}),
        Download("download"),
        Curl("curl"),
        Sockets("sockets", bare={}),
        Foresight("clairvoyant"),
        Local("local"),
        LocalBytesIO("BytesIO"),
        LocalMmap("mmap"),
    )
}
