"""Bugs planted into what counts tokens and money, one function each."""

from __future__ import annotations

import asyncio
from typing import Any

from softstop import budgets
from softstop._amounts import Amount
from softstop._life import Life
from softstop._steps import Step
from softstop.budgets import Budget, Chain, Hold, serve, spend
from softstop.context import RunContext

from .registry import Patch, mutant, nothing


@mutant
def hold_is_not_released(patch: Patch) -> None:
    patch.setattr(Step, "_give_back", nothing)


@mutant
def hold_is_released_after_an_await(patch: Patch) -> None:
    patch.setattr(Step, "_give_back", nothing)
    leave = Step.__aexit__

    async def leave_then_release(step: Step, *exc: Any) -> bool:
        swallowed = await leave(step, *exc)
        await asyncio.sleep(0)
        if step.hold is not None:
            step.hold.release()
        return swallowed

    patch.setattr(Step, "__aexit__", leave_then_release)


@mutant
def a_charge_beyond_its_hold_frees_more_than_was_held(patch: Patch) -> None:
    def pay(hold: Hold, amount: Amount) -> None:
        hold._change(*amount, *amount)

    patch.setattr(Hold, "spend", pay)


@mutant
def a_claim_does_not_see_what_others_hold(patch: Patch) -> None:
    room = Budget.room
    patch.setattr(Budget, "room", lambda budget, mine=None: room(budget, mine or Amount()))


@mutant
def only_the_nearest_ledger_knows_of_a_claim(patch: Patch) -> None:
    move = Budget._move

    def take(chain: Chain, amount: Amount) -> Hold:
        move(chain[0], 0, 0, *amount)
        return Hold(chain, amount)

    def change(hold: Hold, tokens: int, nano_usd: int, given_tokens: int, given_nano_usd: int) -> None:
        hold._tokens -= given_tokens
        hold._nano_usd -= given_nano_usd
        for budget in hold.chain:
            nearest = budget is hold.chain[0]
            move(budget, tokens, nano_usd, -given_tokens * nearest, -given_nano_usd * nearest)
        serve(hold.chain)

    patch.setattr(budgets, "_take", take)
    patch.setattr(Hold, "_change", change)


@mutant
def a_member_settles_with_those_above_it_at_its_end(patch: Patch) -> None:
    seal, pay = Life.seal, RunContext.spend
    owed: dict[str, list[tuple[RunContext, Any]]] = {}

    def owe(run: RunContext, usage: Any, hold: Any) -> None:
        if run.parent_run_id is None:
            return pay(run, usage, hold)
        run._voice.charge(usage)
        owed.setdefault(run.run_id, []).append((run, usage))

    def settle(run: Life, signal: Any) -> None:
        for context, usage in owed.pop(run.run_id, ()):
            spend(context._boundary.chain, Amount.of(usage))
        seal(run, signal)

    patch.setattr(RunContext, "spend", owe)
    patch.setattr(Life, "seal", settle)
