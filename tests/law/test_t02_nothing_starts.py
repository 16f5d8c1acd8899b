"""T2: nothing starts after an accepted stop; waits in no step end at once."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from kit.runs import OtherThread, Words, at, deaf, listen, names, now, one, payer, sleeper
from kit.spawns import SPAWNS, Spawn, must_not_begin
from softstop import Agent, Budget, RunContext, RunStatus, RunStopRequested, StepStarted, Supervisor, Usage, cancel_run
from softstop.law.amounts import Amount, exactly
from softstop.law.ledgers import Claim


@pytest.mark.parametrize("spawn", SPAWNS, ids=lambda spawn: spawn.__name__)
async def test_a_step_after_the_stop_is_refused_whatever_spawned_its_task(spawn: Spawn) -> None:
    async def body(run: RunContext, message: object) -> None:
        async def work() -> None:
            async with run.step("pay"):
                await anyio.sleep(10)
            await must_not_begin(run)

        await spawn(work)

    run, events = await one(body, stop_at=3)
    assert names(events) == ["RunStarted", "StepStarted", "RunStopRequested", "StepCompleted", "RunCancelled"]
    assert run.status is RunStatus.cancelled


@pytest.mark.parametrize("spawn", SPAWNS, ids=lambda spawn: spawn.__name__)
async def test_a_task_spawned_after_the_stop_does_not_even_begin_its_first_step(spawn: Spawn) -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
        await spawn(lambda: must_not_begin(run))

    _, events = await one(body, stop_at=3)
    assert names(events) == ["RunStarted", "StepStarted", "RunStopRequested", "StepCompleted", "RunCancelled"]


async def test_a_step_is_refused_although_nothing_before_it_gave_the_loop_a_turn() -> None:
    async def body(run: RunContext, message: object) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        run_of[0].cancel()
        await done  # does not yield, so no cancellation can be delivered here
        await must_not_begin(run)

    run_of = []
    async with Supervisor() as supervisor:
        run_of.append(supervisor.start(Agent(body)))
        assert names(await listen(run_of[0])) == ["RunStarted", "RunStopRequested", "RunCancelled"]


async def test_a_step_is_refused_at_once_after_a_stop_from_a_thread_that_the_loop_has_not_seen_yet() -> None:
    async def body(run: RunContext, message: object) -> None:
        assert thread.ask()
        await must_not_begin(run)

    with OtherThread(lambda: cancel_run("r1")) as thread:
        _run, events = await one(body, run_id="r1")
    assert names(events) == ["RunStarted", "RunStopRequested", "RunCancelled"]


async def test_a_body_that_swallows_the_cancellation_still_begins_no_step_stream_or_member() -> None:
    refusals = 0
    source = Words()

    async def body(run: RunContext, message: object) -> None:
        nonlocal refusals
        with contextlib.suppress(asyncio.CancelledError):
            await anyio.sleep(1_000)

        async def read() -> None:
            async for _ in run.stream("late", source):
                raise NotImplementedError

        for attempt in (must_not_begin(run), read(), run.member(Agent(sleeper), "late"), run.boundary()):
            try:
                await attempt
            except asyncio.CancelledError:
                refusals += 1

    run, events = await one(body, stop_at=1)
    assert refusals == 4
    assert source.made == 0
    assert names(events) == ["RunStarted", "RunStopRequested", "RunCancelled"]
    assert run.members == ()


async def test_two_steps_that_race_for_the_same_turn_as_the_stop_begin_before_it_or_not_at_all() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def branch(number: int) -> None:
            await anyio.sleep(1)
            async with run.step(f"step {number}"):
                if number == 1:
                    run_of[0].cancel()
                await anyio.sleep(1)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(branch, number)

    run_of = []
    async with Supervisor() as supervisor:
        run_of.append(supervisor.start(Agent(body)))
        events = await listen(run_of[0])
    asked = next(event.seq for event in events if isinstance(event, RunStopRequested))
    began = {event.step: event.seq for event in events if isinstance(event, StepStarted)}
    assert set(began) == {"step 0", "step 1"}
    assert all(seq < asked for seq in began.values())


async def test_an_eager_stop_before_the_first_turn_of_a_started_run_begins_nothing() -> None:
    async def body(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        run.cancel()
        assert names(await listen(run)) == ["RunStopRequested", "RunCancelled"]


EAGERLY = [asyncio.eager_task_factory] if sys.version_info >= (3, 12) else []


@pytest.mark.parametrize("factory", [None, *EAGERLY], ids=["usual", "eager"][: 1 + len(EAGERLY)])
async def test_a_run_begins_after_the_call_that_starts_it_also_where_tasks_are_started_eagerly(factory: Any) -> None:
    async def body(run: RunContext, message: object) -> str:
        async with run.step("pay"):
            return "paid"

    asyncio.get_running_loop().set_task_factory(factory)
    async with Supervisor(max_running=1) as supervisor:
        refused, first, second = (supervisor.start(Agent(body)) for _ in range(3))
        assert first.status is refused.status is RunStatus.pending
        refused.cancel()
        assert [(await run.ended()).value for run in (refused, first, second)] == [None, "paid", "paid"]
    assert supervisor.abandoned == 0


# -- waits in no step ------------------------------------------------------------------------------------------------


async def back_off(run: RunContext) -> None:
    await asyncio.sleep(1_000)


async def approval(run: RunContext) -> None:
    await anyio.Event().wait()


async def lock(run: RunContext) -> None:
    lock = anyio.Lock()
    async with lock, anyio.create_task_group() as group:
        group.start_soon(lock.acquire)


async def branches(run: RunContext) -> None:
    await asyncio.gather(*(asyncio.sleep(1_000) for _ in range(3)))  # noqa: TID251 - users do


async def timeouts(run: RunContext) -> None:
    with anyio.fail_after(500):
        async with asyncio.timeout(600):  # noqa: TID251 - users do
            await anyio.sleep(1_000)


async def chunk(run: RunContext) -> None:
    async for _ in run.stream("write", Words(stall_at=0)):
        raise NotImplementedError


@pytest.mark.parametrize("wait", [back_off, approval, lock, branches, timeouts, chunk], ids=lambda wait: wait.__name__)
async def test_waiting_code_in_no_step_ends_at_once(wait: Callable[[RunContext], Awaitable[None]]) -> None:
    ended: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        try:
            await wait(run)
        finally:
            ended.append(now())

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 3
    assert ended == [3]
    assert output.status is RunStatus.cancelled


async def test_a_run_in_the_admission_queue_ends_at_once_and_its_place_is_free() -> None:
    async def body(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async with Supervisor(max_running=1) as supervisor:
        first = supervisor.start(Agent(payer))
        queued = supervisor.start(Agent(body))
        third = supervisor.start(Agent(payer))
        assert queued.status is RunStatus.pending
        at(2, queued.cancel)
        assert names(await listen(queued)) == ["RunQueued", "RunStopRequested", "RunCancelled"]
        assert now() == 2
        await first.ended()
        await third.ended()
        assert now() == 20


async def test_a_step_that_waits_for_room_in_a_budget_ends_at_once_and_claims_nothing() -> None:
    budget = Budget(tokens=100)

    async def holder(run: RunContext, message: object) -> None:
        async with run.step("hold", reserve=Usage(output_tokens=80)):
            await anyio.sleep(50)

    async def waiter(run: RunContext, message: object) -> None:
        async with run.step("wait", reserve=Usage(output_tokens=80)):
            raise NotImplementedError

    async with Supervisor() as supervisor:
        supervisor.start(Agent(holder), budgets=[budget])
        waiting = supervisor.start(Agent(waiter), budgets=[budget])
        at(3, waiting.cancel)
        output = await waiting.ended()
        assert now() == 3
        assert budget.waiting == 0
        assert budget.reserved.tokens == 80
    assert output.status is RunStatus.cancelled
    assert budget.reserved.tokens == 0


@pytest.mark.parametrize("beside_a_step", [False, True])
async def test_a_step_that_is_granted_room_in_the_very_turn_of_the_stop_does_not_begin_and_gives_it_back(
    beside_a_step: bool,
) -> None:
    budget = Budget(tokens=100)
    holder = Claim((budget._ledger,), exactly(Amount(80)), (), lambda: None)
    holder.enter()
    assert holder.hold is not None

    async def waiter(run: RunContext, message: object) -> None:
        async def wait() -> None:
            async with run.step("wait", reserve=Usage(output_tokens=80)):
                raise NotImplementedError

        async def pay() -> None:
            if beside_a_step:
                async with run.step("pay"):
                    await anyio.sleep(10)

        await asyncio.gather(pay(), wait())  # noqa: TID251 - users do

    def free_and_stop() -> None:
        holder.withdraw()
        assert budget.reserved.tokens == 80, "granted to the one who waits"
        run.cancel()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(waiter), budgets=[budget])
        at(3, free_and_stop)
        events = await listen(run)
    assert [event.step for event in events if isinstance(event, StepStarted)] == ["pay"] * beside_a_step
    assert budget.reserved.tokens == 0


async def test_without_a_turn_under_way_mode_turn_is_mode_step() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper))
        at(3, lambda: run.cancel(mode="turn"))
        assert (await run.ended()).status is RunStatus.cancelled
        assert now() == 3


async def test_a_stream_that_was_refused_is_closed_without_being_read() -> None:
    source = Words()

    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
        async for _ in run.stream("late", source):
            raise NotImplementedError

    await one(body, stop_at=3)
    assert (source.made, source.closed) == (0, 1)


async def test_a_member_started_after_the_stop_outside_any_step_never_begins() -> None:
    async def member(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            await anyio.sleep(10)
        run.start_member(Agent(member), "late", run_id="m")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(4, run.cancel)
        events = await listen(run)
    assert [type(event).__name__ for event in events if event.run_id == "m"] == ["RunStopRequested", "RunCancelled"]
    assert run.status is RunStatus.cancelled


async def test_the_stop_of_one_run_refuses_nothing_in_another() -> None:
    async def body(run: RunContext, message: object) -> str:
        for _ in range(5):
            async with run.step("pay"):
                await anyio.sleep(1)
        return "paid"

    async with Supervisor() as supervisor:
        stopped, other = supervisor.start(Agent(body)), supervisor.start(Agent(body))
        at(2.5, stopped.cancel)
        assert (await other.ended()).status is RunStatus.completed
        assert (await stopped.ended()).status is RunStatus.cancelled


async def test_a_step_in_a_cancelled_scope_of_the_body_s_own_does_not_begin() -> None:
    began: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        with anyio.CancelScope() as mine:
            mine.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await anyio.sleep(1)
            async with run.step("pay"):
                began.append("pay")
        async with run.step("next"):
            began.append("next")

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body)).ended()
    assert output.status is RunStatus.completed
    assert began == [step.step for step in output.steps] == ["next"]


async def test_a_stopped_run_that_is_resumed_afterwards_opens_nothing() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def late() -> None:
            await anyio.sleep(6)
            await must_not_begin(run)

        async with anyio.create_task_group() as group:
            group.start_soon(late)
            async with run.step("pay"):
                await anyio.sleep(10)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(2, run.pause)
        at(3, run.cancel)
        at(4, run.resume)
        output = await run.ended()
    assert [(step.step, step.status) for step in output.steps] == [("pay", "completed")]
    assert output.status is RunStatus.cancelled


async def test_after_a_stop_at_once_nothing_begins_in_a_task_that_the_interruption_does_not_reach() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def late() -> None:
            await anyio.sleep(5)
            await must_not_begin(run)

        task = asyncio.get_running_loop().create_task(late())
        async with run.step("pay"):
            await deaf(6)
        await asyncio.wait([task])

    run, _ = await one(body, stop_at=3, mode="now")
    assert run.output is not None
    assert [step.step for step in run.output.steps] == ["pay"]


async def test_a_stop_at_once_ends_a_pause() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1)
        await must_not_begin(run)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        run.pause()
        at(3, lambda: run.cancel(mode="now"))
        output = await run.ended()
        assert now() == 3
    assert output.steps == ()
