"""Pauses: a run holds at its next boundary and goes on when it is resumed; a stop ends a pause. In virtual time."""

import anyio
import pytest

from kit.runs import now, sleeper
from softstop import (
    Agent,
    Limits,
    RunContext,
    RunContinued,
    RunPaused,
    RunStatus,
    StopCause,
    StopPolicy,
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


async def test_the_clock_of_a_timeout_stands_still_while_a_run_is_paused() -> None:
    seen: list[float | None] = []

    async def body(run: RunContext, message: object) -> None:
        async with run.step("one"):
            await anyio.sleep(5)
        seen.append(run.remaining_time)
        async with run.step("two"):
            seen.append(run.remaining_time)
            await anyio.sleep(100)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(timeout=20), policy=StopPolicy(grace=0, abandon_after=0))
        began = now()
        await anyio.sleep(2)
        run.pause("a person reads")
        await anyio.sleep(400)
        run.limits.update(steps=50)
        await anyio.sleep(600)
        run.resume()
        output = await run.ended()
    assert output.stop is not None
    assert output.stop.cause is StopCause.timeout
    assert now() - began == pytest.approx(1_020, abs=0.2)
    assert seen == [18, 18]


async def test_the_clocks_of_a_run_that_is_paused_before_its_start_begin_when_it_goes_on() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(timeout=2, idle_timeout=5))
        run.pause()
        await anyio.sleep(10)
        assert run.stop is None
        run.resume()
        await run
    assert run.stop is not None
    assert run.stop.cause is StopCause.timeout
    assert now() == 12


async def test_a_timeout_that_is_given_in_a_pause_counts_what_the_run_has_used_before_it() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper))
        began = now()
        await anyio.sleep(3)
        run.pause()
        await anyio.sleep(100)
        run.limits.update(timeout=10)
        await anyio.sleep(100)
        assert run.status is RunStatus.running
        run.resume()
        output = await run.ended()
    assert output.stop is not None
    assert output.stop.cause is StopCause.timeout
    assert now() - began >= 207
