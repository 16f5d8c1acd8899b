"""Approvals: a call that a model has asked for waits for a person. The wait is in no step, so that a stop ends it."""

from __future__ import annotations

import asyncio

from ..events import ApprovalDecided, ApprovalRequested
from . import gate, stopping
from .state import Approval, RunState


async def approval(run: RunState, tool_call_id: str, tool: str, arguments: str) -> Approval:
    """Be a boundary, then ask for an approval and wait for it. A stop of any mode ends the wait."""
    with stopping.outside_turn(run):
        await gate.cross(run)
        waiter: asyncio.Future[Approval] = run.loop.create_future()
        if run.approvals is None:
            run.approvals = {}
        asked = ApprovalRequested(tool_call_id, tool, arguments)
        run.approvals[tool_call_id] = (asked, waiter)
        run.writer.emit(asked)
        try:
            return await waiter
        finally:
            run.approvals.pop(tool_call_id, None)


def decide(run: RunState, tool_call_id: str, approval: Approval, seq: int | None = None) -> ApprovalRequested | None:
    """Decide about a call, from any thread; return what had asked for that, None if nothing did.

    Of two decisions the first counts. With `seq`, in the run's loop, it is about the call that the event with this
    number has asked for: the same id may be asked for again.
    """
    calls = {} if run.approvals is None or run.record.requested else run.approvals
    if seq is not None and tool_call_id in calls and calls[tool_call_id][0].seq != seq:
        return None
    waiting = calls.pop(tool_call_id, None)
    if waiting is None:
        return None
    gate.on_loop(run, _tell, run, *waiting, approval)
    return waiting[0]


def _tell(run: RunState, asked: ApprovalRequested, waiter: asyncio.Future[Approval], approval: Approval) -> None:
    if not waiter.done():  # else a stop has ended the wait
        waiter.set_result(approval)  # first: an observer of the event may end the wait
        run.writer.emit(ApprovalDecided(asked.tool_call_id, asked.tool, *approval))
