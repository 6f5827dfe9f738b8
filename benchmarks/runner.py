"""Runs measurements: each in a fresh process on its link, libraries in turns; the server says what each cost."""

from __future__ import annotations

import json
import mmap
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adapters import ADAPTERS, Adapter
from benchmarks.bars import compared, needed
from benchmarks.links import LINKS, Network, Served
from benchmarks.worker import IMPORT, MARK
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.base import Workload

ROOT = Path(__file__).parent.parent
LOCAL = ("--source", "--output")
MEMORY = 1 << 30
"""Bytes that are touched before a measurement: more than any takes."""


@dataclass(slots=True, kw_only=True)
class Measurement:
    """One library, once."""

    link: str
    workload: str
    library: str
    round: int
    status: str
    """'ok', 'failed', 'unavailable' or 'timeout'."""
    seconds: float = 0.0
    """What counts, per operation; for a timeout the time that was allowed."""
    open_seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0
    """Peak resident bytes of the process; for W12 what the import added."""
    requests: int = 0
    bytes: int = 0
    connections: int = 0
    note: str = ""
    version: str = ""


@dataclass(slots=True)
class Run:
    """All that is saved."""

    command: str
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    machine: str = ""
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    """By library; besides those measured, of the server."""
    measurements: list[Measurement] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Run:
        """What `save` wrote."""
        read = json.loads(path.read_text())
        read["measurements"] = [Measurement(**measurement) for measurement in read["measurements"]]
        return cls(**read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to measure."""

    links: Sequence[str]
    workloads: Sequence[str]
    libraries: Sequence[str]
    sparing: Collection[str]
    """Links on which only those are measured that the verdicts need: a slow one may take minutes on a long line."""
    bars: bool
    """Only what the bars compare."""
    repeat: dict[str, int]
    """Rounds, by link."""
    patience: float
    """Seconds that one measurement may take. A library that once took longer is left out of later rounds."""
    source: Path = ROOT
    """The folder whose hctef is measured."""


def describe() -> str:
    """This machine, in a line."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else ""
    parts = (
        f"{os.cpu_count()} cores",
        model,
        platform.system(),
        platform.release(),
        f"CPython {platform.python_version()}",
        f"load average {os.getloadavg()[0]:.1f} before the run",
    )
    return ", ".join(part for part in parts if part)


def _parse(out: str) -> dict[str, Any] | None:
    for line in reversed(out.splitlines()):
        if line.startswith(MARK):
            parsed: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return parsed
    return None


def _command(workload: Workload, adapter: Adapter, url: str, path: Path, source: Path) -> list[str]:
    if workload.name == "W12":
        old = [str(Path(sys.prefix) / "peers" / "hctef-0.4.1")] if "0.4.1" in adapter.name else []
        statement = f"import {', '.join(adapter.modules)}"
        return [sys.executable, "-I", "-c", IMPORT.format(path=old or [str(source)], statement=statement, mark=MARK)]
    job = {"workload": workload.name, "library": adapter.name, "url": url, "path": str(path), "source": str(source)}
    return [sys.executable, "-m", "benchmarks.worker", json.dumps(job)]


def _environment(folder: str) -> dict[str, str]:
    """A library's cache on disk goes with its process; bytecode is kept, as it is where libraries are installed."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**own, "TMPDIR": folder}


def _touch_memory() -> None:
    """Where the host of a virtual machine takes free pages back (free page reporting), the first touch of a page costs
    10 times as much as later ones: whoever comes after a pause would pay that, and whoever comes at once would not."""
    np.empty(MEMORY, np.uint8)[:: mmap.PAGESIZE] = 1


def _perform(command: Sequence[str], patience: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hctef-bench-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=_environment(folder),
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=patience + 5)
        except subprocess.TimeoutExpired:
            return {"status": "timeout", "seconds": patience}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    result = _parse(out)
    if result is None:
        last = err.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        status = "unavailable" if "ModuleNotFoundError" in last[0] else "failed"
        return {"status": status, "note": last[0][:200]}
    if result["status"] == "ok" and result["seconds"] > patience:
        result["note"] = "over the patience"
    return result


def _served(network: Network, link: str, word: str) -> Served:
    """Once the server knows that clients have gone: nginx logs a request when it ends."""
    total = Served(0, 0, 0)
    for _ in range(20):
        time.sleep(0.02 + LINKS[link].round_trip)
        more = network.served(word)
        total = Served(
            total.requests + more.requests, total.bytes + more.bytes, max(total.connections, more.connections)
        )
        if not more.requests:
            break
    return total


def _chosen(settings: Settings, link: str, workload: Workload) -> list[Adapter]:
    adapters = [adapter for adapter in ADAPTERS.values() if workload.accepts(adapter)]
    adapters = [adapter for adapter in adapters if adapter.name in settings.libraries]
    if settings.bars:
        adapters = [adapter for adapter in adapters if compared(link, workload.name, adapter)]
    elif link in settings.sparing:
        adapters = [adapter for adapter in adapters if needed(link, workload.name, adapter)]
    return [adapter for adapter in adapters if link == "raw" or not adapter.local]


def measure(network: Network, settings: Settings) -> Iterator[Measurement]:
    """Every measurement, as it is made: link by link, workload by workload, round by round, library by library."""
    hopeless: set[tuple[str, str, str]] = set()
    count = 0
    for link in settings.links:
        for name in settings.workloads:
            workload = WORKLOADS[name]
            if workload.links is not None and link not in workload.links:
                continue
            libraries = _chosen(settings, link, workload)
            for turn in range(settings.repeat[link]):
                shift = turn * 7 % max(len(libraries), 1)  # nobody always comes after the same one
                for adapter in libraries[shift:] + libraries[:shift]:
                    if (link, name, adapter.name) in hopeless:
                        continue
                    count += 1
                    word = f"{link}-{name}-{adapter.name}-{turn}-{count}"
                    url = network.url(link, word, workload.file)
                    command = _command(workload, adapter, url, network.data / workload.file, settings.source)
                    _touch_memory()
                    result = _perform([*network.command(link), *command], settings.patience)
                    served = _served(network, link, word)
                    measurement = Measurement(
                        link=link, workload=name, library=adapter.name, round=turn, **(asdict(served) | result)
                    )
                    if measurement.status != "ok":
                        hopeless.add((link, name, adapter.name))
                    yield measurement


def revision(source: Path) -> str:
    """The commit of a checkout, if it is one."""
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def command_line(arguments: Sequence[str]) -> str:
    """How this run was started, without the paths of this machine."""
    kept: list[str] = []
    for n, argument in enumerate(arguments):
        if not argument.startswith(LOCAL) and (n == 0 or arguments[n - 1] not in LOCAL):
            kept.append(argument)
    return shlex.join(["python", "-m", "benchmarks", *kept])
