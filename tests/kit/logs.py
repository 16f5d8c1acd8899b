"""Logs without a run. Proves nothing itself."""

import asyncio
from collections.abc import Callable
from itertools import count

from softstop import Event, Outcome, RunCompleted, RunContent, Source
from softstop.events import Stamp
from softstop.log.log import Log
from softstop.log.writer import Writer


def make(writers: int = 1, *, clock: Callable[[], float] | None = None) -> tuple[Log, list[Writer]]:
    """A log with a root's writer and those of its members; usable without a running loop."""
    ticks = count()
    log = Log(clock or (lambda: float(next(ticks))), asyncio.new_event_loop(), ())
    log.loop.close()
    root = Stamp("r0", Source("agent", "a", "A"))
    stamps = [root, *(Stamp(f"r{n}", Source("agent", "a", "A"), root) for n in range(1, writers))]
    return log, [Writer(log, stamp) for stamp in stamps]


def text_of(events: list[Event], run_id: str) -> str:
    return "".join(event.content for event in events if isinstance(event, RunContent) and event.run_id == run_id)


def tokens_of(events: list[Event], run_id: str) -> int:
    return sum(event.metrics.total_tokens for event in events if event.metrics and event.run_id == run_id)


def finish(writer: Writer) -> Outcome:
    return writer.finish(RunCompleted(writer.content, writer.usage, writer.usage, (), ()))
