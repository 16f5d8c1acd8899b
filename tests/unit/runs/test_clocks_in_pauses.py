"""The clocks of a run that is paused stand still, also if it was paused before it began. In virtual time."""

import anyio
import pytest

from kit.runs import Notes, now, sleeper
from softstop import (
    Agent,
    Event,
    Limits,
    LimitsChanged,
    RunCancelled,
    RunContext,
    RunContinued,
    RunPaused,
    RunQueued,
    RunStarted,
    RunStatus,
    RunStopRequested,
    StopCause,
    StopPolicy,
    Supervisor,
)


@pytest.mark.parametrize("queued", [True, False])
@pytest.mark.parametrize("resumed", ["before it begins", "later"])
async def test_a_run_that_is_paused_before_it_begins_tells_so_when_it_does_and_its_clocks_stand_still(
    queued: bool, resumed: str
) -> None:
    async with Supervisor(max_running=1) as supervisor:
        if queued:
            supervisor.start(Agent(sleeper), limits=Limits(timeout=10))
        run = supervisor.start(Agent(sleeper), limits=Limits(timeout=5))
        run.pause("not yet")
        run.limits.update(steps=5)
        if resumed == "later":
            await anyio.sleep(50)
        run.resume()
        await run.ended()
        assert now() == 5 + (50 if resumed == "later" else 10 if queued else 0)
        events = [type(event) for event in [event async for event in run.events()]]
    told = [RunPaused, RunContinued] if resumed == "later" else []
    first = [RunQueued] if queued else []
    assert events == [*first, RunStarted, *told, RunStopRequested, RunCancelled]


@pytest.mark.parametrize("resumed", [True, False])
async def test_a_run_that_an_observer_of_its_start_pauses_tells_so_once(resumed: bool) -> None:
    def pause(event: Event) -> None:
        if isinstance(event, RunStarted):
            run.pause("look first")
            if resumed:
                run.resume()

    async with Supervisor(observers=[Notes(pause)]) as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(timeout=5))
        await anyio.sleep(50)
        run.resume()
        await run.ended()
        assert now() == (50 if resumed else 55)
        told = [type(event) for event in [event async for event in run.events()]]
    assert told == [RunStarted, *([] if resumed else [RunPaused, RunContinued]), RunStopRequested, RunCancelled]


async def test_a_timeout_that_an_observer_of_its_start_sets_counts_from_the_start() -> None:
    def limit(event: Event) -> None:
        if isinstance(event, RunStarted):
            run.limits.update(timeout=5)

    await anyio.sleep(100)
    async with Supervisor(observers=[Notes(limit)]) as supervisor:
        run = supervisor.start(Agent(sleeper))
        await run.ended()
        assert now() == 105
        events = [event async for event in run.events()]
    assert [type(event) for event in events] == [RunStarted, LimitsChanged, RunStopRequested, RunCancelled]


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


async def test_a_change_of_limits_in_a_long_pause_makes_no_idle_time_of_it() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(idle_timeout=5))
        await anyio.sleep(1)
        run.pause()
        await anyio.sleep(100)
        run.limits.update(steps=50)
        await anyio.sleep(100)
        assert run.stop is None
        run.resume()
        output = await run.ended()
    assert output.stop is not None
    assert output.stop.cause is StopCause.idle
    assert now() == 206
