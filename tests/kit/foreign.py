"""What the tests of foreign code share: how to bring runs to a moment, and what to look at when they have ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio

from softstop import Agent, RunContent, RunOutput, RunStatus, StopPolicy

LONG = StopPolicy(grace=60, abandon_after=60, cleanup_timeout=60)  # whoever waits for one of them fails the test
TURNS = 10  # of the loop: whatever a stop does at once is done by then


async def words(text: str = "abcde") -> AsyncGenerator[str]:
    for word in text:
        await asyncio.sleep(0.002)
        yield word


async def turns(times: int = TURNS) -> None:
    """Let the loop turn, so that everything that need not wait has happened."""
    for _ in range(times):
        await asyncio.sleep(0)


def pass_time(seconds: float) -> None:
    """Let the clock of the loop jump, so that timers of that time strike in its next turns."""
    loop = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + seconds  # type: ignore[method-assign]


def ended(output: RunOutput) -> list[tuple[str, str]]:
    """The steps of a run, and how each ended."""
    return [(step.step, step.status) for step in output.steps]


async def stop_when_begun(agent: Agent, message: object, mode: str, *errors: str) -> list[str]:
    """Stop it as soon as it has begun; it must end cancelled, by itself, with these errors, and tell its steps."""
    run = agent.arun(message)
    async for event in run.events():
        if isinstance(event, RunContent):
            break
    run.cancel(mode=mode)
    output = await run.ended()
    assert (output.status, output.errors, output.abandoned) == (RunStatus.cancelled, errors, ())
    return [f"{step} {status}" for step, status in ended(output)]


def lives(pid: int) -> bool:
    """Whether a process is there; one that has ended and was not waited for counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    with anyio.fail_after(30):
        while lives(pid):
            await anyio.sleep(0.005)


class Library:
    """A client as many write it: a helper task in an anyio group, opened and closed by hand."""

    def __init__(self, name: str = "client") -> None:
        self.name = name
        self.told: list[str] = []
        self._inbox, self._requests = anyio.create_memory_object_stream[asyncio.Future[str]](1)

    async def ask(self) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self._inbox.send(answer)
        return await answer

    async def _serve(self) -> None:
        async with self._requests:
            async for answer in self._requests:
                await asyncio.sleep(0.001)
                answer.set_result("asked ")

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Library]:
        group = anyio.create_task_group()
        await group.__aenter__()
        group.start_soon(self._serve)
        try:
            yield self
        finally:
            self._inbox.close()
            group.cancel_scope.cancel()
            await group.__aexit__(None, None, None)
            self.told.append(f"{self.name} closed")
