"""Pauses: a run holds at its next boundary and goes on when it is resumed; a stop ends a pause. In virtual time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kit.runs import Words, at, listen, now
from softstop import (
    Agent,
    Limits,
    MisuseError,
    Run,
    RunContent,
    RunContext,
    RunContinued,
    RunPaused,
    RunStatus,
    Supervisor,
    Usage,
)


async def test_a_paused_run_holds_at_its_next_boundary_and_goes_on_when_resumed() -> None:
    done: list[float] = []

    async def body(run: RunContext, message: object) -> str:
        for number in range(3):
            async with run.step(f"step {number}"):
                await anyio.sleep(10)
            done.append(now())
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        start = now()
        await anyio.sleep(5)
        run.pause("lunch")
        await anyio.sleep(50)
        assert [at - start for at in done] == [10]
        run.resume()
        output = await run
        events = [event async for event in run.events()]
    assert output.value == "done"
    assert [at - start for at in done] == [10, 65, 75]
    assert [event.reason for event in events if isinstance(event, RunPaused)] == ["lunch"]
    assert sum(isinstance(event, RunContinued) for event in events) == 1


async def test_a_paused_stream_waits_between_two_chunks() -> None:
    async def source():
        for number in range(5):
            await anyio.sleep(1)
            yield f"{number} "

    async def body(run: RunContext, message: object) -> None:
        async for chunk in run.stream("write", source()):
            run.write(chunk)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(2.5)
        run.pause()
        await anyio.sleep(100)
        assert run.usage.total_tokens == 0
        run.resume()
        output = await run
    assert output.content == "0 1 2 3 4 "


async def test_a_stop_ends_a_pause_at_once() -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(5):
            async with run.step("step"):
                await anyio.sleep(1)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(0.5)
        run.pause()
        await anyio.sleep(100)
        asked = now()
        run.cancel()
        output = await run
        assert now() == asked
    assert output.status is RunStatus.cancelled
    assert len(output.steps) == 1


async def test_a_pause_reaches_members_and_is_no_idle_time() -> None:
    async def member(run: RunContext, message: object) -> str:
        for _ in range(3):
            async with run.step("work"):
                await anyio.sleep(1)
        return "worked"

    async def body(run: RunContext, message: object) -> str:
        output = await run.member(Agent(member), None)
        return str(output.value)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(idle_timeout=10))
        await anyio.sleep(1.5)
        run.pause()
        await anyio.sleep(500)
        run.resume()
        output = await run
    assert output.value == "worked"


async def test_a_member_that_code_of_a_paused_run_starts_is_paused_with_it() -> None:
    begun: list[float] = []

    async def member(run: RunContext, message: object) -> None:
        async with run.step("work"):
            begun.append(now())

    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep(1)  # in no step: it goes on while the run is paused
        await run.start_member(Agent(member), None)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(0.5)
        run.pause()
        await anyio.sleep(10)
        assert begun == []
        run.resume()
        output = await run
    assert output.status is RunStatus.completed
    assert begun == [10.5]


async def test_a_member_that_a_begun_step_of_a_paused_run_starts_works_for_that_step() -> None:
    async def leaf(run: RunContext, message: object) -> None:
        async with run.step("part of it"):
            run.write(f"{now():g}")

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(5)
            await run.member(Agent(leaf), "go")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(1, run.pause)
        at(100, run.resume)
        output = await run.ended()
    assert output.members[0].content == "5"


async def test_a_person_s_pause_outlasts_any_change_of_limits() -> None:
    begun: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        for number in range(4):
            async with run.step(f"step {number}"):
                begun.append(run.run_id)
                await anyio.sleep(1)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.sleep(0.5)
        run.pause("let me look")
        run.limits.update(timeout=100, tokens=10_000, steps=50)
        await anyio.sleep(10)
        assert len(begun) == 1, "nobody but a person ends a person's pause"
        run.resume()
        assert (await run.ended()).status is RunStatus.completed


async def test_a_member_of_a_paused_run_may_be_resumed_on_its_own() -> None:
    async def leaf(run: RunContext, message: object) -> float:
        await anyio.sleep(2)
        await run.boundary()
        return now()

    async def lead(run: RunContext, message: object) -> float:
        return (await run.member(Agent(leaf), "go", run_id="leaf")).value

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(1, run.pause)
        at(5, lambda: supervisor.get_run("leaf").resume())
        at(100, run.resume)
        assert (await run.ended()).value == 5


async def test_a_run_that_is_paused_by_its_limit_and_by_a_person_waits_for_both() -> None:
    async def body(run: RunContext, message: object) -> str:
        run.charge(Usage(input_tokens=100))
        await run.boundary()
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(tokens=100, on_exhausted="pause"))
        await anyio.sleep(1)
        run.pause("let me look")
        run.limits.update(tokens=1_000)
        await anyio.sleep(1)
        assert run.status is RunStatus.running
        run.resume()
        assert (await run.ended()).value == "done"


async def test_a_member_that_a_person_has_paused_stays_so_when_its_parent_goes_on() -> None:
    async def member(run: RunContext, message: object) -> None:
        for number in range(2):
            async with run.step(f"step {number}"):
                await anyio.sleep(2)

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(member), None)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        await anyio.sleep(1)
        [below] = run.members
        below.pause("this one")
        run.pause("all")
        await anyio.sleep(5)
        run.resume()
        await anyio.sleep(5)
        assert below.status is RunStatus.running, "its parent's pause was not the only one"
        below.resume()
        assert (await run.ended()).status is RunStatus.completed


async def calls(run: RunContext, message: object) -> None:
    """A body whose boundaries are calls of `run.boundary()`."""
    for number in range(6):
        await run.boundary()
        run.write(f"{number}")
        await anyio.sleep(2)


async def yields(run: RunContext, message: object) -> AsyncIterator[str]:
    """A generator, whose boundaries are its yields."""
    for number in range(6):
        yield f"{number}"
        await anyio.sleep(2)


@pytest.mark.parametrize("body", [calls, yields])
async def test_a_pause_holds_where_the_only_boundaries_are_calls_or_yields(body: Any) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.pause)
        await anyio.sleep(60)
        held = "".join(event.content for event in await run.events().read() if isinstance(event, RunContent))
        run.resume()
        output = await run.ended()
    assert held in ("01", "012"), "it went on while it was paused"
    assert output.content == "012345"


async def test_a_paused_parent_s_members_begin_nothing_and_all_go_on_with_it() -> None:
    begun: list[float] = []

    async def leaf(run: RunContext, message: object) -> None:
        for number in range(3):
            async with run.step(f"step {number}"):
                begun.append(now())
                await anyio.sleep(2)

    async def middle(run: RunContext, message: object) -> None:
        await run.member(Agent(leaf), "go")

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(middle), "go")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(1, run.pause)
        at(50, run.resume)
        await run.ended()
    assert begun == [0, 50, 52]


async def test_a_run_is_paused_and_resumed_from_any_thread_and_twice_is_once() -> None:
    async def body(run: RunContext, message: object) -> float:
        await anyio.sleep(1)
        await run.boundary()
        return now()

    async def twice(run: Run, action: str) -> None:
        for _ in range(2):
            await anyio.to_thread.run_sync(getattr(run, action))

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await twice(run, "pause")
        await anyio.sleep(20)
        resumed = now()
        await twice(run, "resume")
        output = await run.ended()
        events = await listen(run)
    assert output.value == resumed
    assert [type(event) for event in events if isinstance(event, RunPaused | RunContinued)] == [RunPaused, RunContinued]


async def test_a_stream_that_is_left_early_in_a_pause_was_not_cut() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.stream("read", Words()) as words:
            async for _ in words:
                await anyio.sleep(2)
                break
        await anyio.sleep(10)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(2, run.pause)
        at(6, run.resume)
        output = await run.ended()
    assert [(step.step, step.status) for step in output.steps] == [("read", "completed")]
    assert output.status is RunStatus.completed


async def test_a_run_that_its_limit_has_paused_goes_on_by_more_room_and_by_no_other_change_of_limits() -> None:
    async def body(run: RunContext, message: object) -> str:
        run.charge(Usage(output_tokens=70))
        await run.boundary()
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(tokens=50, on_exhausted="pause"))
        await anyio.sleep(1)
        for changes in ({"steps": 9}, {"timeout": 1_000}, {"tokens": 60}):
            run.limits.update(**changes)
            await anyio.sleep(1)
        told = [type(event) for event in await run.events().read() if isinstance(event, RunPaused | RunContinued)]
        assert run.status is RunStatus.running
        run.limits.update(tokens=1_000)
        assert (await run.ended()).value == "done"
    assert told == [RunPaused]


async def test_a_run_that_is_paused_again_in_the_instant_of_its_resumption_stays_paused() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(calls))
        at(1, run.pause)
        await anyio.sleep(20)
        run.resume()
        run.pause()
        await anyio.sleep(20)
        assert [event.content for event in await run.events().read() if isinstance(event, RunContent)] == ["0"]
        run.resume()
        assert (await run.ended()).content == "012345"


async def test_a_pause_that_comes_after_a_stop_or_after_the_end_changes_nothing() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(10)
        await run.boundary()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        at(2, run.pause)
        at(3, run.resume)
        at(4, run.pause)
        output = await run.ended()
        run.pause()
        run.resume()
        events = await listen(run)
    assert output.status is RunStatus.cancelled
    assert not [event for event in events if isinstance(event, RunPaused | RunContinued)]


async def test_a_run_that_ends_in_a_pause_keeps_no_stray_task_waiting_at_its_boundary() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def stray(run: RunContext) -> None:
        await anyio.sleep(2)
        await run.boundary()
        raise NotImplementedError

    async def body(run: RunContext, message: object) -> str:
        tasks.append(asyncio.get_running_loop().create_task(stray(run)))
        await anyio.sleep(5)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.pause)
        output = await run.ended()
        await anyio.sleep(1)
    assert (output.status, output.value) == (RunStatus.completed, "done")
    assert isinstance(tasks[0].exception(), MisuseError), "refused, since its run has ended"
