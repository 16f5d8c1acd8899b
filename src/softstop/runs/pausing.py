"""Pausing a run and its members at their next step boundaries, and resuming them."""

from __future__ import annotations

from typing import Final

from ..events import RunContinued, RunPaused
from . import gate
from .state import RunState

PERSON: Final = "person"  # who has paused a run: it is paused until each of them has resumed it
LIMIT: Final = "limit"
PARENT: Final = "parent"


def pause(run: RunState, reason: str | None = None, by: str = PERSON) -> None:
    """Pause the run and its members at their next step boundaries. From any thread."""
    if gate.deferred(run, pause, run, reason, by):
        return
    todo = [(run, by)]
    while todo:
        here, by = todo.pop()
        if here.record.requested or here.record.ended:
            continue
        already, here.paused_by = here.paused_by, here.paused_by | {by}
        if not already:
            gate.update_alert(here)
            here.seldom.paused_because = reason
            if here.started is not None:  # else when it begins
                tell(here)
            todo += [(member, PARENT) for member in reversed(here.members or ())]


def tell(run: RunState) -> None:
    """Announce a pause and stop the clocks; when the run begins, if it was paused before."""
    run.writer.emit(RunPaused(run.seldom.paused_because))
    run.seldom.paused_at = run.loop.time()
    run.allowance.pause()


def resume(run: RunState, by: str | None = None) -> None:
    """Resume a paused run; with `by`, only if that was the last party to pause it. From any thread."""
    if gate.deferred(run, resume, run, by):
        return
    todo = [(run, by)]
    while todo:
        here, by = todo.pop()
        paused_by = here.paused_by
        here.paused_by = frozenset() if by is None else paused_by - {by}
        if paused_by and not here.paused_by:
            gate.update_alert(here)
            gate.wake_parked(here)
            if here.started is not None:
                here.writer.emit(RunContinued())
                here.allowance.resume(here.loop.time() - here.seldom.paused_at)
            todo += [(member, PARENT) for member in reversed(here.members or ())]
