"""Draining: how a supervisor ends all its runs (T19)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Final

import anyio

from ..aio.closing import SETTLE
from ..aio.parking import wait_in
from ..errors import MisuseError
from ..runs import stopping
from ..runs.state import RunState, current
from ..stops import StopCause, StopMode, StopRequest
from .state import SupervisorState

DRAIN_TIMEOUT: Final = 30.0  # seconds until mode `now`, where nobody gives another number; see `patience`
AT_ONCE: Final = 50  # runs stopped in one turn of the loop: few enough to end before a garbage collection


async def drain(supervisor: SupervisorState, timeout: float, wait: float) -> int:  # noqa: ASYNC109 - the drain's own number
    """Admit nothing more, stop every live run, and wait until all have an outcome; returns how many were live.

    Raises:
        MisuseError: Called from inside one of its runs, which would wait for itself.
    """
    inside = current.get()
    if inside is not None and supervisor.runs.get(inside.run_id) is inside:
        raise MisuseError("drain() was called inside a run of this supervisor; it would wait for itself")
    supervisor.closed = True
    count = len(supervisor.runs)
    if supervisor.runs and wait > 0:
        with anyio.move_on_after(wait):
            await all_ended(supervisor)
    if supervisor.runs and timeout > 0:
        stop_all(supervisor, StopMode.step)
        with anyio.move_on_after(timeout):
            await all_ended(supervisor)
    if supervisor.runs:
        stop_all(supervisor, StopMode.now)
        await all_ended(supervisor)  # bounded by each run's abandon_after and cleanup_timeout
    await _wait_for_abandoned(supervisor)
    return count


def patience(supervisor: SupervisorState) -> float:
    """Seconds until mode `now` where nobody gives a number: the longest grace of a live run, if that ends, or 30."""
    return max([DRAIN_TIMEOUT, *(run.policy.grace or 0.0 for run in tuple(supervisor.runs.values()))])


def stop_all(supervisor: SupervisorState, mode: StopMode, reason: str | None = None) -> None:
    """Admit nothing more, and stop every root run."""
    supervisor.closed = True
    stop_runs(supervisor, mode, reason)


def stop_runs(supervisor: SupervisorState, mode: StopMode, reason: str | None) -> None:
    """Stop every root run there is, some in each turn of the loop, so that it stays responsive."""
    for run in tuple(supervisor.slots.queue):  # queued runs are stopped like the others, and never begin
        supervisor.slots.leave_queue(run)
    _stop_some(supervisor.bind(), _requests(supervisor, mode, reason))


def _stop_some(loop: asyncio.AbstractEventLoop, stops: Iterator[tuple[RunState, StopRequest]]) -> None:
    """Stop the next few runs, and those after them in the next turn of the loop."""
    batch = list(islice(stops, AT_ONCE))
    if batch:
        loop.call_soon(_stop_some, loop, stops)
    for run, request in batch:
        stopping.request_stop(run, request)  # not `ask`, which would wake the loop for each


def _requests(
    supervisor: SupervisorState, mode: StopMode, reason: str | None
) -> Iterator[tuple[RunState, StopRequest]]:
    """Yield every root run with its stop request."""
    now = supervisor.clock()
    requests: dict[float | None, StopRequest] = {}  # by grace: one for each run would be a third of the cost
    for run in [run for run in supervisor.runs.values() if run.parent is None]:
        grace = 0.0 if mode is StopMode.now else run.policy.grace
        request = requests.get(grace)
        if request is None:
            request = StopRequest(cause=StopCause.shutdown, reason=reason, mode=mode, grace=grace, requested_at=now)
            requests[grace] = request
        yield run, request


async def all_ended(supervisor: SupervisorState) -> None:
    """Wait until no run is live."""
    while supervisor.runs:
        await wait_in(supervisor.waiting, supervisor.bind(), lambda: not supervisor.runs)


async def _wait_for_abandoned(supervisor: SupervisorState) -> None:
    await asyncio.sleep(0)  # tasks whose run has just ended need a turn to finish
    if supervisor.tasks:
        await asyncio.wait(supervisor.tasks, timeout=max(supervisor.policy.abandon_after, SETTLE))
