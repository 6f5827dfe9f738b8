"""Anonymous mappings that take memory only where they are written, however large, and are in no core dump; how much
memory is free; and a descriptor's number."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

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


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may still take without pushing out others: what the kernel believes to be
    available (proc_meminfo(5)), or what the limits of its control groups leave (cgroups(7)), whichever is less. Half
    of all there is, where neither can be asked. `root`: where /proc and /sys are."""
    available = re.search(r"^MemAvailable:\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    if available is not None:
        return min([int(available[1]) * 1024, *_left_by_groups(root)])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError):  # no such name on this system
        return _USUAL


_USUAL = 4 << 30
_UNIFIED = ("memory.max", "memory.current", "inactive_file")
_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group that this process is in leaves it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        most, used, reclaimable = _FIRST if controllers else _UNIFIED
        group = PurePosixPath(path.lstrip("/"))
        # In a container the path may be the host's, of which nothing is to be seen but what is mounted at the top.
        for directory in (top / group, *(top / parent for parent in group.parents)):
            limit, usage = _text(directory / most).strip(), _text(directory / used).strip()
            if limit.isdecimal() and usage.isdecimal():
                files = re.search(rf"^{reclaimable} (\d+)$", _text(directory / "memory.stat"), re.MULTILINE)
                yield max(0, int(limit) - int(usage) + (int(files[1]) if files else 0))


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""


def high(fd: int) -> int:
    """The same file under a number that is not 0, 1 or 2: a program that closed those may write to them, or put other
    files there. Takes over the descriptor. Raises OSError."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)
