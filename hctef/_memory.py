"""Anonymous mappings that take memory only where they are written, however large, and are in no core dump; and a
descriptor's number."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys

_COMMON = ("x86_64", "aarch64", "riscv64", "s390x", "i686", "armv7l")  # Linux numbers it otherwise elsewhere
_LINUX = sys.platform == "linux" and os.uname().machine in _COMMON
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if _LINUX else 0)  # the mmap module has it from 3.13 on
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def anonymous(size: int) -> mmap.mmap:
    """`size` bytes of zeros (at least one), private. Raises OSError where there is no such address space."""
    try:
        found = mmap.mmap(-1, max(size, 1), flags=_ANONYMOUS | _NORESERVE)
    except (OverflowError, ValueError) as error:
        raise OSError(f"{size} bytes are more than can be mapped") from error
    if hasattr(mmap, "MADV_DONTDUMP"):
        with contextlib.suppress(OSError):  # what a kernel without it does: a dump looks at each page, absent ones too
            found.madvise(mmap.MADV_DONTDUMP)
    return found


def high(fd: int) -> int:
    """The same file under a number that is not 0, 1 or 2: a program that closed those may write to them, or put other
    files there. Takes over the descriptor. Raises OSError."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)
