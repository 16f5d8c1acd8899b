"""Coroutines that one thread asks for and the loop of another one runs. Knows loops; no run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def submit(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
    """As `asyncio.run_coroutine_threadsafe`, but the coroutine is made where it will run.

    One that was made here would be dropped, never awaited, if that loop ended before it got to it.

    Raises:
        RuntimeError: The loop is closed.
    """
    result: Future[T] = Future()

    def begin() -> None:
        if not result.done():
            task = loop.create_task(make())
            task.add_done_callback(end)
            result.add_done_callback(lambda _: _cancel_from_anywhere(loop, task))

    def end(task: asyncio.Task[T]) -> None:
        with suppress(InvalidStateError):  # the other thread has cancelled it this very moment
            if task.cancelled():
                result.cancel()
            elif (error := task.exception()) is not None:
                result.set_exception(error)
            else:
                result.set_result(task.result())

    loop.call_soon_threadsafe(begin)
    return result


def _cancel_from_anywhere(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    if not task.done():
        with suppress(RuntimeError):  # the loop is closed, and the task gone with it
            loop.call_soon_threadsafe(task.cancel)


async def across(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run what `make()` gives on another loop and wait for it here; a cancelled wait cancels it there."""
    return await asyncio.wrap_future(submit(loop, make))
