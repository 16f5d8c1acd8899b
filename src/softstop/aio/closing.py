"""Bounds and shields around code that is not ours, built on documented behaviour of asyncio and anyio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Final

import anyio

from .deferred_scope import TURNS

SETTLE: Final = 0.1  # seconds for a task to unwind after its clean-up was cut, before its run goes on without it
NEVER_YET: Final = float("-inf")  # the effective deadline where a scope is cancelled

_make: Callable[..., anyio.CancelScope] = anyio.CancelScope


def new_shield() -> anyio.CancelScope:
    """Make a shield of anyio; its class, which depends on the backend, is looked up once: a third of the cost."""
    global _make
    scope = _make(shield=True)
    if _make is anyio.CancelScope:
        _make = type(scope)
    return scope


async def finish_within(
    seconds: float, work: Callable[[], object], when_late: Callable[[], None] | None = None, *, shield: bool = False
) -> bool:
    """Call `work` and await its result for at most `seconds`; return whether it ended by itself.

    When the time is over the task is cancelled once, natively. There is no cancel scope around `work` without `shield`:
    anyio could not close, inside of it, a scope that `work` has opened in this task before.
    """
    task = asyncio.current_task()
    assert task is not None
    before, late = task.cancelling(), False

    def cut() -> None:
        nonlocal late
        late = True
        task.cancel("took too long")
        if when_late is not None:
            when_late()

    timer = task.get_loop().call_later(seconds, cut)
    scope = new_shield() if shield else None
    if scope is not None:
        scope.__enter__()
    try:
        await _finish(work)
    except asyncio.CancelledError:  # noqa: ASYNC103 - our own cancel, taken back below
        if not late or task.cancelling() > before + 1:  # another party has cancelled the task as well
            raise
        return False
    finally:
        timer.cancel()
        if late:
            task.uncancel()
        if scope is not None:
            scope.__exit__(None, None, None)
    return not late


async def _finish(work: Callable[[], object]) -> None:
    try:
        result = work()
        if isawaitable(result):
            await result
    except BaseExceptionGroup as group:  # a task group in a generator wraps the GeneratorExit that closes it
        if group.split(GeneratorExit)[1] is not None:
            raise


async def pass_unless_cancelled() -> None:
    """Do as anyio's `checkpoint_if_cancelled`, but wait for the cancellation instead of turning the loop until then."""
    if not cancelled_around():
        return
    for _ in range(TURNS):
        await asyncio.sleep(0)
    await asyncio.get_running_loop().create_future()  # the next cancel ends it; in an abandoned body none comes


def cancelled_around() -> bool:
    """Whether a cancel scope around the calling task is cancelled."""
    return anyio.current_effective_deadline() == NEVER_YET
