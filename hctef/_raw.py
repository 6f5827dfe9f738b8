"""Bytes made in place: what a large read returns, without a copy more than it needs and without the GIL.

CPython only, by ctypes, which is imported with this module: it costs as much as all of hctef, so only large reads do.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

HUGE = 2 * 1024 * 1024
"""Bytes in a huge page, on x86-64 and with 4 KiB pages on others."""


class _Buffer(ctypes.Structure):
    """CPython's Py_buffer, of which only the address is of interest."""

    _fields_ = [("buf", ctypes.c_void_p), ("rest", ctypes.c_byte * 256)]


def _api(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the C API, with types that no other user of `ctypes.pythonapi` sees."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new = _api("PyBytes_FromStringAndSize", ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)
_address = _api("PyBytes_AsString", ctypes.c_void_p, ctypes.py_object)
_get_buffer = _api("PyObject_GetBuffer", ctypes.c_int, ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int)
_release_buffer = _api("PyBuffer_Release", None, ctypes.POINTER(_Buffer))


def address(owner: object) -> int:
    """Where the bytes of an object with the buffer protocol begin. The caller keeps the object alive."""
    view = _Buffer()
    _get_buffer(owner, view, 0)
    try:
        return view.buf or 0
    finally:
        _release_buffer(view)


class FreshBytes:
    """A bytes object of `size` bytes whose content is put in before anybody else sees it.

    The C API allows just that: "unless the object was just created using PyBytes_FromStringAndSize(NULL, size)"
    (PyBytes_AsString). It lies in huge pages where the system has them: a page fault for each 4 KiB of new memory takes
    longer than copying them.
    """

    def __init__(self, size: int) -> None:
        self._data: bytes = _new(None, size)
        self._at: int = _address(self._data)
        first, last = -(-self._at // HUGE) * HUGE, (self._at + size) // HUGE * HUGE
        if first < last and sys.platform == "linux":
            arguments = ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_HUGEPAGE
            ctypes.CDLL(None).madvise(*arguments)  # advice: nothing depends on it

    def put(self, offset: int, source: memoryview) -> None:
        """Copy `source` to `offset`, which must fit, without the GIL."""
        if offset < 0 or offset + len(source) > len(self._data):
            raise ValueError(f"{len(source)} bytes do not fit at {offset} of {len(self._data)}")
        ctypes.memmove(self._at + offset, address(source), len(source))

    def take(self) -> bytes:
        """The object, once all of it was put in. Nothing may be put in any more."""
        data, self._data = self._data, b""
        return data
