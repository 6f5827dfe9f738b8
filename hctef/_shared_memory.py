"""Memory that processes share: files without a path (memfd), their mappings, and what the mmap module leaves out.

Linux only, and imported only where demand paging is wanted.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Iterator

from hctef._memory import high
from hctef._raw import address

_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE; the os module has no fallocate with flags

_NOWHERE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE; mmap has it from 3.13 on
_FIXED, _FIXED_NOREPLACE = 0x10, 0x100000
_DONTFORK, _NOHUGEPAGE, _DONTDUMP = 10, 15, 16
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


def memfd(name: str, size: int) -> int:
    """A file of `size` bytes in memory, without a path, sparse. Raises OSError."""
    fd = high(os.memfd_create(f"hctef-{name}", os.MFD_CLOEXEC))
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def shared[M: mmap.mmap](fd: int, size: int, kind: type[M], *, readable: bool = True) -> M:
    """The first `size` bytes of a memfd, mapped for all processes that map it: read-only, or not to be touched yet."""
    found = kind(-1, size, _NOWHERE, 0)  # of `fd` Python would keep a descriptor of its own, with any number
    replace(address(found), size, fd, readable=readable)
    return found


def not_garbage(owner: object) -> None:
    """Have the garbage collector leave an object alone, that refers to none: it goes when its last reference goes.

    Else the collector runs a weak reference's callback as soon as it finds a circle that holds the object: before the
    finalizers in the circle, which may use it.
    """
    ctypes.pythonapi.PyObject_GC_UnTrack(ctypes.py_object(owner))


def immortal(owner: object) -> None:
    """Keep an object for ever."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


def punch(fd: int, start: int, length: int) -> None:
    """Give the pages of a range of a memfd back to the system: whoever maps them finds them absent. Raises OSError."""
    offsets = ctypes.c_int64(start), ctypes.c_int64(length)
    while _libc.fallocate(fd, _PUNCH_HOLE, *offsets) < 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, f"fallocate: {os.strerror(number)}")


def populated(fd: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The runs of pages that a memfd holds in `[start, stop)`: what is really there, whoever put it there."""
    while start < stop:
        try:
            begin = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing from here to the end
                return
            raise
        if begin >= stop:
            return
        start = min(stop, os.lseek(fd, begin, os.SEEK_HOLE))
        yield begin, start


@contextlib.contextmanager
def below(size: int) -> Iterator[None]:
    """What is mapped in here leaves the next `size` bytes of address space free, where there are as many.

    The kernel takes the highest room that fits. A child that does not inherit a mapping has room there: were it the
    highest, the child's own memory would be there before the mapping is put back.
    """
    try:
        filler = _map(None, size, 0, _NOWHERE, -1)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        _libc.munmap(ctypes.c_void_p(filler), ctypes.c_size_t(size))


def check_address_space(size: int) -> None:
    """Raises OSError: this process may not have `size` bytes of address space more."""
    _libc.munmap(ctypes.c_void_p(_map(None, size, 0, _NOWHERE, -1)), ctypes.c_size_t(size))


def reserve(at: int, size: int) -> None:
    """Have nothing that can be touched at an address. Raises OSError: it is not free."""
    found = _map(at, size, 0, _NOWHERE | _FIXED_NOREPLACE, -1)
    if found != at:  # a kernel before 4.17 takes the address for a hint
        _libc.munmap(ctypes.c_void_p(found), ctypes.c_size_t(size))
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def replace(at: int, size: int, fd: int | None, *, readable: bool = False) -> None:
    """Map a memfd, or, for None, what `reserve` does, in place of what is there. Raises OSError."""
    if fd is None:
        _map(at, size, 0, _NOWHERE | _FIXED, -1)
    else:
        _map(at, size, mmap.PROT_READ if readable else 0, mmap.MAP_SHARED | _FIXED, fd)


def allow_reading(at: int, size: int) -> None:
    """Have a mapping that is not to be touched readable. Raises OSError."""
    if _libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(size), mmap.PROT_READ) < 0:
        raise _error()


def _map(at: int | None, size: int, prot: int, flags: int, fd: int) -> int:  # mmap(2)'s own
    found: int = _libc.mmap(ctypes.c_void_p(at), ctypes.c_size_t(size), prot, flags, fd, ctypes.c_int64(0))
    if found == _FAILED:
        raise _error()
    return found


def do_not_fork(at: int, size: int) -> None:
    """Keep a mapping out of forked children. Raises OSError."""
    if _libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), _DONTFORK) < 0:
        raise _error()


def no_huge_pages(at: int, size: int) -> None:
    """Have a mapping's pages stay small. A kernel that has no huge pages says no, and means the same."""
    _libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), _NOHUGEPAGE)


def do_not_dump(at: int, size: int) -> None:
    """Leave a mapping out of core dumps: for one of 64 GiB the kernel would look for 95 s at what is not there."""
    _libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), _DONTDUMP)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
