"""A server and the links to it: nginx in a network namespace, and emulated networks before it.

`raw` is loopback within the server's namespace. Every other link has a namespace for its clients, joined to the
server's by two TUN devices and a `netemu` process between them (half the round trip each way, the rate each way, a
queue of two bandwidth-delay products): not every kernel has netem. TCP is the kernel's own.

    with Network(folder, ["raw", "b20"]) as network:
        subprocess.run([*network.command("b20"), "curl", network.url("b20", "some-word", "file.bin")])

The word in the URL marks the requests of one run in the server's log, which `Network.served` counts: what a client
says of itself need not be believed. Needs root, `ip`, a C compiler and /dev/net/tun; without them there is just `raw`,
on this machine's own loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PORT = 8095  # within namespaces of our own it is always free
FOLDER = Path(tempfile.gettempdir()) / "hctef-links"
SOURCE = Path(__file__).with_name("netemu.c")
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"  # where Debian keeps nginx and ip

CONGESTION_CONTROL = "bbr"
"""On both sides, where the kernel has it: what large CDNs send with."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link's properties."""

    name: str
    round_trip: float
    """Seconds."""
    rate: int
    """Bits per second each way; 0: not limited."""

    @property
    def queue(self) -> int:
        """Bytes that wait before packets are dropped."""
        return max(int(2 * self.round_trip * self.rate / 8), 1 << 20)


LINKS = {
    link.name: link
    for link in (
        Link("raw", 0.0, 0),
        Link("b20", 0.020, 1_000_000_000),
        Link("c80", 0.080, 200_000_000),
    )
}

_CONFIGURATION = """
worker_processes 1;
daemon off;
pid {run}/nginx.pid;
error_log {run}/error.log;
{user}
events {{ worker_connections 4096; }}
http {{
  default_type application/octet-stream;
  sendfile on;
  tcp_nodelay on;
  gzip off;
  keepalive_timeout 120;
  keepalive_requests 1000000;
  client_body_temp_path {run}/body;
  proxy_temp_path {run}/proxy;
  fastcgi_temp_path {run}/fastcgi;
  uwsgi_temp_path {run}/uwsgi;
  scgi_temp_path {run}/scgi;
  log_format links '$request_uri\\t$status\\t$bytes_sent\\t$connection';
  access_log {run}/access.log links;
  server {{
    listen {host}:{port} backlog=1024;
    location ~ ^/r/([^/]+)/(.+)$ {{ alias {data}/$2; }}
  }}
}}
"""


class LinksUnavailableError(Exception):
    """This machine cannot have what was asked for; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the server says about the requests of one word."""

    requests: int
    bytes: int
    """Sent, heads included; where a client hung up, what the kernel had taken by then."""
    connections: int


def _which(*names: str) -> str | None:
    return next((found for name in names if (found := shutil.which(name, path=PATH))), None)


def missing() -> list[str]:
    """What emulated links need and this machine lacks, in words; empty if it can have them."""
    lacks = []
    if os.geteuid() != 0:
        lacks.append("root")
    if not _which("ip"):
        lacks.append("the command ip (iproute2)")
    if not _which("gcc", "cc"):
        lacks.append("a C compiler (gcc)")
    if not Path("/dev/net/tun").exists():
        lacks.append("/dev/net/tun")
    return lacks


def nginx_version() -> str:
    """As nginx says it."""
    nginx = _which("nginx")
    if not nginx:
        raise LinksUnavailableError("nginx is not installed")
    done = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False)
    return done.stderr.strip().removeprefix("nginx version: ")


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "PATH": PATH}, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        raise LinksUnavailableError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class Network:
    """The server and its links, from `up` to `down`, or within a `with` block.

    Args:
        data: the folder whose files are served.
        links: names out of `LINKS`.
        tag: of its namespaces, devices and files; several networks with different tags stand beside one another.

    Raises:
        LinksUnavailableError: on `up`.
    """

    def __init__(self, data: Path, links: Iterable[str], tag: str = "") -> None:
        self.data = data.resolve()
        self.links = [LINKS[name] for name in dict.fromkeys(links)]
        self.tag = tag or str(os.getpid())
        self.run = FOLDER / self.tag
        self.emulated = not missing()
        self.log = self.run / "access.log"
        self._port = PORT
        self._seen = 0

    def url(self, link: str, word: str, name: str) -> str:
        """Of the file `name`, for a client on `link`, whose requests shall count under `word`."""
        host = "127.0.0.1" if link == "raw" else f"{self._net(link)}.1"
        return f"http://{host}:{self._port}/r/{word}/{name}"

    def command(self, link: str) -> list[str]:
        """What a command line begins with to run as a client on `link`."""
        if not self.emulated:
            return []
        return [_which("ip") or "ip", "netns", "exec", self._namespace("server" if link == "raw" else link)]

    def served(self, word: str) -> Served:
        """What was served under `word` since the last call. A client that hung up counts once the server noticed."""
        requests = total = 0
        connections = set()
        with self.log.open("rb") as log:
            log.seek(self._seen)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._seen += len(line)
                uri, _, sent, connection = line.decode("latin-1").rstrip("\n").split("\t")
                if uri.startswith(f"/r/{word}/"):
                    requests += 1
                    total += int(sent)
                    connections.add(connection)
        return Served(requests, total, len(connections))

    def up(self) -> Self:
        """Build all of it. What it built is torn down again if something fails."""
        sweep()
        nginx = _which("nginx")
        if not nginx:
            raise LinksUnavailableError("nginx is not installed")
        if not self.emulated and [link for link in self.links if link.rate]:
            raise LinksUnavailableError(f"emulated links need {', '.join(missing())}; without: --links raw")
        self.run.mkdir(parents=True, exist_ok=True)
        try:
            self._up(nginx)
        except BaseException:  # raised again
            self.down()
            raise
        return self

    def _up(self, nginx: str) -> None:
        namespaces: list[str] = []
        pids: list[int] = []
        if self.emulated:
            for link in (None, *(link for link in self.links if link.rate)):
                namespace = self._namespace(link.name if link else "server")
                namespaces.append(namespace)
                self._record(namespaces, pids)
                _run("ip", "netns", "add", namespace)
                _run("ip", "-n", namespace, "link", "set", "lo", "up")
                for key, value in (("tcp_no_metrics_save", "1"), ("tcp_congestion_control", CONGESTION_CONTROL)):
                    _run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"net.ipv4.{key}={value}", check=False)
            _run(_which("gcc", "cc") or "cc", "-O2", "-o", str(self.run / "netemu"), str(SOURCE))
            for link in self.links:
                if link.rate:
                    pids.append(self._join(link))
                    self._record(namespaces, pids)
        else:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._port = int(free.getsockname()[1])
        pids.append(self._start_nginx(nginx))
        self._record(namespaces, pids)

    def _join(self, link: Link) -> int:
        devices = [f"hc{self.tag[-7:]}{side}{list(LINKS).index(link.name)}" for side in "ab"]
        half = str(int(link.round_trip * 500_000))
        with (self.run / f"netemu-{link.name}.log").open("wb") as log:
            process = subprocess.Popen(
                [self.run / "netemu", *devices, half, str(link.rate), str(link.queue)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the harness, which takes it down in order
            )
        with process.stdout or contextlib.nullcontext() as out:
            if not out or out.readline() != b"ready\n":
                raise LinksUnavailableError(f"netemu: {Path(log.name).read_text().strip()}")
        for device, namespace, host in zip(devices, (link.name, "server"), (2, 1), strict=True):
            space = self._namespace(namespace)
            _run("ip", "link", "set", device, "netns", space)
            _run("ip", "-n", space, "addr", "add", f"{self._net(link.name)}.{host}/24", "dev", device)
            _run("ip", "-n", space, "link", "set", device, "up", "mtu", "1500", "txqueuelen", "10000")
        return process.pid

    def _start_nginx(self, nginx: str) -> int:
        (self.run / "nginx.conf").write_text(
            _CONFIGURATION.format(
                run=self.run,
                data=self.data,
                port=self._port,
                host="0.0.0.0" if self.emulated else "127.0.0.1",
                user="user root;" if os.geteuid() == 0 else "",
            )
        )
        self.log.write_bytes(b"")
        self._seen = 0
        pid_file = self.run / "nginx.pid"
        pid_file.unlink(missing_ok=True)
        with (self.run / "nginx.log").open("wb") as log:
            process = subprocess.Popen(
                [*self.command("raw"), nginx, "-e", self.run / "error.log", "-c", self.run / "nginx.conf"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(200):  # nginx writes its pid once it listens
            if pid_file.exists() and pid_file.read_text().strip():
                return process.pid
            if process.poll() is not None:
                break
            time.sleep(0.02)
        raise LinksUnavailableError(f"nginx did not start: {Path(log.name).read_text().strip()}")

    def down(self) -> None:
        """Tear it down. Nothing happens where nothing stands."""
        _tear_down(self.run)

    def check(self) -> dict[str, dict[str, float | str]]:
        """Measure each link from its client's side: milliseconds to connect and for a small answer, curl's Mbit/s."""
        result: dict[str, dict[str, float | str]] = {}
        probe = max(self.data.iterdir(), key=lambda path: path.stat().st_size).name
        for link in self.links:
            url = self.url(link.name, "check", probe)
            host = url.split("/")[2].split(":")[0]
            prefix = self.command(link.name)
            times = _run(*prefix, sys.executable, "-I", "-c", _PROBE, host, str(self._port)).split()
            speed = _run(*prefix, "curl", "-so", os.devnull, "-w", "%{speed_download}", url)
            control = _run(*prefix, "sysctl", "-n", "net.ipv4.tcp_congestion_control", check=False).strip()
            result[link.name] = {
                "connect_ms": round(float(times[0]), 2),
                "answer_ms": round(float(times[1]), 2),
                "curl_mbit_s": round(float(speed) * 8e-6),
                "congestion_control": control,
            }
        return result

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(self, *_: object) -> None:
        self.down()

    def _namespace(self, name: str) -> str:
        return f"hctef-{self.tag}-{name}"

    @staticmethod
    def _net(link: str) -> str:
        return f"10.78.{list(LINKS).index(link)}"

    def _record(self, namespaces: list[str], pids: list[int]) -> None:
        state = {"owner": os.getpid(), "namespaces": namespaces, "pids": pids, "data": str(self.data)}
        (self.run / "state.json").write_text(json.dumps(state))


_PROBE = """
import socket, sys, time
address = (sys.argv[1], int(sys.argv[2]))
connection = socket.create_connection(address)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
begin = time.perf_counter()
socket.create_connection(address).close()
connected = time.perf_counter() - begin
answers = []
for _ in range(9):
    begin = time.perf_counter()
    connection.sendall(b"HEAD /r/check/x HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    connection.recv(9999)
    answers.append(time.perf_counter() - begin)
print(connected * 1e3, sorted(answers)[4] * 1e3)
"""


def _tear_down(run: Path) -> None:
    try:
        state = json.loads((run / "state.json").read_text())
    except FileNotFoundError:
        shutil.rmtree(run, ignore_errors=True)
        return
    for pid in reversed(state["pids"]):
        # Only what we started: a recorded pid may be another process's by now.
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().split(":")[0]
            if Path(name).name in ("nginx", "netemu"):
                os.kill(pid, signal.SIGTERM)
    for pid in state["pids"]:
        with contextlib.suppress(ChildProcessError):  # a later run tears down what an earlier one left
            os.waitpid(pid, 0)
    for namespace in state["namespaces"]:
        _run("ip", "netns", "del", namespace, check=False)
    shutil.rmtree(run, ignore_errors=True)


def sweep() -> None:
    """Tear down what runs left that were killed."""
    for path in FOLDER.glob("*/state.json"):
        with contextlib.suppress(OSError, ValueError):
            if path.parent.name != "kept" and not Path(f"/proc/{json.loads(path.read_text())['owner']}").exists():
                _tear_down(path.parent)
