"""How steps are cut: when the grace of a stop is over, or their own time; inner ones before those around them (T8)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

from ..aio.deferred_scope import TURNS, DeferredScope, about_to_run
from .open_work import OpenStep, OpenWork

Task = asyncio.Task[Any]


def cut_all(work: OpenWork, abandon_after: float) -> None:
    """Grace is over: interrupt every open step, then the body, half of `abandon_after` later at the latest.

    Steps first, since their clean-up may need helpers in the body.
    """
    work.interrupt_streams()
    scope, steps = work.scope, work.steps or ()
    peace = min(scope.peace, abandon_after / 2)
    tasks = dict.fromkeys([step.task for step in steps if step.task is not None])
    for step in steps:
        step.was_cut = True
        if step.notify_thread() and step.task is not None:
            tasks.pop(step.task, None)
    for cut in work.cuts or ():  # cut before, when their time was over: they clean up
        if cut.task is not None:
            tasks.pop(cut.task, None)
        cut.deliver(peace)
    _cut_tasks(work, tasks, peace, scope)
    if not (scope.held or scope.in_region):
        scope.deliver(peace)
        return
    scope.cancel()
    # sources that close, and regions, have own bounds
    if scope.task not in tasks and scope.held > work.closing and not scope.in_region:
        work.strike_later(peace, partial(scope.deliver, peace))


def cut_step(work: OpenWork, step: OpenStep, cut: DeferredScope) -> None:
    """Interrupt one step by `cut`, its time being over, after the steps in it that other tasks have begun."""
    cut.enter(step.task)
    work.cuts = [*(work.cuts or ()), cut]
    inner = [each.task for each in work.steps or () if each.is_within(step) and each.thread is None]
    _cut_tasks(work, [task for task in inner if task and task is not work.scope.task], cut.peace, cut)
    cut.cancel()


def _cut_tasks(work: OpenWork, tasks: Iterable[Task], peace: float, around: DeferredScope) -> None:
    """Interrupt tasks in steps; each after those with steps begun in one of its own, or after `peace` seconds.

    Else its task group would cancel them a second time.
    """
    waits: dict[Task, set[Task]] = {task: set() for task in tasks}
    for step in work.steps or ():
        here = step.around
        while here is not None and step.task in waits:
            if here.is_open and here.task is not step.task and here.task in waits:
                waits[here.task].add(step.task)
            here = here.around
    for task, inner in waits.items():
        if not inner:
            _strike(work, task, peace, around)
            continue

        def ended(inner_task: Task, inner: set[Task] = inner, task: Task = task) -> None:
            inner.discard(inner_task)
            at_once = inner_task.cancelled()  # which a gather raises: no second cancel may come into what that unwinds
            if not inner or (at_once and about_to_run(task)):
                _strike(work, task, peace, around, 0 if at_once else TURNS)

        for each in inner:
            each.add_done_callback(ended)
        work.strike_later(peace, partial(_strike, work, task, peace, around))


def _strike(work: OpenWork, task: Task, peace: float, around: DeferredScope, tries: int = TURNS) -> None:
    if task is work.scope.task:
        work.scope.deliver(peace, tries=tries)
    elif any(step.task is task for step in work.steps or ()) and not (work.given_up or work.is_cutting(task)):
        cut = DeferredScope(around, peace=peace)
        cut.enter(task)
        cut.hold()
        work.cuts = [*(work.cuts or ()), cut]
        cut.deliver(tries=tries)
