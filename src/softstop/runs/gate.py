"""Step boundaries: whether the code of a run may go on.

Order matters everywhere: look at the record first, hold the scope second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..aio.closing import SETTLE, pass_unless_cancelled
from ..aio.crossing import call_on, loop_here
from ..aio.deferred_scope import DELIVERED, PULSE
from ..aio.parking import wait_in, wake_all
from ..errors import MisuseError
from ..stops import StopRequest
from .open_work import OpenStep, OpenStream, current_step
from .state import RunState, current

REFUSED_AT_ONCE = 3  # refusals of one task without delay; a task that swallows them is slowed down
AFTER_STOP = (
    "a step was refused after the stop had interrupted the body: use none in clean-up, or run.on_stop(...); where the "
    "body has caught the CancelledError and goes on, let it raise that again"
)
LOOKS = 16  # within `SETTLE`, whether the body has ended without interrupting a branch


async def cross(run: RunState) -> None:
    """Be a step boundary: return if the run may go on, else wait for the end of a pause or for the interruption."""
    if run.allowance.bounded and run.allowance.overdue and not inside(run):
        await let_timers_report(run)
    if run.alert and not inside(run):
        await halt(run)
    await pass_unless_cancelled()


async def let_timers_report(run: RunState) -> None:
    """Turn a loop that is late until it has told of a timeout that has ended: code that never waits keeps it from that.

    Not for ever: a pause, or a limit that is raised meanwhile, stops that timer.
    """
    while run.allowance.overdue and not run.record.refusing:  # noqa: ASYNC110 - a turn of the loop is what it needs
        await asyncio.sleep(0)


async def halt(run: RunState) -> None:
    """Wait while the run is paused; refuse the caller if the run is stopping."""
    await wait_while_paused(run)
    if run.record.refusing:
        await refuse(run)


async def wait_while_paused(run: RunState) -> None:
    """Wait for the end of a pause, or for a stop."""
    await _park(run, lambda: run.record.refusing or not run.paused_by)


async def wait_until_held(run: RunState) -> None:
    """Wait while another owner may have taken the run over, so that nothing begins twice; a stop ends the wait."""
    holds = run.owner.holds
    while holds is not None and not holds() and not run.record.refusing:  # noqa: ASYNC110 - nobody could set an event
        await asyncio.sleep(PULSE)


async def stop_requested(run: RunState) -> StopRequest:
    """Wait for a stop and return it; outside a begun step, where that stop refuses the caller, raise CancelledError."""
    too_late = run.record.ended
    await _park(run, lambda: run.stop is not None or run.record.ended)
    if run.stop is None and not too_late:
        raise asyncio.CancelledError("the run has ended, and nobody has stopped it")
    await cross(run)
    assert run.stop is not None
    return run.stop


async def _park(run: RunState, over: Callable[[], bool]) -> None:
    while not over():
        if run.parked is None:
            run.parked = []
        await wait_in(run.parked, run.loop, over)


def inside(run: RunState) -> bool:
    """Whether the calling code is in a begun step of this run or one below, where there are no boundaries (T2)."""
    return is_inside(current_step.get(), run)


def is_inside(here: OpenStep | OpenStream | None, run: RunState) -> bool:
    """Whether this step or stream, or one around it, is such a step: one that is open, since inner ones may be cut."""
    while here is not None:
        if here.is_open and isinstance(here, OpenStep) and run.scope.is_around(here.work.scope):
            return True
        here = here.around
    return False


async def refuse(run: RunState) -> None:
    """Refuse the caller: wait for the interruption of the body, then raise CancelledError.

    Without a wait if no interruption comes any more, or in the clean-up of a source, for which the run itself waits. A
    source that is about to be interrupted waits for that, which else would strike its clean-up.

    Raises:
        MisuseError: The run has ended, see `after_end`.
    """
    run.record.refused = True
    if run.work.given_up:
        await _slow_down(run, at_once=1)
        raise asyncio.CancelledError("refused: the run has ended without waiting for this")
    if run.record.ended:
        await _slow_down(run)
        raise after_end(run)
    if run.scope.phase >= DELIVERED:
        if asyncio.current_task() is run.scope.task and not run.seldom.refusals:
            run.add_error(AFTER_STOP)
        await _slow_down(run)
    elif not (streams := run.work.cleaned_up_by(asyncio.current_task())):
        await run.scope.delivery()
    elif all(stream.waiting and not stream.interrupted for stream in streams):
        await run.loop.create_future()
    await _wait_for_groups(run)
    raise asyncio.CancelledError("refused: the run is stopping")


def after_end(run: RunState) -> BaseException:
    """What refuses code that comes to a boundary after the outcome: an error, for work that is not done.

    After a stop, the run's own code is ended as by that stop: it comes merely later than another task.
    """
    here = current.get()
    if run.stop is not None and here is not None and run.scope.is_around(here.scope):
        return asyncio.CancelledError("refused: the run has ended")
    return MisuseError(
        f"run {run.run_id!r} is already {run.record.status}, and nothing begins in it any more; "
        "let its body await what it starts"
    )


async def _wait_for_groups(run: RunState) -> None:
    """Wait until the body's interruption has come through the task groups around the calling task.

    Each anyio or asyncio group cancels its children a turn of the loop later, or when a group within it has cleaned up:
    a caller that unwinds before is cancelled a second time, in its clean-up. Nothing in asyncio says whether a task is
    going to be cancelled, and a body may wait for one that it does not cancel: so this ends after `SETTLE`.
    """
    task = asyncio.current_task()
    assert task is not None
    if task is run.scope.task:
        return
    await asyncio.sleep(0)  # else a cancel that has come meanwhile, in this very turn, would strike its clean-up
    for _ in range(LOOKS):
        if task.cancelling() or run.scope.phase is not DELIVERED:
            return
        await asyncio.sleep(SETTLE / LOOKS)


async def _slow_down(run: RunState, at_once: int = REFUSED_AT_ONCE) -> None:
    """Slow a task down that swallows its refusals, so that it does not keep the loop busy."""
    task = asyncio.current_task()
    assert task is not None
    refusals = run.seldom.refusals
    refusals[task] = times = refusals.get(task, 0) + 1
    if times > at_once:
        await asyncio.sleep(PULSE)


def deferred(run: RunState, call: Callable[..., object], *args: Any) -> bool:
    """Whether a call must be made by the loop, a moment later, and is scheduled so; else it may be made here and now.

    It must if it comes from another thread, or in a handler of `signal.signal` into the middle of an event.
    """
    if run.writer.log.on_loop() and not run.writer.log.half_written:
        wake_from_handler(run.loop)
        return False
    call_on(run.loop, call, *args)
    return True


def on_loop(run: RunState, call: Callable[..., object], *args: Any) -> None:
    """Make a call on the run's loop: here and now, or a moment later, see `deferred`."""
    if not deferred(run, call, *args):
        call(*args)


def wake_from_handler(loop: asyncio.AbstractEventLoop) -> None:
    """Wake the loop if the caller is perhaps a signal handler that has struck while it sleeps: nothing else does."""
    if loop_here() is loop and asyncio.current_task() is None:
        call_on(loop, _nothing)


def _nothing() -> None:
    """Wakes a loop by being called on it."""


def update_alert(run: RunState) -> None:
    """Update `alert`, the one flag that the hot paths read."""
    run.alert = bool(run.paused_by) or run.record.refusing


def wake_parked(run: RunState) -> None:
    """Wake tasks that wait for the end of a pause, or for a stop, to look again."""
    if run.parked:
        wake_all(run.parked)
