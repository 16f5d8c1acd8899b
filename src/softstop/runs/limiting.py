"""Limits as stop requests (T16): admission of steps, charges, and limits that are reached."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Final

from ..aio.parking import wake_anywhere
from ..errors import BudgetExceeded, one_line
from ..events import BudgetWarning, UsageRejected
from ..law.amounts import CAUSE_OF, Amount, Fit, Room, Unit, smallest
from ..law.ledgers import Claim, ClaimState, Hold, Ledger, first_reached, grant, least, spend
from ..limits import Headroom
from ..stops import LimitReached, StopCause, StopRequest
from ..telemetry import logs
from ..usage import Usage
from . import gate, pausing, stopping
from .allowance import Exhausted, NumberExhausted
from .announcing import COUNTED, Call, Counted
from .open_work import OpenStep, current_step, innermost
from .state import RunState

UNPRICED: Final = (
    '{:,} tokens were charged without a price; charge a Usage(..., cost_nano_usd=...), or say unpriced="ignore" '
    "where the money is limited"
)

# Before something begins


async def admit(run: RunState, call: Call | None = None) -> None:
    """Be the boundary before a step of a run with a stop, a limit or a recorder: check record, limits and ledgers.

    Raises:
        BudgetExceeded: The step is a tool call of a model, which is told that there are no more, see `Limits`.
    """
    if gate.inside(run):
        return
    if run.owner.holds is not None:
        await gate.wait_until_held(run)
    if run.allowance.overdue:
        await gate.let_timers_report(run)
    if run.alert:
        await gate.halt(run)
    kinds: tuple[Counted, ...] = ("steps",) if call is None else ("steps", call)
    for kind in kinds if run.work.counted else ():
        holder = _outermost_without(run, kind)
        if holder is not None:
            await _do_without_number(run, holder, kind)
    while (exhausted := _exhausted(run)) is not None:
        await do_without(run, exhausted)


def _outermost_without(run: RunState, kind: Counted) -> RunState | None:
    """The outermost run with none left (T16); one that gives a last answer keeps that back from its members."""
    outermost: RunState | None = None
    for here in run.lineage():
        left = here.allowance.left(kind)
        if left is not None:
            kept = kind == "model_calls" and here is not run and here.allowance.gives_last_answer
            outermost = here if left <= kept else outermost
    return outermost


async def _do_without_number(run: RunState, holder: RunState, kind: Counted) -> None:
    """Have the run whose limit it is give its last answer, or stop it; refuse the caller."""
    used = NumberExhausted(holder.allowance, kind)
    if holder.allowance.gives_last_answer and (kind == "tool_calls" or (kind == "model_calls" and holder is not run)):
        _begin_last_answer(holder, used)
        if holder is run:
            raise BudgetExceeded(run.run_id, used.cause.value, str(used.facts))
    else:
        stop_for(holder, used.cause, used.facts)
    await gate.refuse(run)


def _begin_last_answer(run: RunState, after: Exhausted | NumberExhausted) -> None:
    run.allowance.exhausted = after
    for member in run.live_members():
        stopping.request_stop(member, run.allowance.last_request(run.run_id))


def headroom(run: RunState) -> Headroom:
    """What is left of the limits of a run and those above it."""
    room = least(run.allowance.chain) if run.allowance.chain else Room()
    left: dict[str, int | None] = {"tokens": room.tokens, "output_tokens": room.output_tokens}
    left |= {kind: smallest(each.allowance.left(kind) for each in run.lineage()) for kind in COUNTED}
    nano_usd = room.nano_usd
    return Headroom(
        timeout=run.allowance.time_left,
        cost_usd=None if nano_usd is None else Decimal(f"{max(0, nano_usd)}e-9"),  # exact in any context
        **{kind: None if number is None else max(0, number) for kind, number in left.items()},
    )


def _exhausted(run: RunState) -> Exhausted | None:
    reached = first_reached(run.allowance.chain) if run.allowance.chain else None
    return None if reached is None else Exhausted(*reached)


def enclosing_holds() -> list[Hold]:
    """The holds of the steps around the calling code, innermost first, those of parent runs included."""
    holds: list[Hold] = []
    here = current_step.get()
    while here is not None:
        if isinstance(here, OpenStep) and here.hold is not None and here.is_open:
            holds.append(here.hold)
        here = here.around
    return holds


def reserve_now(run: RunState, fit: Fit) -> Hold | None:
    """Reserve room for a step in every ledger if there is some for it and nobody waits there, as for nearly all."""
    hold = grant(run.allowance.chain, fit)
    if hold is not None:
        _keep(run, hold)
    return hold


def _keep(run: RunState, hold: Hold) -> None:
    if run.holds is None:
        run.holds = {}
    hold.kept_in = run.holds
    run.holds[hold] = None


async def reserve(run: RunState, fit: Fit) -> Hold:
    """Reserve room for a step in every ledger, waiting while others may free some; a stop ends the wait.

    Raises:
        BudgetExceeded: Inside a begun step there is no room; a cancellation would leave it half done (T17).
    """
    hold: Hold | None = None
    while hold is None:
        claim = await _claim(run, fit)
        hold = claim.hold
        if claim.refused_by is not None:
            exhausted = Exhausted(*claim.refused_by, reserving=True)
            if gate.inside(run):
                if not reach(run, exhausted):
                    raise BudgetExceeded(run.run_id, exhausted.cause.value, exhausted.reason(exhausted.facts))
                await gate.wait_while_paused(run)
            else:
                await do_without(run, exhausted)
    if run.record.refusing and not gate.inside(run):
        hold.release()
        await gate.refuse(run)
    _keep(run, hold)
    return hold


async def _claim(run: RunState, fit: Fit) -> Claim:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    claim = Claim(run.allowance.chain, fit, enclosing_holds(), lambda: wake_anywhere([waiter]))
    if claim.enter() is ClaimState.waiting:  # from here on another thread may decide it
        run.seldom.claims.append(claim)
        run.owner.end_runs_of_lost_loops()  # one may hold the room, or stand before it in the queue
        try:
            await waiter
        except BaseException:
            claim.withdraw()
            raise
        finally:
            run.seldom.claims.remove(claim)
    return claim


async def do_without(run: RunState, exhausted: Exhausted) -> None:
    """Handle a ledger without room: return, after a pause if there is one, if the run may go on; else refuse."""
    if not reach(run, exhausted):
        await gate.refuse(run)
    if run.alert:
        await gate.halt(run)


# When something is spent


def charge(run: RunState, usage: Usage, hold: Hold | None) -> None:
    """Count usage, out of a hold first, and check the ledgers; on the run's own loop."""
    run.writer.charge(usage, run.work.number_around(innermost()))
    chain = run.allowance.chain
    if chain:
        amount = Amount.of(usage)
        if hold is None:
            spend(chain, amount)
        else:
            hold.spend(amount)
            if len(chain) > len(hold.chain):  # a limit came after the hold
                spend(tuple(ledger for ledger in chain if ledger not in hold.chain), amount)
        check_ledgers(run)
        if usage.cost_nano_usd is None and amount.tokens and any(ledger.limit.nano_usd is not None for ledger in chain):
            _stop_uncounted(run, ("cost_usd",), UNPRICED.format(amount.tokens))


def reject(run: RunState, problem: str, hold: Hold | None) -> None:
    """Take a report that cannot be true as all that its step has reserved; of what it has not, stop the run (T15)."""
    tell_rejected(run, problem)
    unheld: tuple[Unit, ...] = tuple(CAUSE_OF)
    if hold is not None:
        unheld = tuple(unit for unit, held in zip(CAUSE_OF, hold.remaining, strict=True) if not held)
        hold.forfeit()
        check_ledgers(run)
    _stop_uncounted(run, unheld, f"usage was rejected, and nothing was reserved that could count instead: {problem}")


def tell_rejected(run: RunState, problem: str) -> None:
    """Tell of a report that cannot be true: by an event, a line in `errors`, and an error in the log."""
    if run.writer.emit(UsageRejected(problem)) is not None:
        run.add_error(f"usage was rejected: {problem}")
        logs.tell_rejected(run.run_id, run.source.name, problem)


def _stop_uncounted(run: RunState, units: tuple[Unit, ...], why: str) -> None:
    """Stop for usage that nobody can count in one of these units, if that is limited: root before leaf."""
    for ledger in reversed(run.allowance.chain):
        for unit, limit in zip(CAUSE_OF, ledger.limit, strict=True):
            if limit is not None and unit in units and not (unit == "cost_usd" and ledger.ignores_unpriced):
                outermost, facts = _drawing(run, ledger)[-1], ledger.facts(unit)
                request = StopRequest(cause=CAUSE_OF[unit], reason=one_line(f"{facts}; {why}"), limit=facts)
                stopping.request_stop(outermost, request)
                return


def check_ledgers(run: RunState) -> None:
    """Warn of a limit at its `warn_at`, request a stop for a reached one, root before leaf."""
    for budget in run.allowance.chain:
        while (warning := budget.warning()) is not None:  # one charge may reach those of several units
            run.writer.emit(BudgetWarning(warning))
    exhausted = _exhausted(run)
    if exhausted is not None:
        reach(run, exhausted)


# When a limit is reached


def reach(run: RunState, exhausted: Exhausted) -> bool:
    """Stop the outermost run that draws on the exhausted ledger; return whether it may go on instead.

    It may if the limit is its own, with `on_exhausted` "pause" or "wrap_up".
    """
    *below, run = _drawing(run, exhausted.ledger)
    stopping.collect(run)  # a stop of another thread came first, here and below
    if run.record.refusing:  # not if a stop still waits for a turn, which is refused a step now
        return False
    if not run.record.requested and exhausted.ledger is run.allowance.own and _can_go_on(run, exhausted):
        for member in reversed(below if run.paused_by else ()):  # started, or resumed on its own, in that pause
            pausing.pause(member, exhausted.reason(exhausted.facts), by=pausing.PARENT)
        return True
    facts = exhausted.facts
    stopping.request_stop(run, StopRequest(cause=exhausted.cause, reason=exhausted.reason(facts), limit=facts))
    return False


def _drawing(run: RunState, ledger: Ledger) -> list[RunState]:
    """This run and those above it that draw on a ledger of its chain, the outermost last."""
    drawing = [run]
    while run.parent is not None and any(ledger is other for other in run.parent.allowance.chain):
        run = run.parent
        drawing.append(run)
    return drawing


def _can_go_on(run: RunState, exhausted: Exhausted) -> bool:
    """Pause or wrap up a run that has used up a limit of its own; False if its limit says neither."""
    allowance = run.allowance
    if allowance.limits.on_exhausted == "pause":
        pausing.pause(run, exhausted.reason(exhausted.facts), by=pausing.LIMIT)
        return True
    if allowance.gives_last_answer and exhausted.ledger.keeps_back(exhausted.unit):  # the reserve is not for members
        _begin_last_answer(run, exhausted)
    return allowance.release_reserve(exhausted.unit)


def stop_for(run: RunState, cause: StopCause, limit: LimitReached) -> None:
    """Stop a run for a limit of time, or of a number of steps or calls."""
    if not run.record.refusing:
        stopping.request_stop(run, StopRequest(cause=cause, reason=str(limit), limit=limit))


def end_after_last_answer(run: RunState) -> None:
    """Stop a run that has given its last answer, by the limit that was reached."""
    run.record.refused = True
    if run.allowance.last_answer_after is not None and run.record.stop is None:
        stopping.request_stop(run, run.allowance.last_request())
