"""The append-only log of a root run. Knows events and the loop; no run, no law.

A reader is a position in the log, not a queue: replay is the same read, a slow reader costs nothing, and appending
never waits. Old content is folded to text plus eight bytes a delta; other events are kept as they are.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, groupby
from threading import get_ident
from typing import Final, TypeVar, cast

from .events import Event, RunContent, Stamp
from .ports import Observer
from .usage import Tally

LIVE: Final = 2_048  # events kept whole at the end of the log; above that the older half is folded

T = TypeVar("T", bound=Event)


class Log:
    """All events of a root run and its members, in one order, numbered from 1 without a gap."""

    __slots__ = ("_first", "_folded", "clock", "full", "late", "live", "loop", "observers", "seq", "thread", "waiters")

    def __init__(
        self, clock: Callable[[], float], loop: asyncio.AbstractEventLoop, observers: tuple[Observer, ...]
    ) -> None:
        self.clock = clock
        self.loop = loop
        self.observers = observers
        self.thread = get_ident()  # the loop's; cheaper to compare than the running loop
        self.seq = 0
        self.late = 0  # events that came after the outcome of their run: dropped and counted
        self._first = 1  # seq of the first event in `_live`
        self.full = 1 + LIVE  # the seq at which the log is to be folded: cheaper to compare than a length
        self.live: list[Event] = []
        self._folded: list[Event | _Region] | tuple[()] = ()  # a list from the first fold on: most runs never fold
        self.waiters: Waiters | None = None  # readers that have seen all; a list from the first one on

    def append(self, event: Event) -> None:
        """Add an event that bears the next seq, and wake the readers."""
        self.live.append(event)
        if len(self.live) > LIVE:  # many runs that only begin and end fill the log as well
            self.fold(LIVE // 2)
        if self.waiters:
            wake_all(self.waiters)

    def notify(self, event: Event) -> None:
        """Tell the observers of a structural event."""
        for observer in self.observers:
            try:
                observer.notice(event)
            except Exception:  # noqa: BLE001 - boundary: observer call. Watching a run never changes it
                continue

    def fold(self, keep: int) -> None:
        """Fold the content of all but the newest `keep` events."""
        count = len(self.live) - keep
        if count <= 0:
            return
        old = self.live[:count]
        del self.live[:count]  # always the same list: whoever writes much holds its `append`
        self._first += count
        self.full = self._first + LIVE
        folded = self._folded = self._folded or []
        for kind, stretch in groupby(old, type):
            events = list(stretch)
            folded += [_Region(cast("list[RunContent]", events))] if kind is RunContent else events

    def text_of(self, stamp: Stamp, since: int) -> str:
        """The text of one run that is not folded yet; `since` is a seq before which it wrote nothing."""
        start = max(0, since - self._first)
        return "".join(
            [event._content for event in self.live[start:] if type(event) is RunContent and event._stamp is stamp]
        )

    def read(self, after: int) -> list[Event]:
        """All events with a seq above `after`; folded content comes merged, one event a run and stretch."""
        start = after + 1 - self._first
        if start >= 0:
            return self.live[start:]
        return [*self._replay(after), *self.live]

    def _replay(self, after: int) -> Iterator[Event]:
        begin = bisect_right(self._folded, after, key=_last_seq)
        for entry in self._folded[begin:]:
            if isinstance(entry, _Region):
                yield from entry.merged(after)
            else:
                yield entry


Waiters = list[asyncio.Future[None]]


async def wait_in(waiters: Waiters, loop: asyncio.AbstractEventLoop) -> None:
    """Park on a future of its own until `wake_all`; anyio.Event would cost a third of the event rate."""
    waiter = loop.create_future()
    waiters.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter in waiters:
            waiters.remove(waiter)
        raise


def wake_all(waiters: Waiters) -> None:
    """Wake whoever parked, once."""
    for waiter in waiters:
        if not waiter.done():
            try:
                waiter.set_result(None)
            except RuntimeError:  # its loop is closed, and whoever waited there is gone with it
                continue
    waiters.clear()


def wake_anywhere(waiters: Waiters) -> None:
    """Wake whoever parked, on whichever loop: a budget may have been freed by a run of another one."""
    for waiter in waiters:
        loop = waiter.get_loop()
        if asyncio._get_running_loop() is loop:
            wake_all([waiter])
        elif not loop.is_closed():
            loop.call_soon_threadsafe(wake_all, [waiter])


class _Region:
    """Content of one stretch of the log without another event between, folded run by run."""

    __slots__ = ("_parts", "last")

    def __init__(self, events: list[RunContent]) -> None:
        self.last = events[-1]._seq
        stamps = {event._stamp for event in events}
        if len(stamps) == 1:
            self._parts = [_Part(events)]
        else:
            self._parts = [_Part([event for event in events if event._stamp is stamp]) for stamp in stamps]

    def merged(self, after: int) -> list[Event]:
        events = [part.merged(after) for part in self._parts if part.last > after]
        return sorted(events, key=lambda event: event.seq)


class _Part:
    """The folded content of one run: one string, and for each delta its seq and where its text ends."""

    __slots__ = ("_at", "_ends", "_seqs", "_stamp", "_text", "_usages", "last")

    def __init__(self, events: list[RunContent]) -> None:
        texts = [event._content for event in events]
        newest = events[-1]
        self._stamp, self._at, self.last = newest._stamp, newest._at, newest._seq
        self._text = "".join(texts)
        folded = newest._stamp.folded
        if folded:
            folded.append(self._text)
        elif folded is not None:
            newest._stamp.folded = [self._text]
        self._ends = array("L", accumulate(map(len, texts)))
        contiguous = self.last - events[0]._seq + 1 == len(events)
        self._seqs: Sequence[int] = (
            range(events[0]._seq, self.last + 1) if contiguous else array("L", [event._seq for event in events])
        )
        self._usages = [(event._seq, event._metrics) for event in events if event._metrics is not None]

    def merged(self, after: int) -> RunContent:
        index = bisect_right(self._seqs, after)
        text = self._text[self._ends[index - 1] if index else 0 :]
        tally = Tally()
        for seq, usage in self._usages:
            if seq > after:
                tally.add(usage)
        return RunContent(self._stamp, self.last, self._at, None if tally.empty else tally.total(), text)


def _last_seq(entry: Event | _Region) -> int:
    return entry.last if isinstance(entry, _Region) else entry._seq
