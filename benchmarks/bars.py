"""What hctef must reach, as ratios to a peer or limit of the same run.

The numbers are the project's own targets of 2026-11-23, in seconds as measured that day (2 cores, Linux 6.18, CPython
3.12.1, nginx; raw: loopback, b20: 20 ms and 1 Gbit/s, c80: 80 ms and 200 Mbit/s). Absolute times differ from machine to
machine: a bar here is `must / reference`, applied to what the reference takes today. Where the targets name several
peers, the reference is the one that the bar was drawn from, else the one whose time depends least on luck.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.adapters import Adapter


@dataclass(frozen=True, slots=True)
class Bar:
    """One target: seconds, all of that day."""

    workload: str
    link: str
    reference: str
    """A library of `adapters`."""
    seconds: float
    """What the reference took."""
    must: float
    aim: float
    subject: str = "hctef"

    @property
    def must_ratio(self) -> float:
        return self.must / self.seconds

    @property
    def aim_ratio(self) -> float:
        return self.aim / self.seconds


MS, US = 1e-3, 1e-6

BARS = (
    Bar("W1", "b20", "seekablehttpfile", 150 * MS, 190 * MS, 65 * MS),
    Bar("W1", "c80", "seekablehttpfile", 540 * MS, 760 * MS, 250 * MS),
    Bar("W1-bare", "b20", "urllib3", 42 * MS, 50 * MS, 45 * MS),
    Bar("W1-bare", "c80", "urllib3", 162 * MS, 180 * MS, 165 * MS),
    Bar("W2", "raw", "urllib3", 194 * MS, 194 * MS, 92 * MS),
    Bar("W2", "b20", "download", 2.5, 5.0, 3.5),
    Bar("W2", "c80", "download", 12.4, 25, 17),
    Bar("W3", "raw", "remfile", 125 * MS, 100 * MS, 50 * MS),
    Bar("W3", "b20", "download", 2.5, 2.0, 1.5),
    Bar("W3", "c80", "hctef-0.4.1-async", 8.6, 7.5, 6.0),
    Bar("W4", "raw", "smart_open", 109 * MS, 150 * MS, 105 * MS),
    Bar("W4", "b20", "curl", 1, 1.05, 1.00),
    Bar("W4", "c80", "curl", 1, 1.05, 1.00),
    Bar("W5", "raw", "urllib3", 145 * MS, 150 * MS, 115 * MS),
    Bar("W5", "b20", "urllib3", 1, 1.03, 1.00),
    Bar("W5", "c80", "urllib3", 1, 1.03, 1.00),
    Bar("W6", "raw", "remfile", 0.48 * US, 0.48 * US, 0.25 * US),
    Bar("W7", "raw", "urllib3", 20 * MS, 20 * MS, 12 * MS),
    Bar("W7", "b20", "fsspec-blockcache", 0.65, 0.62, 0.48),
    Bar("W7", "c80", "fsspec-blockcache", 2.8, 2.6, 2.1),
    Bar("W8", "raw", "smart_open", 54 * MS, 54 * MS, 40 * MS),
    Bar("W8", "b20", "fsspec-blockcache", 0.96, 0.85, 0.65),
    Bar("W8", "c80", "fsspec-blockcache", 4.1, 3.8, 3.0),
    Bar("W9", "raw", "fsspec", 71 * MS, 71 * MS, 58 * MS),
    Bar("W9", "b20", "download", 1.57, 1.0, 0.65),
    Bar("W9", "c80", "download", 7.5, 4.0, 2.8),
    Bar("W9b", "raw", "obstore", 45 * MS, 45 * MS, 38 * MS),
    Bar("W9b", "b20", "download", 1.54, 1.2, 0.7),
    Bar("W10", "raw", "gdal", 28 * MS, 28 * MS, 10 * MS),
    Bar("W10", "b20", "download", 2.5, 0.8, 0.45),
    Bar("W10", "c80", "download", 12.4, 3.0, 1.8),
    Bar("W11", "raw", "fsspec-cat", 21 * MS, 18 * MS, 10 * MS),
    Bar("W11", "b20", "fsspec-cat", 0.105, 0.13, 0.10),
    Bar("W11", "c80", "fsspec-cat", 0.41, 0.45, 0.40),
    Bar("W12", "raw", "urllib3", 1, 1.3, 1.0),
    Bar("W13", "raw", "gdal", 108 * MS, 108 * MS, 40 * MS),
    Bar("W13", "b20", "obstore-async", 0.17, 0.18, 0.13),
    Bar("W13", "c80", "obstore-async", 0.36, 0.45, 0.36),
    *(
        Bar(f"W14-{pattern}", link, "hctef", 1, 1.3, 1.3, subject="hctef-buffer")
        for pattern in ("W2", "W3", "W4", "W8", "W10")
        for link in ("raw", "b20", "c80")
    ),
)


def _bars(link: str, workload: str) -> list[Bar]:
    return [bar for bar in BARS if (bar.link, bar.workload) == (link, workload)]


def needed(link: str, workload: str, adapter: Adapter) -> bool:
    """Whether the verdicts need it, or it tells what is possible there. A serial limit takes minutes on a long line."""
    references = {bar.reference for bar in _bars(link, workload)}
    if adapter.kind == "hctef" or adapter.name in references | {"download"}:
        return True
    return adapter.kind == "limit" and (adapter.name != "sockets" or workload in {"W1", "W1-bare", "W5", "W10", "W11"})


BESIDE = {"W6": {"BytesIO"}, "W11": {"clairvoyant", "hctef-64"}, "W13": {"clairvoyant", "hctef-64"}}
"""What else is measured with it: limits, and what it is where it may have as many connections as they have."""


def compared(link: str, workload: str, adapter: Adapter) -> bool:
    """Whether a bar compares it; on loopback hctef is compared with GDAL too, whose native code nothing hides there."""
    bars = _bars(link, workload)
    names = {name for bar in bars for name in (bar.subject, bar.reference, *BESIDE.get(workload, ()))}
    return adapter.name in names or (bool(bars) and link == "raw" and adapter.name == "gdal")
