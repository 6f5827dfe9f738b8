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
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from aiohttp import web

NEEDED = "`hctef serve` and `hctef demo` need aiohttp: pip install aiohttp"


def _app(folder: Path) -> web.Application:
    """Serves the regular files under `folder`, and nothing outside of it, links out of it included."""
    from aiohttp import web  # noqa: PLC0415  # an extra, and slow to import

    async def get(request: web.Request) -> web.StreamResponse:
        try:
            path = (folder / os.fsdecode(unquote_to_bytes(request.rel_url.raw_path)).lstrip("/")).resolve()
            if path.is_relative_to(folder) and path.is_dir():
                return web.Response(text=_listing(folder, path), content_type="text/html")
            found = path.is_relative_to(folder) and path.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, unreadable; a NUL; links in a circle
            found = False
        if not found:
            raise web.HTTPNotFound
        return web.FileResponse(path, chunk_size=256 * 1024)

    app = web.Application()
    app.router.add_get("/{path:.*}", get)
    return app


def _listing(folder: Path, path: Path) -> str:
    """A page of links from the root: right with and without a slash at the URL's end. Names need not be text."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    here, items = path.relative_to(folder), ""
    for name in names:
        shown = html.escape(os.fsencode(name).decode(errors="replace"))
        items += f'<li><a href="/{quote(os.fsencode((here / name).as_posix()))}">{shown}</a></li>'
    return f"<!doctype html><ul>{items}</ul>"


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
