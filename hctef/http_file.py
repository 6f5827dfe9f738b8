"""HttpFile: a remote file as an open file."""

from __future__ import annotations

import errno
import io
import operator
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, SupportsIndex, Unpack

from hctef._cursor import LINE_BYTES, SEEK_SET, sought, writable_bytes
from hctef._options import FileOptions, UrlSource
from hctef._ranges import PAGE, checked_range
from hctef._reader import SHIFT, SLOTS
from hctef._remote import CLOSED
from hctef._sync_reader import SyncReader

if TYPE_CHECKING:
    from typing import BinaryIO

    from hctef.remote_buffer import RemoteBuffer

    class _Base(io.BufferedIOBase, BinaryIO):
        """What functions take that are annotated for open files."""

else:
    _Base = io.BufferedIOBase


class HttpFile(SyncReader, _Base):
    """A file behind an http(s) URL, read like one opened 'rb'. It opens on construction.

    Bytes are fetched by Range requests when something reads them, each at most once, and kept in memory (at most
    `max_resident_bytes`). Safe to share between threads; for a position of its own each thread takes a `clone()`.

    Args:
        url: an http(s) URL, or a callable that returns one and is asked again when the server says that it has expired.
        minimum_range_request_bytes: the least that one request asks for, except to fill a smaller gap.
        prefetch_bytes: fetched on open, from the request on that finds the size; 0: nothing. A copy that came by pickle
            knows the size, and fetches nothing on open by default.
        prefetch_direction: 'END' or 'START' of the file.
        headers: extra request headers: a mapping, or a callable that returns one for each request (fresh tokens).
        timeout: seconds to connect and between bytes, or a `urllib3.Timeout`; None: without end.
        retries: attempts after the first, or a `urllib3.Retry`. They back off exponentially, with jitter, and honour
            Retry-After (RFC 9110 section 10.2.3).
        max_connections: requests in flight at once at the most.
        max_resident_bytes: bound on the bytes in memory; least recently used ones go first. None: no bound.
        readahead: 'auto', 'off' (only what is asked for), or the largest window in bytes.
        validate: 'strict': each response must have the size and the validator (ETag, Last-Modified) seen on open;
            'size': the size only, for CDNs whose ETag differs from node to node.
        on_no_range: 'error', or 'download': where the server knows no ranges, fetch the whole file once.
        cache_dir: a folder that keeps what was fetched for other processes; None: the environment's HCTEF_CACHE_DIR;
            '': none.
        progress: True (a tqdm bar) or a `callable(done_bytes, total_bytes)`, for what takes longer than half a second.
        pool: a `urllib3.PoolManager` of yours (TLS, proxies, client certificates), never closed by hctef.

    Raises:
        HctefUrlError: not an http(s) URL, or headers that cannot be sent.
        TypeError, ValueError: an option that does not exist, or a value that it cannot have.
        RemoteFileNotFoundError, RemotePermissionError, RangeRequestsUnsupportedError, HctefNetworkError: what the
            server answered, or that it did not.
    """

    # io gives weak references.
    __slots__ = (*(slot for slot in SLOTS if slot != "__weakref__"), "_own_buffer", "_past_name")

    _kind = "HttpFile"
    _known = frozenset(FileOptions.__annotations__)
    mode = "rb"

    def __init__(self, url: UrlSource, **options: Unpack[FileOptions]) -> None:
        self._start(url, options)

    def open(self) -> Self:
        """This file, open: as it is where it is open, opened anew (at position 0) where it was closed."""
        if self._remote is None and self._pickled is None:
            given = self._options.changed()
            self._start(self._source, {"prefetch_bytes": self._options.prefetch_bytes, **given})
        return self

    def clone(self) -> Self:
        """Another cursor on the same pages, at the same position: no request, its own position from here on."""
        clone = self._sharing(self._open())
        clone._position = self._position
        return clone

    @property
    def buffer(self) -> RemoteBuffer:
        """The RemoteBuffer on the same pages, the same object each time. It stays open when this file is closed."""
        remote = self._open()
        own = getattr(self, "_own_buffer", None)
        if own is None or own.closed:
            self._own_buffer = own = self._buffer_class._sharing(remote)
        return own

    _own_buffer: RemoteBuffer | None
    _past_name: str
    _buffer_class: ClassVar[type[RemoteBuffer]]
    """Set by `remote_buffer.py`, which knows this module: imports point one way."""

    # position

    def seek(self, offset: SupportsIndex, whence: SupportsIndex = 0, /) -> int:
        """Set the position, which may lie past the end. Raises ValueError: closed, or negative; that is an OSError
        (EINVAL) too."""
        if whence is SEEK_SET and type(offset) is int and 0 <= offset <= self._size:
            self._position = offset
            return offset
        size = self._open().size
        while True:
            start = self._position
            position = sought(start, size, offset, whence)
            if self._advance(start, position):
                return position

    def tell(self) -> int:
        """The position. Raises ValueError: closed."""
        self._open()
        return int(self._position)

    # reading

    def read(self, size: SupportsIndex | None = -1, /) -> bytes:
        """Read `size` bytes, fewer at the end only; all that is left for None or a negative number.

        Raises:
            ValueError: the file is closed.
            HctefNetworkError: the bytes could not be fetched; the position stays.
        """
        if type(size) is int and 0 < size <= PAGE:  # other integers count in ways of their own: below
            start = self._position
            stop = start + size
            rows = self._rows
            if stop <= self._size and rows[start >> SHIFT] and rows[(stop - 1) >> SHIFT]:
                data = self._bytes[start:stop]
                if self._bounded:
                    rows[start >> SHIFT] = rows[(stop - 1) >> SHIFT] = 2
                self._position = stop
                self._hits += 1
                self._hit_bytes += size
                return data
        with self._taking(size) as (start, stop):
            return self._copy(start, stop)

    def read1(self, size: SupportsIndex = -1, /) -> bytes:
        """Read up to `size` bytes; for a negative number what is at hand, or one request's worth."""
        count = operator.index(size)
        if count >= 0:
            return self.read(count)
        remote = self._open()
        start = self._position
        if start >= remote.size:
            return b""
        stop = self._resident_end(start, min(remote.size, start + LINE_BYTES))
        return self.read(stop - start if stop > start else remote.options.minimum_range_request_bytes)

    def readinto(self, buffer: Any, /) -> int:
        """Read into a writable buffer. Returns the number of bytes, fewer than its length at the end only."""
        self._open()
        target = writable_bytes(buffer)
        with self._taking(len(target)) as (start, stop):
            target = target[: stop - start]
            if target and not self._hit_into(target, start):
                self._open().copy_into(target, start)
        return len(target)

    def readinto1(self, buffer: Any, /) -> int:
        """As `readinto`."""
        return self.readinto(buffer)

    def peek(self, size: SupportsIndex = 0, /) -> bytes:
        """At least one byte from the position, b'' at the end: about `size`, but no more than 64 KiB are fetched for
        them. The position stays."""
        remote = self._open()
        wanted = min(max(0, operator.index(size)), LINE_BYTES, remote.planner.window)
        start = self._position
        if start >= remote.size:
            return b""
        page_end = min(remote.size, (start - start % PAGE) + PAGE)
        return self._copy(start, max(page_end, min(remote.size, start + wanted)))

    def readline(self, size: SupportsIndex | None = -1, /) -> bytes:
        """Read up to and including b'\\n', or `size` bytes."""
        return self._take_line(size)

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def read_ranges(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[bytes]:
        """The bytes of `(start, stop)` ranges, in their order: near ones in one request, several requests at once.

        Raises:
            ValueError: a range that is not inside the file, or the file is closed.
            HctefNetworkError: they could not be fetched.
        """
        return self._copies(ranges)

    def stream(self, start: SupportsIndex = 0, stop: SupportsIndex | None = None) -> Iterator[bytes]:
        """Iterate over the bytes of `[start, stop)`, in pieces of any size, past the cache: for one long pass.

        Raises:
            ValueError: not inside the file, or closed.
            HctefNetworkError: they could not be fetched.
        """
        remote = self._open()
        return self._outliving(remote.stream(*checked_range(start, stop, remote.size)))

    def _outliving(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces. Its frame keeps this file, which else would be closed as garbage in the middle of them."""
        yield from pieces

    def copy_to(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        """Write the whole file to `path`, which appears complete or not at all; of a symlink, to its target.

        Raises:
            HctefNetworkError: the bytes could not be fetched.
            OSError: the file cannot be written, or `path` exists and is no regular file. It names `path`.
        """
        given = os.fsdecode(path)
        with _naming(given):
            target, mode = _destination(given)
            partial = target.with_name(f".hctef.{os.urandom(8).hex()}")
        try:  # of an interrupt that comes when it is made, too
            with _naming(given):
                # The system applies the umask: to ask for it is to set it, for all threads.
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
            with open(descriptor, "wb") as writing:  # noqa: PTH123  # a descriptor
                for piece in self.stream():
                    with _naming(given):
                        writing.write(piece)
                with _naming(given):
                    writing.close()
            with _naming(given):
                if mode is not None:
                    partial.chmod(mode)
                partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    # what files have

    def readable(self) -> bool:
        self._open()
        return True

    def seekable(self) -> bool:
        self._open()
        return True

    def writable(self) -> bool:
        self._open()
        return False

    def isatty(self) -> bool:
        self._open()
        return False

    def flush(self) -> None:
        """Nothing to write. Raises ValueError: closed."""
        self._open()

    def fileno(self) -> int:
        """Raises io.UnsupportedOperation: no descriptor stands for a remote file."""
        raise io.UnsupportedOperation(
            "fileno: an HttpFile has no file descriptor; an array of its bytes is file.buffer.array(dtype, …)"
        )

    @property
    def name(self) -> str:
        """The URL without userinfo and query values; '' where a callable has yet to give it."""
        return self._remote.safe_url if self._remote else getattr(self, "_past_name", "") or self._safe_source

    def close(self) -> None:
        """Close. Idempotent; clones and views live on. What is being fetched for this file alone is stopped."""
        self._own_buffer = None
        if self._remote is not None:
            self._past_name = self._remote.safe_url
        self._release()

    def __enter__(self) -> Self:
        if self.closed:
            raise ValueError(CLOSED)
        return self

    def __del__(self) -> None:
        try:  # noqa: SIM105  # at the interpreter's end modules may be gone, contextlib among them
            self._release(garbage=True)
        except Exception:  # noqa: BLE001  # as above
            pass


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Errors in it name `path`, not the file beside it that is written first."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's: a signal handler raised it
            raise
        raise OSError(error.errno, error.strerror, path) from error


def _destination(path: str) -> tuple[Path, int | None]:
    """The file that is to be written for `path`, and the permissions that it has; None: it is a new one.

    Raises OSError: what is there is no regular file.
    """
    target = Path(os.path.realpath(path) if os.path.islink(path) else path)  # noqa: PTH114  # Path("x/") is "x"
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # as above
    except FileNotFoundError:
        if not os.path.basename(path):  # noqa: PTH119  # as above
            raise
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return target, mode & 0o777
