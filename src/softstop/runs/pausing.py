"""Pausing a run and its members at their next step boundaries, and resuming them."""

from __future__ import annotations

from typing import Final

from ..aio.crossing import call_on
from ..events import RunContinued, RunPaused
from . import gate
from .state import RunState

PERSON: Final = "person"  # who has paused a run: it is paused until each of them has resumed it
LIMIT: Final = "limit"
PARENT: Final = "parent"


def pause(run: RunState, reason: str | None = None, by: str = PERSON) -> None:
    """Pause the run and its members at their next step boundaries. From any thread."""
    if not run.writer.log.on_loop():
        call_on(run.loop, pause, run, reason, by)
        return
    todo = [(run, by)]
    while todo:
        here, by = todo.pop()
        if here.record.requested or here.record.ended:
            continue
        already, here.paused_by = here.paused_by, here.paused_by | {by}
        if not already:
            gate.update_alert(here)
            here.writer.emit(RunPaused(reason))
            here.paused_at = here.loop.time()
            here.allowance.pause()
            todo += [(member, PARENT) for member in reversed(here.members or ())]


def resume(run: RunState, by: str | None = None) -> None:
    """Resume a paused run; with `by`, only if that was the last party to pause it. From any thread."""
    if not run.writer.log.on_loop():
        call_on(run.loop, resume, run, by)
        return
    todo = [(run, by)]
    while todo:
        here, by = todo.pop()
        paused_by = here.paused_by
        here.paused_by = frozenset() if by is None else paused_by - {by}
        if paused_by and not here.paused_by:
            gate.update_alert(here)
            gate.wake_parked(here)
            here.writer.emit(RunContinued())
            here.allowance.resume(here.loop.time() - here.paused_at)
            todo += [(member, PARENT) for member in reversed(here.members or ())]
