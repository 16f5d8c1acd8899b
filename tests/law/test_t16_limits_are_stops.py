"""T16: reaching a limit requests a stop with that cause; which limit, its number and the overshoot are data."""

import asyncio

import anyio
import pytest

from kit.runs import at, begun, listen, names, now, payer, sleeper
from softstop import (
    Agent,
    Budget,
    BudgetExceeded,
    LimitReached,
    Limits,
    Run,
    RunCancelled,
    RunContext,
    RunStatus,
    RunStopped,
    RunStopRequested,
    StepTimeout,
    StopCause,
    StopMode,
    Supervisor,
    Usage,
)


async def spender(run: RunContext, message: object) -> None:
    """Sixty tokens and six dollars in each step of one second, paid in the middle of it; a rest after five."""
    for number in range(1_000):
        async with run.step(f"call {number}"):
            await anyio.sleep(0.5)
            run.charge(Usage(output_tokens=60, cost_nano_usd=6 * 10**9))
            await anyio.sleep(0.5)
            run.write(f"{number} ")
        if number == 4:
            await anyio.sleep(1)


LIMITS = {
    "timeout": (Limits(timeout=4.5), StopCause.timeout, 4.5, 4.5, 5),
    "idle_timeout": (Limits(idle_timeout=0.4), StopCause.idle, 0.4, 0.4, 5.4),
    "tokens": (Limits(tokens=100), StopCause.token_budget, 100, 120, 2),
    "output_tokens": (Limits(output_tokens=100), StopCause.token_budget, 100, 120, 2),
    "cost_usd": (Limits(cost_usd=10), StopCause.cost_budget, 10, 12, 2),  # type: ignore[arg-type]
    "steps": (Limits(steps=3), StopCause.step_limit, 3, 3, 3),
}


@pytest.mark.parametrize("kind", LIMITS)
async def test_a_limit_is_a_stop_with_its_cause_its_number_and_its_overshoot_as_data(kind: str) -> None:
    limits, cause, number, used, ends = LIMITS[kind]
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(spender), limits=limits)
        events = await listen(run)
        assert now() == ends
    outcome = events[-1]
    assert isinstance(outcome, RunCancelled)
    assert (outcome.cause, outcome.mode) == (cause, StopMode.step)
    limit = outcome.limit
    assert limit is not None
    assert (limit.kind, limit.holder, limit.limit, limit.used) == (kind, "run", number, pytest.approx(used))
    assert limit.overshoot == pytest.approx(used - number)
    assert run.stop is not None
    assert run.stop.limit == limit
    requests = [event for event in events if isinstance(event, RunStopRequested)]
    assert [(event.cause, event.limit) for event in requests] == [(cause, limit)]
    assert {step.status for step in outcome.steps} == {"completed"}, "nothing that was paid is torn"


@pytest.mark.parametrize("kind", LIMITS)
async def test_a_limit_is_told_as_an_exception_only_when_asked_for(kind: str) -> None:
    limits, cause, *_ = LIMITS[kind]
    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(spender), limits=limits)
    expected = RunStopped if kind in ("timeout", "idle_timeout") else BudgetExceeded
    with pytest.raises(expected) as caught:
        output.raise_for_status()
    assert type(caught.value) is expected
    assert (caught.value.cause, caught.value.output) == (cause.value, output)


async def test_a_limit_is_never_an_exception_thrown_into_work_that_is_paid_already() -> None:
    seen: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        async with run.step("call"):
            run.charge(Usage(output_tokens=500))
            seen.append("still here")
            await anyio.sleep(1)
            run.charge(Usage(output_tokens=500))
            seen.append("and here")
        await anyio.sleep(1)

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(tokens=100)).ended()
    assert seen == ["still here", "and here"]
    assert output.usage.total_tokens == 1_000
    assert output.errors == ()


async def test_the_step_limit_refuses_the_next_step_and_counts_streams_and_steps_alike() -> None:
    async def source():  # type: ignore[no-untyped-def]
        yield "x"

    async def body(run: RunContext, message: object) -> None:
        async with run.step("one"):
            pass
        async for chunk in run.stream("two", source()):
            run.write(chunk)
        async with run.step("three"):
            raise NotImplementedError

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(steps=2)).ended()
    assert [step.step for step in output.steps] == ["one", "two"]
    assert output.stop is not None
    assert output.stop.cause is StopCause.step_limit


async def test_a_run_that_stays_within_its_limits_is_not_stopped() -> None:
    async def body(run: RunContext, message: object) -> str:
        for number in range(3):
            async with run.step(f"{number}"):
                await anyio.sleep(1)
                run.charge(Usage(output_tokens=30, cost_nano_usd=5))
        return "done"

    limits = Limits(timeout=3.1, idle_timeout=1.1, tokens=100, steps=3, cost_usd=1)  # type: ignore[arg-type]
    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=limits).ended()
    assert (output.status, output.stop) == (RunStatus.completed, None)


@pytest.mark.parametrize("sign", ["write", "charge", "step", "heartbeat", "member"])
async def test_any_sign_of_life_resets_the_idle_limit(sign: str) -> None:
    async def member(run: RunContext, message: object) -> None:
        run.write("x")

    async def body(run: RunContext, message: object) -> str:
        for _ in range(5):
            await anyio.sleep(2)
            if sign == "write":
                run.write("x")
            elif sign == "charge":
                run.charge(Usage(output_tokens=1))
            elif sign == "step":
                async with run.step("x"):
                    pass
            elif sign == "member":
                await run.member(Agent(member), "go")
            else:
                run.heartbeat()
        await anyio.sleep(1_000)
        return "never"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(idle_timeout=3))
        output = await run.ended()
        assert now() == 13
    assert output.stop is not None
    assert output.stop.cause is StopCause.idle


@pytest.mark.parametrize("where", ["run", "member"])
async def test_a_step_that_works_and_says_nothing_is_life_and_idle_time_counts_from_its_end(where: str) -> None:
    async def body(run: RunContext, message: object) -> None:
        if where == "run":
            await payer(run, message)
        else:
            await run.member(Agent(payer), message)
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(idle_timeout=3))
        output = await run.ended()
        assert now() == 13
    assert output.stop is not None
    assert output.stop.limit == LimitReached(kind="idle_timeout", holder="run", limit=3, used=3)


async def test_a_step_with_a_timeout_of_its_own_keeps_the_run_from_being_idle_until_then() -> None:
    async def body(run: RunContext, message: object) -> None:
        try:
            async with run.step("pay", timeout=8):
                await anyio.sleep(1_000)
        except StepTimeout:
            await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(idle_timeout=3)).ended()
        assert now() == 11
    assert output.stop is not None
    assert output.stop.cause is StopCause.idle


async def test_a_limit_of_output_counts_no_input_and_is_held_by_reservations_side_by_side() -> None:
    async def call(run: RunContext) -> None:
        async with run.step("call", reserve=Usage(input_tokens=900, output_tokens=40)):
            await anyio.sleep(1)
            run.charge(Usage(input_tokens=900, output_tokens=40))

    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(call, run)

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(output_tokens=100)).ended()
    assert (output.usage.input_tokens, output.usage.output_tokens) == (1_800, 80)
    assert output.stop is not None
    assert output.stop.limit == LimitReached(kind="output_tokens", holder="run", limit=100, used=80)


async def test_the_timeout_counts_from_the_start_of_the_run_and_not_from_its_admission() -> None:
    async with Supervisor(max_running=1) as supervisor:
        supervisor.start(Agent(payer))
        waiting = supervisor.start(Agent(sleeper), limits=Limits(timeout=5))
        assert (await waiting.ended()).status is RunStatus.cancelled
        assert now() == 15


# -- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["user first", "limit first"])
@pytest.mark.parametrize("kind", ["timeout", "idle_timeout"])
async def test_a_user_s_stop_outranks_a_limit_reached_at_the_same_instant(order: str, kind: str) -> None:
    async with Supervisor() as supervisor:
        if order == "user first":
            at(3, lambda: runs[0].cancel("user"))
        runs = [supervisor.start(Agent(sleeper), limits=Limits(**{kind: 3}))]  # type: ignore[arg-type]
        await begun(runs[0])
        if order == "limit first":
            asyncio.get_running_loop().call_at(3, lambda: runs[0].cancel("user"))
        output = await runs[0].ended()
        assert now() == 3
    assert output.stop is not None
    assert (output.stop.cause, output.stop.reason) == (StopCause.user, "user")


async def test_a_user_s_stop_outranks_a_budget_used_up_at_the_same_instant() -> None:
    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep(3)
        run.charge(Usage(output_tokens=500))
        await anyio.sleep(1)

    async with Supervisor() as supervisor:
        at(3, lambda: run.cancel("user"))
        run = supervisor.start(Agent(body), limits=Limits(tokens=100))
        output = await run.ended()
        assert now() == 3
    assert output.stop is not None
    assert output.stop.cause is StopCause.user


async def nested(kind: str, depth: int) -> list[Run]:
    """A chain of runs that all reach the same limit at the same instant."""
    runs: list[Run] = []

    async def body(run: RunContext, level: int) -> None:
        if level < depth:
            runs.append(run.start_member(Agent(body), level + 1, run_id=f"r{level + 1}", limits=limits))
            await runs[-1]
        elif kind == "tokens":
            run.charge(Usage(output_tokens=500))
        elif kind == "steps":
            for _ in range(2):
                async with run.step("s"):
                    pass
        await anyio.sleep(1_000)

    limits = {
        "timeout": Limits(timeout=3), "idle_timeout": Limits(idle_timeout=3), "tokens": Limits(tokens=100),
        "steps": Limits(steps=1),
    }[kind]  # fmt: skip
    async with Supervisor() as supervisor:
        runs.append(supervisor.start(Agent(body), 0, run_id="r0", limits=limits))
        await runs[0].ended()
    return runs


@pytest.mark.parametrize("kind", ["timeout", "idle_timeout", "tokens", "steps"])
@pytest.mark.parametrize("depth", [1, 3])
async def test_of_limits_reached_together_the_outermost_is_told_and_goes_down(kind: str, depth: int) -> None:
    runs = await nested(kind, depth)
    stops = [run.stop for run in runs]
    assert all(stop is not None for stop in stops)
    assert [stop.via for stop in stops if stop] == [None, *(f"r{level}" for level in range(depth))]
    assert {stop.cause for stop in stops if stop} == {LIMITS[kind][1]}
    assert {run.status for run in runs} == {RunStatus.cancelled}


async def test_a_shared_budget_that_runs_out_names_its_holder() -> None:
    team = Budget(tokens=100, name="team blue")
    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(spender), budgets=[team]).ended()
    assert output.stop is not None
    assert output.stop.cause is StopCause.token_budget
    assert output.stop.limit == LimitReached(kind="tokens", holder="team blue", limit=100, used=120)


async def test_the_nearest_limit_wins_field_by_field() -> None:
    seen: list[Limits] = []

    async def body(run: RunContext, message: object) -> None:
        seen.append(run.limits)

    agent = Agent(body, limits=Limits(timeout=20, tokens=200))
    async with Supervisor(limits=Limits(timeout=30, tokens=300, steps=30)) as supervisor:
        await supervisor.start(agent, limits=Limits(timeout=10)).ended()
    limits = seen[0]
    assert (limits.timeout, limits.tokens, limits.steps, limits.idle_timeout) == (10, 200, 30, None)


async def test_a_limit_that_is_reached_while_the_run_is_stopping_already_changes_nothing() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(spender), limits=Limits(tokens=100))
        at(1.2, lambda: run.cancel("user"))
        events = await listen(run)
    assert names(events).count("RunStopRequested") == 1
    assert events[-1].cause is StopCause.user  # type: ignore[attr-defined]


@pytest.mark.parametrize("jump", [3_600.0, -3_600.0])
async def test_a_jump_of_the_wall_clock_moves_no_deadline(jump: float) -> None:
    def wall() -> float:
        return 1_000_000.0 + now() + (jump if now() >= 2 else 0.0)

    async with Supervisor(clock=wall) as supervisor:
        by_limit = supervisor.start(Agent(sleeper), limits=Limits(timeout=5))
        by_user = supervisor.start(Agent(spender))
        at(3, by_user.cancel)
        assert (await by_limit.ended()).status is RunStatus.cancelled
        assert now() == 5
        await by_user.ended()
    assert by_user.stop is not None
    assert by_user.stop.requested_at == 1_000_003.0 + jump


async def test_a_timeout_that_passes_while_a_step_runs_lands_after_it_and_keeps_its_cause() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("slow"):
            await anyio.sleep(10)
        await anyio.sleep(1)

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(timeout=3)).ended()
        assert now() == 10
    assert output.stop is not None
    assert output.stop.cause is StopCause.timeout
    assert output.stop.limit == LimitReached(kind="timeout", holder="run", limit=3, used=3)


@pytest.mark.parametrize("later", ["lead", "leaf"])
@pytest.mark.parametrize("kind", ["timeout", "idle_timeout"])
async def test_of_two_time_limits_of_one_instant_the_outermost_is_told_whichever_was_set_last(
    later: str, kind: str
) -> None:
    async def lead(run: RunContext, message: object) -> None:
        member = run.start_member(Agent(sleeper), "go", limits=Limits(timeout=15 if later == "leaf" else 10))
        (member if later == "leaf" else run).limits.update(timeout=10)
        await member.ended()

    first = Limits(timeout=10 if later == "leaf" else 15) if kind == "timeout" else Limits(idle_timeout=10)
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), limits=first)
        output = await run.ended()
    assert output.stop is not None
    assert output.stop.cause is (StopCause.timeout if kind == "timeout" or later == "lead" else StopCause.idle)
    assert output.members[0].stop is not None
    assert output.members[0].stop.via == run.run_id


async def test_a_limit_of_money_is_told_in_dollars() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=1, cost_nano_usd=3_500_000_000))
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(cost_usd=2)).ended()
    assert output.stop is not None
    assert output.stop.limit == LimitReached(kind="cost_usd", holder="run", limit=2.0, used=3.5)
    assert output.stop.limit.overshoot == 1.5
    assert output.stop.reason == "cost_usd of run: 3.5 of 2 used"
