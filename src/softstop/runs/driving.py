"""A run's task, from its first turn to its outcome: the body, then members, callbacks and clients (T5 to T9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine
from functools import partial
from typing import Any, Final

from ..aio.closing import finish_within
from ..errors import MisuseError, StepFailed, process_interrupt, safe_error, unfold
from ..events import RunStarted
from ..law.machine import CANCEL, INTERRUPTED, PENDING, RAISED, RETURNED, START, Ending, Signal
from . import ending, gate, pausing, stopping
from .context import RunContext
from .limiting import stop_for
from .members import end_members
from .open_work import current_step
from .reading import FAIRNESS
from .run import Run
from .state import RunState, current

TRIES: Final = 2  # of winding up: the first native cancel in those waits hastens them, the second ends them


async def drive(run: RunState) -> None:
    """Run the body and publish the outcome; every exception ends here, and ends this run only (T20)."""
    if run.task is None and not run.record.ended:  # an eager task factory runs this within `start`
        await asyncio.sleep(0)
    if not _may_begin(run):
        return
    how, raised = INTERRUPTED, None
    try:
        _begin(run)
        value = await _call_body(run)
        if value is not None:
            _look_at(run, value)
        how = RETURNED
        if not run.record.ended:  # else it was abandoned, and its result comes too late
            run.value = value
    except BaseException as exc:  # noqa: BLE001, ASYNC103 - boundary: drive
        raised = exc
    run.record.delivered = run.scope.interrupted(trusted=how is not RETURNED or run.record.torn)
    raised = run.scope.exit(raised)
    interrupt = None if raised is None else process_interrupt(raised)
    if raised is not None and interrupt is None and not run.record.ended:
        how = _note(run, raised)
    if interrupt is not None or (run.record.delivered and how is not RAISED):
        stopping.stop_by_process(run)
    run.winding_up = True
    if run.members or run.hooks or run.clients or run.work.is_open:
        interrupt = await _wind_up_twice(run, how) or interrupt
    else:  # most runs have nothing to wait for
        _end(run, how)
    if interrupt is not None:
        raise interrupt


def _may_begin(run: RunState) -> bool:
    """Make the run a running one; False if it, or one above, was stopped before, also from another thread (T10)."""
    while run.record.status is PENDING:
        with ending.mailbox.held:
            asked = run if run.writer.log.asked else None  # else without a look at all above, for deep trees
            while asked is not None and asked.record.inbox is None:
                asked = asked.parent
            if asked is None:
                run.record.follow(START)
                return True
        stopping.collect(asked)
    return False


def _begin(run: RunState) -> None:
    run.scope.enter(run.task)
    spec = run.spec
    run.started = run.writer.emit(RunStarted(spec.user_id, spec.session_id, run.allowance.limits))
    run.allowance.start(partial(stop_for, run) if run.allowance.needs_timers else None)
    if run.paused_by:
        pausing.tell(run)
    current.set(run)
    if run.parent is not None:
        stopping.inherit(run, run.parent)
    elif current_step.get() is not None:
        current_step.set(None)


def _call_body(run: RunState) -> Awaitable[Any]:
    """Call the body; awaiting the result runs it and gives its value."""
    if run.allowance.levels < 0:
        depth = run.allowance.depth
        raise MisuseError(
            f"{run.source.name!r} is {depth} levels below its root, which allows {depth + run.allowance.levels}: raise "
            f"Limits(depth={depth}) of the root, or see why its members start each other"
        )
    work: Any = run.spec.runnable.invoke(RunContext(run), run.spec.message)
    called: Awaitable[Any] = _write_out(run, work) if hasattr(work, "__anext__") else work  # an isinstance is 200 ns
    return called


def _look_at(run: RunState, value: object) -> None:
    """Write what a body returned, if it is a string and the body wrote none; refuse what it forgot to await."""
    if isinstance(value, str):
        if not run.writer.content:
            run.writer.write(value)
    elif isinstance(value, Coroutine | AsyncGenerator):
        what, move = "a coroutine", "return await ..."
        if isinstance(value, AsyncGenerator):
            what, move = "an async generator", "async for text in ...: run.write(text)"
        raise MisuseError(f"the body {run.source.name!r} returned {what}, of which nothing has run; write `{move}`")
    elif isinstance(value, Run) and value._state.parent is run and not value.status.ended:
        raise MisuseError(f"the body {run.source.name!r} returned a member that is live; write `return await ...`")


async def _write_out(run: RunState, texts: AsyncIterator[str]) -> None:
    """Write the texts of an async generator, with a boundary after each, and close it at the end."""
    write, fair = RunContext(run).write, FAIRNESS
    try:
        async for text in texts:
            write(text)
            if run.alert:
                await gate.cross(run)
            fair -= 1
            if not fair:
                fair = FAIRNESS
                await asyncio.sleep(0)
    finally:
        close = getattr(texts, "aclose", None)
        if close is not None and getattr(texts, "ag_frame", texts) is not None:  # else it has ended
            with run.scope.region():
                await finish_within(run.policy.cleanup_timeout, close)  # noqa: ASYNC102 - bounded


def _note(run: RunState, raised: BaseException) -> Ending:
    """Record the exception of the body: a failure, or the interruption of a stop."""
    record = run.record
    only_cancelled = all(isinstance(exc, asyncio.CancelledError | BaseExceptionGroup) for exc in unfold(raised))
    if only_cancelled and (record.refusing or record.delivered or record.torn):
        stopping.stop_by_process(run)
        return INTERRUPTED
    known = run.failures or ()
    record.failed_first = not record.refusing or any(inner is error for inner in unfold(raised) for error in known)
    run.error = raised if isinstance(raised, Exception) else StepFailed(run.source.name, safe_error(raised))
    run.errors = (safe_error(raised), *run.errors)  # first: the error of RunFailed
    return RAISED


async def _wind_up_twice(run: RunState, how: Ending) -> KeyboardInterrupt | None:
    """Wind up, again after a first native cancel; after a second one the outcome is published at once."""
    interrupt = None
    for _ in range(TRIES):
        try:
            await _wind_up(run, how)
            return interrupt
        except BaseException as exc:  # noqa: BLE001, ASYNC103 - boundary: drive
            interrupt = process_interrupt(exc) or interrupt
            run.add_error(safe_error(exc))
            stopping.stop_by_process(run)
    for client in run.clients or ():  # nobody waits for them any more
        client.give_up()
    run.work.give_up()
    stopping.end(run, CANCEL)
    return interrupt


async def _wind_up(run: RunState, how: Ending) -> None:
    """End members and begun steps after the body, then callbacks and clients; publish the outcome.

    Again after sources and clients were closed: a task that outlives the body may have begun something meanwhile.
    """
    while True:
        await end_members(run)
        if run.work.is_open:
            await run.work.finish()
            if run.work.steps:  # begun while a source was closed
                continue
        if _signal(run, how) is CANCEL:
            await stopping.end_cancelled(run)
            return
        if not run.clients:
            break
        await ending.close_clients(run, run.loop.time() + run.policy.cleanup_timeout)
    _end(run, how)


def _signal(run: RunState, how: Ending) -> Signal | None:
    """How the run ended, from the facts; None if it was ended or abandoned already."""
    if run.record.ended or run.abandoned:
        return None
    stopping.collect(run)
    if not run.record.cut and run.members:
        run.record.cut = any(ending.stopped_with(member, run) for member in run.members)
    return run.record.outcome(how)


def _end(run: RunState, how: Ending) -> None:
    signal = _signal(run, how)
    if signal is not None:
        stopping.end(run, signal)
