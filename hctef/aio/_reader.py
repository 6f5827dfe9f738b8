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
from hctef._ranges import ByteRange, checked_lengths, checked_range
from hctef._reader import SLOTS, Reader
from hctef._remote import CLOSED, Remote
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
        remote = Remote(self._source, options)
        driver = AsyncDriver(remote.planner, remote.driver.lock, AiohttpTransport(options))
        driver.holds += 1
        try:
            await driver.run(Opening(remote.planner).run())
        except BaseException:
            remote.driver.close()
            await driver.close()
            raise
        if self._remote is not None:  # another task was first
            remote.driver.close()
            await driver.close()
            return self
        remote.async_drivers[asyncio.get_running_loop()] = driver
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
                remote.async_drivers[loop] = driver
            driver.holds += 1  # else a reader whose owner was closed would connect for each read
            self._driver, self._owner = driver, True
        driver.check_loop()
        return driver

    async def _await[T](self, generator: PlanGen[T]) -> T:
        """Perform a generator of the planner."""
        driver = self._here()
        with self._open().waiting():
            return await driver.run(generator)

    # reading

    async def _copy(self, start: int, stop: int) -> bytes:
        """The bytes `[start, stop)`, fetched where they are absent."""
        if stop <= start:
            return b""
        data = self._hit(start, stop) if stop - start <= COPY_BYTES else None
        if data is None:
            data = await self._await(self._open().planner.copy(start, stop, COPY_BYTES))
        return data

    async def prefetch(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]], wait: bool = True) -> int:
        """Fetch `(offset, length)` ranges. See `HttpFile.prefetch`."""
        remote = self._open()
        return await self._await(remote.planner.prefetch(checked_lengths(ranges, remote.size), wait=wait))

    async def _fetch_ranges(self, ranges: Iterable[tuple[SupportsIndex, SupportsIndex]]) -> list[ByteRange]:
        """Check `(start, stop)` ranges, and fetch them together where there is room for all of them."""
        remote = self._open()
        checked = [checked_range(start, stop, remote.size) for start, stop in ranges]
        if sum(item.length for item in checked) <= remote.planner.window and len(checked) > 1:
            await self._await(remote.planner.prefetch(checked, wait=True))
        return checked

    async def _stream(self, start: int, stop: int) -> AsyncIterator[bytes]:
        remote, driver = self._open(), self._here()
        async with contextlib.aclosing(driver.iterate(remote.planner.stream(start, stop))) as steps:
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
