"""What a person sees: sizes in words, page maps as a line and as SVG, the tables of notebooks. Pure: values in,
strings out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hctef._stats import Stats

BLOCKS = "·▁▂▃▄▅▆▇█"
ASCII_BLOCKS = ".:-=+*%#@"


def format_bytes(count: int) -> str:
    """`1536` -> '1.5 KiB' (IEC 80000-13 units)."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if round(value, 1) < 1024 or unit == "EiB":  # 1023.96 KiB would show as 1024.0 KiB
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def filled(size: int, ranges: Iterable[tuple[int, int]], columns: int) -> list[float]:
    """How much of each of `columns` equal parts of a file the sorted, disjoint ranges cover, 0.0 to 1.0."""
    parts = [0] * columns  # in units of 1 / columns bytes, whole numbers: a file may have fewer bytes than columns
    for start, stop in ranges:
        begin, end = start * columns, min(stop, size) * columns
        if begin < end:
            for column in range(begin // size, (end - 1) // size + 1):
                parts[column] += min(end, (column + 1) * size) - max(begin, column * size)
    return [part / size if part else 0.0 for part in parts]


def page_map_text(size: int, ranges: Iterable[tuple[int, int]], width: int = 64, blocks: str = BLOCKS) -> str:
    """One line: a character each `size / width` bytes, the fuller the more of them are resident. A single page
    shows."""
    top = len(blocks) - 1
    return "".join(blocks[0 if part <= 0 else max(1, round(part * top))] for part in filled(size, ranges, width))


def page_map_svg(size: int, ranges: Sequence[tuple[int, int]], width: int = 720, height: int = 28) -> str:
    """A picture of the same, for light and dark backgrounds; at most `width / 2` bars whatever the number of ranges."""
    columns = width // 2
    bars = []
    for column, part in enumerate(filled(size, ranges, columns)):
        if part > 0:
            high = max(3.0, part * height)
            bars.append(f'<rect x="{2 * column}" y="{height - high:.1f}" width="2" height="{high:.1f}"/>')
    resident = sum(stop - start for start, stop in ranges)
    title = f"{format_bytes(resident)} of {format_bytes(size)} resident"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{_escape(title)}" style="max-width:100%"><title>{_escape(title)}</title>'
        f'<rect width="{width}" height="{height}" fill="currentColor" opacity="0.12"/>'
        f'<g fill="#2b7de9">{"".join(bars)}</g></svg>'
    )


def reader_text(kind: str, url: str, size: int | None, resident: int, state: str) -> str:
    """The repr of a file or a buffer. `url` holds no credential."""
    facts = [url] if url else []
    if size is not None:
        facts += [format_bytes(size), f"{format_bytes(resident)} resident"]
    return f"<{kind} {', '.join(facts + ([state] if state else []))}>"


def reader_html(
    title: str,
    *,
    size: int | None = None,
    validator: str = "",
    ranges: Sequence[tuple[int, int]] = (),
    stats: Stats | None = None,
) -> str:
    """The same for notebooks, with the page map."""
    if size is None or stats is None:
        return f"<pre>{_escape(title)}</pre>"
    facts = [
        ("size", f"{format_bytes(size)} ({size:,} bytes)"),
        ("validator", validator),
        ("resident", format_bytes(sum(stop - start for start, stop in ranges))),
        ("fetched", f"{format_bytes(stats.bytes_fetched)} in {stats.requests} requests, {stats.retries} retries"),
        ("read", f"{format_bytes(stats.bytes_read)}: {stats.hits} hits, {stats.misses} misses"),
    ]
    rows = "".join(f"<tr><th>{_escape(name)}</th><td>{_escape(value)}</td></tr>" for name, value in facts)
    return f"<div><strong>{_escape(title)}</strong><table>{rows}</table>{page_map_svg(size, ranges)}</div>"


def _escape(text: str) -> str:
    from html import escape  # noqa: PLC0415  # its tables of entities: 3 ms of `import hctef`

    return escape(text)
