"""Markdown out of measurements: for the terminal, and docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.adapters import ADAPTERS
from benchmarks.links import CONGESTION_CONTROL, LINKS
from benchmarks.runner import Measurement, Run
from benchmarks.tables import MIB, Row, Tables, Verdict, best, duration, tables, verdicts
from benchmarks.workloads import WORKLOADS

METHOD = f"""\
Each measurement is a fresh process; libraries take turns, round by round. The clock runs from opening the file to the
last byte, imports (and the start of hctef's two helper processes, which is mostly imports) excluded, closing excluded;
W6 and W11 begin with the file open. Requests and bytes are counted by the server (nginx), heads included. Every
library's bytes are compared with the file after the clock has stopped (of W4 every 16th piece; curl's are not). A GiB
of memory is touched and given back before each of them: a virtual machine's host may have taken free pages away, and
who touches them first would pay for that. A library has its defaults unless its name says otherwise; what failed, took
too long, or cannot be installed, is in the table with its reason.

Links: `raw` is loopback, `b20` a round trip of 20 ms and 1 Gbit/s, `c80` 80 ms and 200 Mbit/s, emulated in network
namespaces (`benchmarks/links`); congestion control is {CONGESTION_CONTROL}. Names in *italics* are limits, no
libraries: `sockets` is a raw socket with a request for each read, `clairvoyant` knows all ranges beforehand and asks
for them at once over 64 established connections, `local` reads the same file from the disk cache. `download` fetches
all of the file first. `hctef-0.4.1` is what PyPI serves under that name, another code base. "x limit" is the ratio to
the fastest limit that uses the network, "x best peer" to the fastest peer. For W12, MiB is memory, not traffic.

Measure again with `make bench-bars` (half an hour), all peers with `make bench`, a part with
`ARGS="--links b20 --workloads W3"`; write this document with
`python -m benchmarks report benchmarks/results/DATE.json`. What must be reached, and why: `benchmarks/bars.py`.
"""


def line(measurement: Measurement) -> str:
    """One measurement, as it is made."""
    m = measurement
    what = duration(m.seconds) if m.status in {"ok", "timeout"} else m.status
    return (
        f"{m.link:4} {m.workload:8} {m.library:18} {'>' if m.status == 'timeout' else ' '}{what:>8} "
        f"{m.requests:6} requests {m.bytes / MIB:8.1f} MiB  {m.note}".rstrip()
    )


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _ratio(row: Row, other: Row | None) -> str:
    return f"{row.median / other.median:.2f}" if row.ok and other and other.median else ""


def _name(library: str) -> str:
    mark = {"hctef": "**", "limit": "*"}.get(ADAPTERS[library].kind, "")
    return f"{mark}{library}{mark}"


def table(workload: str, rows: Sequence[Row]) -> list[str]:
    """One workload on one link."""
    limit, peer = best(rows, "limit"), best(rows, "peer")
    importing = workload == "W12"
    out = [
        _cells("library", "median", "min", "max", "requests", "conn.", "MiB", "CPU", "x limit", "x best peer", "note"),
        _cells("---", *["---:"] * 9, "---"),
    ]
    for row in rows:
        counts = ("", "", f"{row.memory / MIB:.1f}")
        if not importing:
            counts = (f"{row.requests:.0f}", f"{row.connections:.0f}", f"{row.bytes / MIB:.1f}")
        if not row.ok:
            over = row.status == "timeout"
            time = f"> {duration(row.median)}" if over else row.status
            out.append(_cells(_name(row.library), time, "", "", *(counts if over else [""] * 3), "", "", "", row.note))
            continue
        cpu = "" if importing else duration(row.cpu)
        times = map(duration, (row.median, row.least, row.most))
        ratios = (_ratio(row, limit), _ratio(row, peer))
        out.append(_cells(_name(row.library), *times, *counts, cpu, *ratios, row.note))
    return out


def verdict_table(found: Sequence[Verdict]) -> list[str]:
    """Bars, and what was reached; all numbers are ratios of times, so less is better."""
    out = [_cells("workload", "link", "hctef / reference", "aim", "must", "reached", "verdict", "times")]
    out.append(_cells("---", "---", "---", "---:", "---:", "---:", "---", "---"))
    for v in found:
        bar = v.bar
        ratios = (f"{bar.aim_ratio:.2f}", f"{bar.must_ratio:.2f}", v.reached)
        word = f"**{v.word}**" if v.word == "MISSED" else v.word
        out.append(_cells(bar.workload, bar.link, f"{bar.subject} / {bar.reference}", *ratios, word, v.times))
    return out


def summary(measured: Tables) -> str:
    """The verdicts and all tables."""
    out = ["## Verdicts", "", *verdict_table(verdicts(measured)), ""]
    for link in LINKS:
        names = [name for where, name in measured if where == link]
        out += [f"## {link}", ""] if names else []
        for name in names:
            title = f"### {name} on {link}: {WORKLOADS[name].title}"
            out += [title, "", *table(name, measured[link, name]), ""]
    return "\n".join(out)


def _origins(runs: Sequence[Run]) -> list[str]:
    out = []
    for run in runs:
        out.append(f"- {run.date}: `{run.command}` on {run.machine}")
        for link, values in run.links.items():
            out.append(f"    - {link}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    versions: dict[str, list[str]] = {}
    for run in runs:
        for name, version in run.versions.items():
            named = versions.setdefault(version, [])
            if version and name not in named:
                named.append(name)
    return [*out, "", *(f"- {version}: {', '.join(names)}" for version, names in versions.items() if names)]


def write(runs: Sequence[Run], path: Path) -> None:
    """docs/performance.md, and its plots in a folder beside it."""
    measured = tables(m for run in runs for m in run.measurements)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = plots.draw(measured, path.with_suffix(""))
    out = ["# Performance", "", "Written by `python -m benchmarks report`; not by hand.", "", METHOD]
    out += ["## What was measured", "", *_origins(runs), "", "## Verdicts", ""]
    out += ["Ratios of hctef's time to the reference's in the same run; less is better.", ""]
    out += [*verdict_table(verdicts(measured)), ""]
    for name, workload in WORKLOADS.items():
        links = [link for link in LINKS if (link, name) in measured]
        if not links:
            continue
        out += [f"## {name}: {workload.title}", ""]
        if name in drawn:
            out += [f"![{name}]({path.stem}/{drawn[name].name})", ""]
        for link in links:
            out += [f"### {name} on {link}", "", *table(name, measured[link, name]), ""]
    path.write_text("\n".join(out))
