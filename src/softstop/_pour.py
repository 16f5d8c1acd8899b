"""How the text of an async generator gets into the log: the hottest loop there is. Knows boundaries, closes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ._boundary import Boundary
from ._log import LIVE, wake_all
from ._steps import FAIRNESS
from ._voice import LONGEST, Voice, new_event
from .events import RunContent


async def pour(chunks: AsyncIterator[str], voice: Voice, boundary: Boundary) -> None:
    """Write what an async generator yields; every gap is a boundary.

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
