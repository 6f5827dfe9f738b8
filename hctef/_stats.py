"""What a file cost: counters, kept by the planner and by each reader, read by `stats`."""

from __future__ import annotations


class Stats:
    """Counters since the file was opened, over all its readers. `str(stats)` is a line."""

    requests: int = 0
    """HTTP requests sent, those of the opening, of redirects and of retries too."""
    bytes_fetched: int = 0
    """Bytes of bodies that came from the network."""
    bytes_read: int = 0
    """Bytes handed to callers."""
    hits: int = 0
    """Reads answered from memory, or from `cache_dir`."""
    misses: int = 0
    """Reads that had to wait for the network."""
    waits: int = 0
    """Times that a reader waited for bytes which another was fetching already."""
    retries: int = 0
    """Requests sent again after a failure."""
    faults: int = 0
    """Touches of absent pages that the pager resolved."""
    evictions: int = 0
    """Runs of pages given back to the system."""
    bytes_loaded: int = 0
    """Bytes that came from `cache_dir`."""
    seconds_waited: float = 0.0
    """Time that readers spent waiting for the network."""

    def __init__(self, **counted: float) -> None:
        for name in Stats.__annotations__:
            setattr(self, name, counted.get(name, getattr(Stats, name)))

    def __add__(self, other: Stats) -> Stats:
        return Stats(**{name: getattr(self, name) + getattr(other, name) for name in vars(self)})

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, Stats) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # they change

    def __repr__(self) -> str:
        return f"Stats({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __str__(self) -> str:
        return ", ".join(f"{name}={_shown(value)}" for name, value in vars(self).items())


def _shown(value: object) -> str:
    """Counts to the last digit, seconds to the millisecond."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
