"""T8: when grace ends the step is cut, then given up; whatever the body does with that, the CPU stays quiet."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest
from lawkit import at, listen, names, now, one

from softstop import (
    Agent,
    Budget,
    RunCancelled,
    RunContext,
    RunEscalated,
    RunStatus,
    RunStopRequested,
    StopPolicy,
    StopResult,
    Supervisor,
    Usage,
)

Body = Callable[[RunContext, object], Awaitable[object]]
POLICY = StopPolicy(grace=4, abandon_after=2)


def deaf(seconds: float, *, step: str | None = "pay") -> Body:
    """A body that swallows every cancellation for so many seconds, in a step or in none."""

    async def endure() -> None:
        until = now() + seconds  # then it ends by itself, so that no test leaves it behind
        while now() < until:
            try:
                await anyio.sleep(until - now())
            except asyncio.CancelledError:
                deliveries.append(now())

    async def body(run: RunContext, message: object) -> str:
        if step is None:
            await endure()
        else:
            async with run.step(step):
                await endure()
        run.write("too late")

    deliveries: list[float] = []
    body.deliveries = deliveries  # type: ignore[attr-defined]
    return body


async def slow(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        run.write("half ")
        await anyio.sleep(1_000)


async def test_when_grace_ends_the_step_is_announced_then_cut_and_the_run_ends() -> None:
    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(slow))
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        events = await listen(run)
        assert now() == 7
        assert await receipts[0].wait() is StopResult.stopped
    assert names(events) == [
        "RunStarted", "StepStarted", "RunContent", "RunStopRequested", "RunEscalated", "StepCompleted",
        "RunCancelled",
    ]  # fmt: skip
    assert next(event for event in events if isinstance(event, RunEscalated)).steps == ("pay",)
    outcome = events[-1]
    assert isinstance(outcome, RunCancelled)
    assert outcome.content == "half "
    assert outcome.abandoned == ()
    assert [(step.step, step.status) for step in outcome.steps] == [("pay", "unsettled")]


async def test_a_cut_step_that_was_declared_interruptible_is_told_as_cut() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("search", interruptible=True):
            await anyio.sleep(1_000)

    run, _ = await one(body, stop_at=3, policy=POLICY)
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("search", "cut")]


async def test_a_step_that_ends_within_its_grace_is_not_escalated_and_leaves_no_timer() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(6)
        await anyio.sleep(1_000)

    _, events = await one(body, stop_at=3, policy=POLICY)
    assert "RunEscalated" not in names(events)
    assert asyncio.get_running_loop().timers() == []  # type: ignore[attr-defined]


async def test_without_a_grace_a_step_may_take_for_ever() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(80_000)
        await anyio.sleep(1)

    async with Supervisor(policy=StopPolicy(grace=None)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 80_000
    assert "RunEscalated" not in names(events)


@pytest.mark.parametrize("stop", [{"grace": 0}, {"mode": "now"}, {"mode": "now", "grace": 20}])
async def test_no_grace_at_all_cuts_at_once(stop: dict[str, object]) -> None:
    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(slow))
        at(3, lambda: run.cancel(**stop))  # type: ignore[arg-type]
        events = await listen(run)
        assert now() == 3
    assert names(events)[-3:] == ["RunEscalated", "StepCompleted", "RunCancelled"]


async def test_all_running_steps_are_named_in_the_order_of_their_beginning() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def work(name: str) -> None:
            async with run.step(name):
                await anyio.sleep(1_000)

        async with anyio.create_task_group() as group:
            for name in ("b", "a", "c"):
                group.start_soon(work, name)

    run, events = await one(body, stop_at=3, policy=POLICY)
    assert next(event for event in events if isinstance(event, RunEscalated)).steps == ("b", "a", "c")
    assert run.output is not None
    assert {step.status for step in run.output.steps} == {"unsettled"}


async def test_members_are_escalated_before_their_parent() -> None:
    async def lead(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            await run.member(Agent(slow, policy=StopPolicy(grace=None)), "go", run_id="m")

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 7
    told = [(type(event).__name__, event.run_id) for event in events[-8:]]
    assert [what for what in told if what[0] == "RunEscalated"] == [("RunEscalated", "m"), ("RunEscalated", "lead")]
    assert told[-1] == ("RunCancelled", "lead")


async def test_of_many_graces_that_end_at_one_instant_the_members_are_told_first_and_once() -> None:
    """Timers of one instant fire in no promised order, so the parent's may be the first."""

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("outer"), anyio.create_task_group() as group:
            for number in range(7):
                group.start_soon(lambda number=number: run.member(Agent(slow), "go", run_id=f"m{number}"))  # type: ignore[misc]

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 7
    escalated = [event.run_id for event in events if isinstance(event, RunEscalated)]
    assert sorted(escalated[:-1]) == [f"m{number}" for number in range(7)]
    assert escalated[-1] == "lead"


@pytest.mark.parametrize("way", ["gather", "TaskGroup", "wait_for", "task"])
async def test_a_step_outside_the_scope_s_tree_is_cut_too(way: str) -> None:
    interrupted: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                try:
                    await anyio.sleep(1_000)
                finally:
                    interrupted.append(now())

        if way == "gather":
            await asyncio.gather(pay())  # noqa: TID251 - users do
        elif way == "wait_for":
            await asyncio.wait_for(pay(), 1_000)  # noqa: TID251 - users do
        elif way == "task":
            await asyncio.create_task(pay())  # noqa: TID251 - users do
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(pay())

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 7
    assert interrupted == [7]
    assert [(step.step, step.status) for step in output.steps] == [("pay", "unsettled")]


# -- abandoned -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["pay", None])
async def test_a_run_that_ignores_the_cut_ends_without_it_and_says_what_was_left_behind(step: str | None) -> None:
    supervisor = Supervisor(policy=POLICY)
    async with supervisor:
        run = supervisor.start(Agent(deaf(1_000, step=step), name="mole"))
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        events = await listen(run)
        assert now() == 3 + 4 + 2
        assert await receipts[0].wait() is StopResult.abandoned
        assert supervisor.abandoned == 1
        outcome = events[-1]
        assert isinstance(outcome, RunCancelled)
        assert outcome.abandoned == (step or "mole",)
        assert run.output is not None
        assert run.output.abandoned == outcome.abandoned
        if step:
            assert [(s.step, s.status) for s in outcome.steps] == [("pay", "abandoned")]
        assert supervisor.list_runs(status="cancelled") == [run]
    assert supervisor.abandoned == 1
    await anyio.sleep(1_000)
    assert supervisor.abandoned == 0


async def test_leaving_a_supervisor_waits_for_an_abandoned_task_that_ends_in_time() -> None:
    supervisor = Supervisor(policy=StopPolicy(grace=1, abandon_after=2))
    async with supervisor:
        run = supervisor.start(Agent(deaf(7)))
        at(3, run.cancel)
        await run.ended()
        assert now() == 6
        assert supervisor.abandoned == 1
    assert now() == 7
    assert supervisor.abandoned == 0


async def test_leaving_a_supervisor_waits_for_abandoned_tasks_no_longer_than_abandon_after() -> None:
    supervisor = Supervisor(policy=StopPolicy(grace=1, abandon_after=2))
    async with supervisor:
        run = supervisor.start(Agent(deaf(1_000)))
        at(3, run.cancel)
        await run.ended()
        assert now() == 6
    assert now() == 8
    assert supervisor.abandoned == 1
    await anyio.sleep(1_000)


async def test_late_events_of_an_abandoned_body_are_dropped_and_counted() -> None:
    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(deaf(10)))
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 9
        await anyio.sleep(5)
        assert await listen(run) == events
        assert events[-1].content == ""
        assert run.voice.log.late == 2  # the step's end and the text after it
        assert supervisor.abandoned == 0


async def test_an_abandoned_body_that_comes_back_unwinds_at_the_next_boundary() -> None:
    ends: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        try:
            async with run.step("hang"):
                await retries(run)
            async with run.step("next"):
                ends.append("began")
        finally:
            ends.append("unwound")

    deliveries.clear()
    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        output = await run.ended()
        assert (output.abandoned, ends, supervisor.abandoned) == (("hang",), [], 1)
        await anyio.sleep(LAST)
        assert (ends, supervisor.abandoned) == (["unwound"], 0)


async def test_an_abandoned_body_that_will_not_leave_its_boundaries_waits_there_and_turns_no_loop() -> None:
    refused: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        await retries(run)
        while len(refused) < 2:
            try:
                await run.boundary()
            except asyncio.CancelledError:
                refused.append(now())

    deliveries.clear()
    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        await run.ended()
        await anyio.sleep(LAST)
        assert len(refused) == 1


async def test_late_usage_of_an_abandoned_step_is_settled_in_the_shared_budget() -> None:
    budget = Budget(tokens=1_000)

    async def body(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=400)):
            with anyio.CancelScope(shield=True):
                await anyio.sleep(20)
            run.charge(Usage(output_tokens=300))

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body), budgets=[budget])
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 9
        assert (budget.spent.tokens, budget.reserved.tokens) == (0, 400)
        await anyio.sleep(20)
        assert (budget.spent.tokens, budget.reserved.tokens) == (300, 0)
    assert output.usage.output_tokens == 0
    assert output.status is RunStatus.cancelled


async def test_a_second_run_is_untouched_by_one_that_was_abandoned() -> None:
    async def body(run: RunContext, message: object) -> str:
        for _ in range(20):
            async with run.step("tick"):
                await anyio.sleep(1)
        return "done"

    async with Supervisor(policy=POLICY) as supervisor:
        other = supervisor.start(Agent(body))
        mole = supervisor.start(Agent(deaf(30)))
        at(3, mole.cancel)
        assert (await other.ended()).value == "done"
        assert now() == 20


# -- a quiet CPU -----------------------------------------------------------------------------------------------------


LAST = 200.0  # when they all end by themselves


async def retries(run: RunContext) -> None:
    while now() < LAST:
        try:
            await anyio.sleep(LAST - now())
        except asyncio.CancelledError:
            note()


async def retries_in_a_step(run: RunContext) -> None:
    async with run.step("pay"):
        await retries(run)


async def slow_child_of_an_asyncio_group(run: RunContext) -> None:
    async def child() -> None:
        while now() < LAST:
            try:
                await asyncio.sleep(LAST - now())
            except asyncio.CancelledError:
                note()

    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def shielded_task_in_a_loop(run: RunContext) -> None:
    task = asyncio.ensure_future(asyncio.sleep(LAST))  # noqa: TID251 - users do
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            note()


async def awaitable_that_refuses(run: RunContext) -> None:
    class Refuses(asyncio.Future[None]):
        def cancel(self, msg: object = None) -> bool:
            note()
            return False

    refuses = Refuses()
    asyncio.get_running_loop().call_later(LAST, refuses.set_result, None)
    await refuses


async def child_of_an_anyio_group(run: RunContext) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(retries, run)


async def behind_a_shield_of_its_own_first(run: RunContext) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(2.5)
    await retries(run)


async def source_that_retries(run: RunContext) -> None:
    class Source:
        def __aiter__(self) -> "Source":
            return self

        async def __anext__(self) -> str:
            await retries(run)
            raise StopAsyncIteration

    async for _ in run.stream("read", Source()):
        raise NotImplementedError


NOISY = [
    retries, retries_in_a_step, slow_child_of_an_asyncio_group, shielded_task_in_a_loop, awaitable_that_refuses,
    child_of_an_anyio_group, behind_a_shield_of_its_own_first, source_that_retries,
]  # fmt: skip
deliveries: list[float] = []


def note() -> None:
    deliveries.append(now())
    if len(deliveries) > 2_000:
        raise RuntimeError("a spinning loop")


@pytest.mark.parametrize("work", NOISY, ids=lambda work: work.__name__)
@pytest.mark.parametrize("mode", ["step", "now"])
async def test_a_body_that_stays_sees_at_most_20_deliveries_a_second_and_none_once_abandoned(
    work: Callable[[RunContext], Awaitable[None]], mode: str
) -> None:
    async def body(run: RunContext, message: object) -> None:
        await work(run)

    deliveries.clear()
    loop = asyncio.get_running_loop()
    async with Supervisor(policy=StopPolicy(grace=10, abandon_after=5)) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(3)
        before = loop.turns  # type: ignore[attr-defined]
        run.cancel(mode=mode)
        output = await run.ended()
        ended = now()
        turns = loop.turns - before  # type: ignore[attr-defined]
        assert ended == (18 if mode == "step" else 8)
        seconds = ended - 3
        assert output.abandoned
        assert turns <= 60 * seconds, f"{turns} turns of the loop in {seconds} s"
        worst = max((sum(start <= when < start + 1 for when in deliveries) for start in deliveries), default=0)
        assert worst <= 20, f"{worst} deliveries in one second"
        count, before = len(deliveries), loop.turns  # type: ignore[attr-defined]
        await anyio.sleep(100)
        assert len(deliveries) == count, "delivered to an abandoned body"
        assert loop.turns - before < 20  # type: ignore[attr-defined]
    await anyio.sleep(LAST)


async def test_a_branch_whose_step_ends_beside_a_deaf_one_is_stopped_at_once_and_not_at_the_next_pulse() -> None:
    left: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def pays() -> None:
            async with run.step("pay"):
                await anyio.sleep(10)
            try:
                await anyio.sleep(1_000)
            finally:
                left.append(now())

        async with anyio.create_task_group() as group:
            group.start_soon(retries, run)
            group.start_soon(pays)

    deliveries.clear()
    async with Supervisor(policy=StopPolicy(grace=20, abandon_after=5)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await run.ended()
    assert left == [10]
    await anyio.sleep(LAST)


async def test_a_hundred_deaf_runs_are_as_quiet_as_one() -> None:
    loop = asyncio.get_running_loop()
    bodies = [deaf(30, step=None) for _ in range(100)]
    async with Supervisor(policy=StopPolicy(grace=5, abandon_after=5)) as supervisor:
        runs = [supervisor.start(Agent(body)) for body in bodies]
        await anyio.sleep(1)
        before = loop.turns  # type: ignore[attr-defined]
        for run in runs:
            run.cancel()
        for run in runs:
            await run.ended()
        assert now() == 11
        assert loop.turns - before <= 60 * 10 * 100  # type: ignore[attr-defined]
        for body in bodies:
            seen = body.deliveries  # type: ignore[attr-defined]
            assert max(sum(start <= when < start + 1 for when in seen) for start in seen) <= 20
    await anyio.sleep(30)


async def test_a_stop_that_waits_behind_a_shield_costs_next_to_no_loop_turns() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(100)
        await anyio.sleep(1)

    async with Supervisor(policy=StopPolicy(grace=None)) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        loop = asyncio.get_running_loop()
        before = loop.turns  # type: ignore[attr-defined]
        run.cancel()
        await run.ended()
        assert now() == 100
        assert loop.turns - before < 100  # type: ignore[attr-defined]


async def test_the_request_s_earlier_deadline_moves_the_escalation_forward() -> None:
    async with Supervisor(policy=StopPolicy(grace=100)) as supervisor:
        run = supervisor.start(Agent(slow))
        at(3, run.cancel)
        at(5, lambda: run.cancel(grace=2))
        events = await listen(run)
        assert now() == 7
    assert [event.grace for event in events if isinstance(event, RunStopRequested)] == [100, 2]


async def test_a_deaf_branch_beside_a_step_is_as_quiet() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(retries, run)
            async with run.step("pay"):
                await anyio.sleep(100)

    deliveries.clear()
    loop = asyncio.get_running_loop()
    async with Supervisor(policy=StopPolicy(grace=None)) as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        await anyio.sleep(3.5)
        before = loop.turns  # type: ignore[attr-defined]
        await anyio.sleep(50)
        assert loop.turns - before <= 60 * 50  # type: ignore[attr-defined]
        worst = max((sum(start <= when < start + 1 for when in deliveries) for start in deliveries), default=0)
        assert worst <= 20
        run.cancel(mode="now")
        await run.ended()
    await anyio.sleep(LAST)


@pytest.mark.parametrize("cleanup_timeout", [1.0, 6.0], ids=["before the run is given up", "after it"])
@pytest.mark.parametrize("mode", ["step", "now"])
async def test_a_generator_in_a_branch_that_will_not_clean_up_is_as_quiet_when_its_time_is_over(
    cleanup_timeout: float, mode: str
) -> None:
    async def source(run: RunContext) -> AsyncIterator[str]:
        try:
            yield "word"
            await anyio.sleep(1_000)
        finally:
            await retries(run)

    async def body(run: RunContext, message: object) -> None:
        async def read() -> None:
            async for _ in run.stream("read", source(run)):
                pass

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            group.start_soon(anyio.sleep, 1_000)

    deliveries.clear()
    loop = asyncio.get_running_loop()
    policy = StopPolicy(grace=3, abandon_after=2, cleanup_timeout=cleanup_timeout)
    async with Supervisor(policy=policy) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, lambda: run.cancel(mode=mode))
        assert (await run.ended()).abandoned == ("read",)
        count, before = len(deliveries), loop.turns  # type: ignore[attr-defined]
        await anyio.sleep(60)
        assert loop.turns - before < 20  # type: ignore[attr-defined]
        worst = max((sum(start <= when < start + 1 for when in deliveries) for start in deliveries), default=0)
        assert worst <= 20, f"{worst} deliveries in one second"
        assert len(deliveries) == count, "delivered to an abandoned body"
    await anyio.sleep(LAST)
