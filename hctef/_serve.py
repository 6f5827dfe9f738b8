"""A Range-capable server for a folder: aiohttp's FileResponse, which knows ranges, validators and conditions.

For demos, notebooks and a quick look; nginx is for more.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import html
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from aiohttp import web

NEEDED = "`hctef serve` and `hctef demo` need aiohttp: pip install aiohttp"


def _app(folder: Path) -> web.Application:
    """Serves the regular files under `folder`, and nothing outside of it, links out of it included."""
    from aiohttp import web  # noqa: PLC0415  # an extra, and slow to import

    async def get(request: web.Request) -> web.StreamResponse:
        path = (folder / request.match_info["path"]).resolve()
        if not path.is_relative_to(folder):
            raise web.HTTPNotFound
        if path.is_dir():
            names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
            here = path.relative_to(folder)  # links from the root: right with and without a slash at the URL's end
            items = "".join(
                f'<li><a href="/{quote((here / name).as_posix())}">{html.escape(name)}</a></li>' for name in names
            )
            return web.Response(text=f"<!doctype html><ul>{items}</ul>", content_type="text/html")
        if not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path, chunk_size=256 * 1024)

    app = web.Application()
    app.router.add_get("/{path:.*}", get)
    return app


def _folder(path: Path) -> Path:
    """Raises OSError: there is no such folder."""
    if not path.resolve(strict=True).is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return path.resolve()


async def _run(folder: Path, host: str, port: int, ready: Callable[[str], object], stop: asyncio.Event) -> None:
    from aiohttp import web  # noqa: PLC0415  # as above

    runner = web.AppRunner(_app(folder), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        ready(f"http://{shown}:{bound[1]}")
        await stop.wait()
    finally:
        await runner.cleanup()


def serve(folder: Path, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve until interrupted. `ready` is told the URL.

    Raises:
        OSError: there is no such folder, or the port is taken.
        ImportError: aiohttp is not installed.
    """
    asyncio.run(_run(_folder(folder), host, port, ready, asyncio.Event()))


@contextmanager
def background_server(folder: Path) -> Iterator[str]:
    """Serve `folder` on 127.0.0.1 from a process of its own; the value is the URL, without a slash at its end.

    A thread would not do: one that touches an absent page of a view may hold the GIL, and would wait for itself.

    Raises:
        OSError: there is no such folder, or the server did not start.
        ImportError: aiohttp is not installed.
    """
    folder = _folder(folder)
    import aiohttp  # noqa: F401, PLC0415  # here rather than in the process, where nobody would see it fail

    code = f"import sys; sys.path[:] = {sys.path!r}; from hctef._serve import _serve_until_eof as run; run(sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdin is not None  # its end tells the server to stop, however this process ends
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        if not url:
            raise OSError("the server's process ended at once: its errors are on stderr")
        try:
            yield url
        finally:
            process.stdin.close()


def _serve_until_eof(folder: str) -> None:
    """`background_server`'s process."""

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait, daemon=True).start()
        await _run(Path(folder), "127.0.0.1", 0, functools.partial(print, flush=True), stop)

    asyncio.run(run())
