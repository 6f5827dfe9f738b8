"""AsyncHttpFile: a remote file as an open file, under asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self, SupportsIndex, Unpack

from hctef._async_driver import COPY_BYTES
from hctef._cursor import line, read_stop, sought, writable_bytes
from hctef._options import AsyncFileOptions, UrlSource
from hctef._ranges import checked_range
from hctef.aio._reader import ASYNC_SLOTS, AsyncReader

LET_OTHERS = 14
"""Lines that are in memory make nobody wait: other tasks have their turn each 16 KiB."""

if TYPE_CHECKING:
    from hctef.aio.remote_buffer import AsyncRemoteBuffer


class AsyncHttpFile(AsyncReader):
    """`HttpFile` under asyncio: `async with AsyncHttpFile(url) as f`, or `f = await AsyncHttpFile(url).open()`.

    The same options, with `session` (an `aiohttp.ClientSession`, never closed by hctef) in place of `pool`. `seek`,
    `tell`
    and `clone` are plain calls. A cancelled read harms nobody else's. It belongs to the event loop that opened it.

    Raises:
        HctefUrlError, TypeError, ValueError: on construction, as HttpFile; the errors of the network come from `open`.
    """

    __slots__ = (*ASYNC_SLOTS, "_breathed")

    _breathed: int
    """Where in its lines other tasks had their turn last."""

    _kind = "AsyncHttpFile"
    _known = frozenset(AsyncFileOptions.__annotations__)
    _buffer_class: ClassVar[type[AsyncRemoteBuffer]]
    """Set by `remote_buffer.py`, which knows this module: imports point one way."""

    def __init__(self, url: UrlSource, **options: Unpack[AsyncFileOptions]) -> None:
        self._prepare(url, options)

    def _detach(self) -> None:
        super()._detach()
        self._breathed = 0

    @property
    def buffer(self) -> AsyncRemoteBuffer:
        """An AsyncRemoteBuffer on the same pages."""
        return self._buffer_class._on(self._open(), self._driver)

    def seek(self, offset: SupportsIndex, whence: SupportsIndex = 0) -> int:
        """See `HttpFile.seek`."""
        self._position = sought(self._position, self._open().size, offset, whence)
        return self._position

    def tell(self) -> int:
        """See `HttpFile.tell`."""
        self._open()
        return self._position

    async def read(self, size: SupportsIndex | None = -1) -> bytes:
        """See `HttpFile.read`. Cancelled, the position stays."""
        with self._taking(size) as (start, stop):
            return await self._copy(start, stop)

    async def readinto(self, buffer: Any) -> int:
        """See `HttpFile.readinto`."""
        self._open()
        target = writable_bytes(buffer)
        with self._taking(len(target)) as (start, stop):
            target = target[: stop - start]
            if target and (len(target) > COPY_BYTES or not self._hit_into(target, start)):
                remote = self._open()
                watch = remote.watch((start, stop))
                await self._await(remote.planner.copy_into(target, start, COPY_BYTES, watch), watch)
        return len(target)

    async def readline(self, size: SupportsIndex | None = -1) -> bytes:
        """See `HttpFile.readline`."""
        while True:
            start = self._position
            stop = read_stop(start, self._open().size, size)
            found = self._hit_line(start, stop) if start < stop else b""
            if found is None:
                found = await self._far_line(start, stop)
            if self._advance(start, start + len(found)):
                return found

    async def _far_line(self, start: int, stop: int) -> bytes:
        """The line that begins at `start`, fetched piece by piece."""
        scan = line(start, stop, self._open().planner.window)
        wanted = next(scan)
        try:
            while True:
                wanted = scan.send(await self._copy(*wanted))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # what `line` returns

    def __aiter__(self) -> Self:
        self._open()
        return self

    async def __anext__(self) -> bytes:
        if self._position >> LET_OTHERS != self._breathed:
            self._breathed = self._position >> LET_OTHERS
            await asyncio.sleep(0)  # before the line is taken: who is cancelled here loses none
        found = await self.readline()
        if not found:
            raise StopAsyncIteration
        return found

    async def read_ranges(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[bytes]:
        """See `HttpFile.read_ranges`."""
        return await self._copies(ranges)

    def stream(self, start: SupportsIndex = 0, stop: SupportsIndex | None = None) -> AsyncIterator[bytes]:
        """See `HttpFile.stream`; an asynchronous iterator."""
        return self._stream(*checked_range(start, stop, self._open().size))
