"""What a store notes of a run: its record before it begins, its status as events come, that another has taken it."""

from __future__ import annotations

from typing import Final

from ..events import Event, LimitsChanged, Outcome, RunStarted, RunStopRequested
from ..protocols import RunFacts
from ..stops import RunStatus, StopCause, StopMode, StopRequest
from .store import RunRecord

SUPERSEDED: Final = StopRequest(
    cause=StopCause.superseded, mode=StopMode.now, reason="another owner has taken the run over"
)
LIMITED: Final = (RunStarted, LimitsChanged)  # the events that tell the limits of a run


def record_of(run: RunFacts) -> RunRecord:
    """The record of a run that has not begun."""
    return RunRecord(
        run_id=run.run_id,
        root_run_id=run.root_run_id,
        parent_run_id=run.parent_run_id,
        source=run.source,
        user_id=run.user_id,
        session_id=run.session_id,
        metadata=run.metadata,
        created_at=run.created_at,
        limits=run.limits,
    )


def status_of(event: Event) -> RunStatus | None:
    """The status that a run has from this event on; None if the event does not change it."""
    if isinstance(event, Outcome):
        return event.status
    if isinstance(event, RunStopRequested):
        return RunStatus.stopping
    return RunStatus.running if isinstance(event, RunStarted) else None
