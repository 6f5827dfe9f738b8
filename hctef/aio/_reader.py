"""AsyncReader: what the asynchronous classes have in common beyond Reader: they await, in the loop that opened them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex

from hctef._aiohttp import AiohttpTransport, within_limits
from hctef._async_driver import COPY_BYTES, AsyncDriver
from hctef._opening import Opening
from hctef._options import UrlSource
from hctef._progress import Watch
from hctef._ranges import ByteRange, checked_lengths
from hctef._reader import SLOTS, Reader
from hctef._remote import CLOSED, UNWATCHED, Remote
from hctef._steps import PlanGen
from hctef._urls import parse_url

ASYNC_SLOTS = (*SLOTS, "_driver", "_owner", "_state")


class AsyncReader(Reader):
    """A reader whose methods are awaited."""

    if not TYPE_CHECKING:  # the annotated attributes below are slots of the subclasses
        __slots__ = ()

    _driver: AsyncDriver | None
    _owner: bool
    _state: str
    """'new', 'open', 'closed'."""

    def _prepare(self, url: UrlSource, options: Mapping[str, Any]) -> None:
        """Check the arguments; nothing is opened yet."""
        self._blank(url, self._checked(options))
        if not callable(url):
            parse_url(url)  # says at once what is wrong with it

    def _detach(self) -> None:
        super()._detach()
        self._driver = None
        self._state = "new"
        self._owner = False

    async def open(self) -> Self:
        """Open: find the size and the validator. On an open file, nothing; a closed one is opened anew, at position 0.

        Raises:
            HctefNetworkError and its kinds: as `HttpFile`.
        """
        if self._remote is not None:
            return self
        options = within_limits(self._options)
        remote = Remote(self._source, options, buffer=self._buffer)
        driver = AsyncDriver(remote.planner, remote.driver.lock, AiohttpTransport(options))
        driver.holds += 1
        try:
            watch = remote.watch()
            with watch or UNWATCHED:
                await driver.run(Opening(remote.planner, watch).run(), watch=watch)
        except BaseException:
            remote.driver.close()
            await driver.close()
            raise
        if self._remote is not None:  # another task was first
            remote.driver.close()
            await driver.close()
            return self
        remote.drive_by(asyncio.get_running_loop(), driver)
        self._attach(remote)
        self._driver, self._state, self._owner, self._position = driver, "open", True, 0
        return self

    @classmethod
    def _on(cls, remote: Remote, driver: AsyncDriver | None, *, owner: bool = False) -> Self:
        """A reader of pages that are open. An owner keeps connections until it is closed, others read by the owner's
        while there are those."""
        reader = cls._sharing(remote)
        reader._driver, reader._state, reader._owner = driver, "open", owner
        return reader

    def clone(self) -> Self:
        """Another cursor on the same pages, session and metadata, at the same position: no request."""
        other = self._on(self._open(), self._driver)
        other._position = self._position
        return other

    def _open(self) -> Remote:
        if self._remote is None:
            raise ValueError(CLOSED if self._state == "closed" else "not open: `await file.open()`, or `async with`")
        return self._remote

    def _here(self) -> AsyncDriver:
        """The driver of the running loop. Raises RuntimeError: it was opened in another."""
        remote, driver = self._open(), self._driver
        if driver is None or driver.closed:
            loop = asyncio.get_running_loop()
            driver = remote.async_drivers.get(loop)
            if driver is None or driver.closed:
                driver = AsyncDriver(remote.planner, remote.driver.lock, AiohttpTransport(remote.options))
                remote.drive_by(loop, driver)
            driver.holds += 1  # else a reader whose owner was closed would connect for each read
            self._driver, self._owner = driver, True
        driver.check_loop()
        return driver

    async def _await[T](self, generator: PlanGen[T], watch: Watch | None = None) -> T:
        """Perform a generator of the planner."""
        driver = self._here()
        with watch or UNWATCHED, self._open().waiting():
            return await driver.run(generator, watch=watch)

    # reading

    async def _copy(self, start: int, stop: int, watch: Watch | None = None) -> bytes:
        """The bytes `[start, stop)`, fetched where they are absent. `watch`: of what this is a part of."""
        if stop <= start:
            return b""
        data = self._hit(start, stop) if stop - start <= COPY_BYTES else None
        if data is None:
            remote = self._open()
            watch = watch or remote.watch((start, stop))
            data = await self._await(remote.planner.copy(start, stop, COPY_BYTES, watch), watch)
        return data

    async def _copies(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[bytes]:
        """The bytes of `(start, stop)` ranges, fetched together where there is room for all of them."""
        checked, watch = self._watched(ranges)
        with watch or UNWATCHED:
            await self._fetch_together(checked, watch)
            found, end = [], 0
            for start, stop in checked:
                found.append(await self._copy(start, stop, watch))
                end += stop - start
                if watch is not None:
                    watch.reach(end)
            return found

    async def prefetch(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]], wait: bool = True) -> int:
        """Fetch `(offset, length)` ranges. See `HttpFile.prefetch`."""
        remote = self._open()
        checked, watch = checked_lengths(ranges, remote.size), remote.watch() if wait else None
        return await self._await(remote.planner.prefetch(checked, wait=wait, watch=watch), watch)

    async def _fetch_together(self, checked: list[ByteRange], watch: Watch | None) -> None:
        """Fetch ranges, where there is room for all of them."""
        remote = self._open()
        if sum(item.length for item in checked) <= remote.planner.window and len(checked) > 1:
            await self._await(remote.planner.prefetch(checked, wait=True, watch=watch), watch)

    async def _stream(self, start: int, stop: int) -> AsyncIterator[bytes]:
        remote, driver = self._open(), self._here()
        watch = remote.watch((start, stop))
        with watch or UNWATCHED:
            async with contextlib.aclosing(driver.iterate(remote.planner.stream(start, stop), watch=watch)) as steps:
                while True:
                    with remote.waiting():  # not while the caller looks at what came
                        item = await anext(steps, None)
                    if not isinstance(item, bytes):
                        return
                    yield item

    # ends

    async def close(self) -> None:
        """Close. Idempotent; clones and views live on. What is in flight for this file alone is stopped."""
        remote, driver, owner = self._remote, self._driver, self._owner
        if driver is not None:
            driver.check_loop()
        self._release()
        self._state = "closed"
        if remote is None or driver is None:
            return
        if remote.planner.closed:  # nobody has it open any longer
            await driver.close()
        elif owner:  # clones read on: no prefetch of this file's outlives it
            await driver.let_go()

    async def aclose(self) -> None:
        """As `close`."""
        await self.close()

    @property
    def closed(self) -> bool:
        return getattr(self, "_state", "closed") == "closed"

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(self) -> None:
        driver, owner = getattr(self, "_driver", None), getattr(self, "_owner", False)
        try:  # at the interpreter's end modules may be gone, contextlib among them
            self._release(garbage=True)
            if driver is not None and owner:
                driver.forget()
        except Exception:  # noqa: BLE001  # as above
            pass

    def __enter__(self) -> NoReturn:
        raise TypeError(f"use `async with` for {self._kind}")

    def __exit__(self, *_: object) -> None:
        """Never reached."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self._kind} cannot be pickled: it belongs to an event loop; pickle an HttpFile or a RemoteBuffer"
        )
