"""Bugs planted into approvals: what was decided is not what is done, or is decided when nobody asks any more."""

from __future__ import annotations

import asyncio

from softstop.events import ApprovalDecided, ApprovalRequested
from softstop.runs import approving, gate
from softstop.runs.state import Approval, RunState

from .registry import Patch, found_by


@found_by("a_person_decides_once_and_it_counts")
def a_refused_call_is_made(patch: Patch) -> None:
    def tell(run: RunState, asked: ApprovalRequested, waiter: asyncio.Future[Approval], approval: Approval) -> None:
        if not waiter.done():
            waiter.set_result(approval._replace(approved=True))
            run.writer.emit(ApprovalDecided(asked.tool_call_id, asked.tool, *approval))

    patch.setattr(approving, "_tell", tell)


@found_by("a_person_decides_once_and_it_counts")
def a_decision_after_the_stop_counts(patch: Patch) -> None:
    def decide(run: RunState, call_id: str, approval: Approval) -> ApprovalRequested | None:
        waiting = None if run.approvals is None else run.approvals.pop(call_id, None)
        if waiting is None:
            return None
        gate.on_loop(run, approving._tell, run, *waiting, approval)
        return waiting[0]

    patch.setattr(approving, "decide", decide)


@found_by("a_person_decides_once_and_it_counts")
def a_second_decision_is_told_too(patch: Patch) -> None:
    def tell(run: RunState, asked: ApprovalRequested, waiter: asyncio.Future[Approval], approval: Approval) -> None:
        if not waiter.done():
            waiter.set_result(approval)
        run.writer.emit(ApprovalDecided(asked.tool_call_id, asked.tool, *approval))

    def decide(run: RunState, call_id: str, approval: Approval) -> ApprovalRequested | None:
        waiting = None if run.approvals is None or run.record.requested else run.approvals.get(call_id)
        if waiting is None:
            return None
        gate.on_loop(run, tell, run, *waiting, approval)
        return waiting[0]

    patch.setattr(approving, "decide", decide)
