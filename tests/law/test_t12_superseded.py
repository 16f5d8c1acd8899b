"""T12 for a run that another owner has taken over: whoever reads it here is told so, in place of a second outcome."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from kit.runs import at, begun, chatty, listen, names, sleeper
from softstop import (
    Agent,
    Event,
    Run,
    RunContext,
    RunSuperseded,
    StopCause,
    StopMode,
    StopOutcome,
    StopRequest,
    Supervisor,
)

FENCED = StopRequest(cause=StopCause.superseded, mode=StopMode.now, requested_at=12.5, reason="taken over")


async def read(run: Run) -> list[Event]:
    """What a reader gets before it is told."""
    events: list[Event] = []
    with pytest.raises(RunSuperseded, match="taken over by another owner"):  # noqa: PT012
        async for event in run.events():
            events.append(event)  # noqa: PERF401 - what came before the error counts
    return events


async def test_readers_here_get_an_error_in_place_of_an_outcome_that_is_not_the_run_s() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(chatty)))
        async with anyio.create_task_group() as group:
            early: list[Event] = []

            async def reader() -> None:
                early.extend(await read(run))

            group.start_soon(reader)
            await anyio.sleep(2.5)
            assert supervisor.request_stop(run.run_id, FENCED).outcome is StopOutcome.accepted
        assert names(early)[-3:] == ["RunStopRequested", "RunEscalated", "StepCompleted"]
        assert names(await read(run)) == names(early), "a late reader is told the same"
        with pytest.raises(RunSuperseded):
            await run
        stream = run.events(after=early[-1].seq)
        for _ in range(2):
            with pytest.raises(RunSuperseded):
                await anext(stream)
        with ThreadPoolExecutor(1) as threads:
            from_afar = await asyncio.get_running_loop().run_in_executor(threads, lambda: asyncio.run(read(run)))
        assert names(from_afar) == names(early)


async def test_it_ends_at_once_and_its_record_has_the_cause_and_the_time_of_the_request() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(chatty)))
        await supervisor.request_stop(run.run_id, FENCED).wait()
        assert run.output is not None
        assert run.output.stop is not None
        assert (run.output.stop.cause, run.output.stop.requested_at) == (StopCause.superseded, 12.5)
        assert [step.status for step in run.output.steps] == ["unsettled"]


async def test_a_stop_that_was_on_record_before_hides_nothing() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(sleeper)))
        run.cancel("enough")
        supervisor.request_stop(run.run_id, FENCED)
        assert names(await read(run))[-1] == "RunStopRequested"


async def test_it_may_be_told_after_the_run_has_ended_here() -> None:
    async def short(run: RunContext, message: object) -> str:
        return "done"

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(short))
        await run
        assert supervisor.request_stop(run.run_id, FENCED).outcome is StopOutcome.too_late
        assert names(await read(run)) == ["RunStarted", "RunContent"]


async def test_readers_of_its_members_are_told_as_well_and_others_are_not() -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(sleeper), "go", run_id="m")

    async with Supervisor() as supervisor:
        run, beside = supervisor.start(Agent(lead), run_id="r"), supervisor.start(Agent(sleeper))
        await begun(run)
        await anyio.sleep(1)
        supervisor.request_stop("r", FENCED)
        supervisor.request_stop(beside.run_id, StopRequest(reason="a user's"))
        await read(supervisor.get_run("m"))
        await read(run)
        assert names(await listen(beside))[-1] == "RunCancelled"


async def test_a_member_alone_that_is_stopped_with_that_cause_hides_nothing_of_its_tree() -> None:
    async def lead(run: RunContext, message: object) -> str:
        return str((await run.member(Agent(sleeper), "go", run_id="m")).status)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead))
        at(1, lambda: supervisor.request_stop("m", FENCED))
        assert (await run).content == "cancelled"


async def test_a_request_keeps_its_own_time_and_grace_from_another_thread_too() -> None:
    async with Supervisor() as supervisor:
        run = await begun(supervisor.start(Agent(chatty)))
        request = StopRequest(requested_at=7.25, grace=0.25, by="another process")
        with ThreadPoolExecutor(1) as threads:
            receipt = threads.submit(supervisor.request_stop, run.run_id, request).result()
        assert receipt.outcome is StopOutcome.accepted
        output = await run
        assert output.stop == request.model_copy(update={"mode": StopMode.step})
