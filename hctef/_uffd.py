"""userfaultfd(2) by ctypes and ioctl, and nothing else: no policy, no thread, no process.

Numbers and structures are those of the kernel's include/uapi/linux/userfaultfd.h; the meaning of each call is in
Documentation/admin-guide/mm/userfaultfd.rst and ioctl_userfaultfd(2). docs/pager.md says what was measured of them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hctef._memory import high
from hctef._ranges import PAGE

_SYSCALLS = {"x86_64": 323, "i686": 374, "armv7l": 388, "ppc64le": 364, "s390x": 355, "aarch64": 282, "riscv64": 282}
_USER_MODE_ONLY = 1
_IOC_NEW = 0xAA00  # on /dev/userfaultfd

_API = 0xC018AA3F
_REGISTER = 0xC020AA00
_UNREGISTER = 0x8010AA01
_WAKE = 0x8010AA02
_COPY = 0xC028AA03
_POISON = 0xC020AA08

_REGISTER_MISSING = 1
_EVENT_PAGEFAULT = 0x12
_IOCTLS = {"copy": 1 << 0x03, "wake": 1 << 0x02}
_IOCTL_POISON = 1 << 0x08

FEATURES = {"missing-shmem": 1 << 5, "thread-id": 1 << 8, "exact-address": 1 << 11, "poison": 1 << 14}
"""Those that are asked for where the kernel has them. None of the events: EVENT_FORK hangs a fork."""

_MESSAGE = struct.Struct("<BBHIQQI4x")  # event, 3 reserved, flags, address, thread


class _Copy(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("dst", "src", "len", "mode")] + [("copy", ctypes.c_int64)]


_U64x2, _U64x3, _U64x4 = ctypes.c_uint64 * 2, ctypes.c_uint64 * 3, ctypes.c_uint64 * 4
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


class Fault(NamedTuple):
    """A thread is blocked at `address`, to the byte where the kernel has 'exact-address', else to the page."""

    address: int
    thread: int


class Opened(NamedTuple):
    fd: int
    mode: str
    """'full': a fault in a system call is resolved too; 'user-mode-only': there the call gets EFAULT."""
    features: frozenset[str]


def open_uffd(*, user_mode_only: bool = False) -> Opened:
    """A new descriptor, handshake done: the plain system call, else /dev/userfaultfd, else one for user mode only.

    Raises OSError: none of them is allowed or there; its text says what each answered.
    """
    refusals = []
    for mode, opener in (("full", _open_plain), ("full", _open_device), ("user-mode-only", _open_user_mode)):
        if user_mode_only and mode == "full":
            continue
        try:
            offered = _offered(opener)
            missing = FEATURES["missing-shmem"]
            if not offered & missing:
                raise OSError(errno.ENOSYS, "this kernel's userfaultfd does not know shared memory")
            wanted = {name: bit for name, bit in FEATURES.items() if offered & bit}
            fd = high(opener())
            try:
                _handshake(fd, sum(wanted.values()))
            except BaseException:
                os.close(fd)
                raise
            return Opened(fd, mode, frozenset(wanted))
        except OSError as error:
            refusals.append(error)
    if user_mode_only:
        raise refusals[0]
    plain, device, user = refusals
    message = f"the system call: {plain.strerror}; /dev: {device.strerror}; for user mode only: {user.strerror}"
    raise OSError(plain.errno, message)


def _open_plain(flags: int = 0) -> int:
    number = _SYSCALLS.get(os.uname().machine) if sys.platform == "linux" else None
    if number is None:
        raise OSError(errno.ENOSYS, f"hctef knows no userfaultfd on {sys.platform} {os.uname().machine}")
    fd: int = _libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | flags)
    if fd < 0:
        raise _error()
    return fd


def _open_user_mode() -> int:
    return _open_plain(_USER_MODE_ONLY)


def _open_device() -> int:
    device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    try:
        fd: int = _libc.ioctl(device, _IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(device)
    if fd < 0:
        raise _error()
    return fd


def _offered(opener: Callable[[], int]) -> int:
    """The features that the kernel has: a handshake settles them, so that asking takes a descriptor of its own."""
    fd = opener()
    try:
        return _handshake(fd, 0)
    finally:
        os.close(fd)


def _handshake(fd: int, features: int) -> int:
    request = _U64x3(0xAA, features, 0)
    _ioctl(fd, _API, request)
    return request[1]


def register(fd: int, start: int, length: int) -> frozenset[str]:
    """Have absent pages of a mapping of shared memory reported by `fd`. Returns 'poison' where that is possible.

    Raises OSError: it cannot be; ENOSYS where the kernel cannot resolve what it would report.
    """
    request = _U64x4(start, length, _REGISTER_MISSING, 0)
    _ioctl(fd, _REGISTER, request)
    for name, bit in _IOCTLS.items():
        if not request[3] & bit:
            raise OSError(errno.ENOSYS, f"userfaultfd cannot {name} here")
    return frozenset({"poison"} if request[3] & _IOCTL_POISON else ())


def unregister(fd: int, start: int, length: int) -> None:
    _ioctl(fd, _UNREGISTER, _U64x2(start, length))


def wake(fd: int, start: int, length: int) -> None:
    """Let the threads that are blocked in `[start, start + length)` look again. Those whose page is absent report it
    again. A process that is gone has none."""
    try:
        _ioctl(fd, _WAKE, _U64x2(start, length))
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.ENOENT, errno.EINVAL):
            raise


def copy(fd: int, start: int, source: int, length: int) -> list[tuple[int, int]]:
    """Fill absent whole pages from address `source` on, map them, and wake who waits. Pages that are there already stay
    as they are, and who waits for them is woken. Returns where nothing is mapped that could be filled, as offsets.

    Raises ProcessLookupError: the process of `fd` is gone.
    """
    done, most = 0, length
    unmapped: list[tuple[int, int]] = []
    while done < length:
        request = _Copy(start + done, source + done, min(most, length - done), 0, 0)
        if _libc.ioctl(fd, _COPY, ctypes.byref(request)) == 0:
            done += request.len
            most *= 2
            continue
        number = ctypes.get_errno()
        if number == errno.EAGAIN:  # the mapping changes at this moment, or it was done in part
            done += max(request.copy, 0)
        elif number == errno.EEXIST:  # another was first: its waiter may have been queued after that one's wake-up
            done += max(request.copy, 0)
            wake(fd, start + done, PAGE)
            done += PAGE
        elif number == errno.ENOENT and request.len > PAGE:  # not all of it is one mapping: advice and locks split one
            most = request.len // (2 * PAGE) * PAGE
        elif number == errno.ENOENT:
            begin = unmapped.pop()[0] if unmapped and unmapped[-1][1] == done else done
            done += PAGE
            unmapped.append((begin, done))
        elif number == errno.ESRCH:
            raise ProcessLookupError(number, os.strerror(number))
        else:
            raise OSError(number, f"UFFDIO_COPY: {os.strerror(number)}")
    return unmapped


_ANYTHING = ctypes.create_string_buffer(PAGE)
NOWHERE = 16 * PAGE
"""An address at which nothing is registered: systems keep the first pages from being mapped."""


def lives(fd: int) -> bool:
    """Whether the memory of the descriptor's process is still there: not once it has ended, or runs another program."""
    try:
        copy(fd, NOWHERE, ctypes.addressof(_ANYTHING), PAGE)
    except ProcessLookupError:
        return False
    return True


def poison(fd: int, start: int, length: int) -> None:
    """Make touches of the absent pages of a range a SIGBUS, those that wait too. Raises OSError where it cannot be."""
    done = 0
    while done < length:
        request = _U64x4(start + done, length - done, 0, 0)
        try:
            _ioctl(fd, _POISON, request)
            return
        except OSError as error:
            updated = ctypes.c_int64(request[3]).value
            if error.errno == errno.EAGAIN:
                done += max(updated, 0)
            elif error.errno == errno.EEXIST:
                done += max(updated, 0) + PAGE
            elif error.errno in (errno.ESRCH, errno.ENOENT):
                return
            else:
                raise


def faults(fd: int) -> Iterator[Fault]:
    """The faults that wait to be read, none where there is none."""
    try:
        data = os.read(fd, 64 * _MESSAGE.size)
    except BlockingIOError:
        return
    for event, _, _, _, _, address, thread in _MESSAGE.iter_unpack(data):
        if event == _EVENT_PAGEFAULT:
            yield Fault(address, thread)


def _ioctl(fd: int, request: int, argument: object) -> None:
    if _libc.ioctl(fd, request, ctypes.byref(argument)) < 0:  # type: ignore[arg-type]
        raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
