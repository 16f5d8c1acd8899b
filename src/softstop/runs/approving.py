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
        run.approvals[tool_call_id] = (tool, waiter)
        run.writer.emit(ApprovalRequested(tool_call_id, tool, arguments))
        try:
            return await waiter
        finally:
            run.approvals.pop(tool_call_id, None)


def decide(run: RunState, tool_call_id: str, approval: Approval) -> bool:
    """Decide about a call, from any thread; return whether it waited for that. Of two decisions the first counts."""
    asked = None if run.approvals is None or run.record.requested else run.approvals.pop(tool_call_id, None)
    if asked is None:
        return False
    gate.on_loop(run, _tell, run, tool_call_id, *asked, approval)
    return True


def _tell(run: RunState, tool_call_id: str, tool: str, waiter: asyncio.Future[Approval], approval: Approval) -> None:
    if not waiter.done():  # else a stop has ended the wait
        waiter.set_result(approval)  # first: an observer of the event may end the wait
        run.writer.emit(ApprovalDecided(tool_call_id, tool, *approval))
