"""One SVG a workload: a panel for each link, a line for each library, time on a logarithmic axis."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.adapters import ADAPTERS
from benchmarks.links import LINKS
from benchmarks.tables import Row, Tables, duration
from benchmarks.workloads import WORKLOADS

COLORS = {"hctef": "#d1495b", "peer": "#30475e", "limit": "#9aa5b1"}


def draw(measured: Tables, folder: Path) -> dict[str, Path]:
    """Files by workload; none where matplotlib isn't installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return {}
    mpl.use("svg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    # Text stays text, and the same results give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hctef", "font.size": 8}):
        for name in WORKLOADS:
            links = [link for link in LINKS if (link, name) in measured]
            panels = {link: rows for link in links if (rows := _shown(measured[link, name]))}
            if not panels:
                continue
            height = 0.9 + 0.17 * max(map(len, panels.values()))
            size = (3.4 * len(panels), height)
            figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
            for axis, (link, rows) in zip(axes[0], panels.items(), strict=True):
                _panel(axis, link, rows, max(map(len, panels.values())))
            figure.suptitle(f"{name}: {WORKLOADS[name].title}", fontsize=9)
            drawn[name] = folder / f"{name}.svg"
            figure.savefig(drawn[name], metadata={"Date": None})
            plt.close(figure)
    return drawn


def _shown(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.status in {"ok", "timeout"}]


def _panel(axis: Any, link: str, rows: Sequence[Row], count: int) -> None:
    """The fastest of at most `count` on top; from the least to the most of the rounds, a dot at the median."""
    axis.set_xscale("log")
    for y, row in enumerate(rows):
        kind = ADAPTERS[row.library].kind
        color = COLORS[kind]
        axis.plot([row.least, row.most], [y, y], color=color, linewidth=1.2)
        marker = ">" if row.status == "timeout" else "o"
        axis.plot([row.median], [y], marker, color=color, markersize=4, fillstyle="none" if kind == "limit" else "full")
        label = f"{'> ' if row.status == 'timeout' else ''}{duration(row.median)}"
        axis.annotate(label, (row.most, y), (5, 0), textcoords="offset points", va="center", fontsize=6, color=color)
    axis.set_yticks(range(len(rows)), [row.library for row in rows])
    for tick, row in zip(axis.get_yticklabels(), rows, strict=True):
        kind = ADAPTERS[row.library].kind
        tick.set_color(COLORS[kind])
        tick.set_fontweight("bold" if kind == "hctef" else "normal")
        tick.set_fontstyle("italic" if kind == "limit" else "normal")
    axis.set_ylim(count - 0.5, -0.5)
    axis.margins(x=0.25)
    axis.set_title(link, fontsize=8)
    axis.xaxis.set_major_formatter(lambda value, _: re.sub(r"\.0+ ", " ", duration(value)))
    axis.xaxis.set_minor_formatter(lambda *_: "")
    axis.grid(axis="x", which="major", color="#e3e7eb", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
