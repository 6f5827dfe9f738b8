"""The asynchronous classes: AsyncHttpFile and AsyncRemoteBuffer. They need aiohttp."""

from __future__ import annotations

try:
    import aiohttp as _aiohttp  # noqa: F401  # to say at once that the extra is missing
except ImportError as error:
    message = "hctef's asynchronous classes need aiohttp: pip install aiohttp"
    raise ImportError(message, name="aiohttp") from error

from hctef.aio.http_file import AsyncHttpFile
from hctef.aio.remote_buffer import AsyncRemoteBuffer

__all__ = ["AsyncHttpFile", "AsyncRemoteBuffer"]
