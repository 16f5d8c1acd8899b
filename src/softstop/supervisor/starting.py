"""Starting runs: registered, queued or given a task; and what their supervisor does when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, cast

from ..aio.parking import wake_all
from ..checks import typed
from ..errors import MisuseError, RunIdTaken, RunNotFound, SupervisorClosed
from ..events import Source
from ..limits import Limits
from ..protocols import Runnable
from ..runs import ending, stopping
from ..runs.allowance import check_priced
from ..runs.driving import drive
from ..runs.spec import RunOptions, RunOutput, RunSpec
from ..runs.state import Owner, RunState, new_run
from ..stops import StopPolicy
from .registry import registry
from .state import SupervisorState

RUNNABLE = ("source", "limits", "policy", "description", "priced", "invoke")  # see ports.Runnable
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
    if supervisor.max_running is not None and supervisor.running >= supervisor.max_running:
        run.context = copy_context()  # not that of the run whose end makes room
        supervisor.queue.append(run)
    else:
        supervisor.running += 1
        _begin(supervisor, run)
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
    missing = [name for name in RUNNABLE if not hasattr(runnable, name)]
    if missing:
        raise MisuseError(f"cannot run {type(runnable).__name__}, which has no {missing[0]}; wrap it: Agent(...)")
    typed(runnable.source, Source, "source")
    typed(runnable.limits, Limits, "limits")
    if runnable.policy is not None:
        typed(runnable.policy, StopPolicy, "policy")
    if options and isinstance(options.get("continue_from"), str):
        options = {**options, "continue_from": _output_of(supervisor, cast(str, options.get("continue_from")))}
    spec = RunSpec.check(runnable, message, options)
    limits = spec.limits.over(runnable.limits)
    if parent is None:
        limits = limits.over(supervisor.limits)
    elif parent.spec.user_id is not None or parent.spec.session_id is not None:  # a member belongs to its parent's user
        user_id, session_id = spec.user_id or parent.spec.user_id, spec.session_id or parent.spec.session_id
        spec = spec._replace(user_id=user_id, session_id=session_id)
    policy = spec.policy or runnable.policy
    if policy is None:
        policy = supervisor.policy if parent is None else parent.policy
    elif parent is not None:
        policy = policy.within(parent.policy)
    run = new_run(_owner(supervisor), spec, limits, policy, parent)
    for budget in run.allowance.chain:
        if budget.cost_usd is not None:
            check_priced(runnable, budget.name)
    _enlist(supervisor, run)
    return run


def _enlist(supervisor: SupervisorState, run: RunState) -> None:
    try:
        registry.add(run.run_id, run)
    except RunIdTaken:
        stopping.end_if_loop_closed(registry.get(run.run_id) or run)  # if so, its id is free
        registry.add(run.run_id, run)
    supervisor.runs[run.run_id] = run


def _owner(supervisor: SupervisorState) -> Owner:
    if supervisor.owner is None:
        supervisor.owner = Owner(
            clock=supervisor.clock,
            observers=supervisor.observers,
            spawn=partial(_spawn, supervisor),
            launch=partial(_launch, supervisor),
            ended=partial(_ended, supervisor),
        )
        supervisor.when_done = partial(_task_done, supervisor)
    return supervisor.owner


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
    task = supervisor.loop.create_task(work, context=context)
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
    registry.remove(run.run_id)
    if supervisor.runs.pop(run.run_id, None) is None:
        return
    supervisor.ended.add(run)
    if run.parent is None and run.task is not None:
        supervisor.running -= 1
        _admit(supervisor)
    run.task = None  # so that a remembered run does not keep the caller's context; `tasks` still owns it
    if not supervisor.runs:
        wake_all(supervisor.waiting)


def _admit(supervisor: SupervisorState) -> None:
    while supervisor.queue and (supervisor.max_running is None or supervisor.running < supervisor.max_running):
        run = supervisor.queue.popleft()
        stopping.end_if_loop_closed(run)
        if not run.record.ended:
            supervisor.running += 1
            _begin(supervisor, run)
