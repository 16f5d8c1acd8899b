"""Supervisors whose blocks lie in the block of another one: a signal is for all of them."""

import signal

import anyio

from kit.runs import at, now
from softstop import Agent, RunContext, RunStatus, StopCause, StopMode, StopPolicy, Supervisor


async def slow(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        await anyio.sleep(1_000)


async def test_a_signal_stops_the_runs_of_all_and_gives_each_the_longest_grace_of_any() -> None:
    patient, endless = StopPolicy(grace=90), StopPolicy(grace=None)
    async with Supervisor(signals=True, policy=endless) as outer, Supervisor() as middle, Supervisor() as inner:
        runs = [outer.start(Agent(slow)), middle.start(Agent(slow)), inner.start(Agent(slow), policy=patient)]
        ended: list[float] = []
        at(5, lambda: signal.raise_signal(signal.SIGTERM))
        for run in (runs[1], runs[2], runs[0]):
            await run.ended()
            ended.append(now())
    assert ended == [35, 95, 95]
    assert [run.stop and run.stop.reason for run in runs] == ["SIGTERM"] * 3


async def test_a_signal_stops_runs_that_belong_to_no_supervisor_s_block_and_its_end_waits_for_them() -> None:
    run = Agent(slow).arun("go", policy=StopPolicy(grace=90))  # as in a task of a web server
    async with Supervisor(signals=True):
        at(5, lambda: signal.raise_signal(signal.SIGTERM))
        await anyio.sleep(6)
        assert run.stopping
    assert now() == 95
    assert run.stop is not None
    assert (run.status, run.stop.cause, run.stop.reason) == (RunStatus.cancelled, StopCause.shutdown, "SIGTERM")


async def test_without_a_signal_the_end_of_a_block_neither_stops_nor_awaits_runs_that_do_not_belong_to_it() -> None:
    run = Agent(slow).arun("go")
    async with Supervisor(signals=True):
        pass
    assert now() == 0
    assert not run.stopping
    run.cancel(mode="now")
    await run.ended()


async def test_a_second_signal_stops_the_runs_of_all_at_once_and_the_first_one_is_the_reason() -> None:
    async with Supervisor(signals=True) as outer:
        run = outer.start(Agent(slow))
        at(5, lambda: signal.raise_signal(signal.SIGTERM))
        await anyio.sleep(6)
        async with Supervisor() as inner:
            later = inner.start(Agent(slow))
            await anyio.sleep(1)
            signal.raise_signal(signal.SIGINT)
            outputs = [await each.ended() for each in (run, later)]
            assert now() == 7
    assert [(output.stop.reason, output.stop.mode) for output in outputs if output.stop] == [
        ("SIGTERM", StopMode.now)
    ] * 2
