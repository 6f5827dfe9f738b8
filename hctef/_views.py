"""Views of resident bytes without a copy: memoryviews that pin what they show, and arrays over them."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from hctef._ranges import ByteRange, checked_range
from hctef._remote import Remote

if TYPE_CHECKING:
    import numpy as np
    from intervaltree import Interval
    from numpy.typing import DTypeLike, NDArray

READ_ONLY = "a RemoteBuffer is read-only"


class _Pinned:
    """Exports a range, and unpins it when the last view of it is gone."""

    def __init__(self, remote: Remote, extent: ByteRange, pin: Interval | None) -> None:
        self._remote, self._extent, self._pin = remote, extent, pin

    def __buffer__(self, flags: int, /) -> memoryview:
        if flags & inspect.BufferFlags.WRITABLE:
            raise BufferError(READ_ONLY)
        return self._remote.planner.arena.view(*self._extent)

    def __release_buffer__(self, view: memoryview, /) -> None:
        view.release()
        pin, self._pin = self._pin, None
        self._remote.unpin(pin)


def pinned_view(remote: Remote, extent: ByteRange, pin: Interval | None) -> memoryview:
    """A read-only view of a resident extent, which takes over its pin."""
    return memoryview(_Pinned(remote, extent, pin))


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

    return np.ndarray(dims, kind, buffer=view, order="C" if order == "C" else "F")
