"""Calls and coroutines that one thread submits to the event loop of another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")
POLL: Final = 0.25  # seconds between looks whether a loop that somebody waits for is closed


def loop_here() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in the calling thread; None without one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: Any) -> bool:
    """Schedule a call on the loop of another thread; False, and no call, if that loop is closed."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return False
    return True


def submit(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
    """Do as `asyncio.run_coroutine_threadsafe`, but call `make` on the loop that runs the coroutine.

    A coroutine made here would never be awaited if that loop ended first, and Python would warn.

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
        with suppress(InvalidStateError):  # the other thread has cancelled it at the same moment
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
        call_on(loop, task.cancel)  # a closed loop has no task any more
