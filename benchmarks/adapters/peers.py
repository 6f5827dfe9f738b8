"""Other libraries for the same purpose, and what one does without any."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.adapters.base import FILE, MANY, Adapter, UnavailableError
from benchmarks.files import PeerFile, Range, completed

THREADS = 16  # for what has no way of its own to ask for several ranges: as many as hctef's connections


class Fsspec(Adapter):
    packages = ("fsspec", "aiohttp")
    modules = ("fsspec.implementations.http",)

    def open(self, url: str, **options: Any) -> Any:
        import fsspec

        return fsspec.filesystem("http").open(url, "rb", **self.options, **options)


class FsspecCat(Fsspec):
    """cat_ranges, which needs no open file."""

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
    modules = ("smart_open.http",)

    def open(self, url: str, **options: Any) -> Any:
        import smart_open

        return smart_open.open(url, "rb", compression="disable")


class Remfile(Adapter):
    packages = ("remfile", "requests")
    modules = ("remfile",)

    def open(self, url: str, **options: Any) -> Any:
        import remfile

        file = remfile.File(url)
        return completed(file, file.length)


class Httpio(Adapter):
    """With blocks of 64 KiB: its default keeps nothing, and is what urllib3 is here."""

    packages = ("httpio", "requests")
    modules = ("httpio",)

    def open(self, url: str, **options: Any) -> Any:
        import httpio

        return httpio.open(url, **self.options)


class SeekableHttpFile(Adapter):
    packages = ("seekablehttpfile",)
    modules = ("seekablehttpfile",)

    def open(self, url: str, **options: Any) -> Any:
        import seekablehttpfile

        file = seekablehttpfile.SeekableHttpFile(url, **options)
        return completed(file, file.length)


class Obstore(Adapter):
    packages = ("obstore",)
    modules = (
        "obstore",
        "obstore.store",
    )
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


class ObstoreAsync(Obstore):
    """A get_range_async for each range, all at once: get_ranges never has more than ten requests under way."""

    families = frozenset({"vectored"})

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        import obstore

        async def every() -> Sequence[Any]:
            store, name = file.raw
            reads = (obstore.get_range_async(store, name, start=start, end=stop) for start, stop in ranges)
            return await asyncio.gather(*reads)

        return asyncio.run(every())


class ObstoreReader(Obstore):
    families = FILE

    def open(self, url: str, **options: Any) -> Any:
        import obstore

        file = obstore.open_reader(*self._store(url))

        class Reader:
            seek = staticmethod(file.seek)

            @staticmethod
            def read(size: int) -> Any:
                return file.read(size).to_bytes()

        return completed(Reader, file.size)

    def read_ranges(self, file: Any, ranges: Sequence[Range]) -> Sequence[Any]:
        return Adapter.read_ranges(self, file, ranges)


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
    modules = ("urllib3",)
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

    packages = modules = ("urllib3",)
    eager = True

    def open(self, url: str, **options: Any) -> Any:
        import urllib3

        file = tempfile.TemporaryFile()  # noqa: SIM115 # it is what is returned
        with urllib3.request("GET", url, preload_content=False) as response:
            shutil.copyfileobj(response, file, 1 << 20)
        file.seek(0)
        return file
