"""nginx, the good server: a process of its own on loopback, with a log of what it sent."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

CONFIG = """
daemon off;
{user}
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{
    log_format tests '$request_method $uri "$http_range" $status $body_bytes_sent $connection';
    access_log {root}/access.log tests;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port};
        root {root}/www;
    }}
}}
"""


def find_nginx() -> str | None:
    """The path of nginx's program; Debian keeps it where a user's PATH does not look."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Entry:
    """A line of the log: written by nginx when a response is over."""

    method: str
    path: str
    range: str
    status: int
    sent: int
    connection: int


class NginxServer:
    """nginx over a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "www").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        user = "user root;" if os.geteuid() == 0 else ""
        (root / "nginx.conf").write_text(CONFIG.format(root=root, port=self.port, user=user))
        program = find_nginx()
        assert program is not None
        self._errors = (root / "stderr").open("wb")
        self._process = subprocess.Popen([program, "-p", root, "-c", root / "nginx.conf"], stderr=self._errors)
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                break
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"nginx did not start: {(root / 'stderr').read_text()}")
            time.sleep(0.02)

    def add(self, name: str, content: bytes | Path) -> str:
        """Serve `content` as `name`. Returns the URL."""
        target = self.root / "www" / name
        if isinstance(content, Path):
            target.unlink(missing_ok=True)
            target.symlink_to(content)
        else:
            partial = target.with_suffix(".partial")
            partial.write_bytes(content)
            partial.replace(target)
        return self.url(name)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def log(self, name: str | None = None) -> list[Entry]:
        """The responses so far, those of one name; waits until the log has stood still for a moment."""
        path, text = self.root / "access.log", None
        while text is None or text != path.read_text():
            text = path.read_text()
            time.sleep(0.05)
        entries = []
        for line in text.splitlines():
            method, uri, rest = line.split(" ", 2)
            asked, numbers = rest.removeprefix('"').rsplit('" ', 1)
            status, sent, connection = map(int, numbers.split())
            entries.append(Entry(method, uri, asked, status, sent, connection))
        return [entry for entry in entries if name is None or entry.path == f"/{name}"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
