"""T17 and T20 where a loop is closed under a run: what it has reserved is forfeit, what it waits for is withdrawn."""

import asyncio
from typing import Any

import anyio
import pytest

from kit.budgets import claim, hold_of
from kit.runs import at, begun, deaf, listen, orphan
from softstop import Agent, Budget, Run, RunContext, RunStatus, StepCompleted, StopPolicy, Supervisor, Usage
from softstop.law.amounts import Amount, exactly
from softstop.law.ledgers import Hold
from softstop.ports import AdapterContext
from softstop.supervisor.registry import registry
from softstop.testing import run_virtual


async def in_a_step(run: RunContext, message: object) -> None:
    async with run.step("call", reserve=Usage(output_tokens=80)):
        run.charge(Usage(output_tokens=30))
        await anyio.sleep(1_000)


async def in_a_request(run: RunContext, message: object) -> None:
    hold = await AdapterContext(run).claim(exactly(Amount(80)))
    AdapterContext(run).charge(Usage(output_tokens=30), hold)
    await anyio.sleep(1_000)


async def wants(run: RunContext, tokens: int) -> str:
    async with run.step("want", reserve=Usage(output_tokens=tokens)):
        return "had room"


def had_room(tokens: int, budget: Budget) -> bool:
    """Whether a run on a loop of its own gets so much room; it finds out in bounded time."""

    async def main() -> Any:
        with anyio.fail_after(100):
            return await Agent(wants).arun(tokens, budgets=[budget])

    return run_virtual(main).value == "had room"


@pytest.mark.parametrize("body", [in_a_step, in_a_request], ids=lambda body: body.__name__)
@pytest.mark.parametrize("look", [True, False], ids=["found by a look", "found by who needs its room"])
def test_the_reservation_of_a_run_whose_loop_was_closed_is_forfeit_and_nobody_waits_for_it(
    body: Any, look: bool
) -> None:
    budget = Budget(tokens=100)
    run = orphan(body, budgets=[budget])
    assert (budget.spent.tokens, budget.reserved.tokens) == (30, 50)
    if look:
        assert run.output is not None
    else:
        assert not had_room(50, budget)
    assert (budget.spent.tokens, budget.reserved.tokens) == (80, 0)
    assert had_room(20, budget)
    output = run.output
    assert output is not None
    assert output.errors == ("forfeit: 50 tokens and 0 nano-USD, reserved by what the run has ended without",)
    assert output.usage.output_tokens == 30
    assert output.abandoned == (("call",) if body is in_a_step else ())
    ends = [event.status for event in asyncio.run(listen(run)) if isinstance(event, StepCompleted)]
    assert ends == (["abandoned"] if body is in_a_step else [])


def waiting_orphan(budget: Budget, other: Hold, *, granted: bool = False) -> Run:
    """A run that waits for 60 tokens, which another holds, when its loop is closed; or has just got them, paused."""

    async def main() -> Run:
        run = await begun(Supervisor().start(Agent(wants), 60, budgets=[budget]))
        await asyncio.sleep(0)
        assert budget.waiting == 1
        if granted:
            run.pause()
            other.release()
            for _ in range(5):
                await asyncio.sleep(0)
        return run

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("look", [True, False], ids=["found by a look", "found by who stands behind it"])
def test_the_claim_of_a_run_whose_loop_was_closed_is_withdrawn_and_takes_no_room_later(look: bool) -> None:
    budget = Budget(tokens=100)
    other = hold_of(claim(budget._ledger, tokens=80))
    run = waiting_orphan(budget, other)
    if look:
        assert run.output is not None
        assert budget.waiting == 0
    assert had_room(20, budget)
    other.release()
    assert (budget.spent.tokens, budget.reserved.tokens, budget.waiting) == (0, 0, 0)
    assert had_room(100, budget)
    assert run.output is not None
    assert run.output.errors == ()


def test_room_that_a_run_has_got_and_not_used_when_its_loop_was_closed_is_forfeit() -> None:
    budget = Budget(tokens=100)
    run = waiting_orphan(budget, hold_of(claim(budget._ledger, tokens=80)), granted=True)
    assert budget.reserved.tokens == 60
    assert run.output is not None
    assert (budget.spent.tokens, budget.reserved.tokens) == (60, 0)
    assert run.output.abandoned == ()


def test_each_closed_loop_is_looked_for_once_and_not_by_all_who_wait() -> None:
    run = orphan(in_a_step)
    assert registry.forget_closed_loops()
    assert not registry.forget_closed_loops()
    assert run.output is not None


async def test_what_an_abandoned_request_had_reserved_is_forfeit_named_and_settled_when_it_ends_after_all() -> None:
    budget = Budget(tokens=100)

    async def body(run: RunContext, message: object) -> None:
        hold = await AdapterContext(run).claim(exactly(Amount(80)))
        try:
            await deaf(50)
        finally:
            hold.release()

    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body), budgets=[budget])
        at(3, run.cancel)
        output = await run.ended()
        assert (budget.spent.tokens, budget.reserved.tokens) == (80, 0)
        await anyio.sleep(60)
        assert (budget.spent.tokens, budget.reserved.tokens) == (0, 0)
    assert output.status is RunStatus.cancelled
    assert output.errors == ("forfeit: 80 tokens and 0 nano-USD, reserved by what the run has ended without",)


async def test_a_run_that_gives_back_all_it_has_reserved_forfeits_nothing() -> None:
    budget = Budget(tokens=100)
    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(wants), 80, budgets=[budget]).ended()
    assert (output.errors, budget.spent.tokens, budget.reserved.tokens) == ((), 0, 0)
