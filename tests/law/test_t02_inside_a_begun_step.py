"""T2: what a begun step opens, in its own tasks or below it, belongs to it and is not refused."""

import asyncio
import contextlib

import anyio
import pytest

from kit.runs import Words, at, listen, names, now, one
from kit.spawns import SPAWNS, Spawn, must_not_begin
from softstop import (
    Agent,
    RunCancelled,
    RunContext,
    RunStatus,
    RunStopRequested,
    StepStarted,
    StepTimeout,
    StopCause,
    StopPolicy,
    Supervisor,
)


async def test_a_step_opened_inside_a_begun_step_belongs_to_it_and_is_not_refused() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            await anyio.sleep(10)
            async with run.step("inner"):
                await anyio.sleep(1)
            await run.boundary()
            await anyio.sleep(1)
        await must_not_begin(run)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 12
    assert names(events) == [
        "RunStarted", "StepStarted", "RunStopRequested", "StepStarted", "StepCompleted", "StepCompleted",
        "RunCancelled",
    ]  # fmt: skip


async def test_a_stream_opened_inside_a_begun_step_is_read_to_its_end() -> None:
    source = Words(5)

    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            await anyio.sleep(10)
            async for word in run.stream("inner", source):
                run.write(word)
        await must_not_begin(run)

    run, events = await one(body, stop_at=3)
    assert source.made == 5
    assert events[-1].content == "word1 word2 word3 word4 word5 "
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("inner", "completed"), ("outer", "completed")]


@pytest.mark.parametrize("spawn", SPAWNS, ids=lambda spawn: spawn.__name__)
async def test_tasks_of_a_begun_step_may_open_steps_in_it_after_the_stop(spawn: Spawn) -> None:
    async def body(run: RunContext, message: object) -> None:
        async def inner() -> None:
            async with run.step("inner"):
                await anyio.sleep(1)

        async with run.step("outer"):
            await anyio.sleep(10)
            await spawn(inner)
            await spawn(inner)
        await must_not_begin(run)

    run, _ = await one(body, stop_at=3)
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [
        ("inner", "completed"), ("inner", "completed"), ("outer", "completed"),
    ]  # fmt: skip


async def test_a_task_that_outlives_its_step_no_longer_belongs_to_it() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def straggler() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(11)
            await must_not_begin(run)

        async with anyio.create_task_group() as group, run.step("outer"):
            group.start_soon(straggler)
            await anyio.sleep(10)

    run, events = await one(body, stop_at=3)
    assert [event.step for event in events if isinstance(event, StepStarted)] == ["outer"]
    assert run.status is RunStatus.cancelled


async def test_a_member_started_inside_a_begun_step_starts_and_has_what_is_left_of_the_grace() -> None:
    async def member(run: RunContext, message: object) -> None:
        run.write("hello ")
        await must_not_begin(run)

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            await anyio.sleep(10)
            output = await run.member(Agent(member), "go", run_id="m")
            assert output.status is RunStatus.cancelled
            assert output.content == "hello "
        await must_not_begin(run)

    async with Supervisor(policy=StopPolicy(grace=25)) as supervisor:
        run = supervisor.start(Agent(lead), run_id="lead")
        at(4, run.cancel)
        events = await listen(run)
    asked = [event for event in events if isinstance(event, RunStopRequested) and event.run_id == "m"]
    assert [(event.cause, event.via, event.grace) for event in asked] == [(StopCause.user, "lead", 19.0)]
    assert [type(event).__name__ for event in events if event.run_id == "m"] == [
        "RunStarted", "RunStopRequested", "RunContent", "RunCancelled",
    ]  # fmt: skip
    assert isinstance(events[-1], RunCancelled)
    assert [member.status for member in (run.output.members if run.output else ())] == [RunStatus.cancelled]


async def test_a_step_of_the_parent_that_is_opened_in_a_member_s_begun_step_belongs_to_that_step() -> None:
    async def lead(run: RunContext, message: object) -> None:
        async def leaf(member: RunContext, message: object) -> str:
            async with member.step("pay"):
                await anyio.sleep(10)
                async with run.step("note"):  # both know of the payment
                    await anyio.sleep(1)
                await run.boundary()
            return "paid"

        await run.member(Agent(leaf), "go")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 11
    assert [(step.step, step.status) for step in output.steps] == [("note", "completed")]
    assert [(step.step, step.status) for step in output.members[0].steps] == [("pay", "completed")]


async def test_a_stream_that_begins_in_what_an_inner_step_has_left_behind_belongs_to_the_outer_one_and_ends_once() -> (
    None
):
    async def body(run: RunContext, message: object) -> None:
        async def read() -> None:
            await anyio.sleep(10)
            async for word in run.stream("read", Words(3)):
                run.write(word)

        async with run.step("outer"):
            with contextlib.suppress(StepTimeout):
                async with run.step("inner", timeout=2):
                    reading = asyncio.get_running_loop().create_task(read())
                    await anyio.sleep(5)
            await reading

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(4, run.cancel)
        output = await run.ended()
    assert [(step.step, step.status) for step in output.steps] == [
        ("inner", "unsettled"), ("read", "completed"), ("outer", "completed"),
    ]  # fmt: skip
    assert (output.status, len(output.content.split())) == (RunStatus.completed, 3)
