"""One measurement, in a process of its own: `python -m benchmarks.worker JOB` prints a line of JSON."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.adapters import ADAPTERS, Adapter, UnavailableError
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.base import Workload

MARK = "measured: "
"""Before the result, on a line of its own: libraries may print, too."""

IMPORT = """
import sys, time
sys.path[:0] = {path!r}
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before = resident()
begin = time.perf_counter()
{statement}
seconds = time.perf_counter() - begin
print("{mark}" + '{{"status": "ok", "seconds": %r, "memory": %d}}' % (seconds, resident() - before))
"""
"""What W12 runs: an interpreter that has imported nothing, `statement`, and what that cost."""


def measure(workload: Workload, adapter: Adapter, url: str, path: Path) -> dict[str, Any]:
    """The times in seconds, and peak memory in bytes."""
    adapter.load()
    workload.prepare(path)
    if adapter.name == "clairvoyant":
        adapter.prepare(url, workload.ranges(path), path.stat().st_size)
    gc.collect()
    cpu = time.process_time()
    begin = time.perf_counter()
    file = workload.open(adapter, str(path) if adapter.local else url)
    opened = time.perf_counter()
    rounds = []
    for _ in range(5 if workload.per > 1 else 1):
        start = time.perf_counter()
        output = workload.run(adapter, file)
        rounds.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    counts = not workload.after_open or (adapter.eager and workload.per == 1)
    seconds = min(rounds) + (opened - begin if counts else 0)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    workload.verify(output, path)
    return {
        "status": "ok",
        "seconds": seconds / workload.per,
        "open_seconds": opened - begin,
        "cpu_seconds": cpu,
        "memory": memory,
        "note": str(getattr(file, "paging", "")) and f"paging={file.paging}",
        "version": adapter.version(),
    }


def main(job: dict[str, str]) -> dict[str, Any]:
    """What happened, as JSON can tell it; an error is a result too."""
    sys.path.insert(0, job["source"])
    try:
        return measure(WORKLOADS[job["workload"]], ADAPTERS[job["library"]], job["url"], Path(job["path"]))
    except (UnavailableError, ImportError) as error:
        return {"status": "unavailable", "note": f"{type(error).__name__}: {error}"}
    except Exception as error:  # noqa: BLE001 # whatever a library raises is its result
        traceback.print_exc()
        return {"status": "failed", "note": f"{type(error).__name__}: {error}"[:200]}


if __name__ == "__main__":
    result = main(json.loads(sys.argv[1]))
    print(f"\n{MARK}{json.dumps(result)}", flush=True)
    # Threads and event loops of libraries need not end well to have been measured.
    sys.stderr.flush()
    os._exit(0)
