"""Member runs (T7): stops go down a tree and never up, a member is a value for its parent, which ends after it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest

from kit.runs import at, listen, now
from kit.trees import QUICK, deaf, fails, family, in_a_group, never, pays, says, told, waits
from softstop import (
    Agent,
    Limits,
    MisuseError,
    Outcome,
    RunCancelled,
    RunContext,
    RunFailed,
    RunOutput,
    RunStatus,
    RunStopRequested,
    StopCause,
    StopOutcome,
    StopResult,
    Supervisor,
)

# -- downwards, never upwards --------------------------------------------------------------------------------------


async def one_by_one(run: RunContext, members: list[Agent]) -> None:
    for member in members:
        await run.member(member, "go", run_id=member.name)


async def by_gather(run: RunContext, members: list[Agent]) -> None:
    await asyncio.gather(*[run.member(member, "go", run_id=member.name) for member in members])  # noqa: TID251


async def by_task_group(run: RunContext, members: list[Agent]) -> None:
    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(run.member(member, "go", run_id=member.name))


async def by_wait_for(run: RunContext, members: list[Agent]) -> None:
    for member in members:
        await asyncio.wait_for(run.member(member, "go", run_id=member.name), 3_600)  # noqa: TID251


async def in_the_background(run: RunContext, members: list[Agent]) -> None:
    for member in members:
        run.start_member(member, "go", run_id=member.name)
    await anyio.sleep_forever()


Manner = Callable[[RunContext, list[Agent]], Awaitable[None]]
TOGETHER: list[Manner] = [in_a_group, by_gather, by_task_group, in_the_background]
ALL = [one_by_one, by_wait_for, *TOGETHER]


@pytest.mark.parametrize("manner", TOGETHER)
async def test_a_stop_reaches_every_member_and_each_ends_at_its_own_boundary(manner: Manner) -> None:
    async def lead(run: RunContext, message: object) -> None:
        await manner(run, [waits("waits"), says("abcdef", "says"), pays(10, "pays")])

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(3.5, lambda: run.cancel("enough", by="user-7"))
        ended = {}
        async for event in run.events():
            if isinstance(event, Outcome):
                ended[event.run_id] = now()
    assert ended == {"waits": 3.5, "says": 3.5, "pays": 10, "lead": 10}
    output = run.output
    assert output is not None
    assert output.status is RunStatus.cancelled
    assert {m.run_id: (m.status.value, m.content) for m in output.members} == {
        "waits": ("cancelled", ""), "says": ("cancelled", "abc"), "pays": ("completed", "paid"),
    }  # fmt: skip
    for member in output.members:
        assert member.stop is not None
        assert (member.stop.cause, member.stop.via, member.stop.reason, member.stop.by) == (
            StopCause.user, "lead", "enough", "user-7",
        )  # fmt: skip


@pytest.mark.parametrize("manner", ALL)
async def test_no_member_starts_after_the_stop(manner: Manner) -> None:
    async def lead(run: RunContext, message: object) -> None:
        async with run.step("first"):
            await anyio.sleep(5)
        await manner(run, [never("a"), never("b")])

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 5
    assert not [event for event in told(events) if event.endswith("RunStarted") and "lead" not in event]
    assert run.status is RunStatus.cancelled


async def test_a_member_that_was_started_in_the_very_turn_of_the_stop_never_begins() -> None:
    async def lead(run: RunContext, message: object) -> None:
        run.start_member(never("m"), "go", run_id="m")  # registered, but its task has not had its turn
        own.cancel("enough")
        await anyio.sleep_forever()

    async with Supervisor() as supervisor:
        own = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        events = await listen(own)
    assert told(events) == [
        "lead RunStarted", "lead RunStopRequested", "m RunStopRequested", "m RunCancelled", "lead RunCancelled",
    ]  # fmt: skip


async def test_a_stop_of_a_member_by_its_own_id_leaves_parent_and_siblings_running() -> None:
    seen: list[RunOutput] = []

    async def lead(run: RunContext, message: object) -> str:
        sibling = run.start_member(says("abcdef", "sibling"), "go")
        seen.append(await run.member(waits("m"), "go", run_id="m"))
        async with run.step("goes on"):
            await anyio.sleep(1)
        await sibling.ended()
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        receipts = []
        at(3, lambda: receipts.append(supervisor.cancel_run("m", "only this one", by="user-7")))
        output = await run.ended()
        assert receipts[0].outcome is StopOutcome.accepted
        assert await receipts[0].wait() is StopResult.stopped
    assert (output.status, output.stop) == (RunStatus.completed, None)
    assert seen[0].status is RunStatus.cancelled
    assert seen[0].stop is not None
    assert (seen[0].stop.via, seen[0].stop.reason, seen[0].stop.by) == (None, "only this one", "user-7")
    assert [member.content for member in output.members] == ["abcdef", ""]


async def test_a_member_that_fails_is_a_value_and_its_parent_goes_on() -> None:
    async def lead(run: RunContext, message: object) -> str:
        output = await run.member(fails("no such book"), "go")
        assert isinstance(output.error, ValueError)
        return output.status.value

    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(lead)).ended()
    assert (output.status, output.value, output.errors) == (RunStatus.completed, "failed", ())
    assert output.members[0].errors == ("ValueError: no such book",)
    assert output.members[0].content == "half"


async def test_a_stop_goes_through_three_levels_and_outcomes_come_from_the_leaves_up() -> None:
    async def node(run: RunContext, depth: int) -> None:
        if depth:
            async with anyio.create_task_group() as group:
                for side in ("l", "r"):
                    group.start_soon(lambda side=side: run.member(Agent(node), depth - 1, run_id=f"{run.run_id}{side}"))
        else:
            async with run.step("leaf"):
                await anyio.sleep(10 if run.run_id.endswith("l") else 1)
            await anyio.sleep_forever()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(node, name="node"), 3, run_id="n")
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 10
    outcomes = [event for event in events if isinstance(event, RunCancelled)]
    place = {event.run_id: index for index, event in enumerate(outcomes)}
    assert len(place) == 15
    for event in outcomes:
        assert event.root_run_id == "n"
        if event.parent_run_id is not None:
            assert event.parent_run_id == event.run_id[:-1] == event.via
            assert place[event.parent_run_id] > place[event.run_id]
    assert {event.cause for event in outcomes} == {StopCause.user}
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_a_stop_from_another_thread_reaches_every_member() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await in_a_group(run, [waits("a"), waits("b")])

    def stop() -> None:
        run.cancel("from afar")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        await anyio.sleep(1)
        thread = threading.Thread(target=stop)
        thread.start()
        thread.join()
        output = await run.ended()
    assert family(output) == {"a": ("cancelled", {}), "b": ("cancelled", {})}


# -- what becomes of the parent ------------------------------------------------------------------------------------


async def test_a_parent_whose_member_was_stopped_through_it_is_cancelled_although_its_body_returns() -> None:
    async def lead(run: RunContext, message: object) -> str:
        async with run.step("outer"):  # what is started in a begun step belongs to it
            output = await run.member(says("abcdef"), "go")
        return output.content

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        receipts = []
        at(3.5, lambda: receipts.append(run.cancel()))
        output = await run.ended()
        assert await receipts[0].wait() is StopResult.stopped
    assert (output.status, output.value) == (RunStatus.cancelled, "abc")


async def test_a_parent_whose_member_completed_anyway_completes_anyway() -> None:
    async def lead(run: RunContext, message: object) -> str:
        async with run.step("outer"):
            return (await run.member(pays(10), "go")).status.value

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, run.cancel)
        output = await run.ended()
    assert (output.status, output.value) == (RunStatus.completed, "completed")


async def test_a_member_that_stopped_for_its_own_reason_before_takes_nothing_from_completion() -> None:
    async def lead(run: RunContext, message: object) -> str:
        async with run.step("outer"):
            output = await run.member(waits(limits=Limits(timeout=1)), "go")
            await anyio.sleep(5)
        return output.status.value

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(3, run.cancel)
        output = await run.ended()
    assert (output.status, output.value) == (RunStatus.completed, "cancelled")


async def test_members_left_in_the_background_are_stopped_when_the_body_ends_and_the_outcome_waits_for_them() -> None:
    async def lead(run: RunContext, message: object) -> str:
        for member in (waits("waits"), pays(10, "pays")):
            run.start_member(member, "go", run_id=member.name)
        await anyio.sleep(1)
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        events = await listen(run)
        assert now() == 10
    assert [(type(e).__name__, e.run_id) for e in events if isinstance(e, Outcome)] == [
        ("RunCancelled", "waits"), ("RunCompleted", "pays"), ("RunCompleted", "lead"),
    ]  # fmt: skip
    asked = [event for event in events if isinstance(event, RunStopRequested)]
    assert {(event.cause, event.via, event.reason) for event in asked} == {
        (StopCause.parent, "lead", "its parent has ended")
    }


async def test_a_stop_that_comes_while_background_members_end_finds_the_body_completed() -> None:
    async def lead(run: RunContext, message: object) -> str:
        run.start_member(Agent(slow), "go", run_id="m")
        await anyio.sleep(1)
        return "done"

    async def slow(run: RunContext, message: object) -> None:
        async with run.step("slow"):
            await anyio.sleep(10)
        await anyio.sleep_forever()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        output = await run.ended()
        assert await receipts[0].wait() is StopResult.completed_anyway
    assert (output.status, family(output)) == (RunStatus.completed, {"m": ("cancelled", {})})


async def test_a_body_that_fails_ends_its_members_first_and_has_failed() -> None:
    async def lead(run: RunContext, message: object) -> None:
        run.start_member(waits("m"), "go", run_id="m")
        await anyio.sleep(1)
        raise KeyError("missing")

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        events = await listen(run)
    assert told(events)[-2:] == ["m RunCancelled", "lead RunFailed"]
    assert isinstance(events[-1], RunFailed)
    assert events[-1].error == "KeyError: 'missing'"


async def test_a_task_that_outlives_the_body_starts_no_member_that_outlives_the_run() -> None:
    tasks = []

    async def lead(run: RunContext, message: object) -> None:
        async def later() -> None:
            await anyio.sleep(2)  # the body has ended, its member still pays
            run.start_member(says("abcdef"), "go", run_id="late")
            await anyio.sleep(20)  # the run has ended
            run.start_member(never(), "go", run_id="too late")

        run.start_member(pays(10), "go", run_id="pays")
        tasks.append(asyncio.ensure_future(later()))  # noqa: TID251
        await anyio.sleep(1)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        events = await listen(run)
        await asyncio.wait(tasks)
        assert isinstance(tasks[0].exception(), MisuseError)  # refused, as every step is by then
        assert [event async for event in run.events()] == events
    assert family(run.output) == {"pays": ("completed", {}), "late": ("cancelled", {})}  # type: ignore[arg-type]
    assert told(events)[-1] == "lead RunCompleted"


async def test_a_body_that_was_abandoned_starts_no_run_at_all() -> None:
    async def lead(run: RunContext, message: object) -> None:
        try:
            await deaf(5)._body(run, message)  # type: ignore[misc]
        finally:
            ended.append(run.stopping)
            never("root").arun("go")

    ended: list[bool] = []
    async with Supervisor(policy=QUICK) as supervisor:
        run = supervisor.start(Agent(lead))
        at(1, lambda: run.cancel(mode="now"))
        output = await run.ended()
        assert now() == 3
        assert output.abandoned == ("deaf",)
        await anyio.sleep(10)
        assert [known.run_id for known in supervisor.list_runs()] == [run.run_id]
    assert ended == [True]


async def test_a_stopped_generator_body_stops_its_members_too() -> None:
    async def lead(run: RunContext, message: object) -> AsyncIterator[str]:
        yield "Calling. "
        output = await run.member(says("abcdef"), "go", run_id="m")
        yield output.content

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead, name="lead"), run_id="lead")
        at(2.5, run.cancel)
        output = await run.ended()
    assert (output.status, output.content) == (RunStatus.cancelled, "Calling. ")
    assert (output.members[0].status, output.members[0].content) == (RunStatus.cancelled, "ab")
