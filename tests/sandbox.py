"""Run a command where something that demand paging needs is not to be had: `python -m tests.sandbox KIND COMMAND…`.

eperm     userfaultfd is EPERM in each of its forms, as under Docker's seccomp filter
enosys    it is ENOSYS, as in gVisor
ulimit    8 GiB of address space, as by `ulimit -v`
nobody    an unprivileged user, who may read this checkout (root only)
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import struct
import sys
from collections.abc import Sequence

KINDS = ("eperm", "enosys", "ulimit", "nobody")

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NEW = 0xAA00  # USERFAULTFD_IOC_NEW, on /dev/userfaultfd
_NUMBERS = {"x86_64": (323, 16), "aarch64": (282, 29)}  # userfaultfd, ioctl


def refuse_userfaultfd(number: int) -> None:
    """Have the system call fail with error `number` from now on, here and in all that this process starts."""
    userfaultfd, ioctl = _NUMBERS[os.uname().machine]
    program = [
        (_LOAD, 0, 0, 0),  # the system call's number
        (_JUMP_IF_EQUAL, 4, 0, userfaultfd),
        (_JUMP_IF_EQUAL, 0, 2, ioctl),
        (_LOAD, 0, 0, 24),  # its second argument
        (_JUMP_IF_EQUAL, 1, 0, _NEW),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | number),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    filters = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filters), 0, 0),
    ):
        if libc.prctl(arguments[0], *map(ctypes.c_ulong, arguments[1:])) < 0:
            raise OSError(ctypes.get_errno(), "prctl")


def why_not(kind: str) -> str | None:
    """Why such a sandbox cannot be had here."""
    if sys.platform != "linux":
        return "Linux only"
    if kind in ("eperm", "enosys") and os.uname().machine not in _NUMBERS:
        return f"no seccomp filter was written for {os.uname().machine}"
    if kind == "nobody" and (os.geteuid() or not shutil.which("setpriv")):
        return "it takes root and setpriv to become nobody"
    return None


def command(kind: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs Python with `arguments` in a sandbox."""
    return [sys.executable, "-m", "tests.sandbox", kind, sys.executable, *arguments]


def main(kind: str, *arguments: str) -> None:
    given = list(arguments)
    match kind:
        case "eperm":
            refuse_userfaultfd(errno.EPERM)
        case "enosys":
            refuse_userfaultfd(errno.ENOSYS)
        case "ulimit":
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        case "nobody":  # it may read: the interpreter lies perhaps where root alone looks
            drop = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-sys_ptrace"]
            keep = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
            given = ["setpriv", *drop, *keep, *given]
        case _:
            raise SystemExit(f"{kind!r} is none of {', '.join(KINDS)}")
    os.execvp(given[0], given)


if __name__ == "__main__":
    main(*sys.argv[1:])
