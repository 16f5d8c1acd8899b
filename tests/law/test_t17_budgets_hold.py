"""T17, first tests: a step reserves its bound in the whole chain, waits while others may free room, or is refused."""

from typing import Any

import anyio
import pytest

from kit.runs import at, listen, now, one, statuses
from softstop import (
    Agent,
    Budget,
    BudgetExceeded,
    Limits,
    MisuseError,
    RunContext,
    RunOutput,
    RunStatus,
    StopCause,
    Supervisor,
    Usage,
)


def spending(reserve: int, actual: int, seconds: float = 1.0) -> Agent:
    async def body(run: RunContext, message: object) -> str:
        async with run.step("call", reserve=Usage(output_tokens=reserve)):
            await anyio.sleep(seconds)
            run.charge(Usage(output_tokens=actual))
        return "done"

    return Agent(body)


async def outputs_of(*agents: Agent, budget: Budget) -> list[RunOutput]:
    async with Supervisor() as supervisor:
        runs = [supervisor.start(agent, budgets=[budget]) for agent in agents]
        return [await run.ended() for run in runs]


async def test_with_bounds_given_fifty_parallel_calls_do_not_overshoot_at_all() -> None:
    budget = Budget(tokens=1_000)
    outputs = await outputs_of(*[spending(100, 100)] * 50, budget=budget)
    assert budget.spent.tokens == 1_000
    assert budget.reserved.tokens == 0
    assert [output.status for output in outputs].count(RunStatus.completed) == 10
    for output in outputs:
        if output.status is RunStatus.cancelled:
            assert output.stop is not None
            assert output.stop.cause is StopCause.token_budget


async def test_what_a_call_does_not_use_serves_those_who_wait() -> None:
    budget = Budget(tokens=1_000)
    outputs = await outputs_of(*[spending(500, 100)] * 6, budget=budget)
    assert {output.status for output in outputs} == {RunStatus.completed}
    assert budget.spent.tokens == 600
    assert now() == 5  # two, then one at a time


async def test_a_reservation_that_can_never_fit_is_refused_at_once_as_a_stop() -> None:
    budget = Budget(tokens=1_000, name="team")
    (output,) = await outputs_of(spending(1_001, 1), budget=budget)
    assert output.status is RunStatus.cancelled
    assert output.stop is not None
    assert output.stop.cause is StopCause.token_budget
    assert output.stop.limit is not None
    assert output.stop.limit.holder == "team"
    assert output.stop.reason == "tokens of team: 0 of 1,000 used; the next step reserves more than is left"
    assert output.steps == ()
    assert now() == 0


async def test_the_reason_speaks_of_a_reservation_only_where_something_is_left() -> None:
    budget = Budget(tokens=1_000, name="team")
    _, full = await outputs_of(spending(1_000, 1_000), spending(300, 1), budget=budget)
    assert full.stop is not None
    assert full.stop.reason == "tokens of team: 1,000 of 1,000 used"


async def test_a_wait_for_room_ends_as_a_refusal_as_soon_as_no_room_can_come() -> None:
    budget = Budget(tokens=1_000)
    first, second = await outputs_of(spending(800, 800, 5), spending(300, 1), budget=budget)
    assert first.status is RunStatus.completed
    assert second.status is RunStatus.cancelled
    assert now() == 5


async def test_a_claim_is_all_or_nothing_over_the_whole_chain() -> None:
    narrow, wide = Budget(tokens=100), Budget(tokens=1_000)

    async def waiter(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=60)):
            await anyio.sleep(1)

    async with Supervisor() as supervisor:
        holder = supervisor.start(Agent(waiter), budgets=[narrow])
        waiting = supervisor.start(Agent(waiter), budgets=[wide, narrow])
        await anyio.sleep(0.5)
        assert (narrow.reserved.tokens, wide.reserved.tokens) == (60, 0)
        assert (await holder.ended()).status is (await waiting.ended()).status is RunStatus.completed
    assert (narrow.reserved.tokens, wide.reserved.tokens) == (0, 0)


async def test_without_bounds_the_overshoot_is_what_was_in_flight_and_is_published() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def call() -> None:
            async with run.step("call"):
                await anyio.sleep(1)
                run.charge(Usage(output_tokens=300))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(call)
        async with run.step("next"):
            raise NotImplementedError

    run, events = await one(body, limits=Limits(tokens=1_000))
    assert run.usage.total_tokens == 1_500
    limit = events[-1].limit  # type: ignore[attr-defined]
    assert limit.used == 1_200
    assert limit.overshoot <= 5 * 300


async def test_a_member_may_narrow_its_parent_s_limit_and_never_widen_it() -> None:
    async def lead(run: RunContext, message: object) -> RunOutput:
        output = await run.member(spending(100, 100), "go", limits=Limits(tokens=50))
        assert output.status is RunStatus.cancelled
        assert output.stop is not None
        assert output.stop.via is None
        return await run.member(spending(1_500, 1_500), "go", limits=Limits(tokens=10**6))

    run, _ = await one(lead, limits=Limits(tokens=1_000))
    assert run.status is RunStatus.cancelled
    assert run.stop is not None
    assert run.stop.cause is StopCause.token_budget
    assert run.usage.total_tokens == 0


async def test_a_step_inside_a_step_may_use_what_is_left_and_does_not_wait_for_its_own_enclosing_step() -> None:
    async def body(run: RunContext, message: object) -> str:
        async with (
            run.step("outer", reserve=Usage(output_tokens=600)),
            run.step("inner", reserve=Usage(output_tokens=400)),
        ):
            await anyio.sleep(1)
        async with (
            run.step("outer", reserve=Usage(output_tokens=600)),
            run.step("too much", reserve=Usage(output_tokens=401)),
        ):
            raise NotImplementedError
        return "never"

    run, _ = await one(body, limits=Limits(tokens=1_000))
    assert run.status is RunStatus.cancelled
    assert now() == 1


async def test_two_steps_that_each_wait_for_the_other_s_room_do_not_wait_for_ever() -> None:
    """Each holds half; neither can free anything before its inner step has had its turn."""
    budget = Budget(tokens=100)

    async def body(run: RunContext, message: object) -> str:
        async with run.step("outer", reserve=Usage(output_tokens=50)):
            await anyio.sleep(1)
            async with run.step("inner", reserve=Usage(output_tokens=10)):
                await anyio.sleep(1)
        return "done"

    outputs = await outputs_of(Agent(body), Agent(body), budget=budget)
    statuses = sorted(output.status.value for output in outputs)
    assert statuses == ["cancelled", "completed"]
    assert budget.reserved.tokens == 0


@pytest.mark.parametrize("wrong", [100, {"output_tokens": 100}, "100"], ids=repr)
async def test_a_reservation_that_is_no_usage_is_misuse_and_begins_nothing(wrong: Any) -> None:
    async def body(run: RunContext, message: object) -> None:
        with pytest.raises(MisuseError, match="reserve= takes a Usage"):
            run.step("call", reserve=wrong)

    run, _ = await one(body)
    assert run.output is not None
    assert (run.output.status, run.output.steps) == (RunStatus.completed, ())


@pytest.mark.parametrize("end", ["stop", "cut", "fail"])
async def test_room_comes_back_however_a_step_ends(end: str) -> None:
    budget = Budget(tokens=100)

    async def body(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=80)):
            await anyio.sleep(5)
            if end == "fail":
                raise KeyError("x")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), budgets=[budget])
        if end != "fail":
            at(2, lambda: run.cancel(mode="now" if end == "cut" else "step"))
        await listen(run)
        assert budget.reserved.tokens == 0


async def test_money_is_exact_and_a_budget_of_money_holds_like_one_of_tokens() -> None:
    budget = Budget(cost_usd="0.30")

    async def body(run: RunContext, message: object) -> str:
        async with run.step("call", reserve=Usage(cost_nano_usd=10**8)):
            run.charge(Usage(output_tokens=1, cost_nano_usd=10**8))
        return "done"

    outputs = await outputs_of(*[Agent(body)] * 4, budget=budget)
    assert [output.status.value for output in outputs] == ["completed"] * 3 + ["cancelled"]
    assert budget.spent.nano_usd == 3 * 10**8
    assert outputs[3].stop is not None
    assert outputs[3].stop.cause is StopCause.cost_budget


async def test_a_step_of_a_member_reserves_in_its_parent_s_limit_and_in_what_the_parent_shares() -> None:
    shared = Budget(tokens=1_000)
    seen: list[tuple[float, int]] = []

    async def member(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=60)):
            seen.append((now(), shared.reserved.tokens))
            await anyio.sleep(1)
            run.charge(Usage(output_tokens=20))

    async def lead(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(run.member, Agent(member), "go")

    run, _ = await one(lead, limits=Limits(tokens=100), budgets=[shared])
    assert seen == [(0, 60), (1, 60)], "the second one waits for room in the limit of the parent"
    assert (run.status, shared.spent.tokens, shared.reserved.tokens) == (RunStatus.completed, 40, 0)


async def test_a_deadline_of_the_body_s_own_ends_its_wait_for_room_and_claims_nothing() -> None:
    budget = Budget(tokens=100)

    async def body(run: RunContext, message: object) -> str:
        with anyio.move_on_after(2) as waited:
            async with run.step("call", reserve=Usage(output_tokens=80)):
                raise NotImplementedError
        assert waited.cancelled_caught
        assert (budget.waiting, budget.reserved.tokens) == (0, 80)
        return "went on"

    async with Supervisor() as supervisor:
        holder = supervisor.start(spending(80, 10, 5), budgets=[budget])
        await anyio.sleep(0.5)
        output = await supervisor.start(Agent(body), budgets=[budget]).ended()
        assert now() == 2.5
        await holder.ended()
    assert (output.status, output.value, output.stop) == (RunStatus.completed, "went on", None)


async def test_a_limit_on_steps_holds_when_steps_wait_for_room() -> None:
    begun: list[int] = []

    async def body(run: RunContext, message: object) -> None:
        async def think(number: int) -> None:
            async with run.step(f"think {number}", reserve=Usage(output_tokens=60)):
                begun.append(number)
                await anyio.sleep(1)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(think, number)

    budget = Budget(tokens=100)
    output = await Agent(body).arun("go", limits=Limits(steps=2), budgets=[budget])
    assert len(begun) == 2
    assert output.stop is not None
    assert output.stop.cause is StopCause.step_limit
    assert budget.reserved.tokens == 0


async def test_a_budget_that_is_given_twice_is_charged_once() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("think", reserve=Usage(output_tokens=40)):
            assert budget.reserved.tokens == 40
            run.charge(Usage(output_tokens=30))

    budget = Budget(tokens=100)
    (await Agent(body).arun("go", budgets=[budget, budget])).raise_for_status()
    assert budget.spent.tokens == 30


@pytest.mark.parametrize("unit", ["tokens", "cost_usd"])
@pytest.mark.parametrize("narrow", [0, 1, 2])
async def test_of_several_ledgers_the_one_with_the_least_room_counts_wherever_it_stands(unit: str, narrow: int) -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("dear", reserve=Usage(output_tokens=5, cost_nano_usd=5 * 10**9)):
            raise NotImplementedError

    budgets = [Budget(**{unit: 2 if place == narrow else 10}, name=f"budget {place}") for place in range(3)]
    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), budgets=budgets).ended()
    assert output.stop is not None
    assert output.stop.limit is not None
    assert (output.stop.limit.kind, output.stop.limit.holder) == (unit, f"budget {narrow}")
    assert output.steps == ()


async def test_a_task_that_outlives_its_step_waits_for_room_behind_those_that_came_before() -> None:
    order: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        async def pays(name: str, since: float, seconds: float) -> None:
            await anyio.sleep(since)
            async with run.step(name, reserve=Usage(output_tokens=10)):
                order.append(name)
                await anyio.sleep(seconds)

        async with anyio.create_task_group() as group:
            async with run.step("first", reserve=Usage(output_tokens=10)):
                group.start_soon(pays, "left over", 3, 1)
            group.start_soon(pays, "second", 1, 9)
            group.start_soon(pays, "third", 2, 1)

    await one(body, budgets=[Budget(tokens=10)])
    assert order == ["second", "third", "left over"]


async def test_a_step_does_not_wait_for_the_room_of_any_of_the_steps_around_it() -> None:
    async def body(run: RunContext, message: object) -> None:
        half, more = Usage(output_tokens=50), Usage(output_tokens=40)
        async with run.step("outer", reserve=half), run.step("in it", reserve=more):
            with pytest.raises(BudgetExceeded):
                await run.step("innermost", reserve=more).__aenter__()

    with anyio.fail_after(60):
        run, _ = await one(body, limits=Limits(tokens=100))
    assert statuses(run.output) == [("in it", "completed"), ("outer", "completed")]
