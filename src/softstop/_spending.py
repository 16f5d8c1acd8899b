"""Whether a run's limits let something begin, and what spending does to them. Knows boundaries and ledgers; no body."""

from __future__ import annotations

import asyncio

from ._amounts import Fit
from ._boundary import Boundary
from ._log import wake_anywhere
from ._open import enclosing_holds
from .budgets import CAUSE_OF, Budget, Claim, Hold, Unit, Verdict, first_reached, grant
from .events import BudgetWarning
from .stops import LimitReached, StopCause


async def admit(boundary: Boundary) -> None:
    """A boundary before a step of a run with a stop or a limit: the record, step limits, exhausted ledgers."""
    if boundary.inside():
        return
    if boundary.alert:
        await boundary.halt()
    outermost: Boundary | None = None
    here: Boundary | None = boundary
    while here is not None:  # root before leaf: the outermost limit is the one told (T16)
        if here.most is not None and here.steps >= here.most:
            outermost = here
        here = here.above
    if outermost is not None:
        used = LimitReached(kind="steps", holder="run", limit=outermost.most or 0, used=outermost.steps)
        outermost.run.reach_limit(StopCause.step_limit, used)
        await boundary.refuse()
    while boundary.chain and (reached := first_reached(boundary.chain)) is not None:
        await without(boundary, *reached)


async def reserve(boundary: Boundary, fit: Fit) -> Hold:
    """Claim room for a step in every ledger; waits while others may free some, outside any shield."""
    hold = grant(boundary.chain, fit)
    while hold is None:
        claim = await _claim(boundary, fit)
        hold = claim.hold
        if claim.refused_by is not None:
            await without(boundary, *claim.refused_by)
    if boundary.asked and not boundary.inside():
        hold.release()
        await boundary.refuse()
    return hold


async def _claim(boundary: Boundary, fit: Fit) -> Claim:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    claim = Claim(boundary.chain, fit, enclosing_holds(), lambda: wake_anywhere([waiter]))
    if claim.enter() is Verdict.waiting:  # from here on a run of another loop may decide it, in its own thread
        try:
            await waiter
        except BaseException:
            claim.withdraw()
            raise
    return claim


async def without(boundary: Boundary, budget: Budget, unit: Unit) -> None:
    """A ledger has no room: return if there will be, having waited if the run is paused; else refuse."""
    if not run_out(boundary, budget, unit):
        await boundary.refuse()
    if boundary.alert:
        await boundary.halt()


def run_out(boundary: Boundary, budget: Budget, unit: Unit) -> bool:
    """Turn an exhausted ledger into a stop request; True if its owner has found another way."""
    return boundary.run.reach_limit(CAUSE_OF[unit], budget.facts(unit), budget)


def look_at_ledgers(boundary: Boundary) -> None:
    """After spending: warn where a limit comes near, request a stop where one is reached, root before leaf."""
    for budget in boundary.chain:
        warning = budget.warning()
        if warning is not None:
            boundary.voice.emit(BudgetWarning, warning)
    reached = first_reached(boundary.chain)
    if reached is not None:
        run_out(boundary, *reached)


def wrapped_up(boundary: Boundary) -> None:
    """The last answer was given: the run ends cancelled, by the limit that was reached."""
    boundary.refused = True
    if boundary.wrap_up is not None and boundary.wrap_up.begun:
        request = boundary.wrap_up.request()
        assert request.limit is not None
        boundary.run.reach_limit(request.cause, request.limit)
