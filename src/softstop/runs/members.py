"""Members of a run: how they start, and how they end before it (T7)."""

from __future__ import annotations

import asyncio

from ..errors import MisuseError
from ..protocols import Runnable
from ..stops import StopCause, StopMode, StopRequest
from . import ending, gate, pausing, stopping
from .spec import RunOptions
from .state import RunState
from .steps import WRONG_LOOP


def start_member(run: RunState, runnable: Runnable, message: object, options: RunOptions) -> RunState:
    """Start a run below this one; under a stop it ends without having begun, like a refused step."""
    if run.record.ended:  # a task that outlived the run: its log is closed
        raise gate.after_end(run)
    if not run.writer.log.on_loop():
        raise MisuseError(WRONG_LOOP.format("a member", getattr(runnable, "name", ""), run.run_id))
    member = run.owner.launch(runnable, message, options, run)
    if run.members is None:
        run.members = []
    run.members.append(member)
    if run.record.refusing and not gate.inside(run):
        run.record.refused = True
        stopping.collect(run)
        stopping.inherit(member, run)
    elif run.winding_up:
        stopping.request_stop(member, _parent_ended(run))
    elif run.allowance.exhausted is not None:
        stopping.request_stop(member, run.allowance.last_request(run.run_id))
    if run.paused_by and not gate.inside(run):
        pausing.pause(member, by=pausing.PARENT)
    return member


async def end_members(run: RunState) -> None:
    """Stop the members that outlive the body and wait for their ends, also those that its tasks still start."""
    request = _parent_ended(run)
    while live := run.live_members():
        for member in live:
            stopping.request_stop(member, request)
        try:
            await ending.ended(live[0])
        except asyncio.CancelledError:  # noqa: ASYNC103 - native: cuts the members, which have bounds
            stopping.stop_by_process(run)


def _parent_ended(run: RunState) -> StopRequest:
    mode = run.stop.mode if run.stop else StopMode.step  # mode `turn` lets members' turns end
    return StopRequest(cause=StopCause.parent, via=run.run_id, reason="its parent has ended", mode=mode)
