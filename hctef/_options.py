"""The options of a file, checked once. Defaults stand here and nowhere else; API.md's table in code."""

from __future__ import annotations

import contextlib
import math
import numbers
import operator
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from hctef._http import checked_headers
from hctef._progress import Progress, checked_progress

if TYPE_CHECKING:
    from aiohttp import ClientSession, ClientTimeout
    from urllib3 import PoolManager, Retry, Timeout

Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]
UrlSource = str | Callable[[], str]

KIB, MIB = 1024, 1024 * 1024
FILE_PREFETCH_BYTES = MIB


class CommonOptions(TypedDict, total=False):
    """The keyword arguments of every class, for type checkers. `Options` says what each means."""

    minimum_range_request_bytes: int
    prefetch_bytes: int
    prefetch_direction: Literal["END", "START"]
    headers: Headers | None
    retries: int | Retry
    max_connections: int
    max_resident_bytes: int | None
    readahead: Literal["auto", "off"] | int
    validate: Literal["strict", "size"]
    on_no_range: Literal["error", "download"]
    cache_dir: str | os.PathLike[str] | None
    progress: Progress


class FileOptions(CommonOptions, total=False):
    """What HttpFile takes."""

    timeout: float | Timeout | None
    pool: PoolManager | None


class BufferOptions(FileOptions, total=False):
    """What RemoteBuffer takes."""

    paging: Literal["auto", "fault", "fill"]
    fault_timeout: float
    max_export_bytes: int


class AsyncFileOptions(CommonOptions, total=False):
    """What AsyncHttpFile takes."""

    timeout: float | Timeout | ClientTimeout | None
    session: ClientSession | None


class AsyncBufferOptions(AsyncFileOptions, total=False):
    """The same for AsyncRemoteBuffer."""

    paging: Literal["auto", "fill"]
    max_export_bytes: int


class Options:
    """Checked options. Sizes are bytes, times seconds. Each is given by name; the defaults stand beside them.

    Raises:
        TypeError: an option that does not exist, or a value of a wrong type.
        ValueError: a value out of its range.
        HctefUrlError: headers that cannot be sent.
    """

    minimum_range_request_bytes: int = 8 * KIB
    """The least that one request asks for, except to fill a smaller gap."""
    prefetch_bytes: int = 0
    """Fetched on open, beginning with the request that finds the size."""
    prefetch_direction: str = "END"
    headers: Headers | None = None
    """A mapping, or a callable that returns one for each request. Kept out of the repr: it may hold credentials."""
    timeout: Any = 30.0
    """To connect, and between bytes. Also a urllib3.Timeout or an aiohttp.ClientTimeout; None: without end."""
    retries: Any = 5
    """Attempts after the first, or a urllib3.Retry."""
    max_connections: int = 16
    """Requests in flight at once at the most."""
    max_resident_bytes: int | None = None
    readahead: str | int = "auto"
    validate: str = "strict"
    on_no_range: str = "error"
    cache_dir: Any = None
    """A folder in which what was fetched is kept for other processes. None: that of the environment's HCTEF_CACHE_DIR;
    '': none. Made where it is not there."""
    progress: Any = None
    """True: a tqdm bar for each operation that waits for the network longer than a moment (0.5 s), where tqdm is
    installed. Or a `callable(done_bytes, total_bytes)`, called in the thread (the event loop) that waits, in several
    perhaps; what it raises ends the operation. It must not read the file that it is told of."""
    pool: Any = None
    session: Any = None
    paging: str = "auto"
    fault_timeout: float = 300.0
    max_export_bytes: int = 1024 * MIB

    def __init__(self, **given: Any) -> None:
        if not given.keys() <= DEFAULTS.keys():
            raise TypeError(f"there is no option {min(given.keys() - DEFAULTS.keys())!r}")
        values = vars(self)
        values.update(DEFAULTS | given)
        self._check(values.__setitem__)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of an open file cannot be set")

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.changed().items() if name not in _SECRET}
        return f"Options({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def _check(self, put: Callable[[str, Any], None]) -> None:
        """Check each, and `put` those that are to be something else."""
        for name, least in (
            ("minimum_range_request_bytes", 1),
            ("prefetch_bytes", 0),
            ("max_connections", 1),
            ("max_resident_bytes", 1),
            ("max_export_bytes", 0),
        ):
            given = getattr(self, name)
            if given is None and name == "max_resident_bytes":
                continue
            value = _whole(name, given)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
            put(name, value)
        for name, choices in (
            ("prefetch_direction", ("END", "START")),
            ("validate", ("strict", "size")),
            ("on_no_range", ("error", "download")),
            ("paging", ("auto", "fault", "fill")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {getattr(self, name)!r}")
        if isinstance(self.readahead, str):
            if self.readahead not in ("auto", "off"):
                raise ValueError(f"readahead must be 'auto', 'off' or a number of bytes, not {self.readahead!r}")
        else:
            window = _whole("readahead", self.readahead, "'auto', 'off' or a number of bytes")
            if window < 0:
                raise ValueError(f"readahead must not be negative: {window}")
            put("readahead", window)
        if not (self.timeout is None or _has(self.timeout, "connect_timeout") or _has(self.timeout, "sock_read")):
            what = "a number of seconds, a urllib3.Timeout, an aiohttp.ClientTimeout or None"
            put("timeout", _seconds("timeout", self.timeout, what))
        put("fault_timeout", _seconds("fault_timeout", self.fault_timeout, "a number of seconds"))
        if not _has(self.retries, "increment", "status_forcelist"):
            retries = _whole("retries", self.retries, "an int or a urllib3.Retry")
            if retries < 0:
                raise ValueError(f"retries must not be negative: {retries}")
            put("retries", retries)
        for name, what, names in (
            ("pool", "a urllib3.PoolManager", ("request", "connection_from_url")),
            ("session", "an aiohttp.ClientSession", ("request", "connector")),
        ):
            given = getattr(self, name)
            if not (given is None or _has(given, *names)):
                raise TypeError(f"{name} must be {what} or None, not {_kind(given)}")
        if not callable(self.headers):
            checked_headers(self.headers)
        if self.cache_dir is not None:
            put("cache_dir", _folder(self.cache_dir))
        put("progress", checked_progress(self.progress))

    @property
    def cache_path(self) -> str:
        """The folder in use, '' where there is none."""
        if self.cache_dir is None:
            return _folder(os.environ.get("HCTEF_CACHE_DIR", ""))
        return str(self.cache_dir)

    def changed(self) -> dict[str, Any]:
        """Those that differ from their defaults, by name: what a pickle keeps."""
        return {name: value for name, value in vars(self).items() if value != DEFAULTS[name]}

    def but(self, **other: Any) -> Options:
        """The same options but for some."""
        return Options(**vars(self) | other)


FOREVER = 1e9
"""Seconds: 30 years. Sockets and locks count in 64 bits of nanoseconds, and refuse what is longer."""
DEFAULTS = {name: getattr(Options, name) for name in Options.__annotations__}
_SECRET = {"headers", "pool", "session"}
"""They may hold credentials."""


def _whole(name: str, value: Any, what: str = "an int") -> int:
    """An option's value as an int. Raises TypeError: it is none, or a bool."""
    with contextlib.suppress(TypeError):
        if not isinstance(value, bool):
            return operator.index(value)
    raise TypeError(f"{name} must be {what}, not {_kind(value)}")


def _folder(given: Any) -> str:
    """A folder's absolute path; '' for ''. Raises TypeError: it is no path in text."""
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(path, str):
        raise TypeError(f"cache_dir must be a str or a path, not {_kind(given)}")
    if "\0" in path:
        raise ValueError("cache_dir holds a NUL, which no path does")
    return path and os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  # '' is to stay so


def _seconds(name: str, value: Any, what: str) -> float:
    """An option's value as a float. Raises TypeError: no number. Raises ValueError: not positive, or not finite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {what}, not {_kind(value)}")
    try:
        seconds = float(value)
    except OverflowError:  # an int beyond all floats
        seconds = math.inf
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, not {value}")
    return min(seconds, FOREVER)


def _has(value: object, *names: str) -> bool:
    """Whether it is an object of the form that is meant: its class's module need not be imported for that."""
    return not isinstance(value, type) and all(hasattr(value, name) for name in names)


def _kind(value: object) -> str:
    return type(value).__name__


def defaults(*, buffer: bool) -> dict[str, Any]:
    """Of a buffer, or of a file."""
    return DEFAULTS if buffer else DEFAULTS | {"prefetch_bytes": FILE_PREFETCH_BYTES}


def make_options(kind: str, given: Mapping[str, Any], *, known: frozenset[str], buffer: bool) -> Options:
    """Options of `kind`, the class's name, which has those that are `known`, out of its keyword arguments."""
    if unknown := sorted(given.keys() - known):
        raise TypeError(f"{kind}() has no option {unknown[0]!r}{_instead(unknown[0], known)}")
    return Options(**defaults(buffer=buffer) | dict(given))


def _instead(name: str, known: frozenset[str]) -> str:
    """What to write in place of an option that a class has not."""
    twin = {"pool": "session", "session": "pool"}.get(name)
    if twin in known:
        return f": it takes {twin}=…"
    if name in DEFAULTS:
        return ": that is one of RemoteBuffer"
    import difflib  # noqa: PLC0415  # for who mistyped one

    close = difflib.get_close_matches(name, known, 1)
    return f": did you mean {close[0]}?" if close else ""


class CallSignature:
    """What `inspect.signature` says of a class: its options by name, with their defaults. For help and completion, to
    which `**options` says nothing."""

    def __get__(self, _: object, kind: Any) -> Any:
        first = next(each for each in kind.__mro__ if "_known" in vars(each))
        if kind.__init__ is not first.__init__:  # a subclass has arguments of its own
            raise AttributeError("__signature__")
        from inspect import Parameter, Signature  # noqa: PLC0415  # for who asks

        values = defaults(buffer=kind._buffer)
        options = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=value)
            for name, value in values.items()
            if name in kind._known
        ]
        return Signature([Parameter("url", Parameter.POSITIONAL_OR_KEYWORD), *options])
