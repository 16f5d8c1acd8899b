"""Child processes that a body or a step ends in its `finally`: asked, waited for, killed. None is left by a stop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from kit.foreign import gone, stop_when_begun
from softstop import Agent, RunContext

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@asynccontextmanager
async def shell(code: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child process that is ended: asked, waited for, killed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", code, stdout=pipe)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 0.05)  # noqa: TID251 - users do
        except TimeoutError:
            process.kill()
            await process.wait()


async def process_in_a_wait(run: RunContext, pids: list[int]) -> None:
    async with shell(DEAF) as process:
        pids.append(process.pid)
        run.write("begun")
        await process.wait()


async def process_between_steps(run: RunContext, pids: list[int]) -> None:
    async with shell(DEAF) as process:
        pids.append(process.pid)
        async with run.step("use"):
            run.write("begun")
            await asyncio.sleep(0.01)
        async with run.step("use it again"):
            raise NotImplementedError


async def process_in_a_step(run: RunContext, pids: list[int]) -> None:
    async with run.step("run"), shell(DEAF) as process:
        pids.append(process.pid)
        run.write("begun")
        await process.wait()


async def process_in_a_branch_s_step(run: RunContext, pids: list[int]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(process_in_a_step(run, pids))


async def process_of_a_generator_body(run: RunContext, pids: list[int]) -> AsyncIterator[str]:
    async with shell(DEAF) as process:
        pids.append(process.pid)
        yield "begun"
        await process.wait()


PROCESSES = [
    (process_in_a_wait, "step"), (process_in_a_wait, "now"), (process_between_steps, "step"),
    (process_between_steps, "now"), (process_in_a_step, "now"), (process_in_a_branch_s_step, "now"),
    (process_of_a_generator_body, "step"), (process_of_a_generator_body, "now"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "mode"), PROCESSES, ids=lambda value: getattr(value, "__name__", value))
async def test_a_child_process_that_ignores_sigterm_is_killed_and_waited_for(
    body: Callable[[RunContext, list[int]], Awaitable[None]], mode: str
) -> None:
    pids: list[int] = []
    with anyio.fail_after(30):
        await stop_when_begun(Agent(body), pids, mode)
        await gone(pids[0])
