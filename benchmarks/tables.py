"""Measurements, summed up: a row for each library, and a verdict for each bar."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.adapters import ADAPTERS
from benchmarks.bars import BARS, Bar
from benchmarks.links import LINKS
from benchmarks.runner import Measurement
from benchmarks.workloads import WORKLOADS

MIB = 1 << 20


def duration(seconds: float) -> str:
    """With three digits, in the unit that suits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        value = seconds / scale
        if value >= 1:
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


@dataclass(frozen=True, slots=True)
class Row:
    """A library's rounds of one workload on one link: the medians, and of the time also the extremes."""

    library: str
    status: str
    median: float
    least: float
    most: float
    rounds: int
    requests: float
    connections: float
    bytes: float
    cpu: float
    memory: float
    note: str

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def _row(library: str, group: Sequence[Measurement]) -> Row:
    good = [m for m in group if m.status == "ok"]
    bad = next((m for m in group if m.status != "ok"), None)
    kept = good or group[:1]
    times = [m.seconds for m in kept]
    return Row(
        library=library,
        status="ok" if good else kept[0].status,
        median=statistics.median(times),
        least=min(times),
        most=max(times),
        rounds=len(good),
        requests=statistics.median(m.requests for m in kept),
        connections=statistics.median(m.connections for m in kept),
        bytes=statistics.median(m.bytes for m in kept),
        cpu=statistics.median(m.cpu_seconds for m in kept),
        memory=statistics.median(m.memory for m in kept),
        note="; ".join(filter(None, (kept[0].note, f"a round {bad.status}: {bad.note}" if bad and good else ""))),
    )


Tables = dict[tuple[str, str], list[Row]]
"""By link and workload, in order; rows: the fastest first, then those that took too long, then those without a time."""


def tables(measurements: Iterable[Measurement]) -> Tables:
    """Of several runs' measurements the rounds are joined."""
    groups: dict[tuple[str, str], dict[str, list[Measurement]]] = {}
    for m in measurements:
        if m.library not in ADAPTERS or m.workload not in WORKLOADS:
            continue  # an older harness's
        groups.setdefault((m.link, m.workload), {}).setdefault(m.library, []).append(m)
    worst = {"ok": 0, "timeout": 1}
    order = {name: n for n, name in enumerate([*LINKS, *WORKLOADS])}
    return {
        key: sorted(
            (_row(library, group) for library, group in groups[key].items()),
            key=lambda row: (worst.get(row.status, 2), row.median),
        )
        for key in sorted(groups, key=lambda key: (order[key[0]], order[key[1]]))
    }


def best(table: Sequence[Row], kind: str) -> Row | None:
    """The fastest of a kind. What reads the local file is a limit only where nothing else is."""
    found = [row for row in table if row.ok and ADAPTERS[row.library].kind == kind]
    remote = [row for row in found if not ADAPTERS[row.library].local]
    return next(iter(remote or found), None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar, and what was reached."""

    bar: Bar
    word: str
    """'aim', 'must', 'MISSED', or '?' where the reference has no time."""
    reached: str
    """The ratio to the reference."""
    times: str


def _verdict(bar: Bar, subject: Row, reference: Row | None) -> Verdict:
    theirs = "not measured" if not reference else duration(reference.median) if reference.ok else reference.status
    if subject.status not in {"ok", "timeout"}:
        return Verdict(bar, "MISSED", subject.status, f"{subject.status} / {theirs}")
    over = "" if subject.ok else "> "
    times = f"{over}{duration(subject.median)} / {theirs}"
    if not reference or not reference.ok:
        return Verdict(bar, "?", "", times)
    ratio = subject.median / reference.median
    if not subject.ok:  # at least so much
        word = "MISSED" if ratio > bar.must_ratio else "?"
    else:
        word = "aim" if ratio <= bar.aim_ratio else "must" if ratio <= bar.must_ratio else "MISSED"
    return Verdict(bar, word, f"{over}{ratio:.2f}", times)


def verdicts(measured: Tables) -> list[Verdict]:
    """One for each bar whose workload and link were measured with hctef."""
    result = []
    for bar in BARS:
        found = {row.library: row for row in measured.get((bar.link, bar.workload), ())}
        if bar.subject in found:
            result.append(_verdict(bar, found[bar.subject], found.get(bar.reference)))
    return result
