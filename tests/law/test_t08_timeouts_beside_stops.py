"""T8: a step with a timeout of its own under a stop: each keeps its bound, and nothing is torn twice."""

import asyncio

import anyio
import pytest

import softstop
from kit.runs import at, listen, now, one, statuses, words
from kit.spawns import Spawn, alone, anyio_group, asyncio_group
from softstop import Agent, Limits, RunContext, RunStatus, StepTimeout, StopCause, StopPolicy, Supervisor
from softstop.testing import stop_everywhere

POLICY = StopPolicy(grace=4, abandon_after=2)


async def handles(run: RunContext, message: object) -> str:
    """A body that waits two seconds for an answer and does without it."""
    try:
        async with run.step("ask", timeout=2):
            await anyio.sleep(1_000)
    except StepTimeout:
        pass
    return f"without, at {now():g}"


@pytest.mark.parametrize("when", [1.0, 2.0])
async def test_a_stop_waits_for_it_no_longer_than_its_timeout_and_completion_wins(when: float) -> None:
    run, _ = await one(handles, stop_at=when, policy=POLICY)
    assert run.output is not None
    assert (run.status, run.output.content) == (RunStatus.completed, "without, at 2")
    assert statuses(run.output) == [("ask", "unsettled")]


async def test_a_stream_that_it_has_cut_is_not_taken_for_one_that_a_later_stop_has_cut() -> None:
    async def body(run: RunContext, message: object) -> str:
        try:
            async with run.step("ask", timeout=2):
                async for _ in run.stream("read", words(1_000)):
                    pass
        except StepTimeout:
            softstop.cancel_run(run.run_id)
        return "done"

    run, _ = await one(body)
    assert (run.stopping, run.status) == (True, RunStatus.completed)


async def test_a_timeout_before_a_stop_is_the_failure_of_a_body_that_raises_it_after() -> None:
    async def body(run: RunContext, message: object) -> None:
        try:
            async with run.step("ask", timeout=2):
                await anyio.sleep(1_000)
        except StepTimeout as error:
            async with run.step("log"):
                await anyio.sleep(2)
            raise error from None

    run, _ = await one(body, stop_at=3)
    assert run.status is RunStatus.failed


async def test_after_a_stop_its_timeout_is_no_failure_of_the_run() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("ask", timeout=2):
            await anyio.sleep(1_000)

    run, _ = await one(body, stop_at=1, policy=POLICY)
    assert run.output is not None
    assert (run.status, run.output.errors[0][:11]) == (RunStatus.cancelled, "StepTimeout")


@pytest.mark.parametrize("mode", ["step", "now"])
async def test_a_step_that_grace_has_cut_is_not_cut_once_more_by_its_timeout(mode: str) -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("ask", timeout=4.5):
            try:
                await anyio.sleep(1_000)
            finally:
                await anyio.sleep(0.9)
                run.write(f"{now():g}")

    policy = StopPolicy(grace=1, abandon_after=2)
    run, _ = await one(body, stop_at=3 if mode == "step" else 4, mode=mode, policy=policy)
    assert run.output is not None
    assert (run.status, run.output.content, statuses(run.output)) == (
        RunStatus.cancelled,
        "4.9",
        [("ask", "unsettled")],
    )


async def test_grace_that_ends_during_its_clean_up_leaves_that_half_of_abandon_after() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("ask", timeout=2):
            try:
                await anyio.sleep(1_000)
            finally:
                await anyio.sleep(3.9)
                run.write(f"{now():g}")

    run, _ = await one(body, stop_at=1, policy=StopPolicy(grace=4, abandon_after=2))
    assert run.output is not None
    assert (run.status, run.output.content) == (RunStatus.cancelled, "5.9")


@pytest.mark.parametrize("spawn", [alone, anyio_group])
@pytest.mark.parametrize("by", ["now", "timeout"])
async def test_a_step_begun_in_the_clean_up_of_a_cut_one_does_not_tear_what_follows_it(by: str, spawn: Spawn) -> None:
    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay", timeout=2 if by == "timeout" else None):
                try:
                    await anyio.sleep(1_000)
                finally:
                    async with run.step("roll back"):
                        await anyio.sleep(0.5)
                    await anyio.sleep(0.5)
                    run.write(f"{now():g}")

        await spawn(pay)

    run, _ = await one(body, stop_at=2 if by == "now" else None, mode="now")
    assert run.output is not None
    assert run.output.content == "3"
    assert statuses(run.output) == [("roll back", "completed"), ("pay", "unsettled")]


async def test_a_step_in_peace_after_its_timeout_is_asked_again_sooner_when_grace_ends() -> None:
    asked: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async def ask() -> None:
            async with run.step("deaf", timeout=2):
                while now() < 6.5:
                    try:
                        await anyio.sleep(6.5 - now())
                    except asyncio.CancelledError:
                        asked.append(now())

        await anyio_group(ask)

    await one(body, stop_at=1, policy=POLICY)
    assert asked[:2] == [2, 6]


async def test_an_abandoned_step_is_not_asked_again_when_its_time_is_over() -> None:
    asked: list[float] = []

    async def body(run: RunContext, message: object) -> None:
        async with run.step("outer"):
            with_timeout = run.step("deaf", timeout=20)
            try:
                await anyio.sleep(1_000)
            except asyncio.CancelledError:
                async with with_timeout:
                    while now() < 60:
                        try:
                            await anyio.sleep(60 - now())
                        except asyncio.CancelledError:
                            asked.append(now())

    async with Supervisor(policy=POLICY) as supervisor:
        run = supervisor.start(Agent(body))
        at(1, run.cancel)
        await listen(run)
        await anyio.sleep(60)
    assert max(asked) < 20


async def test_a_cancel_by_another_party_at_the_same_moment_is_not_taken_for_it() -> None:
    async def body(run: RunContext, message: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_at(2, task.cancel)
        async with run.step("ask", timeout=2):
            await anyio.sleep(1_000)

    run, _ = await one(body)
    assert run.stop is not None
    assert (run.status, run.stop.cause) == (RunStatus.cancelled, StopCause.shutdown)


async def test_an_own_timeout_in_the_step_keeps_its_exception_though_both_end_together() -> None:
    async def body(run: RunContext, message: object) -> str:
        try:
            async with run.step("ask", timeout=2):
                try:
                    async with asyncio.timeout(2):  # noqa: TID251 - users do
                        await anyio.sleep(1_000)
                except TimeoutError:
                    run.write("own, ")
                    await anyio.sleep(1_000)
        except StepTimeout:
            run.write("step's")
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return "done"

    run, _ = await one(body)
    assert run.output is not None
    assert run.status is RunStatus.completed
    assert run.output.content in ("step's", "own, step's")


@pytest.mark.parametrize("spawn", [anyio_group, asyncio_group])
def test_no_stop_at_any_moment_breaks_the_law_around_it(spawn: Spawn) -> None:
    async def body(run: RunContext, message: object) -> str:
        async def part() -> None:
            async with run.step("part"):
                try:
                    await anyio.sleep(8)
                finally:
                    await anyio.sleep(0.5)

        try:
            async with run.step("all", timeout=2):
                await spawn(part)
        except StepTimeout:
            run.write("did without ")
        await run.boundary()
        return "done"

    report = stop_everywhere(lambda supervisor: supervisor.start(Agent(body, limits=Limits(timeout=60))))
    assert report.violations == 0
    assert report.outcomes.keys() == {"cancelled", "completed"}
