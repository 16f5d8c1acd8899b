"""Budgets and limits of live runs: reserve, warn, raise. In virtual time."""

import random
import threading

import anyio
import pytest

from kit.runs import now
from softstop import (
    Agent,
    Budget,
    BudgetWarning,
    Limits,
    MisuseError,
    RunContext,
    RunStatus,
    StopCause,
    Supervisor,
    Usage,
)
from softstop.law.amounts import NOTHING, Amount, exactly
from softstop.law.ledgers import Claim, ClaimState


async def spend(run: RunContext, tokens: int, *, reserve: int | None = None, seconds: float = 1.0) -> None:
    held = None if reserve is None else Usage(output_tokens=reserve)
    async with run.step("call", reserve=held):
        await anyio.sleep(seconds)
        run.charge(Usage(output_tokens=tokens))


async def test_eight_parallel_calls_with_bounds_never_overshoot() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(lambda: spend(run, 400, reserve=400))

    async with Supervisor():
        output = await Agent(body).arun(limits=Limits(tokens=1_000))
    assert output.usage.total_tokens == 800
    assert output.stop is not None
    assert output.stop.cause is StopCause.token_budget


async def test_a_step_waits_for_room_that_a_running_step_gives_back() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: spend(run, 100, reserve=800))
            group.start_soon(lambda: spend(run, 700, reserve=800))

    async with Supervisor():
        start = now()
        output = await Agent(body).arun(limits=Limits(tokens=1_000))
    assert output.status is RunStatus.completed
    assert output.usage.total_tokens == 800
    assert now() - start == 2


async def test_a_large_request_does_not_starve_behind_small_ones() -> None:
    order: list[str] = []

    async def call(run: RunContext, name: str, reserve: int, after: float) -> None:
        await anyio.sleep(after)
        async with run.step(name, reserve=Usage(output_tokens=reserve)):
            order.append(name)
            await anyio.sleep(10)

    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(call, run, "first", 600, 0)
            group.start_soon(call, run, "large", 900, 1)
            for number in range(5):
                group.start_soon(call, run, f"small {number}", 100, 2 + number)

    async with Supervisor():
        await Agent(body).arun(limits=Limits(tokens=1_000))
    assert order[:2] == ["first", "large"]


async def test_a_step_inside_a_step_that_holds_the_budget_does_not_queue_behind_those_who_wait_for_it() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def outer() -> None:
            async with run.step("outer", reserve=Usage(output_tokens=600)):
                await anyio.sleep(5)
                async with run.step("inner", reserve=Usage(output_tokens=300)):
                    run.charge(Usage(output_tokens=300))

        async def other() -> None:
            await anyio.sleep(1)
            await spend(run, 100, reserve=500)

        async with anyio.create_task_group() as group:
            group.start_soon(outer)
            group.start_soon(other)

    with anyio.fail_after(100):
        async with Supervisor():
            output = await Agent(body).arun(limits=Limits(tokens=1_000))
    assert output.status is RunStatus.completed


async def test_what_a_member_spends_inside_a_step_leaves_that_step_s_own_room_to_it() -> None:
    budget = Budget(tokens=1_000, name="team")
    left: list[int] = []

    async def member(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=60))
        left.append(budget.reserved.tokens)

    async def body(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=100)):
            await run.member(Agent(member), "go")
            run.charge(Usage(output_tokens=70))
            left.append(budget.reserved.tokens)

    async with Supervisor() as supervisor:
        await supervisor.start(Agent(body), budgets=[budget]).ended()
    assert (left, budget.spent.tokens) == ([100, 30], 130)


async def test_waiting_for_room_ends_at_once_when_the_run_is_stopped() -> None:
    budget = Budget(tokens=1_000)

    async def holder(run: RunContext, message: object) -> None:
        await spend(run, 10, reserve=1_000, seconds=100)

    async def waiter(run: RunContext, message: object) -> None:
        await spend(run, 10, reserve=500)

    async with Supervisor() as supervisor:
        first = supervisor.start(Agent(holder), budgets=[budget])
        second = supervisor.start(Agent(waiter), budgets=[budget])
        await anyio.sleep(1)
        assert budget.waiting == 1
        second.cancel()
        output = await second
        assert now() < 2
        assert output.steps == ()
        assert budget.waiting == 0
        await first
    assert budget.reserved == NOTHING
    assert budget.spent.tokens == 10


async def test_one_warning_is_told_when_a_limit_comes_near() -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(10):
            await spend(run, 99)

    async with Supervisor():
        events = [event async for event in Agent(body).arun(limits=Limits(tokens=1_000))]
    warnings = [event for event in events if isinstance(event, BudgetWarning)]
    assert [(event.limit.kind, event.limit.used) for event in warnings] == [("tokens", 891)]


async def test_a_charge_that_brings_two_limits_near_tells_of_both() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("spend"):
            run.charge(Usage(input_tokens=90, cost_nano_usd=900_000_000))

    async with Supervisor():
        events = [event async for event in Agent(body).arun(limits=Limits(tokens=100, cost_usd=1.0))]
    warnings = [event.limit for event in events if isinstance(event, BudgetWarning)]
    assert [(limit.kind, limit.used) for limit in warnings] == [("tokens", 90), ("cost_usd", 0.9)]


async def test_warn_at_is_the_callers() -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(10):
            await spend(run, 99)

    async with Supervisor():
        events = [event async for event in Agent(body).arun(limits=Limits(tokens=1_000, warn_at=0.5))]
    assert [event.limit.used for event in events if isinstance(event, BudgetWarning)] == [594]


async def test_a_raised_budget_lets_waiting_steps_go_on() -> None:
    budget = Budget(tokens=1_000, name="team")

    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: spend(run, 1_000, reserve=1_000, seconds=100))
            group.start_soon(lambda: spend(run, 500, reserve=500, seconds=1))

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), budgets=[budget])
        await anyio.sleep(10)
        budget.raise_to(tokens=2_000)
        await anyio.sleep(2)
        assert budget.spent.tokens == 500
        output = await run
    assert output.status is RunStatus.completed


async def test_raising_below_the_old_limit_is_misuse() -> None:
    with pytest.raises(MisuseError, match="team has a limit of 1,000 of tokens, which 10 would not raise"):
        Budget(tokens=1_000, name="team").raise_to(tokens=10)
    with pytest.raises(MisuseError, match=r"team has a limit of 0\.3 of cost_usd, which 0\.2 would not raise"):
        Budget(cost_usd="0.3", name="team").raise_to(cost_usd="0.2")
    with pytest.raises(MisuseError, match="team has no limit of cost_usd, which 1 would not raise"):
        Budget(tokens=1_000, name="team").raise_to(cost_usd=1)


async def test_limits_of_a_live_run_can_be_raised() -> None:
    async def body(run: RunContext, message: object) -> str:
        for _ in range(20):
            await spend(run, 100)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(tokens=1_000, timeout=15))
        await anyio.sleep(5)
        run.limits.update(tokens=10_000, timeout=60)
        output = await run
    assert output.value == "done"
    assert run.limits.tokens == 10_000


async def test_a_limit_lowered_below_what_is_used_stops_the_run() -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(20):
            await spend(run, 100)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(tokens=10_000))
        await anyio.sleep(4.5)
        run.limits.update(tokens=300)
        output = await run
    assert output.stop is not None
    assert output.stop.cause is StopCause.token_budget
    assert output.usage.total_tokens == 500


async def test_a_limit_given_to_a_live_run_that_had_none_holds() -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(20):
            await spend(run, 100)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(2.5)
        run.limits.update(steps=5, timeout=10)
        output = await run
    assert output.stop is not None
    assert output.stop.cause is StopCause.step_limit
    assert len(output.steps) == 5


async def test_a_limit_of_steps_that_comes_late_counts_what_members_had_begun() -> None:
    async def member(run: RunContext, message: object) -> None:
        for _ in range(3):
            await spend(run, 1)

    async def body(run: RunContext, message: object) -> None:
        await run.member(Agent(member), None)
        run.limits.update(steps=5)
        await run.member(Agent(member), None)

    output = await Agent(body).arun()
    assert output.stop is not None
    assert str(output.stop.limit) == "steps of run: 5 of 5 used"
    assert [len(each.steps) for each in output.members] == [3, 2]


async def lambda_sleeper(run: RunContext, message: object) -> None:
    await anyio.sleep(1_000)


async def test_a_limit_that_is_none_is_misuse_in_the_callers_frame() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lambda_sleeper))
        with pytest.raises(MisuseError, match="tokens"):
            run.limits.update(tokens=-1)
        with pytest.raises(MisuseError, match="queue_timeout of a run that was started cannot be changed"):
            run.limits.update(queue_timeout=5)  # type: ignore[call-arg]
        run.cancel()
        await run
        with pytest.raises(MisuseError, match="has ended"):
            run.limits.update(tokens=5)


async def test_an_exhausted_limit_may_pause_and_raising_it_resumes() -> None:
    async def body(run: RunContext, message: object) -> str:
        for _ in range(5):
            await spend(run, 100, reserve=100)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(tokens=300, on_exhausted="pause"))
        await anyio.sleep(100)
        assert run.status is RunStatus.running
        assert run.usage.total_tokens == 300
        run.limits.update(tokens=1_000)
        output = await run
        kinds = [type(event).__name__ for event in [event async for event in run.events()]]
    assert output.value == "done"
    assert kinds.count("RunPaused") == kinds.count("RunContinued") == 1
    assert "RunStopRequested" not in kinds


async def test_room_that_another_thread_frees_in_the_instant_a_step_begins_to_wait_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = Budget(tokens=10)
    held = Claim((budget._ledger,), exactly(Amount(10, 0)), (), lambda: None)
    held.enter()
    enter = Claim.enter

    def enter_while_another_thread_frees_it(claim: Claim) -> ClaimState:
        verdict = enter(claim)
        thread = threading.Thread(target=held.withdraw)
        thread.start()
        thread.join()
        return verdict

    async def body(run: RunContext, message: object) -> None:
        await spend(run, 10, reserve=10)

    monkeypatch.setattr(Claim, "enter", enter_while_another_thread_frees_it)
    async with Supervisor() as supervisor:
        with anyio.fail_after(5):
            output = await supervisor.start(Agent(body), None, budgets=[budget])
    assert output.usage.total_tokens == 10


@pytest.mark.explore
async def test_no_random_parallel_plan_overshoots_a_limit_that_its_steps_respect() -> None:
    """5,000 random plans: with bounds the overshoot is 0, without them at most what was in flight."""
    for seed in range(2_500):
        for bounded in (True, False):
            await _plan(random.Random(seed * 7 + bounded), bounded=bounded)


async def _plan(dice: random.Random, *, bounded: bool) -> None:
    limit = dice.randint(1, 500)
    shared = Budget(tokens=dice.randint(1, 800), name="shared")
    calls = [(dice.randint(0, 3), dice.randint(1, 200), dice.random()) for _ in range(dice.randint(1, 8))]
    flying = most_flying = 0
    least_reserved = 0

    async def call(run: RunContext, after: int, most: int, share: float) -> None:
        nonlocal flying, most_flying, least_reserved
        await anyio.sleep(after)
        actual = int(most * share)
        async with run.step("call", reserve=Usage(output_tokens=most) if bounded else None):
            flying += most
            most_flying = max(most_flying, flying)
            await anyio.sleep(1)
            run.charge(Usage(output_tokens=actual))
            flying -= most
        least_reserved = min(least_reserved, shared.reserved.tokens)

    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for after, most, share in calls:
                group.start_soon(call, run, after, most, share)

    async with Supervisor(keep_ended=0):
        run = Agent(body).arun(limits=Limits(tokens=limit), budgets=[shared])
        output = await run
    used = output.usage.total_tokens
    allowed = min(limit, shared.tokens or 0)
    assert used <= (allowed if bounded else allowed + most_flying)
    assert shared.spent.tokens == used
    assert (least_reserved, shared.reserved) == (0, NOTHING)
