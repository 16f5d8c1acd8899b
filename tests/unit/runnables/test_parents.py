"""Whose member a run becomes that `arun` starts inside a body, and how it becomes nobody's."""

import asyncio
from typing import Any

import anyio
import pytest

from kit.runs import at, listen, names, now
from softstop import Agent, Limits, MisuseError, Run, RunContext, RunStatus, Supervisor, Team, Usage, Workflow


async def costly(run: RunContext, message: object) -> str:
    run.charge(Usage(output_tokens=80))
    async with run.step("work"):
        await anyio.sleep(10)
    return "done"


STARTED = [Agent(costly), Team([Agent(costly)]), Workflow([Agent(costly)])]


@pytest.mark.parametrize("runnable", STARTED, ids=lambda runnable: type(runnable).__name__)
@pytest.mark.parametrize("parent", ["here", None])
async def test_a_run_inside_a_body_is_a_member_of_that_run_unless_it_says_that_it_has_no_parent(
    runnable: Any, parent: Any
) -> None:
    started: list[Run] = []

    async def body(run: RunContext, message: object) -> None:
        async with run.step("start"):
            started.append(runnable.arun("go", parent=parent))
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), limits=Limits(tokens=50) if parent is None else None)
        at(3, run.cancel)
        output = await run.ended()
        assert now() == (3 if parent is None else 10)
        inner = await started[0].ended()
        assert now() == 10
        assert started[0] in supervisor.list_runs()
    belongs = parent == "here"
    assert output.members == ((inner,) if belongs else ())
    assert started[0].parent_run_id == (run.run_id if belongs else None)
    assert output.total_usage.output_tokens == (80 if belongs else 0)
    assert (inner.stop is not None) == belongs


async def test_a_worker_task_that_a_body_has_started_serves_others_without_booking_them_to_its_run() -> None:
    jobs, workers = asyncio.Queue[asyncio.Future[Any]](), list[asyncio.Task[None]]()

    async def serve() -> None:
        while True:
            answer = await jobs.get()
            answer.set_result(await Agent(costly).arun("job", parent=None).ended())

    async def body(run: RunContext, message: object) -> Any:
        if not workers:
            workers.append(asyncio.get_running_loop().create_task(serve()))
        answer = asyncio.get_running_loop().create_future()
        await jobs.put(answer)
        return (await answer).value

    async with Supervisor() as supervisor:
        first = supervisor.start(Agent(body), limits=Limits(timeout=15))
        second = supervisor.start(Agent(body))
        outputs = [await run.ended() for run in (first, second)]
        assert now() == 20
    assert [output.value for output in outputs] == ["done", "done"]
    assert [output.members for output in outputs] == [(), ()]
    workers[0].cancel()


async def test_a_root_run_that_its_own_starter_waits_for_is_lent_its_slot() -> None:
    async def body(run: RunContext, message: object) -> Any:
        return (await Agent(costly).arun("go", parent=None)).value

    async with Supervisor(max_running=1) as supervisor:
        run = supervisor.start(Agent(body))
        assert "SlotLent" in names(await listen(run))
        assert (run.status, now()) == (RunStatus.completed, 10)


@pytest.mark.parametrize("wrong", ["root", False, "", Agent(costly)], ids=lambda wrong: type(wrong).__name__)
async def test_another_parent_is_misuse_and_says_how_to_start_a_member_of_another_run(wrong: Any) -> None:
    with pytest.raises(MisuseError, match=r'parent is "here" or None.*start_member'):
        Agent(costly).arun("go", parent=wrong)
    with pytest.raises(MisuseError, match="parent"):
        async with Supervisor() as supervisor:
            supervisor.start(Agent(costly), "go", parent=None)  # type: ignore[call-arg]
