"""T8: of steps within steps the inner ones are cut first, so that the groups around do not tear their clean-up."""

import asyncio
from typing import Any

import anyio
import pytest

from kit.runs import at, deaf, now, one, statuses
from kit.spawns import asyncio_group, gather
from softstop import Agent, RunContext, RunStatus, StepTimeout, StopPolicy, Supervisor

POLICY = StopPolicy(abandon_after=8)


class Nest:
    """A step in a step, each in a task of its own, so many levels deep; the innermost cleans up inside and around."""

    def __init__(self, run: RunContext, group: Any, seconds: float | None = None) -> None:
        self.run, self.group, self.seconds = run, group, seconds
        self.told: list[str] = []

    async def __call__(self, levels: int) -> None:
        try:
            async with self.run.step(f"{levels}", timeout=self.seconds if levels == 3 else None):
                try:
                    await (self.group(lambda: self(levels - 1)) if levels > 1 else anyio.sleep(1_000))
                finally:
                    await self.clean_up(f"in {levels}")
        finally:
            await self.clean_up(f"around {levels}")

    async def clean_up(self, what: str) -> None:
        began = now()
        try:
            await anyio.sleep(0.25)
        finally:
            self.told.append(f"{what}: {now() - began:g}")


WHOLE = [f"{what} {level}: 0.25" for level in (1, 2, 3) for what in ("in", "around")]
GROUPS = pytest.mark.parametrize("group", [asyncio_group, gather], ids=lambda group: group.__name__)


@GROUPS
@pytest.mark.parametrize("in_body", [True, False], ids=["in the body's task", "in a branch"])
async def test_clean_up_is_whole_in_and_around_each_of_them(group: Any, in_body: bool) -> None:
    told: list[list[str]] = []

    async def body(run: RunContext, message: object) -> None:
        nest = Nest(run, group)
        told.append(nest.told)
        await (nest(3) if in_body else group(lambda: nest(3)))

    run, _ = await one(body, stop_at=3, mode="now", policy=POLICY)
    assert (told, now()) == ([WHOLE], 4.5)
    assert (run.status, statuses(run.output)) == (
        RunStatus.cancelled, [("1", "unsettled"), ("2", "unsettled"), ("3", "unsettled")],
    )  # fmt: skip


@GROUPS
async def test_so_it_is_where_the_time_of_the_outermost_is_over(group: Any) -> None:
    async def body(run: RunContext, message: object) -> list[str]:
        nest = Nest(run, group, seconds=3)
        with pytest.raises(StepTimeout):
            await nest(3)
        return nest.told

    run, _ = await one(body, policy=POLICY)
    assert run.output is not None
    assert (run.output.value, now()) == (WHOLE, 4.5)


@pytest.mark.parametrize("in_body", [True, False], ids=["in the body's task", "in a branch"])
async def test_one_that_stays_keeps_those_around_it_for_half_of_abandon_after_at_most(in_body: bool) -> None:
    async def body(run: RunContext, message: object) -> None:
        async def stays() -> None:
            async with run.step("deaf"):
                await deaf(8)

        async def waits() -> None:
            try:
                async with run.step("outer"):
                    task = asyncio.ensure_future(stays())  # noqa: TID251 - users do
                    try:
                        await anyio.sleep(1_000)
                    finally:
                        run.write(f"{now():g}")
                        await task
            finally:
                run.write(f", {now():g}")

        await (waits() if in_body else asyncio_group(waits))

    run, _ = await one(body, stop_at=3, mode="now", policy=POLICY)
    assert run.output is not None
    assert (run.output.content, run.output.abandoned) == ("7, 8", ())


async def test_a_step_that_goes_on_when_the_ones_in_it_have_ended_is_cut_then() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            await asyncio_group(lambda: pay(run))
            await anyio.sleep(1_000)

    async def pay(run: RunContext) -> None:
        async with run.step("pay"):
            try:
                await anyio.sleep(1_000)
            finally:
                await anyio.sleep(1)

    run, _ = await one(body, stop_at=3, mode="now", policy=POLICY)
    assert (now(), statuses(run.output)) == (4, [("pay", "unsettled"), ("outer", "unsettled")])


@pytest.mark.parametrize("in_body", [True, False], ids=["in the body's task", "in a branch"])
async def test_what_unwinds_as_the_first_of_several_was_cut_is_not_interrupted_once_more_for_the_last(
    in_body: bool,
) -> None:
    async def body(run: RunContext, message: object) -> None:
        async def part(seconds: float) -> None:
            async with run.step("part"):
                try:
                    await anyio.sleep(1_000)
                finally:
                    await anyio.sleep(seconds)

        async def waits() -> None:
            try:
                async with run.step("outer"):
                    try:
                        await gather(lambda: part(0), lambda: part(1))
                    finally:
                        await anyio.sleep(2)
                        run.write("in")
            finally:
                await anyio.sleep(1)
                run.write(" and around")

        await (waits() if in_body else asyncio_group(waits))

    run, _ = await one(body, stop_at=3, mode="now", policy=POLICY)
    assert run.output is not None
    assert (run.output.content, now()) == ("in and around", 6)


async def test_one_around_is_left_alone_if_the_run_was_ended_before_the_one_in_it() -> None:
    told, tasks = list[float](), list[asyncio.Task[None]]()

    async def body(run: RunContext, message: object) -> None:
        async def inner() -> None:
            async with run.step("inner"):
                await deaf(20)

        async def outer() -> None:
            async with run.step("outer"):
                await asyncio.wait([asyncio.create_task(inner())])  # noqa: TID251 - users do
                await anyio.sleep(5)
                told.append(now())

        tasks.append(asyncio.create_task(outer()))  # noqa: TID251 - users do
        await asyncio.sleep(0)

    async with Supervisor(policy=StopPolicy(grace=0, abandon_after=60)) as supervisor:
        run = supervisor.start(Agent(body))
        await asyncio.sleep(0)
        (task,) = supervisor.statistics().tasks
        for seconds in (2, 3):
            at(seconds, task.cancel)
        output = await run.ended()
        assert (now(), output.abandoned) == (3, ("outer", "inner"))
        await asyncio.wait(tasks)
    assert told == [25]
