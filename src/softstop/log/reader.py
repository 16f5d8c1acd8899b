"""Reading events: a position in the log, with replay, for any number of readers on any loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final

from ..aio.crossing import POLL, submit
from ..errors import AsyncOnly, RunSuperseded
from ..events import Event
from .writer import Writer

NOTHING: Final[Iterator[Event]] = iter(())


class EventStream(AsyncOnly):
    """The events of one run, its members' included, oldest first, ending with its outcome. `async for event in stream`.

    A class and not an async generator: it can be dropped, cancelled and resumed at any point without losing an event.
    A reader that lags may get adjacent content of one step merged. Where another owner has taken the run over,
    RunSuperseded is raised in place of the outcome. `read()` returns all available events at once.
    """

    _USE = "async for event in run.events()"
    __slots__ = ("_after", "_batch", "_done", "_when_cancelled", "_when_loop_closed", "_writer")

    def __init__(
        self,
        writer: Writer,
        after: int = 0,
        when_cancelled: Callable[[], None] | None = None,
        when_loop_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._writer = writer
        self._after = after  # seq of the last event taken from the log
        self._batch = NOTHING  # taken and not returned yet
        self._done = False  # the outcome was taken
        self._when_cancelled = when_cancelled  # called if a wait in here is cancelled
        self._when_loop_closed = when_loop_closed  # called before the log of a closed loop is read: gives it an outcome

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:  # noqa: C901 - inline: each turn of each reader passes here
        event = next(self._batch, None)
        if event is not None:
            return event
        writer, log = self._writer, self._writer.log
        while not self._done:
            if log.on_loop():
                while log.seq == self._after and not writer.closed:  # nothing new, and no outcome yet
                    waiter = log.waiter()
                    if log.seq != self._after or writer.closed:  # by a signal handler, since this has looked
                        log.forget(waiter)
                        break
                    try:
                        # inline: each turn of each reader passes here, and a coroutine of its own costs
                        await (waiter if log.lending is None else log.lent(waiter))
                    except asyncio.CancelledError:
                        log.forget(waiter)
                        self._was_cancelled()
                        raise
                if log.seq == self._after + 1 and writer.stamp.parent is None and not writer.closed:
                    self._after += 1
                    return log.recent[-1]  # shortcut for a reader that keeps up (goal 7: .67 for .86)
                self._take(*_after(writer, self._after))
            elif log.loop.is_closed():  # the log does not change any more, but for the outcome
                self._when_loop_closed()
                self._take(*_after(writer, self._after))
            else:
                await self._take_from_other_loop()
            event = next(self._batch, None)
            if event is not None:
                return event
        if log.superseded:
            raise RunSuperseded(writer.stamp.run_id)
        raise StopAsyncIteration

    async def read(self) -> list[Event]:
        """All available events, waiting for at least one; an empty list after the outcome."""
        async for event in self:
            return [event, *self._batch]
        return []

    def _take(self, events: list[Event], after: int, done: bool) -> None:
        if done and self._writer.log.superseded:
            events = events[:-1]  # its outcome is another one
        self._batch, self._after, self._done = iter(events), after, done

    async def _take_from_other_loop(self) -> None:
        """Have the run's loop wait for a batch, for a reader on another loop; the position moves here, with the batch.

        The loop may end, which cancels what waits there, or be closed, which tells nobody: then the log is read here.
        """
        loop = self._writer.log.loop
        try:
            with suppress(RuntimeError):  # it was closed this very moment
                batch = submit(loop, partial(_wait_for_more, self._writer, self._after))
                news = asyncio.wrap_future(batch)
                while not news.done() and not loop.is_closed():
                    await asyncio.wait({news}, timeout=POLL)
                if news.done() and not news.cancelled():
                    return self._take(*news.result())
                news.cancel()
            while not loop.is_closed():  # noqa: ASYNC110 - asyncio tells nobody that it closes a loop
                await asyncio.sleep(POLL)
        except asyncio.CancelledError:
            self._was_cancelled()
            raise
        self._when_loop_closed()
        self._take(*_after(self._writer, self._after))

    def _was_cancelled(self) -> None:
        if self._when_cancelled is not None:
            self._when_cancelled()


def _after(writer: Writer, after: int) -> tuple[list[Event], int, bool]:
    """The events of a run with a seq above `after`, the last seq of the log, and whether the outcome is among them."""
    log, stamp = writer.log, writer.stamp
    events = log.read(after)
    if stamp.parent is not None:
        events = [event for event in events if event._stamp.within(stamp)]
    return events, log.seq, writer.closed


async def _wait_for_more(writer: Writer, after: int) -> tuple[list[Event], int, bool]:
    """Do as `_after`, on the log's own loop, waiting until there is something."""
    log = writer.log
    while True:
        events, seen, done = _after(writer, after)
        if events or done:
            return events, seen, done
        waiter = log.waiter()
        try:
            await log.lent(waiter)
        finally:
            log.forget(waiter)
        after = seen
