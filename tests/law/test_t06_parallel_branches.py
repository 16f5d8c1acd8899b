"""T6: each branch ends at its own boundary; one that fails late neither fails the run nor cuts its siblings."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from kit.runs import at, listen, names, now, one
from kit.spawns import anyio_group, asyncio_group, gather
from softstop import Agent, RunContext, RunFailed, RunStatus, StopResult, Supervisor

Together = Callable[..., Awaitable[object]]


async def gather_all(*works: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*(work() for work in works), return_exceptions=True)  # noqa: TID251 - users do


GROUPS = [anyio_group, asyncio_group, gather, gather_all]
ids = {"ids": lambda way: way.__name__}


def branch(
    run: RunContext, name: str, seconds: float, ended: dict[str, float], *, fail: bool = False
) -> Callable[..., Awaitable[None]]:
    """A branch of steps that each take `seconds`, and when it ended."""

    async def work() -> None:
        try:
            while True:
                async with run.step(name):
                    await anyio.sleep(seconds)
                    if fail and now() > 3:
                        raise ValueError(f"{name} failed")
        finally:
            ended[name] = now()

    return work


@pytest.mark.parametrize("together", GROUPS, **ids)
async def test_each_branch_stays_at_its_own_boundary_and_all_end_with_the_last_step(together: Together) -> None:
    ended: dict[str, float] = {}

    async def body(run: RunContext, message: object) -> None:
        await together(*(branch(run, name, seconds, ended) for name, seconds in (("a", 2), ("b", 5), ("c", 7))))

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 7
    assert output.status is RunStatus.cancelled
    assert sorted((step.step, step.status) for step in output.steps) == [
        ("a", "completed"), ("a", "completed"), ("b", "completed"), ("c", "completed"),
    ]  # fmt: skip
    assert ended == {"a": 7, "b": 7, "c": 7}


async def test_a_waiting_branch_lives_as_long_as_a_sibling_s_step_that_may_need_it() -> None:
    ended: dict[str, float] = {}

    async def body(run: RunContext, message: object) -> None:
        async def wait() -> None:
            try:
                await anyio.sleep(1_000)
            finally:
                ended["waiting"] = now()

        await anyio_group(wait, branch(run, "step", 10, ended))

    await one(body, stop_at=3)
    assert ended == {"waiting": 10, "step": 10}


@pytest.mark.parametrize("together", [anyio_group, gather, gather_all], **ids)
async def test_a_branch_that_fails_after_the_request_is_an_error_of_a_cancelled_run_and_cuts_no_sibling(
    together: Together,
) -> None:
    ended: dict[str, float] = {}

    async def body(run: RunContext, message: object) -> None:
        await together(branch(run, "bad", 5, ended, fail=True), branch(run, "good", 9, ended))

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        at(3, run.cancel)
        events = await listen(run)
        assert now() == 9
    assert names(events)[-1] == "RunCancelled"
    outcome = events[-1]
    assert [(s.step, s.status) for s in outcome.steps] == [("bad", "failed"), ("good", "completed")]  # type: ignore[attr-defined]
    if together is not gather_all:
        assert any("bad failed" in error for error in outcome.errors)  # type: ignore[attr-defined]


async def test_a_late_failure_outside_any_step_does_not_turn_cancelled_into_failed() -> None:
    async def body(run: RunContext, message: object) -> None:
        try:
            await anyio.sleep(1_000)
        finally:
            raise ConnectionError("while cleaning up")

    run, _events = await one(body, stop_at=3)
    assert run.status is RunStatus.cancelled
    assert run.output is not None
    assert run.output.errors == ("ConnectionError: while cleaning up",)


@pytest.mark.parametrize("translated", [TimeoutError, KeyError, RuntimeError])
async def test_a_library_that_translates_the_cancellation_does_not_turn_cancelled_into_failed(
    translated: type[Exception],
) -> None:
    async def body(run: RunContext, message: object) -> None:
        try:
            await anyio.sleep(1_000)
        except asyncio.CancelledError as error:
            raise translated("as an SDK does") from error

    run, _ = await one(body, stop_at=3)
    assert run.status is RunStatus.cancelled
    assert run.output is not None
    assert [error.split(":")[0] for error in run.output.errors] == [translated.__name__]


@pytest.mark.parametrize("together", [anyio_group, asyncio_group, gather], **ids)
async def test_a_failure_recorded_before_the_request_is_failed_anyway(together: Together) -> None:
    async def body(run: RunContext, message: object) -> None:
        async def bad() -> None:
            async with run.step("bad"):
                await anyio.sleep(2)
                raise ValueError("first")

        async def good() -> None:
            async with run.step("good"):
                await anyio.sleep(9)

        await together(bad, good)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        receipts = []
        at(3, lambda: receipts.append(run.cancel()))
        events = await listen(run)
        for receipt in receipts:  # asyncio's group has torn the sibling down before the request
            assert await receipt.wait() is StopResult.failed_anyway
    assert isinstance(events[-1], RunFailed)
    assert "first" in " ".join(events[-1].errors)


async def test_a_failure_and_a_stop_in_the_same_turn_hide_neither() -> None:
    """The failure comes first here; anyio alone would report the cancellation and lose the error."""

    async def body(run: RunContext, message: object) -> None:
        async def bad() -> None:
            async with run.step("bad"):
                await anyio.sleep(3)
                raise ValueError("lost?")

        async with anyio.create_task_group() as group:
            group.start_soon(bad)
            await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        await anyio.lowlevel.checkpoint()
        at(3, run.cancel)
        output = await run.ended()
    assert "lost?" in " ".join(output.errors)


async def test_the_run_ends_with_the_last_begun_step_whatever_task_it_is_in() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def pay() -> None:
            async with run.step("pay"):
                await anyio.sleep(20)

        run.metadata["keep"].append(asyncio.create_task(pay()))  # noqa: TID251 - users do
        async with run.step("short"):
            await anyio.sleep(5)
        await anyio.sleep(1_000)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), metadata={"keep": []})
        at(3, run.cancel)
        output = await run.ended()
        assert now() == 20
    assert [(step.step, step.status) for step in output.steps] == [("short", "completed"), ("pay", "completed")]
    assert output.status is RunStatus.cancelled
