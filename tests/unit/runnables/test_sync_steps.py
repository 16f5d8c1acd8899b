"""Steps of a workflow that are plain functions: each in a thread, as one atomic step."""

import threading
import time
from functools import partial

import anyio

from kit.runs import listen
from kit.trees import never, told
from kit.workflows import BUT, played, shout, steps_of
from softstop import Parallel, RunContext, RunStatus, Supervisor, Workflow
from softstop.runs import threads


async def test_a_sync_step_runs_in_a_thread_as_one_atomic_step() -> None:
    threads: list[int] = []

    def work(run: RunContext, value: str) -> str:
        threads.append(threading.get_ident())
        run.write("working ")
        return value.upper()

    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([work, shout], name="W"), "go")
        events = await listen(run)
    assert threads != [threading.get_ident()]
    assert told(events, *BUT)[1:7] == [
        "W StepStarted work", "work RunStarted", "work StepStarted work", "work StepCompleted work completed",
        "work RunCompleted", "W StepCompleted work completed",
    ]  # fmt: skip
    assert run.output is not None
    assert (run.output.content, run.output.members[0].content) == ("GO!", "working ")


async def test_a_stop_lets_a_sync_step_finish_and_it_can_see_the_stop() -> None:
    seen: list[bool] = []

    def work(run: RunContext, value: str) -> str:
        run.write("begun")
        patience = time.monotonic() + 5
        while not run.stopping and time.monotonic() < patience:
            time.sleep(0.001)  # noqa: TID251 - a real thread
        seen.append(run.stopping)
        return "whole"

    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([work, never()]), "go")
        async for event in run.events():
            if event.content == "begun":
                run.cancel("enough")
        output = await run.ended()
    assert seen == [True]
    assert (output.status, steps_of(output)) == (RunStatus.cancelled, ["work completed"])
    assert (output.members[0].status, output.members[0].value) == (RunStatus.completed, "whole")


async def test_a_sync_step_that_returns_a_coroutine_is_awaited_in_its_step() -> None:
    async def loud(value: str) -> str:
        return value.upper()

    output = await played(Workflow([lambda run, value: loud(value), shout]), "go")
    assert (output.status, output.content) == (RunStatus.completed, "GO!")


async def test_a_sync_step_that_waits_for_a_thread_is_in_no_step_and_a_stop_ends_the_wait() -> None:
    threads._seats.set(anyio.CapacityLimiter(1))  # of this loop
    began: list[str] = []

    def work(run: RunContext, value: str) -> str:
        began.append(value)
        run.write("begun")
        patience = time.monotonic() + 5
        while not run.stopping and time.monotonic() < patience:
            time.sleep(0.001)  # noqa: TID251 - a real thread
        return "whole"

    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([Parallel(work, partial(work))]), "go")
        async for event in run.events():
            if event.content == "begun":
                run.cancel("enough")
        output = await run.ended()
    assert began == ["go"]
    assert sorted((member.status.value, len(member.steps)) for member in output.members) == [
        ("cancelled", 0), ("completed", 1),
    ]  # fmt: skip


async def test_a_sync_step_that_raises_fails_the_workflow() -> None:
    def work(run: RunContext, value: str) -> str:
        raise KeyError("missing")

    output = await played(Workflow([work]))
    assert output.errors[0].startswith("MemberFailed: 'work' failed: KeyError: 'missing'")
    assert isinstance(output.error and output.error.__cause__, KeyError)


async def test_a_stop_at_once_does_not_cut_a_step_that_waits_for_its_thread_and_its_result_counts() -> None:
    def work(run: RunContext, value: str) -> str:
        run.write("begun")
        patience = time.monotonic() + 5
        while not run.stopping and time.monotonic() < patience:
            time.sleep(0.001)  # noqa: TID251 - a real thread
        return "whole"

    async with Supervisor() as supervisor:
        run = supervisor.start(Workflow([work, never()]), "go")
        async for event in run.events():
            if event.content == "begun":
                run.cancel("enough", mode="now")
        output = await run.ended()
    (member,) = output.members
    assert (member.status, member.value, [step.status for step in member.steps]) == (
        "completed",
        "whole",
        ["completed"],
    )
    assert (output.status, steps_of(output)) == (RunStatus.cancelled, ["work completed"])
