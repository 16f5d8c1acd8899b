"""Limits that change while a run lives: each new number holds from that moment on, here and below."""

from typing import Any

import anyio
import pytest

from kit.runs import at, chatty, now, one, sleeper
from softstop import (
    Agent,
    Budget,
    LimitReached,
    Limits,
    LimitsChanged,
    MisuseError,
    RunContext,
    RunOutput,
    RunStarted,
    RunStatus,
    StopCause,
    Supervisor,
    Usage,
)
from softstop.events import restore
from softstop.runs.allowance import LimitChanges


async def ended_after(body: Any, limits: Limits | None, after: float, **changes: Any) -> tuple[RunOutput, float]:
    """The output of a run whose limits are changed, and when it ended."""
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=limits)
        at(after, lambda: run.limits.update(**changes))
        with anyio.fail_after(500):
            return await run.ended(), now()


def cause(output: RunOutput) -> StopCause | None:
    return None if output.stop is None else output.stop.cause


async def spends_and_waits(run: RunContext, message: object) -> None:
    run.charge(Usage(output_tokens=50, cost_nano_usd=5 * 10**9))
    await anyio.sleep(1_000)


@pytest.mark.parametrize(
    ("limits", "changes", "expected", "when"),
    [
        (Limits(tokens=900), {"tokens": 20}, StopCause.token_budget, 3),
        (Limits(cost_usd=900), {"cost_usd": 2}, StopCause.cost_budget, 3),
        (Limits(idle_timeout=400), {"idle_timeout": 30}, StopCause.idle, 30),
        (Limits(idle_timeout=400), {"idle_timeout": 2}, StopCause.idle, 3),
        (Limits(timeout=400), {"timeout": 30}, StopCause.timeout, 30),
        (Limits(timeout=400), {"timeout": 2}, StopCause.timeout, 3),
    ],
    ids=str,
)
async def test_a_lowered_limit_stops_a_run_that_only_waits(
    limits: Limits, changes: LimitChanges, expected: StopCause, when: float
) -> None:
    output, ended = await ended_after(spends_and_waits, limits, 3, **changes)
    assert (cause(output), ended) == (expected, pytest.approx(when, abs=0.01))


@pytest.mark.parametrize("whose", ["leaf", "lead"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"tokens": 10}, StopCause.token_budget), ({"cost_usd": 1}, StopCause.cost_budget)],
    ids=["tokens", "cost_usd"],
)
async def test_a_limit_of_a_run_that_had_none_counts_from_then_on_what_it_and_its_live_members_use(
    whose: str, changes: LimitChanges, expected: StopCause
) -> None:
    async def leaf(run: RunContext, message: object) -> None:
        await (spends_later(run) if whose == "leaf" else anyio.sleep(1_000))

    async def spends_later(run: RunContext) -> None:
        run.charge(Usage(output_tokens=9, cost_nano_usd=10**9 - 1))
        await anyio.sleep(10)
        run.charge(Usage(output_tokens=9, cost_nano_usd=10**9 - 1))
        await anyio.sleep(10)
        run.charge(Usage(output_tokens=1, cost_nano_usd=1))
        await anyio.sleep(1_000)

    async def middle(run: RunContext, message: object) -> None:
        await run.member(Agent(leaf), "go")

    async def lead(run: RunContext, message: object) -> None:
        run.start_member(Agent(middle), "go")
        await (spends_later(run) if whose == "lead" else anyio.sleep(1_000))

    output, ended = await ended_after(lead, None, 5, **changes)
    assert (cause(output), ended) == (expected, 20)
    assert output.stop is not None
    assert output.stop.limit is not None
    assert output.stop.limit.overshoot == 0


async def test_a_limit_of_steps_that_is_lowered_tells_how_many_had_begun_by_then() -> None:
    output, _ = await ended_after(chatty, Limits(steps=10), 3.5, steps=2)
    assert output.stop is not None
    assert output.stop.limit == LimitReached(kind="steps", holder="run", limit=2, used=4)


@pytest.mark.parametrize("changes", [{"tokens": 27}, {"cost_usd": "2.7"}, {"steps": 3}], ids=str)
async def test_a_limit_that_comes_late_refuses_the_next_step_of_a_live_member(changes: LimitChanges) -> None:
    async def leaf(run: RunContext, message: object) -> None:
        for number in range(20):
            async with run.step(f"step {number}", reserve=Usage(output_tokens=8, cost_nano_usd=8 * 10**8)):
                await anyio.sleep(2)
                run.charge(Usage(output_tokens=8, cost_nano_usd=8 * 10**8))

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(leaf), "go")

    output, _ = await ended_after(lead, None, 1, **changes)
    assert output.status is RunStatus.cancelled
    assert len(output.members[0].steps) == 3
    assert output.total_usage.output_tokens == 24


async def test_a_limit_of_a_member_that_changes_leaves_its_parent_and_siblings_alone() -> None:
    async def lead(run: RunContext, message: object) -> str:
        members = [run.start_member(Agent(spends_and_waits), "go") for _ in range(2)]
        await anyio.sleep(1)
        members[0].limits.update(tokens=10, timeout=5)
        run.charge(Usage(output_tokens=1_000))
        await anyio.sleep(20)
        return "done"

    run, _ = await one(lead)
    assert run.output is not None
    assert run.status is RunStatus.completed
    assert [cause(member) for member in run.output.members] == [StopCause.timeout, StopCause.parent]


async def test_an_idle_limit_cannot_be_given_to_a_run_that_began_without_one() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper))
        with pytest.raises(MisuseError, match="an idle_timeout can only be changed for a run that was started with"):
            run.limits.update(idle_timeout=5)
        run.limits.update(idle_timeout=None, timeout=7)
        output = await run.ended()
    assert cause(output) is StopCause.timeout


@pytest.mark.parametrize(
    ("change", "room"), [({"tokens": 1_000}, 900), ({"tokens": 50}, 45), ({"timeout": 9}, 90)], ids=str
)
async def test_a_tenth_of_the_limit_as_it_stands_is_kept_back_for_the_last_answer(
    change: LimitChanges, room: int
) -> None:
    async def body(run: RunContext, message: object) -> int | None:
        run.limits.update(**change)
        return run.limits.ledgers[0].room().tokens

    run, _ = await one(body, limits=Limits(tokens=100, on_exhausted="wrap_up"))
    assert run.output is not None
    assert run.output.value == room


async def test_what_a_run_has_left_of_its_time_is_the_least_that_is_left_above_it() -> None:
    async def leaf(run: RunContext, message: object) -> float | None:
        await anyio.sleep(1)
        return run.remaining_time

    async def middle(run: RunContext, message: object) -> list[Any]:
        limits = (None, Limits(timeout=4), Limits(timeout=900))
        return [(await run.member(Agent(leaf), "go", limits=each)).value for each in limits]

    async def lead(run: RunContext, message: object) -> list[Any]:
        return [run.remaining_time, *(await run.member(Agent(middle), "go", limits=Limits(timeout=500))).value]

    run, _ = await one(lead, limits=Limits(timeout=20))
    assert run.output is not None
    assert run.output.value == [20, 19, 3, 17]
    unlimited, _ = await one(leaf)
    assert unlimited.output is not None
    assert unlimited.output.value is None


async def test_a_supervisor_s_default_limits_bind_each_root_with_all_below_it_and_no_member_anew() -> None:
    async def leaf(run: RunContext, message: object) -> str:
        run.charge(Usage(output_tokens=60))
        await run.boundary()
        run.charge(Usage(output_tokens=60))
        async with run.step("more"):
            return "done"

    async def lead(run: RunContext, message: object) -> str:
        run.limits.update(tokens=500)  # its own, which now is all that binds the tree
        return str((await run.member(Agent(leaf), "go")).value)

    async with Supervisor(limits=Limits(tokens=100)) as supervisor:
        raised = await supervisor.start(Agent(lead)).ended()
        bound = await supervisor.start(Agent(leaf)).ended()
    assert raised.value == "done"
    assert cause(bound) is StopCause.token_budget


def test_a_budget_may_be_raised_to_what_it_is_and_in_one_unit_alone() -> None:
    budget = Budget(tokens=100, cost_usd="1.5")
    budget.raise_to(tokens=100, cost_usd="1.5")
    assert (budget.tokens, budget.cost_usd) == (100, 1.5)
    budget.raise_to(tokens=200)
    assert (budget.tokens, budget.cost_usd) == (200, 1.5)
    budget.raise_to(cost_usd="2.5")
    assert (budget.tokens, budget.cost_usd) == (200, 2.5)


@pytest.mark.parametrize("whose", ["leaf", "lead"])
async def test_a_limit_that_comes_while_a_step_holds_room_counts_what_that_step_uses_from_then_on(whose: str) -> None:
    async def pays(run: RunContext) -> None:
        async with run.step("pay", reserve=Usage(output_tokens=60)):
            run.charge(Usage(output_tokens=20))
            await anyio.sleep(10)
            run.charge(Usage(output_tokens=30))
            await anyio.sleep(10)
        async with run.step("more"):
            await anyio.sleep(1)

    async def leaf(run: RunContext, message: object) -> None:
        await (pays(run) if whose == "leaf" else anyio.sleep(1_000))

    async def lead(run: RunContext, message: object) -> None:
        run.start_member(Agent(leaf), "go")
        await (pays(run) if whose == "lead" else anyio.sleep(1_000))

    budget = Budget(tokens=1_000)
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), budgets=[budget])
        at(5, lambda: run.limits.update(tokens=25))
        output = await run.ended()
        assert now() == 20
    assert output.stop is not None
    assert output.stop.limit is not None
    assert (output.stop.limit.holder, output.stop.limit.used, budget.spent.tokens) == ("run", 30, 50)
    assert budget.reserved.tokens == 0


async def test_a_change_of_limits_is_told_with_all_that_are_in_force_unless_the_run_has_not_begun() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(timeout=50))
        run.limits.update(steps=9)
        await anyio.sleep(1)
        run.limits.update(tokens=7, timeout=None)
        events = await run.events().read()
        run.cancel()
    assert [type(event) for event in events] == [RunStarted, LimitsChanged]
    told = [event.limits for event in events if isinstance(event, RunStarted | LimitsChanged)]
    assert told == [Limits(timeout=50, steps=9), Limits(steps=9, tokens=7)]
    assert restore(events).runs[run.run_id].limits == told[-1]


async def test_a_timeout_that_is_lifted_leaves_no_time_to_count() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(timeout=60))
        await anyio.sleep(1)
        assert (run.facts.deadline, run.limits.now.timeout) != (None, None)
        run.limits.update(timeout=None)
        assert (run.facts.deadline, run.limits.now.timeout) == (None, None)
        run.cancel()


async def test_an_idle_limit_that_was_lifted_holds_no_more_and_may_be_set_again() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(idle_timeout=5))
        await anyio.sleep(3)
        run.limits.update(idle_timeout=None)
        await anyio.sleep(30)
        assert run.status is RunStatus.running
        run.limits.update(idle_timeout=40)
        with anyio.fail_after(100):
            output = await run.ended()
        assert (cause(output), now()) == (StopCause.idle, 40)
