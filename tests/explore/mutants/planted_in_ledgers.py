"""Bugs planted into what counts tokens and money, one function each."""

from __future__ import annotations

import asyncio
from typing import Any

from softstop.law import ledgers
from softstop.law.amounts import NOTHING, Amount, Units
from softstop.law.ledgers import Chain, Hold, Ledger, serve, spend
from softstop.runs import limiting, stopping
from softstop.runs.state import RunState
from softstop.runs.steps import Step

from .registry import Patch, found_by, mutant, nothing


@found_by("budgets_balance")
def hold_is_not_released(patch: Patch) -> None:
    patch.setattr(Hold, "release", nothing)


@mutant
def hold_is_released_after_an_await(patch: Patch) -> None:
    leave, release = Step.__aexit__, Hold.release
    patch.setattr(Hold, "release", nothing)

    async def leave_then_release(step: Step, *exc: Any) -> bool:
        hold = None if step._open is None else step._open.hold
        swallowed = await leave(step, *exc)
        await asyncio.sleep(0)
        if hold is not None:
            release(hold)
        return swallowed

    patch.setattr(Step, "__aexit__", leave_then_release)


@found_by("ledgers_hold")
def a_charge_beyond_its_hold_frees_more_than_was_held(patch: Patch) -> None:
    def pay(hold: Hold, amount: Amount) -> None:
        hold._change(amount, amount)

    patch.setattr(Hold, "spend", pay)


@mutant
def a_claim_does_not_see_what_others_hold(patch: Patch) -> None:
    room = Ledger.room
    patch.setattr(Ledger, "room", lambda budget, mine=None: room(budget, mine or Amount()))


@mutant
def only_the_nearest_ledger_knows_of_a_claim(patch: Patch) -> None:
    move = Ledger._move

    def take(chain: Chain, amount: Amount) -> Hold:
        move(chain[0], NOTHING, amount)
        return Hold(chain, amount)

    def change(hold: Hold, paid: Units, given: Units) -> None:
        hold._left = hold.remaining.less(Amount(*given))
        for budget in hold.chain:
            move(budget, paid, NOTHING.less(Amount(*given)) if budget is hold.chain[0] else NOTHING)
        serve(hold.chain)

    patch.setattr(ledgers, "_take", take)
    patch.setattr(Hold, "_change", change)


@mutant
def a_member_settles_with_those_above_it_at_its_end(patch: Patch) -> None:
    end, pay = stopping.end, limiting.charge
    owed: dict[str, list[Any]] = {}

    def owe(run: RunState, usage: Any, hold: Any) -> None:
        if run.parent is None:
            return pay(run, usage, hold)
        run.writer.charge(usage)
        owed.setdefault(run.run_id, []).append(usage)

    def settle(run: RunState, signal: Any) -> None:
        for usage in owed.pop(run.run_id, ()):
            spend(run.allowance.chain, Amount.of(usage))
        end(run, signal)

    patch.setattr(limiting, "charge", owe)
    patch.setattr(stopping, "end", settle)
