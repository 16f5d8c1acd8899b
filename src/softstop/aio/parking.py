"""Futures in a list, on which coroutines wait for one event and which are woken together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from .crossing import loop_here

Waiters = list[asyncio.Future[None]]


async def wait_in(waiters: Waiters, loop: asyncio.AbstractEventLoop, over: Callable[[], bool]) -> None:
    """Wait on a future of its own until `wake_all`; an anyio.Event would cost a third of the event rate.

    Not if what is waited for is `over` by now: a signal handler may have woken all since the caller has looked.
    """
    waiter = loop.create_future()
    waiters.append(waiter)
    try:
        if not over():
            await waiter
    finally:
        if waiter in waiters:
            waiters.remove(waiter)


def wake_all(waiters: Waiters) -> None:
    """Set all futures that are not done, and empty the list."""
    for waiter in waiters:
        if not waiter.done():
            try:
                waiter.set_result(None)
            except RuntimeError:  # its loop is closed: no task waits there any more
                continue
    waiters.clear()


def wake_anywhere(waiters: Waiters) -> None:
    """Set futures of any loops: a run of one loop may free the budget that a run of another waits for."""
    for waiter in waiters:
        loop = waiter.get_loop()
        if loop_here() is loop:
            wake_all([waiter])
        elif not loop.is_closed():
            with suppress(RuntimeError):  # it was closed this very moment
                loop.call_soon_threadsafe(wake_all, [waiter])
