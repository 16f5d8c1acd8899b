"""Decisions about calls that wait for a person in runs of other processes: sent through the store, told by the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
from pydantic_core import from_json

from ..errors import EventsExpired, StoreUnavailable
from ..events import ApprovalDecided, Outcome, RunStopRequested, parse_event
from ..runs.state import Approval
from ..stops import StopOutcome
from ..stores import Decision, Page, Recording, RunRecord
from .live import LiveRuns


async def decide_elsewhere(
    recording: Recording,
    live: LiveRuns,
    record: RunRecord,
    decided: tuple[str, Approval],
    origin: str | None,
    wait: float,
) -> bool | None:
    """Whether a call waited and was decided so; None if that was not told within `wait` seconds."""
    call_id, approval = decided
    log = await live.log_of(record)
    run = None if log is None else log.runs.get(record.run_id)
    asked = None if run is None else run.asked.get(call_id)
    if asked is None:
        return False
    verdict = await recording.store.request(record.run_id, Decision(call_id, asked, approval), origin)
    if verdict.outcome is not StopOutcome.accepted:
        return False
    with anyio.move_on_after(wait), suppress(EventsExpired, StoreUnavailable):
        return await _was_decided(recording.follow(record.root_run_id, asked), record.run_id, call_id, approval)
    return None


async def _was_decided(pages: AsyncIterator[Page], run_id: str, call_id: str, approval: Approval) -> bool:
    async for page in pages:
        for _, line in page.events:
            told = from_json(line)
            event = parse_event(told) if told["run_id"] == run_id else None
            if isinstance(event, ApprovalDecided) and event.tool_call_id == call_id:
                return (event.approved, event.by) == (approval.approved, approval.by)
            if isinstance(event, RunStopRequested | Outcome):
                return False
    return False
