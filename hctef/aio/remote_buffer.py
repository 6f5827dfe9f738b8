"""AsyncRemoteBuffer: a remote file as memory, under asyncio."""

from __future__ import annotations

import logging
import operator
from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, Unpack, overload

from hctef._cursor import strided
from hctef._options import AsyncBufferOptions, UrlSource
from hctef._progress import Watch
from hctef._ranges import ByteRange, checked_range
from hctef._remote import UNWATCHED
from hctef._views import array_extent, array_over, pinned_view
from hctef.aio._reader import ASYNC_SLOTS, AsyncReader
from hctef.aio.http_file import AsyncHttpFile
from hctef.exceptions import PagerError
from hctef.remote_buffer import RemoteBuffer

log = logging.getLogger("hctef")

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


class AsyncRemoteBuffer(AsyncReader):
    """`RemoteBuffer` under asyncio: `await buf[a:b]`, `await buf[i]`, `await buf.load(a, b)`.

    It has no buffer protocol: a fault would stop the event loop. `buf.sync` is the RemoteBuffer on the same pages.
    """

    __slots__ = ASYNC_SLOTS

    _kind = "AsyncRemoteBuffer"
    _buffer = True
    _known = frozenset(AsyncBufferOptions.__annotations__)

    def __init__(self, url: UrlSource, **options: Unpack[AsyncBufferOptions]) -> None:
        if dict(options).get("paging") == "fault":
            raise PagerError("paging='fault' is RemoteBuffer's: a fault would stop the event loop")
        self._prepare(url, options)

    def __len__(self) -> int:
        return self._open().size

    @overload
    def __getitem__(self, key: SupportsIndex) -> Awaitable[int]: ...
    @overload
    def __getitem__(self, key: slice) -> Awaitable[bytes]: ...
    def __getitem__(self, key: Any) -> Awaitable[Any]:
        """`await buf[i]` -> int, `await buf[a:b]`, `await buf[a:b:s]` -> bytes, by the rules of `bytes`."""
        return self._item(key)

    async def _item(self, key: Any) -> int | bytes:
        size = self._open().size
        if isinstance(key, slice):
            extent, single, step = strided(*key.indices(size))
            if single is None:
                return (await self._copy(*extent))[::step]
            return b"".join(await self._copies((at, at + 1) for at in single))
        index = operator.index(key)
        index += size if index < 0 else 0
        if not 0 <= index < size:
            raise IndexError("index out of range")
        return (await self._copy(index, index + 1))[0]

    # Python would make loops of `__getitem__`, over coroutines and without an end.
    __iter__ = __contains__ = __reversed__ = None

    async def load(self, start: SupportsIndex = 0, stop: SupportsIndex | None = None) -> memoryview:
        """`[start, stop)` as a read-only memoryview without a copy, not evicted while it lives. See
        `RemoteBuffer.view`."""
        return await self._view(checked_range(start, stop, self._open().size))

    async def read_ranges(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[memoryview]:
        """See `RemoteBuffer.read_ranges`."""
        checked, watch = self._watched(ranges)
        with watch or UNWATCHED:
            await self._fetch_together(checked, watch)
            return [await self._view(extent, watch) for extent in checked]

    async def array(
        self, dtype: DTypeLike, shape: int | Sequence[int] | None = None, offset: SupportsIndex = 0, order: str = "C"
    ) -> NDArray[Any]:
        """A read-only ndarray without a copy, whose bytes are resident. See `RemoteBuffer.array`."""
        kind, dims, extent = array_extent(dtype, shape, offset, order, self._open().size)
        return array_over(await self._view(extent), kind, dims, order)

    async def _view(self, extent: ByteRange, watch: Watch | None = None) -> memoryview:
        remote = self._open()
        watch = watch or remote.watch(extent)
        with watch or UNWATCHED:  # as in `loaded_view`
            while True:
                arena = remote.planner.arena
                pin = await self._await(remote.planner.read(*extent, hold=True), watch)
                if remote.planner.arena is arena:
                    return pinned_view(remote, arena, extent, pin)
                remote.unpin(pin)  # the pager took over meanwhile

    def cursor(self) -> AsyncHttpFile:
        """A cursor on the same pages, at position 0: no request."""
        return AsyncHttpFile._on(self._open(), self._driver)

    @property
    def sync(self) -> RemoteBuffer:
        """The RemoteBuffer on the same pages. What it does not find there it fetches by urllib3, and blocks; not by a
        `session` of yours: a warning says so."""
        if self._open().options.session is not None:
            log.warning("%s: what is read without asyncio does not go by your session", self._open().safe_url)
        return RemoteBuffer._sharing(self._open())


AsyncHttpFile._buffer_class = AsyncRemoteBuffer
