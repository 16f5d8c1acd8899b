"""T8: a task whose step was cut has its peace until it has ended: what is around the step may clean up as well."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from kit.runs import now, one, statuses
from kit.spawns import anyio_group, asyncio_group, gather, must_not_begin
from softstop import Limits, RunContext, RunEscalated, RunStatus, StepTimeout, StopPolicy


async def waiter(*works: Callable[[], Awaitable[None]]) -> None:
    tasks = [asyncio.create_task(work()) for work in works]  # type: ignore[arg-type]  # noqa: TID251 - users do
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()


class Branches:
    """Two tasks of a group, each with a step and a clean-up around it that waits."""

    def __init__(self, run: RunContext, group: Any) -> None:
        self.run, self.group = run, group
        self.cleaned: list[tuple[str, float]] = []

    async def part(self, name: str, seconds: float) -> None:
        try:
            async with self.run.step(name):
                await anyio.sleep(1_000)
        finally:
            await anyio.sleep(seconds)
            self.cleaned.append((name, now()))

    async def __call__(self) -> None:
        await self.group(lambda: self.part("a", 0.5), lambda: self.part("b", 1))


@pytest.mark.parametrize("group", [asyncio_group, waiter])
@pytest.mark.parametrize("grace", [0, 2], ids=["at once", "after its grace"])
async def test_branches_clean_up_around_their_cut_steps_before_the_body_is_interrupted(group: Any, grace: int) -> None:
    cleaned: list[tuple[str, float]] = []

    async def body(run: RunContext, message: object) -> None:
        branches = Branches(run, group)
        try:
            await branches()
            raise NotImplementedError
        finally:
            cleaned.extend(branches.cleaned)

    run, _ = await one(body, stop_at=3, policy=StopPolicy(grace=grace))
    assert cleaned == [("a", 3.5 + grace), ("b", 4 + grace)]
    assert (run.status, statuses(run.output)) == (RunStatus.cancelled, [("a", "unsettled"), ("b", "unsettled")])
    assert now() == 4 + grace


async def test_a_branch_that_goes_on_after_its_cut_step_keeps_the_body_for_half_of_abandon_after_at_most() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def stays() -> None:
            try:
                async with run.step("pay"):
                    await anyio.sleep(1_000)
            except asyncio.CancelledError:
                await anyio.sleep(1_000)

        async with asyncio.TaskGroup() as group:
            group.create_task(stays())

    run, _ = await one(body, stop_at=3, policy=StopPolicy(grace=0, abandon_after=4))
    assert (run.status, now()) == (RunStatus.cancelled, 5)
    assert run.output is not None
    assert run.output.abandoned == ()


async def test_a_branch_that_comes_to_a_boundary_after_its_cut_step_is_refused_at_once_and_nobody_waits() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def part() -> None:
            try:
                async with run.step("pay"):
                    await anyio.sleep(1_000)
            finally:
                async with run.step("undo"):
                    raise NotImplementedError

        await asyncio_group(part, part)

    run, _ = await one(body, stop_at=3, mode="now")
    assert (now(), statuses(run.output)) == (3, [("pay", "unsettled")] * 2)


async def test_a_gather_that_ends_with_the_first_of_its_cut_steps_is_the_timeout_of_the_step_around_it() -> None:
    async def body(run: RunContext, message: object) -> float:
        async def part(name: str, seconds: float) -> None:
            async with run.step(name):
                try:
                    await anyio.sleep(1_000)
                finally:
                    await anyio.sleep(seconds)

        with pytest.raises(StepTimeout):
            async with run.step("all", timeout=2):
                await gather(lambda: part("a", 0.5), lambda: part("b", 1))
        return now()

    run, _ = await one(body)
    assert run.output is not None
    assert (run.output.status, run.output.value, run.output.errors) == (RunStatus.completed, 2.5, ())
    assert dict(statuses(run.output)) == dict.fromkeys(("a", "b", "all"), "unsettled")


@pytest.mark.parametrize("waits", [False, True], ids=["and returns", "and waits"])
async def test_a_body_that_goes_on_after_a_group_of_anyio_is_interrupted_all_the_same(waits: bool) -> None:
    async def body(run: RunContext, message: object) -> None:
        async def part() -> None:
            async with run.step("pay"):
                await anyio.sleep(1_000)

        await anyio_group(part, part)
        await anyio.sleep(1_000 if waits else 0)

    run, _ = await one(body, stop_at=3, mode="now")
    assert (run.status, now(), statuses(run.output)) == (RunStatus.cancelled, 3, [("pay", "unsettled")] * 2)


async def test_a_branch_of_a_group_of_anyio_cleans_up_around_its_cut_step() -> None:
    """As long as none has ended: then anyio cancels the others on every turn of the loop."""
    cleaned: list[tuple[str, float]] = []

    async def body(run: RunContext, message: object) -> None:
        branches = Branches(run, lambda one, other: anyio_group(lambda: branches.part("a", 1), other))
        try:
            await branches()
        finally:
            cleaned.extend(branches.cleaned)

    run, _ = await one(body, stop_at=3, mode="now")
    assert (run.status, cleaned, now()) == (RunStatus.cancelled, [("a", 4), ("b", 4)], 4)


@pytest.mark.parametrize("group", [asyncio_group, waiter])
async def test_branches_clean_up_around_steps_that_the_timeout_of_the_step_around_has_cut(
    group: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(run: RunContext, message: object) -> tuple[list[tuple[str, float]], float]:
        branches = Branches(run, group)
        with pytest.raises(StepTimeout):
            async with run.step("all", timeout=2):
                await branches()
        return branches.cleaned, now()

    run, _ = await one(body)
    assert run.output is not None
    assert run.output.value == ([("a", 2.5), ("b", 3)], 3)
    assert "cancelled in the middle" not in caplog.text


async def test_a_branch_finishes_a_step_of_its_clean_up_before_the_step_around_is_cut() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def part() -> None:
            try:
                async with run.step("part"):
                    await anyio.sleep(1_000)
            finally:
                async with run.step("undo"):
                    await anyio.sleep(1)

        with pytest.raises(StepTimeout):
            async with run.step("all", timeout=3):
                await asyncio_group(part)
        run.write(f"{now():g}")

    run, _ = await one(body, stop_at=2)
    assert run.output is not None
    assert (run.output.content, statuses(run.output)) == (
        "4", [("part", "unsettled"), ("undo", "completed"), ("all", "unsettled")],
    )  # fmt: skip


async def test_a_branch_cleans_up_in_peace_though_its_group_is_interrupted_only_when_another_has_cleaned_up() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def branch() -> None:
            try:
                async with run.step("pay"):
                    await anyio.sleep(5)
                await must_not_begin(run)
            finally:
                await anyio.sleep(2)
                run.write("whole")

        async def helper() -> None:
            try:
                await anyio.sleep(1_000)
            finally:
                await anyio.sleep(0.05)

        async with asyncio.TaskGroup() as outer:
            outer.create_task(branch())
            async with asyncio.TaskGroup() as inner:
                inner.create_task(helper())

    run, _ = await one(body, stop_at=3)
    assert run.output is not None
    assert (run.status, run.output.content, now()) == (RunStatus.cancelled, "whole", pytest.approx(7.05))


async def test_a_branch_that_its_body_waits_for_and_does_not_cancel_is_ended_soon() -> None:
    async def body(run: RunContext, message: object) -> None:
        task = asyncio.create_task(must_not_begin_later(run))  # noqa: TID251 - users do
        try:
            await anyio.sleep(1_000)
        finally:
            await asyncio.wait([task])

    async def must_not_begin_later(run: RunContext) -> None:
        async with run.step("pay"):
            await anyio.sleep(5)
        await must_not_begin(run)

    run, _ = await one(body, stop_at=3)
    assert (run.status, 5 < now() < 5.2) == (RunStatus.cancelled, True)


async def test_a_branch_cleans_up_in_peace_though_its_own_step_brings_the_stop_and_the_body_waits_for_it() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def branch() -> None:
            try:
                await must_not_begin(run)
            finally:
                await anyio.sleep(2)
                run.write("whole")

        await asyncio.create_task(branch())  # noqa: TID251 - users do

    run, _ = await one(body, limits=Limits(steps=0))
    assert run.output is not None
    assert (run.status, run.output.content) == (RunStatus.cancelled, "whole")


async def test_an_escalation_tells_how_many_wait_at_a_boundary() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def late() -> None:
            await anyio.sleep(2)
            await must_not_begin(run)

        async with anyio.create_task_group() as group:
            group.start_soon(late)
            group.start_soon(late)
            async with run.step("pay"):
                await anyio.sleep(1_000)

    _, events = await one(body, stop_at=1, policy=StopPolicy(grace=5))
    assert [(event.steps, event.waiting) for event in events if isinstance(event, RunEscalated)] == [(("pay",), 2)]
