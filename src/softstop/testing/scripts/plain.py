"""Plays a script without softstop: what a body does if nobody supervises it, to compare with what it does under us."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from itertools import count
from typing import Any, cast

import anyio

from softstop.runnables.agents import Agent
from softstop.runs.context import RunContext

from ..explorer.recorder import Mark, Recorder, Script, recording
from ..virtual_loop import VirtualLoop
from .script import shared_lock


class PlainContext:
    """Stands in for a run's context: steps and streams are what their code does, and nothing else happens."""

    def __init__(self, run_id: str = "plain") -> None:
        self.run_id = run_id
        self._numbers = count(1)

    def step(self, name: str, **options: object) -> PlainStep:
        """A block of code with a number."""
        del name, options
        return PlainStep(next(self._numbers))

    def stream(self, name: str, source: AsyncGenerator[str]) -> PlainStream:
        """The source itself, closed at the end of the block."""
        del name
        return PlainStream(next(self._numbers), source)

    async def member(self, agent: Agent, message: object) -> None:
        """The body of the member, in this task."""
        token = shared_lock.set(anyio.Lock())
        try:
            await cast(Any, agent.invoke(cast(RunContext, PlainContext("member")), message))
        finally:
            shared_lock.reset(token)

    async def boundary(self) -> None:
        """Nothing stops here."""

    def write(self, text: str) -> None:
        """Nobody reads it; the script marks what it writes."""

    def charge(self, usage: object) -> None:
        """Nobody counts it."""

    def on_stop(self, hook: object) -> None:
        """No stop comes."""


class PlainStep:
    """A block of code with a number."""

    def __init__(self, step_id: int) -> None:
        self.step_id = step_id

    async def __aenter__(self) -> PlainStep:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing is committed."""


class PlainStream:
    """A source with a number, closed at the end of the block."""

    def __init__(self, step_id: int, source: AsyncGenerator[str]) -> None:
        self.step_id = step_id
        self._source = source
        self._closing = aclosing(source)

    async def __aenter__(self) -> AsyncIterator[str]:
        return await self._closing.__aenter__()

    async def __aexit__(self, *exc: Any) -> None:
        await self._closing.__aexit__(*exc)  # noqa: ASYNC102 - as plain code does


def play_plainly(script: Script) -> list[Mark]:
    """What a script marks if it is played without a run, on a loop of its own."""
    recorder = Recorder()

    async def main() -> None:
        recording.set(recorder)
        await cast(Any, script)(PlainContext(), None)

    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    return [entry for entry in recorder.story if isinstance(entry, Mark)]


def summary(marks: Sequence[Mark]) -> list[tuple[float, str, str, str]]:
    """Marks without what depends on the order of tasks at one instant: steps' numbers, and that order itself."""
    return sorted((round(mark.at, 6), mark.what, mark.name, str(mark.value)) for mark in marks)
