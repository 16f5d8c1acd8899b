"""Sync functions in worker threads; a thread cannot be interrupted, so its step stays open until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from .open_work import step_around

T = TypeVar("T")
THREADS: Final = 40  # sync tools and steps that run at the same time in one loop
_seats: RunVar[anyio.CapacityLimiter] = RunVar("softstop.seats")  # one a loop: a limiter belongs to its loop


def seats() -> anyio.CapacityLimiter:
    """The limiter for a loop's threads; entered before the step, so that a stop ends the wait for a thread."""
    limiter = _seats.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(THREADS)
        _seats.set(limiter)
    return limiter


class ThreadEnded(asyncio.CancelledError):
    """A thread has ended because `check_cancelled()` told it that its step was cut."""


async def in_thread(call: Callable[[], T]) -> T:
    """Call `call` in a thread and wait until it ends, also if the wait is cancelled; the caller has entered `seats`.

    A cut does not interrupt the step around this, since the thread would go on: `anyio.from_thread.check_cancelled()`
    raises there from then on. A cancel by another party is raised when the thread has ended; at once if the run was
    abandoned.
    """
    step, scope = step_around(), anyio.CancelScope()
    if step is not None:
        step.thread = scope
    work = _call_in(scope, call)
    thread = asyncio.ensure_future(work)  # noqa: TID251 - anyio has no task that outlives a cancelled wait
    cancelled: asyncio.CancelledError | None = None
    while not thread.done():
        try:
            await asyncio.wait((thread,))
        except asyncio.CancelledError as exc:  # noqa: ASYNC103 - raised below
            if step is not None and step.work.given_up:  # the run was abandoned, and now its loop ends
                raise
            cancelled = exc
    if step is not None:
        step.thread = None
    if cancelled is not None and not (step is not None and step.was_cut):
        thread.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieved
        raise cancelled
    if thread.cancelled() and scope.cancel_called:
        raise ThreadEnded("the step around the thread was cut")
    result = thread.result()
    if isinstance(result, _Exit):
        raise result.exc
    return result


class _Exit:
    """A thread has raised what would end the loop, if a task ended with it."""

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc


async def _call_in(scope: anyio.CancelScope, call: Callable[[], T]) -> T | _Exit:
    def work() -> T | _Exit:
        try:
            return call()
        except (SystemExit, KeyboardInterrupt) as exc:
            return _Exit(exc)

    with scope:
        return await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))
    raise asyncio.CancelledError  # swallowed by the scope
