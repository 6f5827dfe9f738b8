"""hctef, the HTTP Client That Eats Files: a file behind a URL as memory.

`HttpFile` reads it like an open file, `RemoteBuffer` like an `mmap.mmap` with the buffer protocol. Only what is
touched is
fetched, once, by Range requests.
"""

from __future__ import annotations

import logging

from hctef._stats import Stats
from hctef.exceptions import (
    HctefError,
    HctefNetworkError,
    HctefUrlError,
    PagerError,
    RangeRequestsUnsupportedError,
    RemoteFileChangedError,
    RemoteFileNotFoundError,
    RemotePermissionError,
)
from hctef.http_file import HttpFile
from hctef.remote_buffer import RemoteBuffer

__version__ = "0.1.0"

__all__ = [
    "HctefError",
    "HctefNetworkError",
    "HctefUrlError",
    "HttpFile",
    "PagerError",
    "RangeRequestsUnsupportedError",
    "RemoteBuffer",
    "RemoteFileChangedError",
    "RemoteFileNotFoundError",
    "RemotePermissionError",
    "Stats",
    "__version__",
]

logging.getLogger("hctef").addHandler(logging.NullHandler())
