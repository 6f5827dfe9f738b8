"""Whether demand paging is possible here, and why not.

The probe does what a FaultingArena will do, with two pages: whatever refuses it (a kernel without userfaultfd, a
container's seccomp filter, `ulimit -v`) is the reason, in words.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from typing import NamedTuple

ADDRESS_SPACE = 1 << 40
"""Bytes of address space that must be free: files are mapped whole, however large."""


class PagingSupport(NamedTuple):
    """What `hctef.paging_support()` found. True where demand paging is possible."""

    available: bool
    mode: str | None
    """'full'; 'user-mode-only': a system call that is given an absent page gets EFAULT (os.write of a view: take
    `buf.view(a, b)`, whose bytes are resident); None where it is not available."""
    features: frozenset[str]
    """The kernel's: 'missing-shmem', 'thread-id', 'exact-address', 'poison'."""
    reason: str
    """Why it is, or is not, available."""

    def __bool__(self) -> bool:
        return self.available


def paging_support() -> PagingSupport:
    """Whether views of a RemoteBuffer can be filled when they are touched (`paging='fault'`), how, and why not.

    Linux with userfaultfd(2) can. Costs a fraction of a millisecond once a process; starts nothing and asks no server.
    The environment variable HCTEF_PAGING is a wish: 'fill', 'user-mode-only', 'auto'.
    """
    return _probe(os.environ.get("HCTEF_PAGING", ""))


@functools.cache
def _probe(wish: str) -> PagingSupport:
    if wish == "fill":
        return _unavailable("the environment says so: HCTEF_PAGING=fill")
    if wish not in ("", "auto", "fault", "user-mode-only"):
        return _unavailable(f"HCTEF_PAGING is {wish!r}; it may be 'fill', 'user-mode-only' or 'auto'")
    if sys.platform != "linux":
        return _unavailable(f"{sys.platform} has no userfaultfd: only Linux does")
    if getattr(sys, "frozen", False) or not sys.executable:
        return _unavailable("there is no Python interpreter to run the pager with (sys.executable)")
    if not hasattr(os, "pidfd_open") or not hasattr(os, "memfd_create"):
        return _unavailable("this Python was built without os.pidfd_open or os.memfd_create")
    try:
        from hctef._faulting import self_test  # noqa: PLC0415  # as below
        from hctef._shared_memory import check_address_space  # noqa: PLC0415  # ctypes, and Linux only
    except ImportError as error:
        return _unavailable(f"ctypes cannot be used: {error}")
    try:
        check_address_space(ADDRESS_SPACE)
    except OSError as error:
        import resource  # noqa: PLC0415  # Unix only

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        of = "" if limit == resource.RLIM_INFINITY else f" (ulimit -v is {limit // 1024} KiB)"
        return _unavailable(
            f"files are mapped whole, and 1 TiB of address space is not to be had: {error.strerror}{of}"
        )
    try:
        mode, features = self_test(user_mode_only=wish == "user-mode-only")
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "error")
        hint = ""
        if error.errno == errno.EPERM:
            hint = "; a container's seccomp filter, or vm.unprivileged_userfaultfd, forbids it"
        return _unavailable(f"userfaultfd: {name}: {error.strerror or error}{hint}")
    words = "also in system calls" if mode == "full" else "but a system call that is given an absent page gets EFAULT"
    return PagingSupport(True, mode, features, f"userfaultfd works: absent pages are filled when touched, {words}")


def _unavailable(reason: str) -> PagingSupport:
    return PagingSupport(False, None, frozenset(), reason)
