"""What a reached limit makes of a run, and what new numbers do to a live one. Knows runs by their ledgers; no body."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Protocol, Self

from ._boundary import Boundary
from ._means import LimitChanges, Means, check_priced
from ._spec import RunSpec
from ._spending import look_at_ledgers
from ._stopline import StopLine
from ._wrapup import open_reserve
from .budgets import Budget, first_reached
from .errors import MisuseError
from .limits import NO_LIMITS
from .stops import LimitReached, RunStatus, StopCause, StopRequest


class LimitedRun(Protocol):
    """The run, as far as its limits are concerned."""

    boundary: Boundary
    line: StopLine
    loop: asyncio.AbstractEventLoop
    means: Means | None
    run_id: str
    spec: RunSpec
    status: RunStatus

    @property
    def parent(self) -> Self | None: ...
    def tree(self) -> Iterator[LimitedRun]: ...
    def live_members(self) -> Iterable[StopLine]: ...
    def pause(self, reason: str | None = None) -> None: ...
    def resume(self) -> None: ...
    def reach_limit(self, cause: StopCause, limit: LimitReached, ledger: Budget | None = None) -> bool: ...


def limit_reached(run: LimitedRun, cause: StopCause, limit: LimitReached, ledger: Budget | None) -> bool:
    """Ask the outermost run that draws on the exhausted ledger to stop: a limit is a stop request (T16).

    Returns whether the run may go on instead: it is paused, or has a last answer to give.
    """
    above = run.parent
    while ledger is not None and above is not None and any(ledger is other for other in above.boundary.chain):
        run, above = above, above.parent
    if run.line.sealed or run.line.held is not None:
        return False
    request = StopRequest(cause=cause, reason=str(limit), limit=limit)
    if ledger is not None and run.means is not None and ledger is run.means.own and _outlives(run, ledger, request):
        return True
    run.line.request(request)
    return False


def _outlives(run: LimitedRun, ledger: Budget, request: StopRequest) -> bool:
    """Whether a run that has used up a limit of its own finds another way than to stop."""
    if run.means is not None and run.means.limits.on_exhausted == "pause":
        run.pause(request.reason)
        return True
    if (wrap_up := run.boundary.wrap_up) and ledger.keeps_back:  # it is for the last answer, not for members
        wrap_up.begin(ledger, request.cause)
        for member in run.live_members():
            member.ask(wrap_up.request(run.run_id))
    return open_reserve(ledger)


def change_limits(run: LimitedRun, changes: LimitChanges) -> None:
    """Put new numbers in force; see `RunLimits.update`.

    Raises:
        MisuseError: The run has ended, or a value is no limit.
    """
    if run.line.sealed:
        raise MisuseError(f"run {run.run_id!r} has ended; its limits no longer matter")
    if changes.get("cost_usd") is not None:
        for below in run.tree():
            check_priced(below.spec.runnable, "run")
    boundary = run.boundary
    if run.means is None:
        above = None if run.parent is None else run.parent.means
        run.means = Means(run.loop, NO_LIMITS, (), above, boundary.chain)
        if run.status is not RunStatus.pending:
            run.means.start(run.reach_limit)
    if run.means.change(changes):
        assert run.means.own is not None
        for below in run.tree():  # a ledger that came after the start counts from now, here and below
            below.boundary.chain, below.boundary.limited = (*below.boundary.chain, run.means.own), True
    boundary.most, boundary.limited = run.means.limits.steps, True
    if boundary.wrap_up is not None:
        boundary.wrap_up.reconsider()
    if boundary.paused and first_reached(boundary.chain) is None:
        run.resume()
    look_at_ledgers(boundary)
