"""T8: a step with a timeout of its own is cut when that is over, it alone, and the run goes on."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest

from kit.runs import deaf, now, one, statuses, words
from kit.spawns import anyio_group, asyncio_group, gather
from softstop import (
    Agent,
    Budget,
    MisuseError,
    RunContent,
    RunContext,
    RunStatus,
    StepCompleted,
    StepTimeout,
    StopCause,
    Supervisor,
    Usage,
)


async def test_a_step_is_cut_when_its_time_is_over_and_the_body_goes_on() -> None:
    caught: list[BaseException] = []

    async def body(run: RunContext, message: object) -> str:
        for interruptible in (False, True):
            try:
                async with run.step("ask", timeout=2, interruptible=interruptible):
                    await anyio.sleep(1_000)
            except TimeoutError as error:
                caught.append(error)
        task = asyncio.current_task()
        assert task is not None
        assert (now(), task.cancelling()) == (4, 0)
        async with run.step("ask another", timeout=2):
            await anyio.sleep(1.9)
        await anyio.sleep(10)
        return "done"

    run, events = await one(body)
    assert run.status is RunStatus.completed
    assert statuses(run.output) == [("ask", "unsettled"), ("ask", "cut"), ("ask another", "completed")]
    error = "StepTimeout: step 'ask' took more than its 2 s and was cut; it may have happened in part"
    assert [event.error for event in events if isinstance(event, StepCompleted)] == [error, error, None]
    assert [(type(each), each.args) for each in caught] == [(StepTimeout, ("ask", 2))] * 2
    assert asyncio.get_running_loop().timers() == []  # type: ignore[attr-defined]


async def test_a_body_that_does_not_handle_it_has_failed() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("ask", timeout=2):
            await anyio.sleep(1_000)

    run, _ = await one(body)
    assert run.output is not None
    assert (run.status, isinstance(run.output.error, StepTimeout)) == (RunStatus.failed, True)
    assert run.output.errors[0].startswith("StepTimeout: step 'ask' took more than its 2 s")


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "soon"])
async def test_a_timeout_that_is_no_positive_number_is_misuse(seconds: Any) -> None:
    async def body(run: RunContext, message: object) -> None:
        with pytest.raises(MisuseError, match="step 'ask': timeout: "):
            run.step("ask", timeout=seconds)

    run, _ = await one(body)
    assert run.status is RunStatus.completed


async def test_its_clean_up_has_the_peace_of_an_interruption() -> None:
    async def body(run: RunContext, message: object) -> None:
        try:
            async with run.step("ask", timeout=2):
                try:
                    await anyio.sleep(1_000)
                finally:
                    await anyio.sleep(9)
                    run.write(f"cleaned up at {now():g}")
        except StepTimeout:
            run.write(", left")

    run, _ = await one(body)
    assert run.output is not None
    assert run.output.content == "cleaned up at 11, left"


async def test_a_step_that_swallows_its_cut_is_asked_again_and_is_completed_if_it_ends_whole() -> None:
    asked: list[float] = []

    async def body(run: RunContext, message: object) -> str:
        async with run.step("deaf", timeout=2):
            while now() < 40:
                try:
                    await anyio.sleep(40 - now())
                except asyncio.CancelledError:
                    asked.append(now())
        await anyio.sleep(1)
        return "done"

    run, _ = await one(body)
    assert (run.status, statuses(run.output)) == (RunStatus.completed, [("deaf", "completed")])
    assert asked[:2] == [2, 12], "in peace for cleanup_timeout"
    assert 20 < len(asked) < 60, "and then ever more quietly"


async def test_the_time_counts_from_the_start_of_the_step_and_not_from_its_wait_for_room() -> None:
    budget = Budget(tokens=100)

    async def body(run: RunContext, message: float) -> str:
        async with run.step("ask", timeout=4, reserve=Usage(output_tokens=80)):
            await anyio.sleep(3)
        return "done"

    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(body), budgets=[budget]) for _ in range(2)]
        outputs = [await run.ended() for run in runs]
        assert now() == 6
    assert [output.status for output in outputs] == [RunStatus.completed] * 2


async def test_what_it_has_reserved_and_not_spent_is_given_back() -> None:
    budget = Budget(tokens=100)

    async def body(run: RunContext, message: object) -> None:
        with pytest.raises(StepTimeout):  # noqa: PT012 - the step is left by it
            async with run.step("ask", timeout=2, reserve=Usage(output_tokens=80)):
                run.charge(Usage(output_tokens=30))
                await anyio.sleep(1_000)

    await one(body, budgets=[budget])
    assert (budget.spent.tokens, budget.reserved.tokens) == (30, 0)


# -- what is open inside ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [1.0, None])
async def test_of_nested_steps_the_one_whose_time_is_over_ends_and_what_it_is_in_goes_on(inner: float | None) -> None:
    async def body(run: RunContext, message: object) -> str:
        try:
            async with run.step("outer", timeout=2):
                try:
                    async with run.step("inner", timeout=inner):
                        await anyio.sleep(1_000)
                except StepTimeout as error:
                    run.write(f"{error.step} {now():g}, ")
                await anyio.sleep(1_000)
        except StepTimeout as error:
            run.write(f"{error.step} {now():g}")
        await anyio.sleep(1)
        return "done"

    run, _ = await one(body)
    assert run.output is not None
    assert run.output.content == ("inner 1, outer 2" if inner else "outer 2")
    assert statuses(run.output) == [("inner", "unsettled"), ("outer", "unsettled")]


@pytest.mark.parametrize("group", [anyio_group, asyncio_group, gather])
async def test_steps_begun_in_it_by_other_tasks_are_cut_first_and_clean_up_in_peace(group: Any) -> None:
    async def body(run: RunContext, message: object) -> str:
        async def part(name: str) -> None:
            async with run.step(name):
                try:
                    await anyio.sleep(1_000)
                finally:
                    await anyio.sleep(3)
                    run.write(f"{name} {now():g}, ")

        async def beside() -> None:
            async with run.step("beside"):
                await anyio.sleep(20)

        async def slow() -> None:
            try:
                async with run.step("all", timeout=2):
                    await group(lambda: part("a"), lambda: part("b"))
            except StepTimeout:
                run.write(f"left {now():g}")

        await anyio_group(beside, slow)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return "done"

    run, _ = await one(body)
    assert run.output is not None
    assert (run.status, run.output.content) == (RunStatus.completed, "a 5, b 5, left 5")
    assert statuses(run.output) == [
        ("a", "unsettled"), ("b", "unsettled"), ("all", "unsettled"), ("beside", "completed"),
    ]  # fmt: skip


async def test_a_deaf_step_in_another_task_keeps_it_no_longer_than_the_peace_of_a_cut() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def part() -> None:
            async with run.step("deaf"):
                await deaf(50)

        with pytest.raises(StepTimeout):  # noqa: PT012 - the step is left by it
            async with run.step("all", timeout=2):
                task = asyncio.ensure_future(part())  # noqa: TID251 - users do
                await anyio.sleep(1_000)
        assert now() == 12
        await task

    run, _ = await one(body)
    assert run.output is not None
    assert (run.status, run.output.errors) == (RunStatus.completed, ())


async def test_a_stream_read_in_it_is_closed_and_told_as_cut() -> None:
    closed: list[float] = []

    async def source() -> AsyncGenerator[str]:
        try:
            async for word in words(9):
                yield word
        finally:
            await anyio.sleep(1)
            closed.append(now())

    async def body(run: RunContext, message: object) -> str:
        try:
            async with run.step("ask", timeout=3.5):
                async for word in run.stream("read", source()):
                    run.write(word)
        except StepTimeout:
            pass
        return "done"

    run, events = await one(body)
    assert (run.status, closed) == (RunStatus.completed, [4.5])
    assert [event.content for event in events if isinstance(event, RunContent)] == ["word1 ", "word2 ", "word3 "]
    assert statuses(run.output) == [("read", "cut"), ("ask", "unsettled")]


async def test_a_stream_whose_block_it_leaves_between_two_chunks_is_told_as_cut() -> None:
    async def body(run: RunContext, message: object) -> str:
        try:
            async with run.step("ask", timeout=3.5), run.stream("read", words(9)) as chunks:
                async for word in chunks:
                    run.write(word)
                    await anyio.sleep(5)
        except StepTimeout:
            pass
        return "done"

    run, _ = await one(body)
    assert run.status is RunStatus.completed
    assert statuses(run.output) == [("read", "cut"), ("ask", "unsettled")]


async def test_a_stream_that_is_left_early_after_a_step_was_cut_is_not_told_as_cut() -> None:
    async def body(run: RunContext, message: object) -> str:
        async def helper() -> None:
            async with run.step("inner"):
                await anyio.sleep(5)
            async with run.stream("read", words(9)) as chunks:
                async for _ in chunks:
                    break

        try:
            async with run.step("ask", timeout=2):
                await helper()
        except StepTimeout:
            pass
        async with run.stream("read", words(9)) as chunks:
            async for _ in chunks:
                break
        return "done"

    run, _ = await one(body)
    assert run.status is RunStatus.completed
    assert statuses(run.output) == [("inner", "unsettled"), ("ask", "unsettled"), ("read", "completed")]


async def test_a_member_that_it_waits_for_is_stopped_and_finishes_what_it_has_begun() -> None:
    async def member(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(5)
        async with run.step("never"):
            raise NotImplementedError

    async def body(run: RunContext, message: object) -> str:
        try:
            async with run.step("delegate", timeout=2):
                await run.member(Agent(member), "go")
        except StepTimeout:
            run.write(f"{now():g}")
        return "done"

    run, _ = await one(body)
    output = run.output
    assert output is not None
    assert (output.status, output.content, statuses(output)) == (RunStatus.completed, "2", [("delegate", "unsettled")])
    (paid,) = output.members
    assert paid.stop is not None
    assert (paid.status, paid.stop.cause, statuses(paid)) == (
        RunStatus.cancelled, StopCause.caller_gone, [("pay", "completed")],
    )  # fmt: skip
