"""Tables out of measurements: for the terminal and for docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adapters import ADAPTERS
from benchmarks.bars import BARS
from benchmarks.links import LINKS
from benchmarks.runner import Measurement, Run
from benchmarks.workloads import WORKLOADS

MIB = 1 << 20


def duration(seconds: float) -> str:
    """With three digits, in the unit that suits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}" if seconds / scale < 1000 else f"{seconds / scale:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def line(measurement: Measurement) -> str:
    """One measurement, as it is made."""
    m = measurement
    what = duration(m.seconds) if m.status in {"ok", "timeout"} else m.status
    return (
        f"{m.link:4} {m.workload:8} {m.library:18} {'>' if m.status == 'timeout' else ' '}{what:>8} "
        f"{m.requests:6} requests {m.bytes / MIB:8.1f} MiB  {m.note}".rstrip()
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A library's rounds of one workload on one link."""

    library: str
    status: str
    median: float
    least: float
    most: float
    requests: float
    bytes: float
    memory: float
    note: str

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def rows(measurements: Iterable[Measurement]) -> dict[tuple[str, str], list[Row]]:
    """By link and workload, the fastest first, then those without a time."""
    groups: dict[tuple[str, str, str], list[Measurement]] = {}
    for m in measurements:
        groups.setdefault((m.link, m.workload, m.library), []).append(m)
    result: dict[tuple[str, str], list[Row]] = {}
    for (link, workload, library), group in groups.items():
        good = [m for m in group if m.status == "ok"]
        kept = good or group
        times = [m.seconds for m in kept]
        bad = next((m for m in group if m.status != "ok"), None)
        row = Row(
            library,
            "ok" if good else kept[0].status,
            statistics.median(times),
            min(times),
            max(times),
            statistics.median(m.requests for m in kept),
            statistics.median(m.bytes for m in kept),
            statistics.median(m.memory for m in kept),
            (bad or kept[0]).note,
        )
        result.setdefault((link, workload), []).append(row)
    for table in result.values():
        table.sort(
            key=lambda row: (("ok", "timeout").index(row.status) if row.status in {"ok", "timeout"} else 2, row.median)
        )
    order = {name: n for n, name in enumerate([*LINKS, *WORKLOADS])}
    return dict(sorted(result.items(), key=lambda item: (order[item[0][0]], order[item[0][1]])))


def _best(table: Sequence[Row], kind: str) -> Row | None:
    """The fastest of a kind; a limit counts only if it uses the network where any does."""
    found = [row for row in table if row.ok and ADAPTERS[row.library].kind == kind]
    remote = [row for row in found if not ADAPTERS[row.library].local]
    return next(iter(remote or found), None)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(row: Row, other: Row | None) -> str:
    return f"{row.median / other.median:.2f}" if row.ok and other and other.median else ""


def table(workload: str, lines: Sequence[Row]) -> list[str]:
    """One workload on one link, in Markdown."""
    limit, peer = _best(lines, "limit"), _best(lines, "peer")
    importing = workload == "W12"
    out = [
        _cells("library", "median", "min", "max", "requests", "MiB", "x limit", "x best peer", "note"),
        _cells("---", *["---:"] * 7, "---"),
    ]
    for row in lines:
        kind = ADAPTERS[row.library].kind
        name = f"**{row.library}**" if kind == "hctef" else f"*{row.library}*" if kind == "limit" else row.library
        if not row.ok:
            status = f"> {duration(row.median)}" if row.status == "timeout" else row.status
            out.append(_cells(name, status, "", "", "", "", "", "", row.note.replace("|", "/")))
            continue
        amount = row.memory if importing else row.bytes
        out.append(
            _cells(
                name,
                *map(duration, (row.median, row.least, row.most)),
                "" if importing else f"{row.requests:.0f}",
                f"{amount / MIB:.1f}",
                _ratio(row, limit),
                _ratio(row, peer),
                row.note.replace("|", "/"),
            )
        )
    return out


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar, and what was reached."""

    workload: str
    link: str
    subject: str
    reference: str
    must: float
    aim: float
    reached: float | None
    """The ratio to the reference; None where one of both has no time."""
    detail: str

    @property
    def word(self) -> str:
        if self.reached is None:
            return "?"
        return "aim" if self.reached <= self.aim else "must" if self.reached <= self.must else "MISSED"


def verdicts(tables: dict[tuple[str, str], list[Row]]) -> list[Verdict]:
    """One for each bar whose workload and link were measured."""
    result = []
    for bar in BARS:
        found = {row.library: row for row in tables.get((bar.link, bar.workload), ())}
        if bar.subject not in found:
            continue
        subject, reference = found[bar.subject], found.get(bar.reference)
        reached = subject.median / reference.median if subject.ok and reference and reference.ok else None
        detail = f"{duration(subject.median) if subject.ok else subject.status} / " + (
            duration(reference.median)
            if reference and reference.ok
            else reference.status
            if reference
            else "not measured"
        )
        result.append(
            Verdict(bar.workload, bar.link, bar.subject, bar.reference, bar.must_ratio, bar.aim_ratio, reached, detail)
        )
    return result


def verdict_table(found: Sequence[Verdict]) -> list[str]:
    """In Markdown."""
    out = [
        _cells("workload", "link", "hctef / reference", "must", "aim", "reached", "verdict", "times"),
        _cells(*["---"] * 8),
    ]
    out.extend(
        _cells(
            v.workload,
            v.link,
            f"{v.subject} / {v.reference}",
            f"{v.must:.2f}",
            f"{v.aim:.2f}",
            "" if v.reached is None else f"{v.reached:.2f}",
            f"**{v.word}**" if v.word == "MISSED" else v.word,
            v.detail,
        )
        for v in found
    )
    return out


def document(*runs: Run, plots: dict[tuple[str, str], str] | None = None) -> str:
    """All of it, in Markdown."""
    tables = rows(m for run in runs for m in run.measurements)
    out = ["## Verdicts", "", *verdict_table(verdicts(tables)), ""]
    for link in LINKS:
        for (where, name), lines in tables.items():
            if where == link:
                out += [f"### {name} on {link}: {WORKLOADS[name].title}", "", *table(name, lines), ""]
    return "\n".join(out)


def write(runs: Sequence[Run], path: Path) -> None:
    """docs/performance.md and its plots."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(*runs))
