"""The events of all runs but their content, for many readers: the newest are kept, so that a reader can come back."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Iterator
from typing import Final

from ..aio.parking import Waiters, wait_in, wake_all
from ..events import Event

KEPT: Final = 2_000  # events; an outcome holds all text of its run
_ID: Final = re.compile(r"([0-9a-f]{8})\.([0-9]{1,18})", re.ASCII)


class Feed:
    """An observer that keeps the newest events, numbered from 1. Their ids are this process's: `<epoch>.<number>`."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.last = 0  # number of the newest event
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._waiters: Waiters = []

    def notice(self, event: Event) -> None:
        """Keep an event."""
        self._events.append(event)
        self.last += 1
        wake_all(self._waiters)

    def after(self, number: int) -> Iterator[tuple[int, Event]]:
        """The events that are kept with a number above this one, oldest first."""
        first = self.last - len(self._events) + 1
        skipped = max(0, number + 1 - first)
        for index in range(skipped, len(self._events)):
            yield first + index, self._events[index]

    def number(self, id: str | None) -> tuple[int, bool]:
        """Where a reader with this `Last-Event-ID` goes on, and whether it has lost events."""
        known = _ID.fullmatch(id or "")
        if known is None or known[1] != self.epoch or int(known[2]) > self.last:
            return self.last, id is not None
        number = int(known[2])
        return number, number + 1 < self.last - len(self._events) + 1

    async def more(self, number: int) -> None:
        """Wait for an event with a number above this one."""
        while self.last == number:
            await wait_in(self._waiters, asyncio.get_running_loop(), lambda: self.last != number)
