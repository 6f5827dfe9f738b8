"""RemoteBuffer: a remote file as an mmap."""

from __future__ import annotations

import inspect
import logging
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, Unpack, overload

from hctef._advice import checked_advice
from hctef._cursor import FIND_BYTES, find_windows, sought, strided
from hctef._options import BufferOptions, UrlSource
from hctef._paging import paging_support
from hctef._ranges import PAGE, checked_range
from hctef._reader import SHIFT, SLOTS
from hctef._remote import CLOSED, UNWATCHED, Remote
from hctef._sync_reader import SyncReader
from hctef._views import READ_ONLY, array_extent, array_over, export, loaded_view, take_back
from hctef.exceptions import PagerError
from hctef.http_file import HttpFile

log = logging.getLogger("hctef")

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from hctef.aio import AsyncRemoteBuffer

_PART = "take buf.view(a, b), a part of it"


class RemoteBuffer(SyncReader):
    """The bytes behind an http(s) URL, as a read-only `mmap.mmap` has a file's. Opens on construction.

    `buf[a:b]` is bytes; `view(a, b)`, `array(…)`, `memoryview(buf)`, `np.frombuffer(buf)` are views without a copy.
    What is touched is fetched by Range requests, each byte at most once. Safe to share between threads.

    Where `paging` is 'fault' (Linux with userfaultfd, see `hctef.paging_support`), an export (`memoryview(buf)`,
    `np.frombuffer(buf)`, `array(…)`) fetches nothing: the pages that are touched are fetched then, by a helper process,
    and a touch that cannot be served within `fault_timeout` seconds is a SIGBUS, as with an mmap whose disk fails.
    Where it is 'fill', an export fetches all of the buffer first, up to `max_export_bytes`. `view(a, b)` fetches its
    range before it returns, in both. Who takes a memoryview of it for an array takes `np.frombuffer`: of
    `np.ndarray(buffer=memoryview(buf))` nobody keeps the memory.

    A thread that touches an absent page may hold the GIL while it waits: a server, a proxy or an event loop in a thread
    of the same process cannot answer it then. Fetch what is touched there first (`view`, `prefetch`), or take
    `paging='fill'`; docs/pager.md says more.

    Args:
        url: an http(s) URL, or a callable that returns one and is asked again when the server says that it has expired.
        paging: 'auto', 'fault' or 'fill': see above.
        fault_timeout: seconds that a touch waits for the network before it is a SIGBUS.
        max_export_bytes: where paging is 'fill', the largest buffer that is exported as a whole.
        options: the others are HttpFile's, but that nothing is fetched on open by default (`prefetch_bytes=0`).

    Raises:
        PagerError: `paging='fault'`, and this system does not allow it; `hctef.paging_support()` says why.
        HctefUrlError, TypeError, ValueError, HctefNetworkError and its kinds: as HttpFile.
    """

    __slots__ = (*SLOTS, "_exported", "_filled")

    _kind = "RemoteBuffer"
    _known = frozenset(BufferOptions.__annotations__)
    _buffer = True
    _instead_of_a_copy = "file() gives a cursor on the same pages, view(a, b) a part of them"

    def __init__(self, url: UrlSource, **options: Unpack[BufferOptions]) -> None:
        check_paging(options)
        self._start(url, options)

    def _detach(self) -> None:
        super()._detach()
        self._filled = False

    @property
    def paging(self) -> str:
        """'fault': the pages of a view are fetched when they are touched; 'fill': before the view is handed out."""
        return self._open().paging

    # indexing

    def __len__(self) -> int:
        return self._open().size

    @overload
    def __getitem__(self, key: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: Any) -> int | bytes:
        """`buf[i]` as int, `buf[a:b]` and `buf[a:b:s]` as bytes, by the rules of `bytes`.

        Raises:
            IndexError: `i` lies outside of the file.
            ValueError: closed.
            HctefNetworkError: the bytes could not be fetched.
        """
        try:
            start, stop = key.start, key.stop
            # numpy's integers count in ways of their own. Nothing is called from here on: nobody closes it meanwhile.
            if 0 <= start < stop <= self._size and type(length := stop - start) is int and length <= PAGE:
                rows = self._rows
                if rows[start >> SHIFT] and rows[(stop - 1) >> SHIFT]:
                    if self._bounded:
                        rows[start >> SHIFT] = rows[(stop - 1) >> SHIFT] = 2
                    self._hits += 1
                    self._hit_bytes += length
                    return self._bytes[key]  # type: ignore[no-any-return]
        except (AttributeError, TypeError, ValueError, OverflowError):  # no slice, or not of two ints: below
            pass
        if isinstance(key, slice):
            return self._slice(key)
        try:
            index = operator.index(key)
        except TypeError:
            raise TypeError(f"indices must be integers or slices, not {type(key).__name__}") from None
        size = self._open().size
        if index < 0:
            index += size
        if not 0 <= index < size:
            raise IndexError("index out of range")
        return self._copy(index, index + 1)[0]

    def _slice(self, key: slice) -> bytes:
        extent, single, step = strided(*key.indices(self._open().size))
        if single is None:
            return self._copy(*extent)[::step]
        return b"".join(self.read_bytes((at, at + 1) for at in single))

    def read_bytes(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[bytes]:
        """The bytes of `(start, stop)` ranges, copied. See `HttpFile.read_ranges`."""
        return self._copies(ranges)

    def __iter__(self) -> Iterator[int]:
        at, size = 0, self._open().size
        while at < size:
            stop = min(size, at + FIND_BYTES)
            yield from self._copy(at, stop)
            at = stop

    def __reversed__(self) -> Iterator[int]:
        at = self._open().size
        while at > 0:
            start = max(0, at - FIND_BYTES)
            yield from reversed(self._copy(start, at))
            at = start

    def __contains__(self, item: object) -> bool:
        """Whether a byte (an integer) or a sequence of bytes occurs, as in `bytes`."""
        try:
            byte = operator.index(item)  # type: ignore[arg-type]  # it raises the TypeError
        except TypeError:
            return self.find(memoryview(item), 0) >= 0  # type: ignore[arg-type]  # as above
        if not 0 <= byte < 256:
            raise ValueError("byte must be in range(0, 256)")
        return self.find(bytes((byte,)), 0) >= 0

    def __bool__(self) -> bool:
        return self._open().size > 0

    # as mmap.mmap

    def size(self) -> int:  # type: ignore[override]  # mmap's method, where files have a property
        """Bytes in the file."""
        return self._open().size

    def find(self, sub: Any, start: SupportsIndex | None = None, end: SupportsIndex | None = None) -> int:
        """The lowest index of `sub` in `[start, end)`, -1 where it is not. As in mmap, `start` defaults to the
        position."""
        needle, low, high = self._sought(sub, start, end)
        at, (window, most) = low, find_windows(self._open().planner.window)
        if low + len(needle) > high:
            return -1
        if not needle:
            return low
        watch = self._open().watch((low, high))
        with watch or UNWATCHED:
            while at + len(needle) <= high:
                stop = self._resident_end(at, min(high, at + most))
                if stop - at < len(needle):
                    stop = min(high, at + max(window, 2 * len(needle)))
                    window = min(2 * window, most)
                found = self._copy(at, stop, watch).find(needle)
                if found >= 0:
                    return at + found
                at = stop - len(needle) + 1
                if watch is not None:
                    watch.keep(at, high)
        return -1

    def rfind(self, sub: Any, start: SupportsIndex | None = None, end: SupportsIndex | None = None) -> int:
        """The highest index of `sub` in `[start, end)`, -1 where it is not."""
        needle, low, high = self._sought(sub, start, end)
        stop, (window, most) = high, find_windows(self._open().planner.window)
        if low + len(needle) > high:
            return -1
        if not needle:
            return high
        watch = self._open().watch((low, high))
        with watch or UNWATCHED:
            while stop - len(needle) >= low:
                at = self._resident_start(max(low, stop - most), stop)
                if stop - at < len(needle):
                    at = max(low, stop - max(window, 2 * len(needle)))
                    window = min(2 * window, most)
                found = self._copy(at, stop, watch).rfind(needle)
                if found >= 0:
                    return at + found
                stop = at + len(needle) - 1
                if watch is not None:
                    watch.keep(low, stop)
        return -1

    def _sought(self, sub: Any, start: SupportsIndex | None, end: SupportsIndex | None) -> tuple[bytes, int, int]:
        needle = bytes(memoryview(sub))
        size = self._open().size
        low, high, _ = slice(self._position if start is None else start, end).indices(size)
        return needle, low, high

    def read(self, n: SupportsIndex | None = None) -> bytes:
        """Read `n` bytes from the position on; all that is left for None or a negative number."""
        with self._taking(n) as (start, stop):
            return self._copy(start, stop)

    def read_byte(self) -> int:
        """Read a byte as an int. Raises ValueError: at the end."""
        while True:
            at = self._position
            if at >= self._open().size:
                raise ValueError("read byte out of range")
            value = self[at]
            if self._advance(at, at + 1):
                return value

    def readline(self) -> bytes:
        """Read up to and including b'\\n', or to the end."""
        return self._take_line(None)

    def seek(self, pos: SupportsIndex, whence: SupportsIndex = 0) -> int:
        """Set the position. Raises ValueError: outside of the file, as in mmap."""
        size = self._open().size
        while True:
            start = self._position
            try:
                target = sought(start, size, pos, whence)
            except ValueError as error:
                raise ValueError("seek out of range" if "position" in str(error) else "unknown seek type") from None
            if target > size:
                raise ValueError("seek out of range")
            if self._advance(start, target):
                return target

    def tell(self) -> int:
        """The position."""
        self._open()
        return self._position

    def madvise(self, option: SupportsIndex, start: SupportsIndex = 0, length: SupportsIndex | None = None) -> None:
        """As `mmap.madvise`: MADV_WILLNEED prefetches in the background, MADV_DONTNEED evicts, MADV_SEQUENTIAL,
        MADV_RANDOM and MADV_NORMAL set the readahead. `start` is a multiple of the page size; other advice is taken
        note of, and nothing done.

        Raises:
            ValueError: `start` lies outside of the file, or the length is negative.
            OSError: EINVAL: no advice of the mmap module's, or `start` is no multiple of the page size.
        """
        advice, extent = checked_advice(option, start, length, self._open().size)
        if advice == "willneed":
            self.prefetch([(extent.start, extent.length)], wait=False)
        elif advice == "dontneed":
            self.evict(*extent)
        elif advice:
            self._open().advise(advice)

    # views

    def view(self, start: SupportsIndex = 0, stop: SupportsIndex | None = None) -> memoryview:
        """`[start, stop)` as a read-only memoryview without a copy: fetched before it returns, not evicted while it
        lives.

        Raises:
            ValueError: not inside the file, or closed.
            HctefNetworkError: the bytes could not be fetched.
        """
        remote = self._open()
        return loaded_view(remote, checked_range(start, stop, remote.size))

    def read_ranges(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[memoryview]:
        """Views of `(start, stop)` ranges, in their order: near ones in one request, several requests at once."""
        checked, watch = self._watched(ranges)
        with watch or UNWATCHED:
            self._fetch_together(checked, watch)
            return [loaded_view(self._open(), item, watch) for item in checked]

    def array(
        self, dtype: DTypeLike, shape: int | Sequence[int] | None = None, offset: SupportsIndex = 0, order: str = "C"
    ) -> NDArray[Any]:
        """A read-only ndarray over the file's bytes from `offset` on, without a copy; where paging is 'fault', lazy.

        Args:
            dtype: of the elements; no objects.
            shape: None: one dimension, as many whole elements as there are.
            offset: bytes.
            order: 'C' or 'F'.

        Raises:
            ValueError: it does not lie inside the file, or the dtype holds objects.
            HctefNetworkError: the bytes could not be fetched.
        """
        remote = self._open()
        kind, dims, extent = array_extent(dtype, shape, offset, order, remote.size)
        if extent.length and self._pages_by_fault(remote):
            return array_over(memoryview(self)[extent.start : extent.stop], kind, dims, order)
        return array_over(loaded_view(remote, extent), kind, dims, order)

    def __buffer__(self, flags: int, /) -> memoryview:
        """The buffer protocol (PEP 688): all of the file, read-only; where paging is 'fill', fetched first."""
        if flags & inspect.BufferFlags.WRITABLE:
            raise BufferError(READ_ONLY)
        remote = self._open()
        if not self._pages_by_fault(remote):
            self._fill(remote)
        view = export(remote, remote.planner.arena, 0, remote.size)
        self._exported = view.obj  # np.ndarray(buffer=buf) keeps this object alone: so this keeps the mapping
        return view

    def __release_buffer__(self, view: memoryview, /) -> None:
        """Its being there also makes np.frombuffer keep the view rather than this object alone."""
        take_back(view)

    def _pages_by_fault(self, remote: Remote) -> bool:
        """Whether absent pages are filled when they are touched from now on. Raises PagerError: it was asked for."""
        if remote.paging == "fault":
            try:
                remote.page_by_fault()
            except PagerError as error:
                if remote.options.paging == "fault":
                    raise
                # A log that kept the error would keep its frames, and so the arena.
                log.warning("demand paging failed, views are filled first from now on: %s", str(error))
                remote.paging = "fill"
        return remote.planner.pager is not None

    def _fill(self, remote: Remote) -> None:
        """Fetch all of the file, for a view that nobody keeps account of."""
        if self._filled:
            return
        if remote.resident_bytes < remote.size:
            limit, hint = remote.options.max_export_bytes, f"a view of all of it is fetched first ({_why(remote)})"
            if remote.size > limit:
                raise BufferError(f"{remote.size} bytes are more than max_export_bytes, {limit}: {hint}: {_PART}")
            if remote.size > (remote.options.max_resident_bytes or remote.size):
                raise BufferError(f"{remote.size} bytes are more than max_resident_bytes: {hint}: {_PART}")
        watch = remote.watch((0, remote.size))
        with watch or UNWATCHED:
            pin = remote.load(0, remote.size, watch)
            remote.pin_forever()
            remote.unpin(pin)
        self._filled = True

    # cursors on the same pages

    def aio(self) -> AsyncRemoteBuffer:
        """The AsyncRemoteBuffer on the same pages, for the event loop that first awaits it; to be closed there. A
        `pool` of yours (its proxy, its headers, its certificates) is not for it: a warning says so.

        Raises ImportError: aiohttp is not installed (`pip install aiohttp`).
        """
        from hctef.aio import AsyncRemoteBuffer  # noqa: PLC0415  # an extra

        if self._open().options.pool is not None:
            log.warning("%s: what is read under asyncio does not go by your pool", self._open().safe_url)
        return AsyncRemoteBuffer._on(self._open(), None, owner=True)

    def file(self) -> HttpFile:
        """An HttpFile on the same pages, at position 0."""
        return HttpFile._sharing(self._open())

    # ends

    def close(self) -> None:
        """Close. Idempotent; views that live stay valid, and keep the memory until the last of them goes."""
        self._release()

    def __enter__(self) -> Self:
        if self.closed:
            raise ValueError(CLOSED)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:  # noqa: SIM105  # at the interpreter's end modules may be gone, contextlib among them
            self._release(garbage=True)
        except Exception:  # noqa: BLE001  # as above
            pass


def _why(remote: Remote) -> str:
    """Why views are filled first."""
    if remote.options.paging == "fill":
        return "paging is 'fill'"
    support = paging_support()
    reason = (remote._why_fill() or "it failed before") if support else support.reason
    return f"paging is 'fill', not by fault: {reason}"


def check_paging(options: Mapping[str, Any]) -> None:
    """Raises PagerError: `paging='fault'`, and the system does not allow it."""
    if options.get("paging") == "fault" and not paging_support():
        raise PagerError(f"paging='fault' is not possible here: {paging_support().reason}")


HttpFile._buffer_class = RemoteBuffer
