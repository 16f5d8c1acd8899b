"""How a body is called: a coroutine is awaited, a generator poured out, the hottest loop there is. Knows no outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import cast

from ._boundary import Boundary
from ._log import LIVE, wake_all
from ._scopes import finish_within
from ._steps import FAIRNESS
from ._voice import LONGEST, Voice, new_event
from .context import RunContext
from .events import RunContent
from .ports import Runnable


def perform(runnable: Runnable, run: RunContext, message: object) -> Awaitable[object]:
    """Begin the work of a run. Awaiting what this returns does it, and gives the value: a body's own coroutine."""
    work = runnable.invoke(run, message)
    if hasattr(work, "__anext__"):
        return _pour_out(cast("AsyncIterator[str]", work), run._voice, run._boundary)
    return cast("Awaitable[object]", work)


async def _pour_out(chunks: AsyncIterator[str], voice: Voice, boundary: Boundary) -> None:
    """Write what an async generator yields, and close it whatever happens."""
    try:
        await _pour(chunks, voice, boundary)
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None and getattr(chunks, "ag_frame", chunks) is not None:  # else a generator that has ended
            await finish_within(boundary.cleanup_timeout, close)  # noqa: ASYNC102 - shielded


async def _pour(chunks: AsyncIterator[str], voice: Voice, boundary: Boundary) -> None:
    """Every gap between two pieces is a boundary.

    `Voice.write` stands here once more, without what cannot happen to the run's own task: a call a delta and the
    question which thread this is are an eighth of a delta's whole way. What is unusual still goes through it.
    """
    log, stamp, write, count = voice.log, voice.stamp, voice.write, 0
    clock, build, longest, append = log.clock, new_event, LONGEST, log.live.append
    usual = type(voice) is Voice
    async for text in chunks:
        if (
            usual
            and type(text) is str
            and text
            and len(text) <= longest
            and text.isascii()
            and voice._thread
            and voice._pending is None
        ):
            log.seq = seq = log.seq + 1
            event = build(RunContent)
            event._stamp = stamp
            event._seq = seq
            event._at = clock()
            event._metrics = None
            event._content = text
            append(event)
            if log.waiters:
                wake_all(log.waiters)
            if seq >= log.full:
                log.fold(LIVE // 2)
        else:
            write(text)
        if boundary.alert:
            await boundary.cross()
        count += 1
        if not count & FAIRNESS:
            await asyncio.sleep(0)
