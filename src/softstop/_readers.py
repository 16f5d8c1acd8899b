"""How events are read: a position in the log, with replay, for any number of readers on any loop. Writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any

from ._across import across
from ._voice import Voice
from .events import Event


class EventStream:
    """The events of one run, its members' included, oldest first, ending with its outcome. `async for event in stream`.

    A class and not an async generator: it can be dropped, cancelled and resumed at any point without losing an event.
    Adjacent content may come merged for a reader that lags. `read()` gives all that is there at once.
    """

    __slots__ = ("_after", "_batch", "_begun", "_done", "_gone", "_is_root", "_log", "_reader", "_voice")

    def __init__(self, voice: Voice, after: int = 0, gone: Callable[[], None] | None = None) -> None:
        self._voice = voice
        self._log = voice.log
        self._is_root = voice.stamp.parent is None  # so that all events of the log are its own
        self._after = after
        self._batch: Iterator[Event] = iter(())
        self._done = False
        self._gone = gone  # told when the task that reads here is cancelled; None for mere readers
        self._reader: asyncio.Task[Any] | None = None
        self._begun = 0  # cancellations the reading task had pending when it began

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        for event in self._batch:
            return event
        log = self._log
        if self._gone is not None and self._reader is None:
            self._note_reader()  # before it has waited for anything: the first events may be there already
        if get_ident() != log.thread and not log.loop.is_closed():  # a closed one's log does not change any more
            return await self._next_from_afar()
        while not self._done:
            while log.seq == self._after and self._voice._thread:  # until there is more, or the outcome was the last
                waiter: asyncio.Future[None] = asyncio.Future(loop=log.loop)
                if log.waiters is None:
                    log.waiters = [waiter]
                else:
                    log.waiters.append(waiter)
                try:
                    await waiter  # here and not in a coroutine of its own: every turn of every reader comes by
                except asyncio.CancelledError:
                    self._stop_waiting(waiter)
                    raise
            if log.seq == self._after + 1 and log.live and self._is_root:
                self._after += 1
                self._done = not self._voice._thread
                return log.live[-1]  # what a reader that keeps up finds at each turn
            self._batch = iter(self._events())
            for event in self._batch:
                return event
        self._gone = None
        raise StopAsyncIteration

    async def read(self) -> list[Event]:
        """All events that are there, waiting for one at least; an empty list after the outcome."""
        async for event in self:
            return [event, *self._batch]
        return []

    def _note_reader(self) -> None:
        self._reader = asyncio.current_task()
        self._begun = self._reader.cancelling() if self._reader is not None else 0

    def _stop_waiting(self, waiter: asyncio.Future[None]) -> None:
        waiters = self._log.waiters
        if waiters and waiter in waiters:
            waiters.remove(waiter)
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    async def _next_from_afar(self) -> Event:
        """A reader on another loop: ask the run's own for a batch."""
        events = await across(self._log.loop, self.read)
        self._batch = iter(events)
        for event in self._batch:
            return event
        raise StopAsyncIteration

    def _events(self) -> list[Event]:
        """What has come since the last call."""
        log, voice = self._log, self._voice
        events = log.read(self._after)
        self._after = log.seq
        self._done = not voice._thread
        if voice.stamp.parent is not None:
            events = [event for event in events if event._stamp.within(voice.stamp)]
        return events

    def __del__(self) -> None:
        # `async for` tells its iterator nothing when its body is cancelled. But it drops the iterator while the
        # cancellation unwinds the reading task, and that can be told from a break.
        reader, gone = self._reader, self._gone
        if gone is None or reader is None:
            return
        try:
            cancelled_there = asyncio.current_task() is reader and reader.cancelling() > self._begun
        except RuntimeError:  # no loop in this thread: collected somewhere else, so nobody was reading
            return
        if cancelled_there:
            gone()
