"""Notes what the law allows and is a mistake all the same: swallowed cancellations, generators that nobody closes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Unpack, cast

from softstop.ports import Runnable, RunOptions
from softstop.runs.context import RunContext
from softstop.runs.run import Run
from softstop.supervisor.supervisor import Supervisor

from ..virtual_loop import VirtualLoop
from .trace import Trace

SWALLOWED = "the body of {!r} returned although it was cancelled: let CancelledError through, and clean up in `finally`"
LEFT = (
    "async generator {!r} was left open, and cleaned up later by itself: read it with run.stream(...) or aclosing(...)"
)


class WatchedSupervisor(Supervisor):
    """A supervisor that notes in a trace which bodies of its root runs return although they were cancelled."""

    def __init__(self, trace: Trace, **options: Any) -> None:
        super().__init__(**options)
        self._trace = trace

    def start(self, runnable: Runnable, message: object = None, **options: Unpack[RunOptions]) -> Run:
        """Start a root run of it."""
        watched = _Watched(runnable, self._trace) if hasattr(runnable, "invoke") else runnable
        return super().start(cast(Runnable, watched), message, **options)


class _Watched:
    """Something to run, whose body is awaited in a coroutine of ours."""

    def __init__(self, runnable: Runnable, trace: Trace) -> None:
        self._runnable, self._trace = runnable, trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runnable, name)

    def invoke(self, run: RunContext, message: object) -> Any:
        work = self._runnable.invoke(run, message)
        return self._watch(run, work) if isinstance(work, Awaitable) else work

    async def _watch(self, run: RunContext, work: Awaitable[Any]) -> Any:
        value = await work
        task = asyncio.current_task()
        if run.stopping and task is not None and task.cancelling():
            self._trace.noticed.append(SWALLOWED.format(self._runnable.source.name))
        return value


def watch_generators(loop: VirtualLoop, trace: Trace) -> None:
    """Close the async generators that nobody closes, as asyncio does, and note those that await something meanwhile.

    For the loop that runs now, until it stops.
    """

    async def close(generator: AsyncGenerator[Any, Any], name: str) -> None:
        turn = loop.turns
        await generator.aclose()
        if loop.turns != turn:
            trace.noticed.append(LEFT.format(name))

    def finalize(generator: Any) -> None:
        name = generator.__qualname__
        loop.call_soon(lambda: loop.create_task(close(generator, name), name=f"clean-up of async generator {name!r}"))

    sys.set_asyncgen_hooks(finalizer=finalize)
