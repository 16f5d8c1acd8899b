"""A timeout of a step, or an idle limit, over a thread, for real: it cannot be cut, and its result counts."""

import asyncio
import contextlib
import threading

from pydantic_ai import Tool

from kit.scripts import THEN_DONE, Script, call
from softstop import Agent, RunContext, RunStatus, StepTimeout
from softstop.ports import AdapterContext


async def test_a_sync_tool_is_not_cut_but_named_and_its_late_result_is_told_to_the_model() -> None:
    def slow() -> str:
        threading.Event().wait(0.3)
        return "found"

    script = Script([call("slow")], THEN_DONE)
    output = await Agent(model=script.model, tools=[Tool(slow, timeout=0.02)]).arun("go")
    assert script.answers() == [("success", "slow", "found")]
    assert (output.status, [step.status for step in output.steps]) == (RunStatus.completed, ["completed"] * 3)
    assert output.errors == ("step 'slow' goes on after its 0.02 s: it waits for a thread, and is not cut",)


async def test_what_follows_the_thread_in_its_step_is_cut() -> None:
    async def body(run: RunContext, message: object) -> str:
        door = AdapterContext(run)
        try:
            async with run.step("outer", timeout=0.02):
                async with door.seats(), door.tool_call("slow"):
                    run.write(await door.in_thread(lambda: str(threading.Event().wait(0.2))))
                await asyncio.sleep(1_000)
        except StepTimeout as error:
            run.write(f", {error.step}")
        return "done"

    output = await Agent(body).arun("go")
    assert (output.status, output.content) == (RunStatus.completed, "False, outer")
    assert [(step.step, step.status) for step in output.steps] == [("slow", "completed"), ("outer", "unsettled")]


async def test_a_thread_that_another_task_of_the_step_waits_for_has_done_its_own_step() -> None:
    async def body(run: RunContext, message: object) -> str:
        door = AdapterContext(run)

        async def work() -> str:
            async with run.step("slow"):
                return await door.in_thread(lambda: str(threading.Event().wait(0.2)))

        with contextlib.suppress(StepTimeout):
            async with run.step("outer", timeout=0.02):
                task = asyncio.get_running_loop().create_task(work())
                await asyncio.wait([task])
        return await task

    output = await Agent(body).arun("go")
    assert (output.status, output.content) == (RunStatus.completed, "False")
    assert [(step.step, step.status) for step in output.steps] == [("outer", "unsettled"), ("slow", "completed")]
