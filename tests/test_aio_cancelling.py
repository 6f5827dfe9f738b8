"""Tasks that are cancelled where it hurts: within `close()`, within a failing `open()`, with a result in hand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from hctef import _aiohttp
from hctef.aio import AsyncHttpFile, AsyncRemoteBuffer
from hctef.exceptions import HctefNetworkError
from tests.helpers import pattern, run_clean
from tests.range_server import Gate, RangeServer, status

DATA = pattern(1_000_000)


@pytest.fixture
def url(range_server: RangeServer) -> str:
    return range_server.add("f", DATA)


@pytest.fixture
def gate(range_server: RangeServer) -> Iterator[Gate]:
    """Holds back the responses to come, once it is given to `range_server.behave`."""
    gate = Gate()
    yield gate
    gate.open()


async def until(predicate: Callable[[], object]) -> None:
    """Let the loop run on."""
    async with asyncio.timeout(20):
        while not predicate():  # noqa: ASYNC110  # nothing in the library tells it
            await asyncio.sleep(0.001)


async def session_is_gone() -> None:
    """Nobody holds the session of this loop any longer."""
    await until(lambda: asyncio.get_running_loop() not in _aiohttp._sessions)


async def cancel_for_good(task: asyncio.Future[Any]) -> None:
    """Cancel at each wait, as a cancel scope of anyio does until it is left."""
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def cancel_once(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


CANCEL: list[Callable[[asyncio.Future[Any]], Awaitable[None]]] = [cancel_once, cancel_for_good]


@pytest.mark.parametrize("cancel", CANCEL)
@pytest.mark.parametrize("cloned", [False, True])
def test_a_cancelled_close_closes(
    range_server: RangeServer, url: str, gate: Gate, *, cloned: bool, cancel: Any
) -> None:
    """After any number of its steps; another close is harmless."""

    async def main() -> None:
        for steps in range(6):
            range_server.behave("f")
            file = await AsyncHttpFile(url, prefetch_bytes=0).open()
            clone = file.clone() if cloned else None
            range_server.behave("f", gate)
            await file.prefetch([(0, 10), (500_000, 10)], wait=False)
            await asyncio.sleep(0.01)
            closing = asyncio.ensure_future(file.close())
            for _ in range(steps):
                await asyncio.sleep(0)
            await cancel(closing)
            await file.close()
            assert file.closed
            await session_is_gone()
            if clone is not None:
                await clone.close()

    run_clean(main)


@pytest.mark.parametrize("cancel", CANCEL)
def test_a_cancelled_open_leaves_nothing(range_server: RangeServer, url: str, gate: Gate, cancel: Any) -> None:
    """Nor does one that is cancelled again while it cleans up."""

    async def main() -> None:
        range_server.behave("f", gate)
        for steps in range(12):
            opening = asyncio.ensure_future(AsyncHttpFile(url).open())
            for _ in range(steps):
                await asyncio.sleep(0)
            await cancel(opening)
            assert opening.cancelled()
            await session_is_gone()

    run_clean(main)


def test_a_cancelled_body_leaves_nothing(range_server: RangeServer, url: str, gate: Gate) -> None:
    """`async with` under a scope that cancels at each wait."""

    async def use() -> None:
        async with AsyncHttpFile(url, prefetch_bytes=0) as file:
            range_server.behave("f", gate)
            await file.prefetch([(0, 10)], wait=False)
            await file.read(500_000)

    async def main() -> None:
        using = asyncio.ensure_future(use())
        await asyncio.to_thread(gate.wait_for, 1)
        await cancel_for_good(using)
        assert using.cancelled()
        await session_is_gone()

    run_clean(main)


def test_a_cancelled_load_keeps_no_pin(url: str) -> None:
    """A clone's whose file was closed, at any moment about its end: its connections are put away then, too."""

    async def main() -> None:
        file = await AsyncRemoteBuffer(url, prefetch_bytes=0, readahead="off", max_resident_bytes=400_000).open()
        clone = file.clone()
        await file.close()
        assert clone._remote is not None
        planner = clone._remote.planner
        for n in range(60):
            at = n * 8192
            loading = asyncio.ensure_future(clone.load(at, at + 10))
            while not loading.done() and not planner.pages.resident(at, at + 10):  # noqa: ASYNC110  # step by step
                await asyncio.sleep(0)
            for _ in range(n % 8):
                await asyncio.sleep(0)
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await loading).release()
        del loading
        gc.collect()
        assert not planner.cache._held
        await clone.close()
        await session_is_gone()

    run_clean(main)


def test_what_is_asked_for_in_turn(
    range_server: RangeServer, url: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a near line: a read that is cancelled, or fails, begins with no other gap, and keeps account of none."""
    monkeypatch.setattr("hctef._link.NEARBY", 1.0)

    async def main() -> None:
        async with AsyncHttpFile(url, prefetch_bytes=0, readahead="off", retries=0) as file:
            await file.prefetch([(at, 10) for at in range(0, 500_000, 50_000)])
            remote, asked = file._open(), range_server.requests
            (driver,) = remote.async_drivers.values()
            range_server.behave("f", gate)
            reading = asyncio.ensure_future(file.read(500_000))
            await until(lambda: range_server.requests > asked)
            await cancel_once(reading)
            assert not driver._carried
            range_server.behave("f", status(503))
            with pytest.raises(HctefNetworkError, match="503"):
                await file.read(500_000)
            assert range_server.requests == asked + 2
            assert not driver._carried
            assert not remote.planner.cache.all_claims()
            gate.open()
            range_server.behave("f")
            assert await file.read(500_000) == DATA[:500_000]

    run_clean(main)
