"""Bugs that the explorer has found in the core, each reduced to the symptom a user would have seen."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from softstop import (
    Agent,
    Event,
    Limits,
    RunContext,
    RunEscalated,
    RunStatus,
    RunStopRequested,
    StepStarted,
    StopOutcome,
    StopPolicy,
    Supervisor,
    Usage,
    cancel_run,
)
from softstop.runs.run import Run
from softstop.testing import (
    VirtualLoop,
)


def ask_from_a_thread(run: Run, reason: str, mode: str = "step") -> StopOutcome:
    """Ask from a plain thread while the loop stands still."""
    outcomes: list[StopOutcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run.cancel(reason, mode=mode).outcome))
    thread.start()
    thread.join()
    return outcomes[0]


async def names(run: Run) -> list[str]:
    return [type(event).__name__ async for event in run.events()]


async def deaf(seconds: float) -> None:
    until = anyio.current_time() + seconds
    while (left := until - anyio.current_time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


async def test_of_two_threads_the_stronger_second_one_does_not_overwrite_the_reason_of_the_first() -> None:
    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep(100)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        assert ask_from_a_thread(run, "first") is StopOutcome.accepted
        assert ask_from_a_thread(run, "second", "now") is StopOutcome.escalated
        output = await run.ended()
    assert output.stop is not None
    assert (output.stop.reason, output.stop.mode) == ("first", "now")


async def test_a_stop_from_another_thread_before_the_start_never_enters_the_body() -> None:
    async def body(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        assert ask_from_a_thread(run, "never mind") is StopOutcome.accepted
        assert await names(run) == ["RunStopRequested", "RunCancelled"]


async def test_a_member_does_not_begin_once_another_thread_has_stopped_its_parent() -> None:
    async def member(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async def body(run: RunContext, message: object) -> None:
        started = run.start_member(Agent(member), None)
        assert ask_from_a_thread(supervisor.get_run(run.run_id), "stop") is StopOutcome.accepted
        await started

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        seen = await names(run)
    assert seen == ["RunStarted", "RunStopRequested", "RunStopRequested", "RunCancelled", "RunCancelled"]


async def test_a_shorter_grace_asked_for_by_an_observer_of_the_stop_is_not_outlived_by_the_longer_one() -> None:
    class Impatient:
        def notice(self, event: Event) -> None:
            if isinstance(event, RunStopRequested) and event.reason == "patient":
                run.cancel("impatient", grace=0.5)

    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1_000)

    async with Supervisor(observers=[Impatient()]) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        run.cancel("patient", grace=30)
        await run.ended()
        assert anyio.current_time() == 1.5


async def test_mode_now_after_the_grace_ran_out_does_not_give_the_step_more_time() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await deaf(8)

    policy = StopPolicy(grace=1, abandon_after=5)
    async with Supervisor(policy=policy) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        run.cancel("first")
        await anyio.sleep(4)
        assert run.cancel("hurry", mode="now").outcome is StopOutcome.escalated
        await run.ended()
        assert anyio.current_time() == 7
        escalations = [event async for event in run.events() if isinstance(event, RunEscalated)]
    assert len(escalations) == 1


@pytest.mark.leaves_tasks
async def test_a_weaker_wish_after_the_grace_ran_out_does_not_keep_the_run_alive() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await deaf(20)

    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=5)) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        run.cancel("first", mode="turn")
        await anyio.sleep(4)
        run.cancel("second", mode="step")
        await run.ended()
        assert anyio.current_time() == 7


async def test_a_run_whose_cut_step_ended_whole_has_completed() -> None:
    class StopsTheLastStep:
        def notice(self, event: Event) -> None:
            if isinstance(event, StepStarted):
                run.cancel(mode="now")

    async def body(run: RunContext, message: object) -> str:
        async with run.step("save"):
            run.write("saved")
        return "done"

    async with Supervisor(observers=[StopsTheLastStep()]) as supervisor:
        run = supervisor.start(Agent(body))
        output = await run.ended()
    assert [step.status for step in output.steps] == ["completed"]
    assert output.status is RunStatus.completed


async def test_a_stop_of_mode_now_has_no_grace_on_record() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(steps=5))
        await anyio.sleep(1)
        run.cancel("first", grace=0)
        run.cancel("second", mode="now")
        output = await run.ended()
    assert output.stop is not None
    assert (output.stop.mode, output.stop.grace) == ("now", 0.0)


async def test_a_source_that_ignores_its_interruption_is_named_as_abandoned() -> None:
    async def stubborn() -> AsyncIterator[str]:
        yield "a"
        await deaf(60)

    async def body(run: RunContext, message: object) -> None:
        async for text in run.stream("answer", stubborn()):
            run.write(text)

    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=2)) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        run.cancel()
        output = await run.ended()
        await anyio.sleep(60)  # the source is done then
    assert output.abandoned == ("answer",)
    assert [(step.step, step.kind, step.status) for step in output.steps] == [("answer", "divisible", "abandoned")]


async def test_a_source_read_by_a_task_that_outlived_the_body_is_closed_before_the_outcome() -> None:
    closed: list[float] = []

    async def provider() -> AsyncIterator[str]:
        try:
            yield "a"
            await anyio.sleep(60)
            yield "too late"
        finally:
            await anyio.sleep(1)
            closed.append(anyio.current_time())

    async def read(run: RunContext) -> None:
        async for text in run.stream("answer", provider()):
            run.write(text)

    async def fail() -> None:
        await anyio.sleep(2)
        raise ValueError("the other branch")

    async def body(run: RunContext, message: object) -> None:
        await asyncio.gather(read(run), fail())  # noqa: TID251 - leaves its other children to themselves

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        output = await run.ended()
        assert closed == [3]
        assert anyio.current_time() == 3
    assert (output.status, output.content) == (RunStatus.failed, "a")


async def test_a_reservation_without_room_inside_a_step_does_not_make_that_step_a_failure() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"), run.step("inner", reserve=Usage(output_tokens=10)):
            raise NotImplementedError

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(tokens=5))
        output = await run.ended()
    assert output.status is RunStatus.cancelled
    assert [(step.step, step.status) for step in output.steps] == [("outer", "failed")]  # BudgetExceeded (T17)
    assert len(output.errors) == 1


async def test_a_deaf_branch_is_not_interrupted_on_every_turn_when_its_host_hears_late() -> None:
    heard: list[float] = []

    async def deaf() -> None:
        until = anyio.current_time() + 7
        while anyio.current_time() < until:
            try:
                await asyncio.sleep(until - anyio.current_time())
            except asyncio.CancelledError:
                heard.append(anyio.current_time())

    async def body(run: RunContext, message: object) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(deaf())

    async with Supervisor(policy=StopPolicy(grace=0, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        await asyncio.sleep(0)  # the body has begun, its group waits in the turn in which the stop comes
        run.cancel()
        await run.ended()
        await anyio.sleep(10)
    assert len(heard) <= 20
    assert max(heard) <= 1


async def test_a_source_that_another_task_is_closing_is_closed_before_the_outcome() -> None:
    class Slow:
        def __aiter__(self) -> Slow:
            return self

        async def __anext__(self) -> str:
            await anyio.sleep_forever()
            raise StopAsyncIteration

        async def aclose(self) -> None:
            await anyio.sleep(2)

    async def body(run: RunContext, message: object) -> None:
        async def read() -> None:
            async for _ in run.stream("read", Slow()):
                pass

        task = asyncio.ensure_future(read())  # noqa: TID251 - a task that nobody waits for
        await anyio.sleep(1)
        task.cancel()
        await asyncio.sleep(0)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        told = await names(run)
        assert anyio.current_time() == 3
    assert told == ["RunStarted", "StepStarted", "StepCompleted", "RunCompleted"]


async def test_a_source_that_stops_its_own_run_as_its_last_word_leaves_no_cancellation_behind() -> None:
    async def last_word(run: RunContext) -> AsyncIterator[str]:
        yield "a"
        cancel_run(run.run_id)

    async def talk(run: RunContext) -> None:
        async for text in run.stream("talk", last_word(run)):
            run.write(text)
        async with run.step("refused"):
            raise NotImplementedError

    async def pay(run: RunContext) -> None:
        async with run.step("pay"):
            await anyio.sleep(1)
        await anyio.sleep(10)

    async def body(run: RunContext, message: object) -> None:
        await asyncio.gather(pay(run), talk(run))  # noqa: TID251 - users do

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        output = await run.ended()
        assert anyio.current_time() == 1
        assert [step.status for step in output.steps] == ["completed", "completed"]
        for _ in range(3):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_abandoned_body_is_left_alone_also_when_one_of_its_steps_ends_later() -> None:
    async def deaf(run: RunContext) -> None:
        async with run.step("deaf"):
            until = anyio.current_time() + 3
            while anyio.current_time() < until:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(until - anyio.current_time())
        await run.boundary()

    async def body(run: RunContext, message: object) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(deaf(run))

    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    async with Supervisor(policy=StopPolicy(grace=0, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(1)
        task = run._state.task
        run.cancel()
        assert (await run.ended()).abandoned == ("deaf",)
        await anyio.sleep(5)
        turns = loop.turns
        await anyio.sleep(1_000)
        assert loop.turns - turns < 10
        assert task is not None
        task.cancel()  # nobody waits for an abandoned body but this test
        for child in asyncio.all_tasks() - {asyncio.current_task()}:
            child.cancel()


async def test_a_refusal_that_came_through_gather_does_not_make_the_step_around_a_failure() -> None:
    async def inner(run: RunContext) -> None:
        async with run.step("inner", reserve=Usage(output_tokens=10)):
            raise NotImplementedError

    async def pay(run: RunContext) -> None:
        async with run.step("pay"):
            await anyio.sleep(1)

    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            await asyncio.gather(pay(run), inner(run))  # noqa: TID251 - users do

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(body), limits=Limits(tokens=5)).ended()
    assert output.status is RunStatus.cancelled
    assert [(step.step, step.status) for step in output.steps] == [("outer", "failed"), ("pay", "completed")]
    assert len(output.errors) == 1
