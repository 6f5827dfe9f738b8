"""hctef, the HTTP Client That Eats Files: a file behind a URL as memory.

`HttpFile` reads it like an open file, `RemoteBuffer` like an `mmap.mmap` with the buffer protocol; `AsyncHttpFile` and
`AsyncRemoteBuffer` (with aiohttp) are the same under asyncio. Only what is touched is fetched, once, by Range requests.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from hctef._paging import PagingSupport, paging_support
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

if TYPE_CHECKING:
    from hctef.aio import AsyncHttpFile as AsyncHttpFile
    from hctef.aio import AsyncRemoteBuffer as AsyncRemoteBuffer

_ASYNC = ("AsyncHttpFile", "AsyncRemoteBuffer")

__version__ = "0.1.0"  # as pyproject.toml has it

__all__ = [
    "HctefError",
    "HctefNetworkError",
    "HctefUrlError",
    "HttpFile",
    "PagerError",
    "PagingSupport",
    "RangeRequestsUnsupportedError",
    "RemoteBuffer",
    "RemoteFileChangedError",
    "RemoteFileNotFoundError",
    "RemotePermissionError",
    "Stats",
    "__version__",
    "paging_support",
]


def __getattr__(name: str) -> object:
    """The asynchronous classes, which import aiohttp: only when they are used."""
    if name in _ASYNC:
        return getattr(importlib.import_module("hctef.aio"), name)
    raise AttributeError(f"module 'hctef' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is public. Without aiohttp the asynchronous classes are not named: who looks at each (`help`) would fail."""
    from importlib.util import find_spec  # noqa: PLC0415  # a thirtieth of `import hctef`, for few

    there = _ASYNC if find_spec("aiohttp") else ()
    return sorted({*__all__, *there, "exceptions", *(name for name in globals() if name.startswith("__"))})


logging.getLogger("hctef").addHandler(logging.NullHandler())
