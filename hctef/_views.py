"""Views of resident bytes without a copy: memoryviews that pin what they show, and arrays over them."""

from __future__ import annotations

import inspect
import math
import operator
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from hctef._arena import Arena
from hctef._ranges import ByteRange, checked_range
from hctef._remote import UNWATCHED, Remote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

    from hctef._intervals import Pin
    from hctef._progress import Watch

READ_ONLY = "a RemoteBuffer is read-only"


_exports: dict[int, tuple[memoryview, weakref.ref[Remote], Pin | None]] = {}
"""By `id(view)`: what `__buffer__` handed out and `__release_buffer__` has not taken back.

The garbage collector may clear an exporter before it takes its view back: what is to be unpinned stands here, not
there. And it must not come upon the view itself: before CPython 3.12.7 it clears memoryviews that are in use
(gh-77894), and the process crashes.
"""


def export(remote: Remote, arena: Arena, start: int, stop: int, pin: Pin | None = None) -> memoryview:
    """What a `__buffer__` returns: `[start, stop)` of an arena. `pin` is let go when `take_back` gets it."""
    view = arena.view(start, stop)
    _exports[id(view)] = view, weakref.ref(remote), pin
    return view


def take_back(view: memoryview) -> None:
    """What a `__release_buffer__` does."""
    found = _exports.pop(id(view), None)
    view.release()
    if found is not None and (remote := found[1]()) is not None:
        remote.unpin(found[2])


class _Pinned:
    """Exports a range, and unpins it when the last view of it is gone."""

    def __init__(self, remote: Remote, arena: Arena, extent: ByteRange, pin: Pin | None) -> None:
        self._remote, self._arena, self._extent, self._pin = remote, arena, extent, pin

    def __buffer__(self, flags: int, /) -> memoryview:
        if flags & inspect.BufferFlags.WRITABLE:
            raise BufferError(READ_ONLY)
        pin, self._pin = self._pin, None
        return export(self._remote, self._arena, *self._extent, pin)

    def __release_buffer__(self, view: memoryview, /) -> None:
        take_back(view)


def pinned_view(remote: Remote, arena: Arena, extent: ByteRange, pin: Pin | None) -> memoryview:
    """A read-only view of an extent that is resident in `arena`; it takes over its pin."""
    return _kept(memoryview(_Pinned(remote, arena, extent, pin)))


def _kept(view: memoryview) -> memoryview:
    """The same of an array that keeps `view`: of a memoryview np.ndarray(buffer=…) keeps what that is a view of alone,
    which lets go of its memory with the view where its class is Python's (PEP 688)."""
    import numpy as np  # noqa: PLC0415  # takes as long as all the rest

    return memoryview(np.frombuffer(view, "u1")) if len(view) else view


def loaded_view(remote: Remote, extent: ByteRange, watch: Watch | None = None) -> memoryview:
    """A read-only view of an extent, which is fetched first, and stays while the view lives. `watch`: of what this is a
    part of."""
    watch = watch or remote.watch(extent)
    with watch or UNWATCHED:  # around the view, which lets the pin go where the last report raises
        while True:
            arena = remote.planner.arena
            pin = remote.load(*extent, watch)
            if remote.planner.arena is arena:
                return pinned_view(remote, arena, extent, pin)
            remote.unpin(pin)  # the pager took over meanwhile


def array_extent(
    dtype: DTypeLike, shape: int | Sequence[int] | None, offset: SupportsIndex, order: str, size: int
) -> tuple[np.dtype[Any], tuple[int, ...], ByteRange]:
    """The dtype, the dimensions and the bytes of an array in a file of `size` bytes. Raises ValueError: see `array`."""
    import numpy as np  # noqa: PLC0415  # takes as long as all the rest

    kind: np.dtype[Any] = np.dtype(dtype)
    if kind.hasobject:
        raise ValueError("an array of objects cannot lie in a file")
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    begin = operator.index(offset)
    checked_range(begin, None, size)
    if shape is None:
        shape = ((size - begin) // max(kind.itemsize, 1),)
    dims = tuple(map(operator.index, shape)) if isinstance(shape, Sequence) else (operator.index(shape),)
    if any(n < 0 for n in dims):
        raise ValueError(f"negative dimensions are not allowed: {dims}")
    return kind, dims, checked_range(begin, begin + math.prod(dims) * kind.itemsize, size)


def array_over(view: memoryview, kind: np.dtype[Any], dims: tuple[int, ...], order: str) -> NDArray[Any]:
    """A read-only array over a view, which it keeps."""
    import numpy as np  # noqa: PLC0415  # as above

    return np.ndarray(dims, kind, buffer=_kept(view), order="C" if order == "C" else "F")
