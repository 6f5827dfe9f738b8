"""Bytes made in place: what a large read returns, without a copy more than it needs and without the GIL.

CPython only, by ctypes, which is imported with this module: it costs as much as all of hctef, so only large reads do.
"""

from __future__ import annotations

import ctypes
from typing import Any

from hctef._huge import HUGE, huge_pages


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
    try:  # an interrupt may come when it was got; what was not, is released by doing nothing
        _get_buffer(owner, view, 0)
        return view.buf or 0
    finally:
        _release_buffer(view)


def _advise(advice: int, start: int, length: int) -> bool:
    result: int = ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)
    return result == 0


class FreshBytes:
    """A bytes object of `size` bytes whose content is put in before anybody else sees it.

    The C API allows just that: "unless the object was just created using PyBytes_FromStringAndSize(NULL, size)"
    (PyBytes_AsString). It lies in huge pages where they are had quickly: a page fault for each 4 KiB of new memory
    takes longer than copying them.
    """

    def __init__(self, size: int) -> None:
        self._data: bytes = _new(None, size)
        self._at: int = _address(self._data)
        self._tried = -(-self._at // HUGE) * HUGE  # up to where huge pages were asked for

    def put(self, offset: int, source: memoryview) -> None:
        """Copy `source` to `offset`, which must fit, without the GIL."""
        if offset < 0 or offset + len(source) > len(self._data):
            raise ValueError(f"{len(source)} bytes do not fit at {offset} of {len(self._data)}")
        last = min(self._at + offset + len(source) + HUGE, self._at + len(self._data)) // HUGE * HUGE
        while self._tried < last and huge_pages.populate(_advise, self._tried):
            self._tried += HUGE
        self._tried = max(self._tried, last)
        ctypes.memmove(self._at + offset, address(source), len(source))

    def take(self) -> bytes:
        """The object, once all of it was put in. Nothing may be put in any more."""
        data, self._data = self._data, b""
        return data
