"""How a run is stopped, from the request to the outcome: rules T1, T8 and T10, from top to bottom.

`ask` takes a request from any thread. `request_stop` records it and `carry_out` acts on it, in the whole tree.
`interrupt` ends waits, `escalate` cuts steps when grace is over, `end_abandoned` ends a run whose body does not end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Final

from ..aio.closing import SETTLE
from ..aio.crossing import POLL, call_on, loop_here
from ..errors import safe_error
from ..events import RunCancelled, RunCompleted, RunEscalated
from ..events.kinds import stop_event
from ..law.machine import (
    AFTER_TURN,
    CANCEL,
    CUTTING,
    ENDING,
    INTERRUPTING,
    PENDING,
    STOP,
    RecordedStop,
    Signal,
    Verdict,
)
from ..stops import StopCause, StopMode, StopOutcome, StopReceipt, StopRequest, StopResult
from . import ending, gate
from .cutting import cut_all
from .ending import mailbox
from .state import RunState

NEVER: Final = float("inf")
LOOP_CLOSED: Final = StopRequest(cause=StopCause.shutdown, mode=StopMode.now, reason="its event loop was closed")
TASK_CANCELLED: Final = StopRequest(cause=StopCause.shutdown, mode=StopMode.now, reason="its task was cancelled")


# The request


def ask(run: RunState, request: StopRequest) -> StopReceipt:
    """Request a stop from any thread, or in a handler of `signal.signal`. Never waits.

    Python calls such a handler between two bytecodes: where a loop begins to wait, or a thread waits for a lock, right
    after the signal and before that call, the stop comes with what ends that wait. For loops, see `Signals`.
    """
    if loop_here() is not run.loop or run.writer.log.half_written:
        return _ask_from_thread(run, request)
    verdict = request_stop(run, request)
    gate.wake_from_handler(run.loop)
    return _receipt(run, verdict)


def request_stop(run: RunState, request: StopRequest) -> StopOutcome:
    """Request a stop on the run's own loop: synchronous, and atomic there (T1)."""
    verdict, stop = _record(run, request)
    if stop is not None:
        carry_out(run, stop)
    return verdict


def _ask_from_thread(run: RunState, request: StopRequest) -> StopReceipt:
    """Request a stop from another thread: post it where every boundary sees it, then wake the loop; touch no task."""
    end_if_loop_closed(run)
    with mailbox.held:
        run.writer.log.asked = True
        verdict, stop = run.record.post(_recorded(run, request))
        if run.record.refusing:
            run.alert = True
    receipt = _receipt(run, verdict)
    if stop is not None and not call_on(run.loop, collect, run):  # the loop was closed at this moment
        end_if_loop_closed(run)
        return _receipt(run, StopOutcome.too_late)
    return receipt


def collect(run: RunState) -> None:
    """Put a request of another thread on record, and carry it out."""
    if run.record.inbox is None:
        return
    with mailbox.held:
        stop = run.record.collect()
    if stop is not None:
        carry_out(run, stop)


def _record(run: RunState, request: StopRequest) -> Verdict:
    """Put a request on record; one that another thread has posted by then came first."""
    while True:
        collect(run)
        with mailbox.held:
            if run.record.inbox is None:
                return run.record.ask(_recorded(run, request))


def _recorded(run: RunState, request: StopRequest) -> RecordedStop:
    """The request with its grace filled in; a member's is no longer than its own policy and its parent's."""
    own, grace = run.policy.grace, request.grace
    if grace is None or (request.via is not None and own is not None and own < grace):
        grace = own
    if request.mode is StopMode.now:
        grace = 0.0
    if request.cause is StopCause.superseded and run.parent is None:
        run.writer.log.superseded = True
    ends = NEVER if grace is None else run.loop.time() + grace
    if grace != request.grace or not request.requested_at:  # one copy for both: a third of the cost of a stop
        requested_at = request.requested_at or run.writer.log.clock()
        request = request.model_copy(update={"grace": grace, "requested_at": requested_at})
    return RecordedStop(request, ends)


def _receipt(run: RunState, verdict: StopOutcome) -> StopReceipt:
    return StopReceipt(run.run_id, verdict, run.record.status, partial(result_of, run))


async def result_of(run: RunState) -> StopResult:
    """Wait for the outcome, from any loop, and return the result of the stop."""
    await wait_for_end(run)
    outcome = run.outcome
    if isinstance(outcome, RunCancelled):
        return StopResult.abandoned if outcome.abandoned else StopResult.stopped
    return StopResult.completed_anyway if isinstance(outcome, RunCompleted) else StopResult.failed_anyway


async def wait_for_end(run: RunState) -> None:
    """Wait for the outcome, from any loop; a cancelled wait does not stop the run.

    On another loop nobody says when that of the run is closed with the run in it: it is looked for.
    """
    end_if_loop_closed(run)
    wait = ending.ended(run) if asyncio.get_running_loop() is run.loop else _ended_elsewhere(run)
    await run.writer.log.lent(wait)


async def _ended_elsewhere(run: RunState) -> None:
    while run.outcome is None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if run.waiting is None:
            run.waiting = []
        run.waiting.append(waiter)
        if run.outcome is None:  # else it came before the waiter
            await asyncio.wait({waiter}, timeout=POLL)
            waiter.cancel()
            end_if_loop_closed(run)


# What it does


def carry_out(run: RunState, stop: RecordedStop) -> None:
    """Announce a recorded stop, pass it on to the members, then act on it, members before parents (T1, T7).

    All of that in the whole tree, whatever an observer raises: the first of it is raised in the end. Without recursion,
    for deep trees.
    """
    actions = [(run, stop)]
    todo = [(run, stop)]
    raised: list[BaseException] = []
    while todo:
        here, stop = todo.pop()
        try:
            if here.record.stop is stop:  # else an observer has requested a stronger one, which was acted on
                _announce(here, stop)
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - KeyboardInterrupt, raised below
            raised.append(exc)
        if here.record.stop is stop:
            passed = _pass_on(here, stop)
            actions += passed
            todo += reversed(passed)
    while actions:
        try:
            _act_on(*actions.pop())
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - the same
            raised.append(exc)
    if raised:
        if len(raised) > 1:
            raised[0].add_note(f"observers of this stop raised {len(raised)} times; the last: {safe_error(raised[-1])}")
        raise raised[0]


def _announce(run: RunState, stop: RecordedStop) -> None:
    gate.update_alert(run)
    try:
        run.writer.emit(stop_event(stop.request))
    finally:
        if run.record.status is not PENDING and not run.record.ended:
            run.record.follow(STOP)


def _pass_on(run: RunState, stop: RecordedStop) -> list[tuple[RunState, RecordedStop]]:
    """Put a stop on record in the members; return those for which it changes anything."""
    passed: list[tuple[RunState, RecordedStop]] = []
    for member in run.live_members():
        _, recorded = _record(member, stop.request.model_copy(update={"via": run.run_id}))
        if recorded is not None:
            passed.append((member, recorded))
    return passed


def _act_on(run: RunState, stop: RecordedStop) -> None:
    record = run.record
    if record.stop is not stop:
        return  # a stronger one was acted on
    if record.status is PENDING:
        end(run, CANCEL)  # its body never runs (T10)
    elif record.phase >= CUTTING or record.ended:
        return  # `abandon_after` runs already
    elif stop.request.mode is StopMode.now:
        escalate(run, announce=bool(run.work.steps))
    else:
        if record.phase is AFTER_TURN:
            _hold_for_turn(run)
            gate.wake_parked(run)  # who waits for a stop has one
        else:
            interrupt(run)
        _set_alarm(run, stop.grace_ends, escalate)


def interrupt(run: RunState) -> None:
    """End waits outside of steps: each stream's at once, the rest as soon as no step is open (T2, T3)."""
    run.record.reach(INTERRUPTING)
    gate.update_alert(run)
    run.work.interrupt_streams()
    gate.wake_parked(run)
    run.scope.cancel()
    _release_for_turn(run)


def _set_alarm(run: RunState, when: float, action: Callable[[RunState], None]) -> None:
    """Set the one timer of a stop, in place of the one before; infinity sets none."""
    ending.stop_alarm(run)
    if when < NEVER:
        run.alarm = run.loop.call_at(when, action, run)


# The turn of a model


@contextmanager
def turn(run: RunState) -> Generator[None]:
    """A context for one model answer and its tool calls: a stop of mode `turn` waits for its end."""
    record = run.record
    record.turns += 1
    try:
        yield
    finally:
        record.turns -= 1
        if not record.turns and record.phase is AFTER_TURN:
            interrupt(run)
        collect(run)  # one of mode `turn` that another thread posted in this turn


@contextmanager
def outside_turn(run: RunState) -> Generator[None]:
    """A context for a wait within a turn, for a person: a stop of mode `turn` does not wait for that."""
    run.record.awaiting += 1
    if run.record.phase is AFTER_TURN:
        interrupt(run)
    try:
        yield
    finally:
        run.record.awaiting -= 1


def _hold_for_turn(run: RunState) -> None:
    if not run.held_for_turn:
        run.held_for_turn = True
        run.scope.hold()


def _release_for_turn(run: RunState) -> None:
    """Release the scope: the turn has ended, or a stronger stop does not wait for it (T10)."""
    if run.held_for_turn:
        run.held_for_turn = False
        run.scope.release()


# When grace is over


def escalate(run: RunState, *, announce: bool = True) -> None:
    """Cut members first, then this run's own steps, then its body: grace is over (T8)."""
    stop = run.record.stop
    assert stop is not None
    run.record.reach(CUTTING)
    now = {"mode": StopMode.now, "grace": 0.0, "via": run.run_id}
    try:
        for member in run.live_members():  # also one without a stop yet, just started
            request_stop(member, stop.request.model_copy(update=now))
        if announce:
            steps = tuple(step.name for step in run.work.steps or ())
            run.writer.emit(RunEscalated(steps=steps, waiting=run.scope.waiting))
    finally:  # also if an observer raises a BaseException
        gate.update_alert(run)
        gate.wake_parked(run)
        _release_for_turn(run)
        cut_all(run.work, run.policy.abandon_after)
        _set_alarm(run, run.loop.time() + run.policy.abandon_after, end_abandoned)


def end_abandoned(run: RunState) -> None:
    """End a run without its body, which ignored the cut; its task stays owned and counted."""
    if _waits_for_members(run):
        _set_alarm(run, run.loop.time() + SETTLE, end_abandoned)
        return
    run.abandoned = run.work.names() or (run.source.name,)
    run.work.give_up()
    if run.hooks or run.clients:
        run.owner.spawn(end_cancelled(run), run.context)
    else:
        end(run, CANCEL)


def _waits_for_members(run: RunState) -> bool:
    """Whether a member is live (T7), or was just before: a body that only waited for members then ends by itself."""
    if run.live_members():
        return True
    if run.winding_up:
        return not run.work.is_open
    gone, run.seldom.members_gone = run.seldom.members_gone, True
    return bool(run.members) and not gone


# The outcome


def end(run: RunState, signal: Signal) -> None:
    """Publish the outcome; a stop that another thread has posted meanwhile was accepted, and goes on record first."""
    while not ending.decide(run, signal):
        collect(run)


async def end_cancelled(run: RunState) -> None:
    """Call the `on_stop` callbacks, close the clients, publish the outcome; each within `cleanup_timeout` (T9)."""
    if run.hooks:
        await ending.call_hooks(run, _last_deadline(run, SETTLE))
    if run.clients:
        await ending.close_clients(run, _last_deadline(run, SETTLE * (1 + len(run.clients))))
    end(run, CANCEL)


def _last_deadline(run: RunState, beyond: float) -> float:
    """Set the last deadline, `cleanup_timeout` from now, which no later request moves; return it."""
    run.record.reach(ENDING)
    ends = run.loop.time() + run.policy.cleanup_timeout
    _set_alarm(run, ends + beyond, _abandon_callbacks)
    return ends


def _abandon_callbacks(run: RunState) -> None:
    run.abandoned = (*run.abandoned, "on_stop")
    end(run, CANCEL)


# Stops without a request


def stop_by_process(run: RunState) -> None:
    """Record a native cancel, or KeyboardInterrupt, without a stop on record, as cause `shutdown` (T13)."""
    collect(run)
    if run.record.stop is None and not run.record.ended:
        request_stop(run, TASK_CANCELLED)


def inherit(run: RunState, parent: RunState) -> None:
    """Stop a member that was started under a stopping parent, with the rest of the grace (T2)."""
    stop = parent.record.stop
    if stop is not None and run.record.stop is None:
        grace = None if stop.grace_ends == NEVER else max(0.0, stop.grace_ends - run.loop.time())
        request_stop(run, stop.request.model_copy(update={"via": parent.run_id, "grace": grace}))


def end_if_loop_closed(run: RunState) -> None:
    """Write the outcome of a run whose loop is closed, and of its members: none of them can go on (T12)."""
    if run.record.ended or not run.loop.is_closed():
        return
    with mailbox.held:
        for orphan in reversed([orphan for orphan in run.tree() if not orphan.record.ended]):
            if not orphan.record.requested:
                orphan.record.post(_recorded(orphan, LOOP_CLOSED))
            stop = orphan.record.collect()
            if stop is not None:
                _announce(orphan, stop)
            for claim in orphan.seldom.claims:
                claim.withdraw()
            end(orphan, CANCEL)
