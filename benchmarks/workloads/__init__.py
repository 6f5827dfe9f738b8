"""The workloads by name, one file a family."""

from __future__ import annotations

import re

from benchmarks.workloads import formats, opening, reads, vectored
from benchmarks.workloads.base import Workload


def _order(workload: Workload) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", workload.name)]


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in sorted(
        (
            *opening.WORKLOADS,
            *reads.WORKLOADS,
            *formats.WORKLOADS,
            *vectored.WORKLOADS,
            *reads.VIEWS,
            *formats.VIEWS,
        ),
        key=_order,
    )
}
