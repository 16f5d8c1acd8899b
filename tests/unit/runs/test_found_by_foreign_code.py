"""Bugs that the explorer has found with foreign code in the body, each reduced to what a user would have seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kit.careless import clean_up, stream_within
from softstop import (
    Agent,
    MisuseError,
    RunContext,
    RunStatus,
    StopPolicy,
    Supervisor,
)
from softstop.testing import (
    fail,
    hang,
    parallel,
    scripted,
    sleep,
    step,
    stop_everywhere,
    stream,
    swallow,
)


def test_a_source_that_unwinds_in_a_foreign_branch_leaves_no_pulse_behind() -> None:
    inner = parallel([stream("read", [], 1.0, closes_in=0.1)], [step("short", 0.1)], by="TaskGroup")
    body = parallel([step("long", 0.5)], [inner], by="wait_for")
    report = stop_everywhere(lambda supervisor: supervisor.start(scripted(body), "go"), most=200)
    assert report.violations == 0


@pytest.mark.timeout(90)  # its deaf branch turns the loop for as long as it stays
def test_a_nested_step_that_ends_as_the_stop_comes_leaves_its_deaf_branch_quiet() -> None:
    branch = [step("outer", 0.1, sleep(0.0), step("inner", 0.1)), swallow(1.0)]
    scene = scripted(parallel(branch, [hang()]))
    report = stop_everywhere(lambda supervisor: supervisor.start(scene, "go"), pairs=0, causes=["user"])
    assert report.violations == 0


def test_a_stream_that_follows_the_last_step_of_a_task_that_outlived_the_body_is_closed_before_the_outcome() -> None:
    left_behind = [step("long", 0.5), stream("late", ["a", "b"], 0.1)]
    body = parallel(left_behind, [fail("oops")], by="gather")
    policy = StopPolicy(cleanup_timeout=0.2)
    report = stop_everywhere(lambda supervisor: supervisor.start(scripted(body, policy=policy), "go"), most=300)
    assert report.violations == 0


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("by", ["TaskGroup", "wait_for"])
def test_clean_up_of_who_is_refused_below_groups_in_groups_is_not_torn_by_them(by: Any, levels: int) -> None:
    deep = [step("a", 0.25), clean_up(step("b", 0.25), seconds=0.1)]
    for _ in range(levels):
        deep = [parallel(deep, [sleep(0.5)], by=by)]
    body = parallel(deep, [step("c", 0.25)], by="TaskGroup")
    report = stop_everywhere(lambda supervisor: supervisor.start(scripted(body), "go"), causes=["user"])
    assert report.violations == 0


@pytest.mark.parametrize("natively", [False, True])
@pytest.mark.parametrize("as_body", [False, True])
async def test_a_generator_that_is_closed_in_its_own_task_group_fails_nothing(as_body: bool, natively: bool) -> None:
    async def chunks() -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 100)
            for chunk in ("a", "b"):
                yield chunk

    async def reading(run: RunContext, message: object) -> None:
        async with run.stream("read", chunks()) as pieces:
            async for piece in pieces:
                run.write(piece)
                await anyio.sleep(10)

    async def pouring(run: RunContext, message: object) -> AsyncIterator[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 100)
            supervisor.get_run(run.run_id).pause()
            yield "a"
            raise NotImplementedError

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(pouring if as_body else reading))
        await anyio.sleep(1)
        if natively and run._state.task is not None:
            run._state.task.cancel()
        else:
            run.cancel()
        output = await run.ended()
    assert (output.status, output.content, output.errors, output.error) == (RunStatus.cancelled, "a", (), None)


async def test_a_stream_that_is_left_early_may_keep_a_task_group_open() -> None:
    body = scripted(stream_within("group", "s", ["a", "b"], breaks_after=1), step("after"))
    async with Supervisor() as supervisor:
        output = await supervisor.start(body).ended()
    assert (output.status, output.content) == (RunStatus.completed, "a")


async def test_code_of_another_run_that_comes_to_one_that_was_stopped_is_told_so_and_not_cancelled() -> None:
    kept: list[RunContext] = []

    async def sleeps(run: RunContext, message: object) -> None:
        kept.append(run)
        await anyio.sleep(1_000)

    async def visits(run: RunContext, message: object) -> None:
        with pytest.raises(MisuseError, match="is already cancelled"):
            await kept[0].step("late").__aenter__()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeps))
        await anyio.sleep(1)
        run.cancel()
        await run.ended()
        assert (await supervisor.start(Agent(visits)).ended()).status is RunStatus.completed
