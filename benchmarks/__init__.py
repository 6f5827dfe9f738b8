"""hctef and its peers, measured side by side.

    python -m benchmarks                            everything: see `python -m benchmarks --help`
    python -m benchmarks --quick                    hctef, a few peers and the limits, once
    python -m benchmarks --links b20 --workloads W3 --libraries hctef,gdal --repeat 3
    python -m benchmarks report results.json        docs/performance.md and its plots, out of saved results

`__main__` is the command line, `runner` starts each measurement in a fresh process (`worker`) behind a link (`links`)
and asks the server what it cost, `adapters` are the libraries, `workloads` what they do, `bars` what hctef must reach,
`report` and `plots` what is shown. `bench_*.py` are pytest-benchmark's: the hot paths, which touch no network.
"""
