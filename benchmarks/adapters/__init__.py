"""The libraries, each behind the same few methods. A library's defaults, unless its name says otherwise."""

from __future__ import annotations

from benchmarks.adapters.base import Adapter, UnavailableError
from benchmarks.adapters.limits import Curl, Foresight, Local, LocalBytesIO, LocalMmap, Sockets
from benchmarks.adapters.ours import Hctef, HctefAsync, HctefBuffer, HctefOld, HctefOldAsync, HctefPrefetch
from benchmarks.adapters.peers import (
    Download,
    Fsspec,
    FsspecCat,
    Gdal,
    Httpio,
    Obstore,
    ObstoreAsync,
    ObstoreReader,
    Remfile,
    SeekableHttpFile,
    SmartOpen,
    Urllib3,
)

__all__ = ["ADAPTERS", "Adapter", "UnavailableError"]

ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Hctef("hctef", bare={"prefetch_bytes": 0}),
        HctefBuffer("hctef-buffer"),
        Hctef("hctef-64", max_connections=64),
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
        ObstoreAsync("obstore-async"),
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
