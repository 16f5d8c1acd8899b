"""The append-only log of a root run and its members.

A reader is a position in the log, not a queue: replay is the same read, a slow reader costs nothing, and appending
never waits. Old content is folded to text plus eight bytes a delta; other events are kept as they are.
"""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from threading import get_ident
from typing import Final, TypeVar, cast

from ..aio.parking import Waiters
from ..events import Event, RunContent, Stamp
from ..protocols import Observer
from .folding import Region, last_seq

MOST_RECENT: Final = 2_048  # events kept whole at the end of the log; above that the older half is folded
FULL: Final = 1 + MOST_RECENT
MOST_HELD: Final = 16_384  # events kept whole for a recorder that has not taken them

T = TypeVar("T", bound=Event)


class Log:
    """All events of a root run and its members, in one order, numbered from 1 without a gap."""

    __slots__ = (
        "_first", "_folded", "_regions", "asked", "clock", "full", "late", "lending", "loop", "observers", "recent",
        "seq", "superseded", "taken", "thread", "waiters",
    )  # fmt: skip

    def __init__(
        self, clock: Callable[[], float], loop: asyncio.AbstractEventLoop, observers: tuple[Observer, ...]
    ) -> None:
        self.clock = clock
        self.loop = loop
        self.observers = observers
        self.thread = get_ident()  # the loop's; cheaper to compare than the running loop
        self.seq = 0
        self.asked = False  # another thread has requested a stop of one of its runs
        self.superseded = False  # another owner has taken the run over: what is in here is not what happened
        self.taken = sys.maxsize  # seq up to which a recorder has taken it, see `Tape`; without one nothing is held
        self.late = 0  # events after the outcome of their run: dropped and counted
        self._first = 1  # seq of the first event in `recent`
        self.full = FULL  # the seq at which the log is to be folded: cheaper to compare than a length
        self.recent: list[Event] = []
        self._folded: list[Event | Region] | None = None  # made with the first fold
        self._regions: list[Region] | None = None  # those of `_folded`
        self.waiters: Waiters | None = None  # readers that are up to date; made with the first
        self.lending: Callable[[], AbstractContextManager[None]] | None = None  # around waits for a run that is queued

    def on_loop(self) -> bool:
        """Whether the caller is in the loop's thread; a third of the cost of `get_running_loop`."""
        return get_ident() == self.thread

    @property
    def half_written(self) -> bool:
        """Whether an event has its seq and is not in the log yet: only a signal handler, or an observer, sees that."""
        return (self.recent[-1]._seq if self.recent else self._first - 1) != self.seq

    def waiter(self) -> asyncio.Future[None]:
        """A future that is set with the next event, for a reader that is up to date."""
        waiter = self.loop.create_future()
        if self.waiters is None:
            self.waiters = [waiter]
        else:
            self.waiters.append(waiter)
        return waiter

    def lends(self) -> AbstractContextManager[None]:
        """A context for a wait for the run: whoever waits for a run that is queued lends it a slot, if it has one."""
        return nullcontext() if self.lending is None else self.lending()

    async def lent(self, wait: Awaitable[None]) -> None:
        """Wait for the run in that context."""
        with self.lends():
            await wait

    def forget(self, waiter: asyncio.Future[None]) -> None:
        """Drop the future of a reader that no longer waits."""
        if self.waiters and waiter in self.waiters:
            self.waiters.remove(waiter)

    def fold(self, keep: int) -> None:
        """Fold the content of all but the newest `keep` events, and of those that a recorder has not taken."""
        self.full = sys.maxsize  # at first: a signal handler in the middle of this writes, and must not fold, too
        count, retry = len(self.recent) - keep, 0
        if 0 < self.seq - self.taken <= MOST_HELD:
            count = min(count, self.taken + 1 - self._first)
            retry = self.seq + MOST_RECENT // 2  # not with each event
        if count > 0:
            self._fold(count)
        self.full = max(retry, self._first + MOST_RECENT)

    def _fold(self, count: int) -> None:
        old = self.recent[:count]
        del self.recent[:count]
        self._first += count
        folded = self._folded = [] if self._folded is None else self._folded
        for kind, stretch in groupby(old, type):
            events = list(stretch)
            if kind is RunContent:
                region = Region(cast("list[RunContent]", events))
                folded.append(region)
                self._regions = self._regions or []
                self._regions.append(region)
            else:
                folded += events

    def text_of(self, stamp: Stamp, since: int) -> str:
        """All text of one run; `since` is a seq before which it wrote nothing."""
        texts: list[str] = []
        if self._regions is not None:
            wrote = self._regions[bisect_right(self._regions, since - 1, key=last_seq) :]
            texts = [region.parts[stamp].text for region in wrote if stamp in region.parts]
        start = max(0, since - self._first)
        texts += [
            event._content for event in self.recent[start:] if type(event) is RunContent and event._stamp is stamp
        ]
        return "".join(texts)

    def read(self, after: int) -> list[Event]:
        """All events with a seq above `after`; folded content merged, one event for each run, step and stretch."""
        start = after + 1 - self._first
        if start >= 0:
            return self.recent[start:]
        return [*self._replay(after), *self.recent]

    def _replay(self, after: int) -> Iterator[Event]:
        folded = self._folded or []
        for entry in folded[bisect_right(folded, after, key=last_seq) :]:
            if isinstance(entry, Region):
                yield from entry.merged(after)
            else:
                yield entry
