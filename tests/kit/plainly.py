"""Plays a script without softstop: what a body does if nobody supervises it, to compare with what it does under us."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from itertools import count
from typing import Any, cast

from softstop import Agent, RunContext, RunStopRequested
from softstop.limits import NO_LIMITS
from softstop.testing import Mark, Trace, VirtualLoop
from softstop.testing.explorer.recorder import Recorder, Script, recording
from softstop.testing.explorer.schedules import Schedule
from softstop.testing.invariants.traces import first_difference


class PlainContext:
    """Stands in for a run's context: steps and streams are what their code does, and nothing else happens."""

    def __init__(self, run_id: str = "plain") -> None:
        self.run_id = run_id
        self._numbers, self._members = count(1), count(1)

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
        context = PlainContext(f"{self.run_id}.{next(self._members)}")
        await cast(Any, agent.invoke(cast(RunContext, context), message))

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


def undisturbed_is_as_without_us(trace: Trace) -> Iterator[str]:
    """T20: a script that nothing stops does the same, at the same instants, as if it were played without a run.

    Not compared: what fails, since a step outlives a failure beside it only here; what waits for room in a budget;
    clients, which are the run's.
    """
    script = None if trace.root is None else trace.scripts.get(trace.root.run_id)
    marks = [entry for entry in trace.story if isinstance(entry, Mark)]
    if script is None or trace.root is None or trace.schedule != Schedule():
        return
    stopped = any(isinstance(entry, RunStopRequested) for entry in trace.story)
    unlike = any(mark.what in ("failed", "refused", "entered") for mark in marks)
    if stopped or unlike or trace.root.limits.now != NO_LIMITS:
        return
    if (where := first_difference(summary(play_plainly(script)), summary(marks))) is not None:
        yield f"without us it does {where} here"
