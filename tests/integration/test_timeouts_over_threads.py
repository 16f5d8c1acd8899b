"""A timeout of a step, or a stop, over a thread, for real: it cannot be cut, but asks; else its result counts."""

import asyncio
import contextlib
import threading
from contextlib import AsyncExitStack

import anyio
import anyio.from_thread
import pytest
from pydantic_ai import Tool

from kit.scripts import THEN_DONE, Script, call
from softstop import Agent, RunContext, RunStatus, StepTimeout, StopPolicy
from softstop.ports import AdapterContext

TIME = 1.0  # seconds: a thread has begun by then, also where the machine is busy


def later(loop: asyncio.AbstractEventLoop) -> str:
    """Wait in a thread for a timer of the loop, which comes after those that were set before, however late it is."""
    done = threading.Event()
    loop.call_soon_threadsafe(loop.call_later, 1.2 * TIME, done.set)
    return str(done.wait(30))


async def test_a_sync_tool_is_not_cut_but_named_and_its_late_result_is_told_to_the_model() -> None:
    loop = asyncio.get_running_loop()

    def slow() -> str:
        later(loop)
        return "found"

    script = Script([call("slow")], THEN_DONE)
    output = await Agent(model=script.model, tools=[Tool(slow, timeout=TIME)]).arun("go")
    assert script.answers() == [("success", "slow", "found")]
    assert (output.status, [step.status for step in output.steps]) == (RunStatus.completed, ["completed"] * 3)
    assert output.errors == ("step 'slow' goes on after its 1 s: it waits for a thread, and is not cut",)


async def test_what_follows_the_thread_in_its_step_is_cut() -> None:
    async def body(run: RunContext, message: object) -> str:
        door, loop = AdapterContext(run), asyncio.get_running_loop()
        try:
            async with run.step("outer", timeout=TIME):
                async with door.seats(), door.tool_call("slow"):
                    run.write(await door.in_thread(lambda: later(loop)))
                await asyncio.sleep(1_000)
        except StepTimeout as error:
            run.write(f", {error.step}")
        return "done"

    output = await Agent(body).arun("go")
    assert (output.status, output.content) == (RunStatus.completed, "True, outer")
    assert [(step.step, step.status) for step in output.steps] == [("slow", "completed"), ("outer", "unsettled")]


async def test_a_thread_that_another_task_of_the_step_waits_for_has_done_its_own_step() -> None:
    async def body(run: RunContext, message: object) -> str:
        door, loop = AdapterContext(run), asyncio.get_running_loop()

        async def work() -> str:
            async with run.step("slow"):
                return await door.in_thread(lambda: later(loop))

        with contextlib.suppress(StepTimeout):
            async with run.step("outer", timeout=TIME):
                task = asyncio.get_running_loop().create_task(work())
                await asyncio.wait([task])
        return await task

    output = await Agent(body).arun("go")
    assert (output.status, output.content) == (RunStatus.completed, "True")
    assert [(step.step, step.status) for step in output.steps] == [("outer", "unsettled"), ("slow", "completed")]


class Asks:
    """A sync function that ends when its step is cut."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()

    def __call__(self) -> str:
        try:
            self.began.set()
            while True:
                threading.Event().wait(0.002)
                anyio.from_thread.check_cancelled()
        finally:
            self.ended.set()


@pytest.mark.parametrize("interruptible", [True, False])
async def test_a_thread_that_asks_ends_when_a_stop_cuts_its_step(interruptible: bool) -> None:
    asks = Asks()

    async def body(run: RunContext, message: object) -> None:
        async with run.step("work", interruptible=interruptible):
            await AdapterContext(run).in_thread(asks)

    run = Agent(body, policy=StopPolicy(abandon_after=60)).arun("go")
    await asyncio.to_thread(asks.began.wait, 60)
    run.cancel()
    await asyncio.sleep(0.05)
    assert not asks.ended.is_set(), "a stop waits for a begun step"
    run.cancel(mode="now")
    with anyio.fail_after(30):
        output = await run
    assert asks.ended.is_set()
    assert [(step.step, step.status) for step in output.steps] == [("work", "cut" if interruptible else "unsettled")]
    assert (output.status, output.abandoned, output.errors) == (RunStatus.cancelled, (), ())


@pytest.mark.parametrize("steps", [["work"], ["work", "around"]], ids=str)
async def test_a_thread_that_asks_ends_when_the_time_of_its_step_is_over(steps: list[str]) -> None:
    asks = Asks()

    async def work(run: RunContext) -> None:
        async with AsyncExitStack() as stack:
            for name in reversed(steps):
                await stack.enter_async_context(run.step(name, timeout=TIME if name == steps[-1] else None))
            await AdapterContext(run).in_thread(asks)

    async def body(run: RunContext, message: object) -> str:
        with pytest.raises(StepTimeout, match=steps[-1]):
            await work(run)
        async with run.step("next"):
            return "went on"

    with anyio.fail_after(30):
        output = await Agent(body).arun("go")
    assert asks.ended.is_set()
    assert (output.status, output.value) == (RunStatus.completed, "went on")
    assert [(step.step, step.status) for step in output.steps] == [
        *[(name, "unsettled") for name in steps], ("next", "completed"),
    ]  # fmt: skip


async def test_a_sync_tool_that_asks_ends_in_time_and_the_model_is_told() -> None:
    asks = Asks()

    def slow() -> str:
        return asks()

    script = Script([call("slow")], THEN_DONE)
    output = await Agent(model=script.model, tools=[Tool(slow, timeout=TIME)]).arun("go")
    assert asks.ended.is_set()
    [(outcome, name, answer)] = script.answers()
    assert (outcome, name, answer.partition(":")[0]) == ("failed", "slow", "StepTimeout")
    assert (output.status, output.steps[1].status) == (RunStatus.completed, "unsettled")


async def test_a_cancelled_error_of_a_thread_that_nobody_has_cut_is_the_failure_of_its_step() -> None:
    def fails() -> None:
        raise asyncio.CancelledError

    async def body(run: RunContext, message: object) -> None:
        async with run.step("work", timeout=60):
            await AdapterContext(run).in_thread(fails)

    output = await Agent(body).arun("go")
    assert (output.status, output.steps[0].status) == (RunStatus.failed, "failed")
    assert output.errors[0].startswith("StepFailed: step 'work' raised CancelledError")
