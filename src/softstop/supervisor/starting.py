"""Starting runs: registered, queued or given a task; and what their supervisor does when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from operator import attrgetter
from typing import Any, cast

from ..aio.parking import wake_all
from ..checks import typed
from ..errors import MisuseError, RunIdTaken, RunNotFound, SupervisorClosed
from ..events import RunCompleted, RunQueued, SlotLent, Source
from ..limits import NO_LIMITS, Limits
from ..log.log import Log
from ..log.tape import LogTape
from ..protocols import Recorder, Runnable, tell
from ..runs import ending, gate, stopping
from ..runs.allowance import check_priced
from ..runs.driving import drive
from ..runs.limiting import stop_for
from ..runs.spec import RunOptions, RunOutput, RunSpec
from ..runs.state import Owner, RunState, current, new_run
from ..runs.timers import call_outranked
from ..stops import LimitReached, RunStatus, StopCause, StopPolicy
from ..telemetry import logs
from .registry import registry
from .slots import slots_of
from .state import SupervisorState

read_runnable = attrgetter("source", "limits", "policy", "description", "priced", "invoke")  # see ports.Runnable
EMPTY_CONTEXT = Context()  # of done-callbacks, instead of a copy of the caller's for each


def start(supervisor: SupervisorState, runnable: Runnable, message: object, options: RunOptions) -> RunState:
    """Start a root run now, or queue it until there is room.

    Raises:
        MisuseError: A bad option, another loop's supervisor, or something that cannot be run.
        RunIdTaken: A live run has this id.
        SupervisorClosed: The supervisor drains or was left.
    """
    supervisor.bind()
    if supervisor.closed:
        raise SupervisorClosed
    run = _register(supervisor, runnable, message, options, None)
    if supervisor.slots.free:
        supervisor.slots.begin(run)
        _begin(supervisor, run)
    else:
        _let_wait(supervisor, run)
    return run


def _launch(
    supervisor: SupervisorState, runnable: Runnable, message: object, options: RunOptions, parent: RunState
) -> RunState:
    """Start a run below another one."""
    run = _register(supervisor, runnable, message, options, parent)
    _begin(supervisor, run)
    return run


def _register(
    supervisor: SupervisorState, runnable: Runnable, message: object, options: RunOptions, parent: RunState | None
) -> RunState:
    check_runnable(runnable)
    if options and isinstance(options.get("continue_from"), str):
        options = {**options, "continue_from": _output_of(supervisor, cast(str, options.get("continue_from")))}
    spec = RunSpec.check(runnable, message, options)
    limits = limits_of_root(supervisor, spec) if parent is None else spec.limits.over(runnable.limits)
    if parent is not None and (parent.spec.user_id, parent.spec.session_id) != (None, None):
        # a member belongs to its parent's user
        user_id, session_id = spec.user_id or parent.spec.user_id, spec.session_id or parent.spec.session_id
        spec = spec._replace(user_id=user_id, session_id=session_id)
    policy = spec.policy or runnable.policy
    if policy is None:
        policy = supervisor.policy if parent is None else parent.policy
    elif parent is not None:
        policy = policy.within(parent.policy)
    log = Log(supervisor.clock, supervisor.bind(), supervisor.observers()) if parent is None else parent.writer.log
    run = new_run(owner_of(supervisor), spec, limits, policy, log, parent)
    for budget in run.allowance.chain:
        if budget.cost_usd is not None and not budget.ignores_unpriced:
            check_priced(runnable, budget.name)
    _enlist(supervisor, run)
    if supervisor.recorder is not None:
        tell(supervisor.recorder.registered, run.facts, LogTape(log) if parent is None else None)
    return run


def limits_of_root(supervisor: SupervisorState, spec: RunSpec) -> Limits:
    """The limits under which a root run begins."""
    return spec.limits.over(spec.runnable.limits).over(supervisor.limits)


def check_runnable(runnable: Runnable) -> None:
    """Raise MisuseError if this is nothing that can be run."""
    try:
        source, limits, policy, *_ = read_runnable(runnable)
    except AttributeError as missing:
        kind = f"{type(runnable).__name__} (it has no {missing.name})"
        raise MisuseError(f"an agent, a team or a workflow can be run, not {kind}; wrap it: Agent(...)") from None
    typed(source, Source, "source")
    if limits is not NO_LIMITS:
        typed(limits, Limits, "limits")
    if policy is not None:
        typed(policy, StopPolicy, "policy")


def _enlist(supervisor: SupervisorState, run: RunState) -> None:
    run_id = run.run_id
    try:
        registry.add(run_id, run)
    except RunIdTaken:
        stopping.end_if_loop_closed(registry.get(run_id) or run)  # if so, its id is free
        registry.add(run_id, run)
    supervisor.runs[run_id] = run


def owner_of(supervisor: SupervisorState) -> Owner:
    """What its runs use of a supervisor."""
    if supervisor.owner is None:
        supervisor.owner = Owner(
            spawn=partial(_spawn, supervisor),
            launch=partial(_launch, supervisor),
            ended=partial(_ended, supervisor),
            slots=supervisor.slots,
            end_runs_of_lost_loops=_end_runs_of_lost_loops,
            holds=None if supervisor.recorder is None else partial(_holds, supervisor.recorder),
        )
        registry.note_loop(supervisor.bind())
        supervisor.when_done = partial(_task_done, supervisor)
    return supervisor.owner


def _holds(recorder: Recorder) -> bool:
    answers: list[bool] = []
    tell(lambda: answers.append(recorder.holds()))
    return answers != [False]


def _end_runs_of_lost_loops() -> None:
    if registry.forget_closed_loops():
        for run in registry.live():
            stopping.end_if_loop_closed(run)


def _output_of(supervisor: SupervisorState, run_id: str) -> RunOutput:
    run = supervisor.find(run_id)
    if run is None:
        raise RunNotFound(run_id)
    output = ending.output_of(run)
    if output is None:
        raise MisuseError(f"run {run_id!r} has not ended; continue_from takes an ended one")
    return output


def _begin(supervisor: SupervisorState, run: RunState) -> None:
    run.task = _spawn(supervisor, drive(run), run.context, run)


def _spawn(
    supervisor: SupervisorState, work: Coroutine[Any, Any, None], context: Context | None, run: RunState | None = None
) -> asyncio.Task[None]:
    """Start a task and own it until it is done; the one place for tasks that outlive a call."""
    assert supervisor.loop is not None
    assert supervisor.when_done is not None
    name = None if run is None else run.run_id  # asyncio would make one up, which costs more
    task = supervisor.loop.create_task(work, name=name, context=context)
    supervisor.tasks[task] = run
    task.add_done_callback(supervisor.when_done, context=EMPTY_CONTEXT)
    return task


def _task_done(supervisor: SupervisorState, task: asyncio.Task[None]) -> None:
    run = supervisor.tasks.pop(task)
    if task.cancelled():
        if run is not None and not run.record.ended:  # natively, before its first turn
            stopping.stop_by_process(run)
    else:
        task.exception()  # retrieved: it is in the outcome, or a KeyboardInterrupt that the loop has raised


def _ended(supervisor: SupervisorState, run: RunState) -> None:
    """Move a run that has published its outcome to the ended ones, and admit the next."""
    run_id = run.run_id
    registry.remove(run_id)
    del supervisor.runs[run_id]
    supervisor.ended.add(run)
    if not isinstance(run.outcome, RunCompleted):
        _tell_end(run)
    begun = run.task is not None  # `tasks` still owns it
    run.task = run.context = run.hooks = run.failures = None  # a remembered run keeps its result alone
    if not supervisor.runs:
        wake_all(supervisor.waiting)
    if run.parent is None and begun:
        _make_room(supervisor, run)
    elif run.parent is None:
        supervisor.slots.leave_queue(run)


def _tell_end(run: RunState) -> None:
    """Log an end that nobody may overlook: a failure, code that goes on, a task that was cancelled."""
    run_id, name, stop = run.run_id, run.source.name, run.stop
    if run.record.status is RunStatus.failed:
        logs.tell_failure(run_id, name, run.error)
    elif run.abandoned and not run.loop.is_closed():
        task = run.work.steps[-1].task if run.work.steps else None if run.winding_up else run.task
        if task is not None and not task.done():
            logs.tell_left_behind(run_id, name, task)
    elif run.parent is None and stop is not None and stop.reason == stopping.TASK_CANCELLED.reason:
        logs.tell_lost(run_id, name)


def _make_room(supervisor: SupervisorState, run: RunState) -> None:
    lender = supervisor.slots.end(run)
    while (first := supervisor.slots.first()) is not None:
        _begin_queued(supervisor, first)
    if lender is not None:
        _lend(supervisor, lender)  # last, since an observer of its event may raise a BaseException


# The queue of `max_running`


def _begin_queued(supervisor: SupervisorState, run: RunState) -> None:
    stopping.end_if_loop_closed(run)
    if not run.record.ended:
        supervisor.slots.leave_queue(run)
        supervisor.slots.begin(run)
        _begin(supervisor, run)


def _let_wait(supervisor: SupervisorState, run: RunState) -> None:
    """Let a run wait for its turn, at most for its `queue_timeout`."""
    queue, most = supervisor.slots.queue, run.allowance.limits.queue_timeout
    run.context = copy_context()  # not that of the run whose end makes room
    run.writer.log.lending = partial(_lending, supervisor, run)
    queue[run] = None
    if most is not None:
        loop = run.loop
        queue[run] = loop.call_later(most, call_outranked, loop, 0, _end_waiting, supervisor, run, most, loop.time())
    run.writer.emit(RunQueued())  # last: an observer may stop it


def _end_waiting(supervisor: SupervisorState, run: RunState, most: float, since: float) -> None:
    if run in supervisor.slots.queue:
        used = LimitReached(kind="queue_timeout", holder="run", limit=most, used=run.loop.time() - since)
        stop_for(run, StopCause.timeout, used)


@contextmanager
def _lending(supervisor: SupervisorState, run: RunState) -> Generator[None]:
    """A context for a wait for a queued run: the root run whose code waits lends its slot. On any loop, or none.

    One of a supervisor on another loop has none to lend here.
    """
    waiter = current.get()
    while waiter is not None and waiter.parent is not None:
        waiter = waiter.parent
    if waiter is None or waiter.loop is not run.loop:
        yield
        return
    gate.on_loop(run, _begin_wait, supervisor, waiter, run)
    try:
        yield
    finally:
        gate.on_loop(run, slots_of(waiter).end_wait, waiter, run)


def _begin_wait(supervisor: SupervisorState, waiter: RunState, run: RunState) -> None:
    if not waiter.record.ended:
        slots_of(waiter).wait(waiter, run)
        _lend(supervisor, waiter)


def _lend(supervisor: SupervisorState, waiter: RunState) -> None:
    loan = supervisor.slots.lend(waiter)
    if loan is not None:
        lender, run = loan
        _begin_queued(supervisor, run)
        lender.writer.emit(SlotLent(to=run.run_id))
