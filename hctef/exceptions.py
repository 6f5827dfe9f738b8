"""The errors of hctef. Each also is the builtin that a caller of a file or a socket would catch.

    HctefError(Exception)
    ├── HctefUrlError(ValueError)             not an http(s) URL, or one that no request can be made of
    ├── HctefNetworkError(OSError)            transport failed, or the server answered what cannot be used
    │   ├── RangeRequestsUnsupportedError     .reason: 'no-range-support' | 'content-range-hidden'
    │   ├── RemoteFileChangedError            the file is not the one that was opened
    │   ├── RemoteFileNotFoundError(FileNotFoundError)   404, 410
    │   └── RemotePermissionError(PermissionError)       401, 403
    └── PagerError(OSError)                   demand paging cannot go on

A message names what failed, the URL without its userinfo and query values, the byte range, the status and
what to try. No message, attribute or chained cause's text that hctef writes holds a credential.
"""

from __future__ import annotations

import errno

__all__ = [
    "HctefError",
    "HctefNetworkError",
    "HctefUrlError",
    "PagerError",
    "RangeRequestsUnsupportedError",
    "RemoteFileChangedError",
    "RemoteFileNotFoundError",
    "RemotePermissionError",
]


class HctefError(Exception):
    """The root of hctef's errors."""


class HctefUrlError(HctefError, ValueError):
    """Not an http(s) URL, or a URL or header that no request can be made of."""


class HctefNetworkError(HctefError, OSError):
    """The transport failed, or the server answered what cannot be used."""

    status: int | None = None
    """The HTTP status of the answer, where there was one."""

    def __init__(self, message: str = "", *, status: int | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class RangeRequestsUnsupportedError(HctefNetworkError):
    """The server does not answer Range requests with the range (RFC 9110 section 14)."""

    reason: str = "no-range-support"
    """'no-range-support', or 'content-range-hidden': a 206 whose range or total size cannot be learnt."""

    def __init__(self, message: str = "", *, status: int | None = None, reason: str = "no-range-support") -> None:
        super().__init__(message, status=status)
        self.reason = reason


class RemoteFileChangedError(HctefNetworkError):
    """The file is not the one that was opened: its validator or its size differs."""


class RemoteFileNotFoundError(HctefNetworkError, FileNotFoundError):
    """404 or 410."""

    def __init__(self, message: str = "", *, status: int | None = None) -> None:
        super().__init__(message, status=status)
        self.errno = errno.ENOENT


class RemotePermissionError(HctefNetworkError, PermissionError):
    """401 or 403."""

    def __init__(self, message: str = "", *, status: int | None = None) -> None:
        super().__init__(message, status=status)
        self.errno = errno.EACCES


class PagerError(HctefError, OSError):
    """Demand paging is not possible here, or cannot go on."""
