"""The events of a run as encoded pages: from the log of this process, or of a member from what its root has stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import anyio
import anyio.lowlevel
from pydantic_core import from_json

from ..events import Event, Outcome
from ..log.folding import merge_within
from ..log.reader import EventStream
from ..stores import Page

MOST: Final = 500  # events of a page, as in a store: encoding them takes some milliseconds
MANY: Final = 32  # events: a reader that is so far behind gets adjacent content merged
MERGED: Final = 0.05  # seconds within which that was written, as in a store
OUTCOMES: Final = frozenset(
    name.value for cls in Event.CLASSES if issubclass(cls, Outcome) for name in cls.names.values()
)


class Encoded:
    """The newest page of a run, encoded once for all who follow it in step; gone with the last of them."""

    __slots__ = ("__weakref__", "_events", "_page")

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._page = Page((), ended=False)

    def page_of(self, events: list[Event]) -> Page:
        """The events as JSON; where readers lag by many, adjacent content of one step is merged."""
        known = self._events
        if len(known) != len(events) or known[0] is not events[0] or known[-1] is not events[-1]:
            cut = merge_within(events, MERGED, across=False) if len(events) >= MANY else events
            self._events, self._page = events, Page([(event.seq, event.to_json()) for event in cut], ended=False)
        return self._page


class LogPages:
    """The events of a run of this process as encoded pages, up to its outcome. What lags gets larger ones.

    Between two pages of what is there everything else has its turn: a long log is read by many, or by who has left.

    A class and not an async generator: it can be dropped or cancelled at any point, and followed again from an id.
    """

    __slots__ = ("_encoded", "_rest", "_stream")

    def __init__(self, stream: EventStream, encoded: Encoded) -> None:
        self._stream, self._encoded = stream, encoded
        self._rest: list[Event] = []  # that was read and not told yet

    @property
    def more(self) -> bool:
        """Whether the next page is there."""
        return bool(self._rest)

    def __aiter__(self) -> LogPages:
        return self

    async def __anext__(self) -> Page:
        if self._rest:
            await anyio.lowlevel.checkpoint()
            events = self._rest
        else:
            events = await self._stream.read()
            if not events:
                raise StopAsyncIteration
        if len(events) > MOST or self._rest:
            events, self._rest = events[:MOST], events[MOST:]
        return self._encoded.page_of(events)


async def at_once(pages: LogPages) -> AsyncIterator[Page]:
    """What can be read without a wait."""
    page = None
    with anyio.move_on_after(0):
        page = await anext(pages, None)
    while page is not None:
        yield page
        page = await anext(pages) if pages.more else None


class MemberPages:
    """The stored events of a member run, its own members' included: those of its root that are its own."""

    def __init__(self, pages: AsyncIterator[Page], run_id: str, after: int) -> None:
        self._pages, self._run_id, self._after = pages, run_id, after
        self._within = {run_id}
        self._done = False

    def __aiter__(self) -> MemberPages:
        return self

    async def __anext__(self) -> Page:
        while not self._done:
            page = await anext(self._pages)
            own = [(seq, line) for seq, line in page.events if self._is_own(line) and seq > self._after]
            if own:
                return Page(own, ended=self._done)
        raise StopAsyncIteration

    def _is_own(self, line: bytes) -> bool:
        told = from_json(line)
        own = told["run_id"] in self._within or told["parent_run_id"] in self._within
        if own:
            self._within.add(told["run_id"])
            self._done = self._done or (told["run_id"] == self._run_id and told["event"] in OUTCOMES)
        return own
