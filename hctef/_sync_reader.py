"""SyncReader: what HttpFile and RemoteBuffer have in common beyond Reader: they block, and they pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, SupportsIndex

from hctef._cursor import line, read_stop
from hctef._http import Validator, checked_headers, is_secret
from hctef._options import FILE_PREFETCH_BYTES, Options, UrlSource
from hctef._progress import Watch, portable
from hctef._ranges import ByteRange, checked_lengths
from hctef._reader import Reader, Unopened
from hctef._remote import CLOSED, UNWATCHED, Remote
from hctef._urls import parse_url


class SyncReader(Reader):
    """A reader whose methods return when the bytes are there."""

    __slots__ = ()

    _instead_of_a_copy = "clone() gives another cursor on the same pages"

    def _start(self, url: UrlSource, options: Mapping[str, Any]) -> None:
        """Check the arguments, and open."""
        self._detach()
        self._source = url
        self._options = self._checked(options)
        remote = Remote(url, self._options, buffer=self._buffer)
        remote.open()
        self._attach(remote)

    def _open(self) -> Remote:
        """The Remote. Opens what came by pickle. Raises ValueError: closed."""
        if self._remote is not None:
            return self._remote
        pickled = self._pickled
        if pickled is None:
            raise ValueError(CLOSED)
        with pickled.lock:
            if self._pickled is pickled and self._remote is None:  # no other thread was first
                size, validator, hint = pickled.size, pickled.validator, pickled.hint
                position = self._position
                remote = Remote(self._source, self._options, hint, buffer=self._buffer)
                remote.open()
                remote.retain()
                try:
                    remote.expect(size, validator)
                    self._attach(remote)
                finally:
                    remote.release()
                self._position = position
        return self._open()

    # reading

    def _copy(self, start: int, stop: int, watch: Watch | None = None) -> bytes:
        """The bytes `[start, stop)`, fetched where they are absent. `watch`: of what this is a part of."""
        if stop <= start:
            return b""
        data = self._hit(start, stop)
        if data is None:
            data = self._open().copy(start, stop, watch)
        return data

    def _copies(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[bytes]:
        """The bytes of `(start, stop)` ranges, fetched together where there is room for all of them."""
        checked, watch = self._watched(ranges)
        with watch or UNWATCHED:
            self._fetch_together(checked, watch)
            found, end = [], 0
            for start, stop in checked:
                found.append(self._copy(start, stop, watch))
                end += stop - start
                if watch is not None:
                    watch.reach(end)
            return found

    def _take_line(self, count: SupportsIndex | None) -> bytes:
        """Read up to and including b'\\n', or `count` bytes. Each line goes to one of the threads that ask for it."""
        while True:
            start = self._position
            stop = read_stop(start, self._open().size, count)
            found = self._hit_line(start, stop) if start < stop else b""
            if found is None:
                found = self._far_line(start, stop)
            if self._advance(start, start + len(found)):
                return found

    def _far_line(self, start: int, stop: int) -> bytes:
        """The line that begins at `start`, fetched piece by piece."""
        scan = line(start, stop, self._open().planner.window)
        wanted = next(scan)
        try:
            while True:
                wanted = scan.send(self._copy(*wanted))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # what `line` returns

    def prefetch(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]], wait: bool = True) -> int:
        """Fetch `(offset, length)` ranges: near ones in one request, up to `max_connections` requests at once.

        Args:
            ranges: pairs of bytes, in any order; they may overlap.
            wait: False returns at once, and the bytes come behind the caller.

        Returns:
            The number of bytes newly requested.

        Raises:
            ValueError: a range that is not inside the file, or the file is closed.
            HctefNetworkError: they could not be fetched.
        """
        remote = self._open()
        return remote.prefetch(checked_lengths(ranges, remote.size), wait=wait)

    def _fetch_together(self, checked: list[ByteRange], watch: Watch | None) -> None:
        """Fetch ranges, where there is room for all of them."""
        remote = self._open()
        if sum(item.length for item in checked) <= remote.planner.window and len(checked) > 1:
            remote.prefetch(checked, wait=True, watch=watch)

    # pickling

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """URL, options, position and validator. Credentials stay here: userinfo, headers that look like one, the
        pool; and a `progress` that is no function of a module's."""
        remote = self._open()
        options = remote.options.changed()
        options.pop("pool", None)
        options.pop("session", None)  # of an asynchronous file's, whose pages these are
        if remote.is_a_files and options.get("prefetch_bytes") == FILE_PREFETCH_BYTES:
            del options["prefetch_bytes"]  # a copy, one of many perhaps, knows the size, and reads what it was made for
        if not portable(remote.options.progress):
            del options["progress"]
        hint = ""
        headers = options.get("headers")
        if isinstance(headers, Mapping):
            kept = {name: value for name, value in checked_headers(headers).items() if not is_secret(name)}
            if len(kept) < len(headers):
                hint = "its credentials were not pickled: open it with headers=… there"
            options["headers"] = kept
        source = self._source
        if isinstance(source, str):
            url = parse_url(source)
            if url.authorization:
                hint = "its credentials were not pickled: open it with headers=… there"
            source = url.request
        state = (source, options, self._position, remote.size, remote.validator, hint)
        return _unpickle, (type(self), *state)

    def __copy__(self) -> Self:
        raise TypeError(f"a {self._kind} cannot be copied; {self._instead_of_a_copy}")

    def __deepcopy__(self, memo: object) -> Self:
        return self.__copy__()


def _unpickle(  # noqa: PLR0917  # pickle passes by position
    kind: type[SyncReader],
    source: UrlSource,
    options: dict[str, Any],
    position: int,
    size: int,
    validator: Validator,
    hint: str,
) -> SyncReader:
    """A reader that opens on first use, and refuses a file that changed."""
    reader = kind.__new__(kind)
    reader._blank(source, Options(**options))
    reader._pickled = Unopened(size, validator, hint)
    reader._position = position
    return reader
