"""T19: a drain admits nothing, waits, stops all, and cuts what is left at its end; every reader gets an outcome."""

import asyncio
import inspect
import signal

import anyio
import pytest

from kit.runs import at, begun, deaf, listen, names, now, payer, sleeper
from softstop import (
    Agent,
    MisuseError,
    RunContext,
    RunStatus,
    RunStopRequested,
    StopCause,
    StopMode,
    StopPolicy,
    Supervisor,
    SupervisorClosed,
)
from softstop.testing import VirtualLoop


async def slow(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        await anyio.sleep(1_000)


async def stepper(run: RunContext, message: object) -> str:
    for _ in range(5):
        async with run.step("pay"):
            await anyio.sleep(4)
    return "done"


async def test_a_drain_stops_every_run_with_cause_shutdown_and_waits_for_all_outcomes() -> None:
    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(body)) for body in (sleeper, stepper, payer)]
        await anyio.sleep(3)
        assert await supervisor.drain() == 3
        assert now() == 10
        assert [run.status.value for run in runs] == ["cancelled", "cancelled", "completed"]
        for run in runs:
            assert run.stop is not None
            assert (run.stop.cause, run.stop.mode) == (StopCause.shutdown, StopMode.step)


async def test_a_draining_supervisor_admits_nothing() -> None:
    async with Supervisor() as supervisor:
        supervisor.start(Agent(payer))
        await anyio.sleep(1)
        refused: list[type] = []

        def try_to_start() -> None:
            with pytest.raises(SupervisorClosed) as caught:
                supervisor.start(Agent(sleeper))
            refused.append(caught.type)

        at(2, try_to_start)
        await supervisor.drain()
        try_to_start()
        assert refused == [SupervisorClosed] * 2
        assert len(supervisor.list_runs()) == 1


async def test_for_wait_seconds_runs_may_end_by_themselves() -> None:
    async with Supervisor() as supervisor:
        quick, late = supervisor.start(Agent(payer)), supervisor.start(Agent(stepper))
        await anyio.sleep(1)
        await supervisor.drain(wait=12)
        assert now() == 16
        assert (quick.status, quick.stop) == (RunStatus.completed, None)
        assert late.status is RunStatus.cancelled
        events = await listen(late)
    asked = next(event for event in events if isinstance(event, RunStopRequested))
    assert asked.cause is StopCause.shutdown
    assert names(events).count("StepCompleted") == 4


async def test_a_drain_whose_runs_end_in_time_does_not_wait_any_longer() -> None:
    async with Supervisor() as supervisor:
        supervisor.start(Agent(payer))
        await supervisor.drain(wait=1_000)
        assert now() == 10


@pytest.mark.parametrize(("wait", "ends"), [(0.0, 7.0), (3.0, 10.0)])
async def test_at_its_timeout_a_drain_cuts_what_is_left(wait: float, ends: float) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(slow))
        await anyio.sleep(2)
        await supervisor.drain(timeout=5, wait=wait)
        assert now() == ends
        events = await listen(run)
    modes = [event.mode for event in events if isinstance(event, RunStopRequested)]
    assert modes == [StopMode.step, StopMode.now]
    assert run.status is RunStatus.cancelled
    assert [step.status for step in run.output.steps] == ["unsettled"]  # type: ignore[union-attr]


async def test_leaving_the_supervisor_is_a_drain() -> None:
    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(body)) for body in (sleeper, payer)]
        await anyio.sleep(1)
    assert now() == 10
    assert [run.status.value for run in runs] == ["cancelled", "completed"]
    with pytest.raises(SupervisorClosed):
        supervisor.start(Agent(sleeper))


async def test_leaving_the_supervisor_lets_begun_steps_take_the_drain_s_thirty_seconds() -> None:
    async with Supervisor(policy=StopPolicy(grace=None)) as supervisor:
        run = supervisor.start(Agent(slow))
        await anyio.sleep(1)
    assert now() == 31
    assert run.status is RunStatus.cancelled


async def test_leaving_the_supervisor_by_an_exception_cuts_at_once() -> None:
    runs = []

    async def crash() -> None:
        async with Supervisor() as supervisor:
            runs.append(supervisor.start(Agent(slow)))
            await anyio.sleep(1)
            raise KeyError("boom")

    with pytest.raises(KeyError, match="boom"):
        await crash()
    assert now() == 1
    run = runs[0]
    assert run.stop is not None
    assert (run.stop.cause, run.stop.mode) == (StopCause.shutdown, StopMode.now)


async def test_leaving_the_supervisor_by_a_cancellation_cuts_at_once_and_still_gives_every_run_its_outcome() -> None:
    with anyio.move_on_after(1):
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(slow))
            await anyio.sleep(1_000)
    assert now() == 1
    assert run.status is RunStatus.cancelled
    assert run.stop is not None
    assert run.stop.mode is StopMode.now


async def test_leaving_is_bounded_by_the_policies_of_the_runs_whatever_they_do() -> None:
    async def stays(run: RunContext, message: object) -> None:
        await deaf(500)

    async with Supervisor(policy=StopPolicy(grace=2, abandon_after=3)) as supervisor:
        run = supervisor.start(Agent(stays))
        await anyio.sleep(1)
    assert now() == 1 + 2 + 3 + 3
    assert run.output is not None
    assert run.output.abandoned
    await anyio.sleep(500)


async def test_every_reader_gets_an_outcome() -> None:
    ends: list[str] = []

    async def read(run: object) -> None:
        ends.append(names([event async for event in run.events()])[-1])  # type: ignore[attr-defined]

    async with anyio.create_task_group() as group, Supervisor(max_running=3) as supervisor:
        for body in (sleeper, payer, stepper, sleeper, payer):
            run = supervisor.start(Agent(body))
            for _ in range(3):
                group.start_soon(read, run)
        await anyio.sleep(1)
    assert len(ends) == 15
    assert set(ends) <= {"RunCancelled", "RunCompleted"}
    assert now() == 10


async def test_queued_runs_are_stopped_without_ever_running() -> None:
    async def body(run: RunContext, message: object) -> None:
        raise NotImplementedError

    async with Supervisor(max_running=1) as supervisor:
        supervisor.start(Agent(payer))
        queued = supervisor.start(Agent(body))
        await anyio.sleep(1)
    assert queued.status is RunStatus.cancelled
    assert names(await listen(queued)) == ["RunQueued", "RunStopRequested", "RunCancelled"]
    assert queued.stop is not None
    assert queued.stop.cause is StopCause.shutdown


async def test_runs_that_wait_for_admission_may_still_run_while_a_drain_waits() -> None:
    async with Supervisor(max_running=1) as supervisor:
        supervisor.start(Agent(payer))
        queued = supervisor.start(Agent(payer))
        await supervisor.drain(wait=25)
    assert queued.status is RunStatus.completed
    assert now() == 20


async def test_a_second_drain_with_no_patience_means_now() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(slow))
        await anyio.sleep(1)
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.drain)
            await anyio.sleep(2)
            await supervisor.drain(timeout=0)
            assert now() == 3
    assert now() == 3
    assert run.stop is not None
    assert run.stop.mode is StopMode.now


async def test_a_cancelled_drain_leaves_the_stop_requests_in_force() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(stepper))
        await anyio.sleep(1)
        with anyio.move_on_after(1):
            await supervisor.drain()
        assert run.status is RunStatus.stopping
        await run.ended()
        assert now() == 4


async def test_a_drain_from_inside_a_run_is_misuse_because_it_would_wait_for_itself() -> None:
    async def body(run: RunContext, message: object) -> str:
        with pytest.raises(MisuseError, match="wait for itself"):
            await supervisor.drain()
        return "told"

    async with Supervisor() as supervisor:
        assert (await supervisor.start(Agent(body)).ended()).value == "told"


async def test_a_drain_of_an_empty_supervisor_takes_no_time() -> None:
    async with Supervisor() as supervisor:
        assert await supervisor.drain(wait=100) == 0
        assert now() == 0


async def test_the_first_cause_stays_when_a_stopped_run_is_drained() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(stepper)))
        run.cancel("user first")
        await supervisor.drain()
    assert run.stop is not None
    assert (run.stop.cause, run.stop.reason) == (StopCause.user, "user first")


async def test_members_are_stopped_through_their_parents() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(sleeper), "go", run_id="m")

    async with Supervisor() as supervisor:
        lead_run = supervisor.start(Agent(lead), run_id="lead")
        await anyio.sleep(1)
    member = supervisor.get_run("m")
    assert member.stop is not None
    assert (member.stop.cause, member.stop.via) == (StopCause.shutdown, "lead")
    assert lead_run.status is RunStatus.cancelled


async def test_a_hundred_runs_that_end_one_after_another_are_drained_without_waking_each_other() -> None:
    async def body(run: RunContext, seconds: float) -> None:
        async with run.step("pay"):
            await anyio.sleep(seconds)
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        for number in range(100):
            supervisor.start(Agent(body), 5 + number / 10)
        await anyio.sleep(1)
        loop = asyncio.get_running_loop()
        before = loop.turns  # type: ignore[attr-defined]
        await supervisor.drain()
        assert loop.turns - before < 100 * 12  # type: ignore[attr-defined]


async def test_a_drain_of_many_runs_does_not_hold_the_loop_until_all_are_asked() -> None:
    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(sleeper)) for _ in range(500)]
        await anyio.sleep(1)
        seen: set[int] = set()

        def count_the_asked() -> None:
            seen.add(sum(run.stopping for run in runs))
            if len(seen) < 5:
                asyncio.get_running_loop().call_soon(count_the_asked)

        asyncio.get_running_loop().call_soon(count_the_asked)
        assert await supervisor.drain() == 500
    assert len(seen - {0, 500}) >= 3, "some were asked and others not yet, turn after turn"
    assert {run.status for run in runs} == {RunStatus.cancelled}
    assert {run.stop.requested_at for run in runs if run.stop} == {runs[0].stop.requested_at if runs[0].stop else None}


async def test_a_drain_that_has_begun_to_ask_begins_no_run_that_waits_for_admission() -> None:
    begun: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        begun.append(run.run_id)
        await anyio.sleep(1_000)

    async with Supervisor(max_running=1) as supervisor:
        runs = [supervisor.start(Agent(body)) for _ in range(300)]
        await anyio.sleep(1)
        assert await supervisor.drain() == 300
    assert begun == [runs[0].run_id]
    assert {run.status for run in runs} == {RunStatus.cancelled}


def test_the_patience_of_a_drain_is_the_law_s() -> None:
    patience = inspect.signature(Supervisor.drain).parameters
    assert (patience["timeout"].default, patience["wait"].default) == (30, 0)


async def test_a_run_may_still_start_members_while_a_drain_waits() -> None:
    async def lead(run: RunContext, message: object) -> str:
        await anyio.sleep(2)
        return (await run.member(Agent(payer), "go")).status.value

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        await anyio.sleep(1)
        await supervisor.drain(wait=20)
        assert now() == 12
    assert run.output is not None
    assert (run.output.status, run.output.value) == (RunStatus.completed, "completed")


async def test_nothing_is_admitted_while_a_drain_still_lets_runs_end_by_themselves() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(payer))
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.drain, 30, 20)
            await anyio.sleep(1)
            with pytest.raises(SupervisorClosed):
                supervisor.start(Agent(payer))
        assert run.status is RunStatus.completed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_what_a_signal_has_not_ended_in_half_a_minute_is_stopped_at_once(number: signal.Signals) -> None:
    async with Supervisor(signals=True, policy=StopPolicy(grace=None)) as supervisor:
        run = supervisor.start(Agent(slow))
        at(5, lambda: signal.raise_signal(number))
        output = await run.ended()
        assert now() == 35
    assert output.stop is not None
    assert (output.stop.cause, output.stop.reason, output.stop.mode) == (StopCause.shutdown, number.name, StopMode.now)
    assert [step.status for step in output.steps] == ["unsettled"]


async def test_a_signal_that_has_ended_its_runs_leaves_no_stop_to_come() -> None:
    async with Supervisor(signals=True) as supervisor:
        run = supervisor.start(Agent(sleeper))
        at(5, lambda: signal.raise_signal(signal.SIGTERM))
        assert (await run.ended()).status is RunStatus.cancelled
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    assert loop.timers() == []


async def takes_a_minute(run: RunContext, message: object) -> str:
    async with run.step("pay"):
        await anyio.sleep(60)
    return "paid"


@pytest.mark.parametrize("way", ["a signal", "leaving the block"])
async def test_a_step_with_a_longer_grace_than_half_a_minute_ends_whole_also_when_the_program_ends(way: str) -> None:
    async with Supervisor(signals=True) as supervisor:
        run = supervisor.start(Agent(takes_a_minute), policy=StopPolicy(grace=100))
        endless = supervisor.start(Agent(slow), policy=StopPolicy(grace=None, abandon_after=1))
        await anyio.sleep(2)
        if way == "a signal":
            signal.raise_signal(signal.SIGTERM)
            await endless
    assert run.status is RunStatus.completed
    assert (endless.status, now()) == (RunStatus.cancelled, 102), "a grace without an end is no bound of its own"
