"""The misbehaving server in a process of its own: a thread that faults may hold the GIL of the process it is in.

    with RangeServerProcess() as server:
        url = server.add("f", size)               # of tests.helpers.pattern
        server.do("server.behave('f', status(503))")
        server.down(), server.up()                # killed; started again at the same port

Run as a program it reads expressions, one a line, and answers with JSON, one a line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]


class RangeServerProcess:
    """Its server, from outside. A context manager."""

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        """`tls`: the certificate's file and its key's."""
        self._tls = [str(path) for path in tls or ()]
        self._added: dict[str, tuple[int, int]] = {}
        self.port = 0
        self.up()

    def up(self) -> None:
        """Start it, where it was before."""
        command = [sys.executable, "-m", "tests.range_server_process", str(self.port), *self._tls]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = self.do("server.port")
        for name, (size, seed) in self._added.items():
            self.add(name, size, seed)

    def down(self) -> None:
        """Nobody listens at its port any longer."""
        self._process.kill()
        self._process.communicate()

    def do(self, expression: str) -> Any:
        """Evaluate an expression of `server` and of what `tests.range_server` has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer
        return answer["value"]

    def add(self, name: str, size: int, seed: int = 0, **validators: str) -> str:
        """Serve `size` bytes of the pattern. Returns the URL."""
        self._added[name] = size, seed
        url: str = self.do(f"server.add({name!r}, pattern({size}, {seed}), **{validators!r})")
        return url

    @property
    def log(self) -> list[dict[str, Any]]:
        """The requests so far: method, target, headers, status."""
        found: list[dict[str, Any]] = self.do(
            "[dict(method=r.method, target=r.target, headers=r.headers, status=r.status) for r in server.log]"
        )
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


def main(port: str, certificate: str = "", key: str = "") -> None:
    import ssl  # only here, as the rest

    from tests import helpers, range_server

    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    with range_server.RangeServer(tls=context, port=int(port)) as server:
        names = {**vars(range_server), "pattern": helpers.pattern, "server": server}
        for line in sys.stdin:
            try:
                value = eval(line, names)
                answer = {"value": value if _is_plain(value) else None}
            except Exception as error:  # noqa: BLE001  # told to who asked
                answer = {"error": repr(error)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
