"""The end of a run: callbacks, clients, then the outcome, once and last (T9, T12)."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Final

from ..aio.closing import finish_within
from ..aio.parking import wait_in, wake_anywhere
from ..errors import process_interrupt, safe_error
from ..events import RunCompleted, RunFailed
from ..events.kinds import cancelled
from ..law.ledgers import Hold
from ..law.locks import ForkSafeLock
from ..law.machine import COMPLETE, FAIL, Signal
from ..stops import RunStatus, StopRequest
from ..usage import Usage
from . import gate
from .spec import RunOutput
from .state import RunState, StopHook

mailbox: Final = ForkSafeLock()  # around each access to an inbox, and the decision of an outcome


def decide(run: RunState, signal: Signal) -> bool:
    """Publish the outcome, if it was not decided before; False if another thread has requested a stop meanwhile.

    Then cancel the timers, leave the registry and wake the waiters.
    """
    with mailbox.held:
        if run.record.ended:
            return True
        if not run.record.end(signal):
            return False
    try:
        if run.holds:
            _forfeit(run.holds, run)
        if run.work.is_open or run.work.stages:
            _close_abandoned_steps(run)
    finally:  # also if an observer raises a BaseException
        _publish_and_leave(run, signal)
    return True


def _publish_and_leave(run: RunState, signal: Signal) -> None:
    try:
        _publish(run, signal)
    finally:
        stop_alarm(run)
        run.allowance.end()
        run.work.close()
        run.alert = True
        gate.wake_parked(run)
        try:
            run.owner.ended(run)
        finally:
            if run.waiting:
                wake_anywhere(run.waiting)


def stop_alarm(run: RunState) -> None:
    """Cancel the timer of a stop."""
    if run.alarm is not None:
        run.alarm.cancel()
        run.alarm = None


def _close_abandoned_steps(run: RunState) -> None:
    """Tell the end of what the run ends without."""
    run.abandoned = run.abandoned or run.work.names()
    with ExitStack() as ends:  # all of them, also if an observer raises a BaseException
        for each in reversed(run.work.all_open()):
            ends.callback(run.writer.emit, each.announced.ended(each.name, each.step_id, "abandoned", None))


def _forfeit(holds: dict[Hold, None], run: RunState) -> None:
    """Count what is still reserved as spent, since nobody knows what it uses, and say so."""
    tokens = sum(hold.remaining.tokens for hold in holds)
    nano_usd = sum(hold.remaining.nano_usd for hold in holds)
    run.add_error(f"forfeit: {tokens:,} tokens and {nano_usd:,} nano-USD, reserved by what the run has ended without")
    for hold in holds:
        hold.abandon()


def _publish(run: RunState, signal: Signal) -> None:
    writer = run.writer
    usage = writer.usage
    shared = (writer.content, usage, _total(run, usage), run.work.records(), run.errors)
    if signal is COMPLETE:
        run.outcome = RunCompleted(*shared)
    elif signal is FAIL:
        run.outcome = RunFailed(*shared, error=run.errors[0] if run.errors else "unknown")
    else:
        stop = run.stop
        assert stop is not None
        run.outcome = cancelled(shared, stop, writer.log.clock(), run.abandoned)
    writer.finish(run.outcome)


def _total(run: RunState, usage: Usage) -> Usage:
    """The usage of a run and all below it, whose members have ended before it."""
    for member in run.members or ():
        usage += member.writer.usage if member.outcome is None else member.outcome.total_usage
    return usage


async def call_hooks(run: RunState, ends: float) -> None:
    """Call the `on_stop` callbacks, newest first, each with an equal share of the time until loop time `ends`."""
    hooks, run.hooks = run.hooks or [], None
    for remaining, hook in zip(range(len(hooks), 0, -1), reversed(hooks), strict=True):
        assert run.stop is not None
        error = await _call_hook(hook, run.stop, max(0.0, ends - run.loop.time()) / remaining)
        if error is not None:
            run.add_error(error)


async def _call_hook(hook: StopHook, stop: StopRequest, seconds: float) -> str | None:
    """Call one callback; return an error line, or None."""
    try:
        if await finish_within(seconds, partial(hook, stop)):
            return None
        return f"on_stop callback took more than {seconds:.3g} s and was cut"
    except BaseException as exc:  # noqa: ASYNC103 - boundary: drive. A hook cannot change the outcome (T9)
        if process_interrupt(exc) is not None:
            raise
        return safe_error(exc)


async def close_clients(run: RunState, ends: float) -> None:
    """Close the clients of `run.open`, after the last step, stream and callback, which may use them.

    Newest first, each with an equal share of the time until loop time `ends`. Those that are not closed yet stay in the
    list, for the next try if this one is cancelled.
    """
    clients = run.clients or []
    while clients:
        client = clients[-1]
        error = await client.close(max(0.0, ends - run.loop.time()) / len(clients))
        if client in clients:
            clients.remove(client)
        if error is not None:
            run.add_error(error)


def output_of(run: RunState) -> RunOutput | None:
    """The output of an ended run, with those of its members; None before its outcome. Made once."""
    todo = [run] if run.outcome is not None else []
    while todo:  # members before their parents, without recursion
        here = todo[-1]
        missing = [member for member in here.members or () if member.outcome is not None and member.output is None]
        if missing:
            todo += missing
        else:
            todo.pop()
            here.output = here.output or _output(here)
    return run.output


def _output(run: RunState) -> RunOutput:
    outcome = run.outcome
    assert outcome is not None
    return RunOutput(
        run_id=run.run_id,
        status=outcome.status,
        content=outcome.content,
        value=run.value,
        usage=outcome.usage,
        total_usage=outcome.total_usage,
        stop=run.stop,
        steps=outcome.steps,
        members=tuple(member.output for member in run.members or () if member.output is not None),
        errors=outcome.errors,
        abandoned=run.abandoned,
        messages=run.messages,
        finish_reason=run.finish_reason,
        error=run.error,
    )


def stopped_with(member: RunState, parent: RunState) -> bool:
    """Whether the parent's stop cancelled this member: not a stop of its own, nor merely the parent's end."""
    mine, stop = member.stop, parent.stop
    if mine is None or stop is None or member.record.status is not RunStatus.cancelled or mine.via != parent.run_id:
        return False
    return mine.cause is stop.cause


async def ended(run: RunState) -> None:
    """Wait for the outcome, on the run's own loop."""
    while run.outcome is None:
        if run.waiting is None:
            run.waiting = []
        await wait_in(run.waiting, run.loop, lambda: run.outcome is not None)
