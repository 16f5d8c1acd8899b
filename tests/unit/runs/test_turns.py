"""A stop after the turn waits for every turn that is under way, in the run and below it, and for nothing else."""

import asyncio

import anyio

from kit.runs import OtherThread, at, deaf, now, one
from kit.spawns import must_not_begin
from softstop import Agent, Limits, RunContext, RunPaused, StopMode, StopPolicy, Supervisor, Usage
from softstop.ports import AdapterContext


async def takes_a_turn(run: RunContext, seconds: float) -> None:
    """A turn with a step at its end."""
    with AdapterContext(run).turn():
        await anyio.sleep(seconds)
        async with run.step(f"tool {seconds}"):
            await anyio.sleep(1)


async def test_a_stop_after_the_turn_waits_for_all_turns_that_are_under_way() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(takes_a_turn, run, 5)
            group.start_soon(takes_a_turn, run, 10)
            await anyio.sleep(20)
            await takes_a_turn(run, 1)

    run, _ = await one(body, stop_at=3, mode="turn")
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [
        ("tool 5", "completed"),
        ("tool 10", "completed"),
    ]
    assert (run.status, now()) == ("cancelled", 11)


async def test_a_stop_after_the_turn_where_none_is_under_way_is_one_at_the_next_boundary() -> None:
    async def body(run: RunContext, message: object) -> None:
        await takes_a_turn(run, 1)
        await anyio.sleep(1_000)

    run, _ = await one(body, stop_at=5, mode="turn")
    assert (run.status, now()) == ("cancelled", 5)


async def test_a_member_in_the_background_may_end_its_turn_although_its_stopped_parent_has_returned() -> None:
    async def leaf(run: RunContext, message: object) -> None:
        await takes_a_turn(run, 10)
        await anyio.sleep(1_000)

    async def lead(run: RunContext, message: object) -> str:
        run.start_member(Agent(leaf), "go")
        await anyio.sleep(5)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, lambda: run.cancel(mode="turn"))
        output = await run.ended()
        assert now() == 11
    (member,) = output.members
    assert [(step.step, step.status) for step in member.steps] == [("tool 10", "completed")]
    assert member.stop is not None
    assert member.stop.mode is StopMode.turn


async def test_when_grace_is_over_the_turn_is_too_and_nothing_begins_in_it_any_more() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def late() -> None:
            await anyio.sleep(8)
            await must_not_begin(run)

        task = asyncio.get_running_loop().create_task(late())
        with AdapterContext(run).turn():
            async with run.step("tool"):
                await deaf(9)
        await asyncio.wait([task])

    run, _ = await one(body, stop_at=3, mode="turn", policy=StopPolicy(grace=4))
    assert run.output is not None
    assert [step.step for step in run.output.steps] == ["tool"]
    assert run.output.abandoned == ()


async def test_a_second_stop_after_the_turn_shortens_the_grace_and_the_end_of_the_turn_ends_the_wait() -> None:
    async def body(run: RunContext, message: object) -> None:
        await takes_a_turn(run, 5)
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(1, lambda: run.cancel(mode="turn"))
        at(2, lambda: run.cancel(mode="turn", grace=10))
        output = await run.ended()
        assert now() == 6
    assert [(step.step, step.status) for step in output.steps] == [("tool 5", "completed")]
    assert output.stop is not None
    assert (output.stop.mode, output.stop.grace) == (StopMode.turn, 10)


async def test_a_stop_that_another_thread_requests_in_a_turn_holds_with_its_end_before_the_loop_has_seen_it() -> None:
    async def body(run: RunContext, message: object) -> None:
        with AdapterContext(run).turn():
            async with run.step("tool"):
                await anyio.sleep(1)
            assert thread.ask()
            async with run.step("tool of the same turn"):
                pass
        await must_not_begin(run)

    async with Supervisor() as supervisor:
        with OtherThread(lambda: supervisor.cancel_run("r1", mode="turn")) as thread, anyio.fail_after(60):
            output = await supervisor.start(Agent(body), "go", run_id="r1").ended()
    assert [step.step for step in output.steps] == ["tool", "tool of the same turn"]
    assert (output.status, output.errors) == ("cancelled", ())


async def test_a_limit_that_pauses_does_not_pause_a_run_that_waits_for_the_end_of_a_turn_to_stop() -> None:
    modes: list[StopMode] = []

    async def body(run: RunContext, message: object) -> None:
        with AdapterContext(run).turn():
            await anyio.sleep(2)
            run.charge(Usage(output_tokens=20))
            assert run.stop is not None
            modes.append(run.stop.mode)

    run, events = await one(body, stop_at=1, mode="turn", limits=Limits(tokens=10, on_exhausted="pause"))
    assert (run.status, modes) == ("completed", [StopMode.step])
    assert not [event for event in events if isinstance(event, RunPaused)]
