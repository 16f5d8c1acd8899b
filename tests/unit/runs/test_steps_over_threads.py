"""Sync work in threads, which no stop interrupts: what its step comes to when grace is over. In virtual time."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio

from kit.runs import at, now
from softstop import Agent, RunContext, RunOutput, RunStatus, StopPolicy, Supervisor
from softstop.ports import AdapterContext
from softstop.testing import run_virtual

POLICY = StopPolicy(abandon_after=6)  # the body is interrupted 3 seconds after its steps are


def stopped_at_3(body: Any, *, look: Callable[[], Any] | None = None) -> tuple[RunOutput, float]:
    """The output of a run that is stopped with mode `now`, and when it ended."""

    async def main() -> tuple[RunOutput, float]:
        async with Supervisor(policy=POLICY) as supervisor:
            run = supervisor.start(Agent(body))
            at(3, lambda: run.cancel(mode="now"))
            output = await run.ended()
            ended = now()
            if look is not None:
                await look()
        return output, ended

    return run_virtual(main, patience=0.02)


def end(done: threading.Event, seen: list[Any]) -> None:
    """Let a thread end, and wait until the loop has seen that."""
    done.set()
    if not seen:
        time.sleep(0.005)  # noqa: TID251 - the thread needs real time
        at(0.001, lambda: end(done, seen))


def test_a_thread_that_ends_before_its_step_is_abandoned_has_done_the_step() -> None:
    done = threading.Event()
    seen: list[float] = []

    async def body(run: RunContext, message: object) -> str:
        at(8, lambda: end(done, seen))
        async with run.step("work"):
            await AdapterContext(run).in_thread(lambda: done.wait(20))
            seen.append(now())
            return "whole"

    output, ended = stopped_at_3(body)
    assert 8 <= ended < 9
    assert [(step.step, step.status) for step in output.steps] == [("work", "completed")]
    assert (output.status, output.value, output.abandoned) == (RunStatus.cancelled, "whole", ())


def test_a_step_that_goes_on_after_its_thread_has_ended_is_cut_like_any_other() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("work"):
            await AdapterContext(run).in_thread(lambda: None)
            await anyio.sleep(1_000)

    output, ended = stopped_at_3(body)
    assert ended == 3
    assert [(step.step, step.status) for step in output.steps] == [("work", "unsettled")]
    assert output.abandoned == ()


def test_a_cancel_of_another_party_is_raised_when_the_thread_has_ended() -> None:
    done = threading.Event()
    seen: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        at(1, task.cancel)
        at(2, lambda: end(done, seen))
        try:
            async with run.step("work"):
                await AdapterContext(run).in_thread(lambda: done.wait(20))
                seen.append("went on")
        finally:
            seen.append(f"thread ended: {done.is_set()}")

    output, ended = stopped_at_3(body)
    assert seen == ["thread ended: True"]
    assert (output.status, 2 <= ended < 3) == (RunStatus.cancelled, True)
    assert [(step.step, step.status) for step in output.steps] == [("work", "unsettled")]


def test_a_run_that_was_abandoned_in_its_thread_does_not_keep_its_loop_from_ending() -> None:
    done = threading.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def body(run: RunContext, message: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        async with run.step("work"):
            await AdapterContext(run).in_thread(lambda: done.wait(20))

    async def look() -> None:
        tasks[0].cancel()  # as `asyncio.run` does in the end
        ended, _ = await asyncio.wait(tasks, timeout=1)
        done.set()
        assert ended

    output, ended = stopped_at_3(body, look=look)
    assert ended == 9
    assert output.abandoned == ("work",)
