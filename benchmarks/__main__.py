"""The command line: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import data, report
from benchmarks.adapters import ADAPTERS, Adapter
from benchmarks.links import LINKS, LinksUnavailableError, Network, missing, nginx_version
from benchmarks.runner import ROOT, Run, Settings, command_line, describe, measure, revision
from benchmarks.tables import tables
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).with_name("results")
DOCUMENT = ROOT / "docs" / "performance.md"

LIBRARIES = f"of {', '.join(ADAPTERS)}; or all (default: all on raw, what the verdicts need on the others)"
QUICK_WORKLOADS = ("W3", "W4", "W6", "W8", "W10", "W12")
PATIENCE, QUICK_PATIENCE = 40.0, 8.0


def _names(known: Iterable[str], what: str) -> Callable[[str], list[str]]:
    known = list(known)

    def parse(text: str) -> list[str]:
        if text == "all":
            return known
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {what} {name!r}: there are {', '.join(known)}")
        return names

    return parse


def _quick(adapter: Adapter) -> bool:
    return adapter.kind != "hctef" or adapter.name == "hctef"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure hctef and its peers, each in a fresh process, over emulated links. "
        "`python -m benchmarks report RESULTS.json...` writes docs/performance.md out of saved results.",
        epilog="workloads: " + "; ".join(f"{name}: {workload.title}" for name, workload in WORKLOADS.items()),
    )
    parser.add_argument("--links", type=_names(LINKS, "link"), help="comma-separated, of raw, b20, c80; or all")
    parser.add_argument("--workloads", type=_names(WORKLOADS, "workload"), help="comma-separated, or all")
    parser.add_argument("--libraries", type=_names(ADAPTERS, "library"), help=LIBRARIES)
    parser.add_argument("--repeat", type=int, help="rounds (default: 3 on raw, 1 on the others, whose times vary less)")
    parser.add_argument("--patience", type=float, help=f"seconds that a measurement may take (default: {PATIENCE:.0f})")
    parser.add_argument("--quick", action="store_true", help="a subset, once: do the benchmarks still run?")
    parser.add_argument("--bars", action="store_true", help="only what must be reached, 5 and 3 rounds")
    parser.add_argument("--source", type=Path, default=ROOT, help="a folder whose hctef is measured: another checkout")
    parser.add_argument("--output", type=Path, help="where the results go (default: benchmarks/results/DATE.json)")
    return parser


def _run(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    links = options.links
    if links is None:
        links = ["raw", "b20"] if options.quick else list(LINKS)
        if lacking := missing():
            print(f"only the link raw: the others need {', '.join(lacking)}", file=sys.stderr)
            links = ["raw"]
    rounds = (3, 5) if options.bars else (1, 1) if options.quick else (1, 3)
    settings = Settings(
        links=links,
        workloads=options.workloads or (QUICK_WORKLOADS if options.quick else list(WORKLOADS)),
        libraries=options.libraries
        or [name for name, adapter in ADAPTERS.items() if not options.quick or _quick(adapter)],
        sparing=() if options.libraries else [link for link in links if options.quick or LINKS[link].rate],
        bars=options.bars,
        repeat={link: options.repeat or rounds[link == "raw"] for link in links},
        patience=options.patience or (QUICK_PATIENCE if options.quick else PATIENCE),
        source=options.source.resolve(),
    )
    run = Run(command=command_line(arguments), machine=describe())
    run.versions["commit"] = revision(options.source)
    run.versions["nginx"] = nginx_version()
    output = options.output or RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    print("making the files that are read, where they aren't there yet", file=sys.stderr)
    folder = data.make()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the links are taken down
    with Network(folder, links) as network:
        run.links = network.check()
        for name, measured in run.links.items():
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in measured.items()), file=sys.stderr)
        try:
            for measurement in measure(network, settings):
                run.measurements.append(measurement)
                if measurement.version:
                    run.versions[measurement.library] = measurement.version
                print(report.line(measurement), file=sys.stderr)
        except KeyboardInterrupt:
            print("interrupted: what was measured so far follows", file=sys.stderr)
        finally:
            run.save(output)
    print(report.summary(tables(run.measurements)))
    print(f"saved in {output}", file=sys.stderr)
    return 0


def main(arguments: list[str]) -> int:
    """Run, or report."""
    if arguments[:1] == ["report"]:
        parser = argparse.ArgumentParser(prog="python -m benchmarks report")
        parser.add_argument("results", nargs="+", type=Path, help="saved by earlier runs")
        parser.add_argument("--document", type=Path, default=DOCUMENT, help="what to write (default: %(default)s)")
        options = parser.parse_args(arguments[1:])
        report.write([Run.load(path) for path in options.results], options.document)
        print(f"wrote {options.document}")
        return 0
    return _run(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LinksUnavailableError as error:
        sys.exit(f"benchmarks: {error}")
