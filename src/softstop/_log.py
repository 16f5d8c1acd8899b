"""The append-only log of a root run, and its readers. Knows events and the loop; no run, no law.

A reader is a position in the log, not a queue: replay is the same read, a slow reader costs nothing, and appending
never waits. Old content is folded to text plus eight bytes a delta; other events are kept as they are.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from .events import Event, Outcome, RunContent, Stamp
from .ports import Observer
from .usage import Tally, Usage

LIVE: Final = 2_048  # events kept whole at the end of the log; above that the older half is folded
LONGEST: Final = 16_384  # characters of one content event; longer text becomes several

T = TypeVar("T", bound=Event)


class Log:
    """All events of a root run and its members, in one order, numbered from 1 without a gap."""

    __slots__ = ("_first", "_folded", "_live", "_waiters", "clock", "late", "loop", "observers", "seq")

    def __init__(
        self, clock: Callable[[], float], loop: asyncio.AbstractEventLoop, observers: tuple[Observer, ...]
    ) -> None:
        self.clock = clock
        self.loop = loop
        self.observers = observers
        self.seq = 0
        self.late = 0  # events that came after the outcome of their run: dropped and counted
        self._first = 1  # seq of the first event in `_live`
        self._live: list[Event] = []
        self._folded: list[Event | _Region] = []
        self._waiters: Waiters = []

    def append(self, event: Event) -> None:
        """Add an event that bears the next seq, and wake the readers."""
        self._live.append(event)
        if self._waiters:
            self._wake()

    def notify(self, event: Event) -> None:
        """Tell the observers of a structural event."""
        for observer in self.observers:
            try:
                observer.notice(event)
            except Exception:  # noqa: BLE001 - boundary: observer call. Watching a run never changes it
                continue

    def fold(self, keep: int) -> None:
        """Fold the content of all but the newest `keep` events."""
        count = len(self._live) - keep
        if count <= 0:
            return
        old, self._live = self._live[:count], self._live[count:]
        self._first += count
        region: _Region | None = None
        for event in old:
            if type(event) is RunContent:
                if region is None:
                    region = _Region()
                    self._folded.append(region)
                region.add(event)
            else:
                region = None
                self._folded.append(event)
        for entry in self._folded:
            if isinstance(entry, _Region):
                entry.close()

    def read(self, after: int) -> list[Event]:
        """All events with a seq above `after`; folded content comes merged, one event a run and stretch."""
        start = after + 1 - self._first
        if start >= 0:
            return self._live[start:]
        return [*self._replay(after), *self._live]

    def _replay(self, after: int) -> Iterator[Event]:
        begin = bisect_right(self._folded, after, key=_last_seq)
        for entry in self._folded[begin:]:
            if isinstance(entry, _Region):
                yield from entry.merged(after)
            else:
                yield entry

    async def grown(self) -> None:
        """Wait for the next event."""
        await wait_in(self._waiters, self.loop)

    def _wake(self) -> None:
        wake_all(self._waiters)


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
            waiter.set_result(None)
    waiters.clear()


class _Region:
    """Content of one stretch of the log without another event between, folded run by run."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[Stamp, _Part] = {}

    def add(self, event: RunContent) -> None:
        part = self._parts.get(event._stamp)
        if part is None:
            part = self._parts[event._stamp] = _Part()
        part.add(event)

    def close(self) -> None:
        for part in self._parts.values():
            part.close()

    @property
    def last(self) -> int:
        return max(part.seqs[-1] for part in self._parts.values())

    def merged(self, after: int) -> list[Event]:
        events = [part.merged(stamp, after) for stamp, part in self._parts.items() if part.seqs[-1] > after]
        return sorted(events, key=lambda event: event.seq)


class _Part:
    """The folded content of one run: one string, and for each delta its seq and where its text ends."""

    __slots__ = ("_at", "_ends", "_pieces", "_text", "_usages", "seqs")

    def __init__(self) -> None:
        self.seqs = array("Q" if array("L").itemsize < 8 else "L")
        self._ends = array("L")
        self._pieces: list[str] = []
        self._text = ""
        self._at = 0.0
        self._usages: list[tuple[int, Usage]] = []  # seq and metrics, of the deltas that had some

    def add(self, event: RunContent) -> None:
        self._pieces.append(event._content)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(event._content))
        self.seqs.append(event._seq)
        self._at = event._at
        if event._metrics is not None:
            self._usages.append((event._seq, event._metrics))

    def close(self) -> None:
        if self._pieces:
            self._text = "".join((self._text, *self._pieces))
            self._pieces = []

    def merged(self, stamp: Stamp, after: int) -> Event:
        index = bisect_right(self.seqs, after)
        text = self._text[self._ends[index - 1] if index else 0 :]
        tally = Tally()
        for seq, usage in self._usages:
            if seq > after:
                tally.add(usage)
        return RunContent(stamp, self.seqs[-1], self._at, None if tally.empty else tally.total(), text)


def _last_seq(entry: Event | _Region) -> int:
    return entry.last if isinstance(entry, _Region) else entry._seq


class Voice:
    """One run's way to write into its root's log: synchronous, never waits, never raises for a limit."""

    __slots__ = ("_pending", "_pieces", "closed", "log", "stamp", "usage")
    signs: tuple[SignOfLife, ...] = ()

    def __init__(self, log: Log, stamp: Stamp) -> None:
        self.log, self.stamp = log, stamp
        self.closed = False  # once the outcome is in the log
        self.usage: Tally | None = None  # all that was charged; made with the first charge
        self._pending: Tally | None = None  # charged since the last event
        self._pieces: list[str] = []

    def write(self, text: str) -> None:
        """Append content, in pieces of at most 16,384 characters; empty text is no event."""
        if self.closed:
            self.log.late += 1
            return
        if len(text) > LONGEST:
            for start in range(0, len(text), LONGEST):
                self.write(text[start : start + LONGEST])
            return
        if not text:
            return
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # a lone surrogate could not be sent to anybody
        log = self.log
        log.seq = seq = log.seq + 1
        self._pieces.append(text)
        metrics = None if self._pending is None else self._take_metrics()
        live = log._live
        live.append(RunContent(self.stamp, seq, log.clock(), metrics, text))
        if log._waiters:
            log._wake()
        if len(live) > LIVE:
            log.fold(LIVE // 2)

    def emit(self, kind: Callable[..., T], *fields: Any) -> T | None:
        """Append a structural event; None if the run has its outcome already."""
        log = self.log
        if self.closed:
            log.late += 1
            return None
        log.seq = seq = log.seq + 1
        metrics = None if self._pending is None else self._take_metrics()
        event = kind(self.stamp, seq, log.clock(), metrics, *fields)
        log.append(event)
        if log.observers:
            log.notify(event)
        return event

    def finish(self, kind: Callable[..., T], *fields: Any) -> T:
        """Append the outcome and close: whatever comes later is dropped and counted."""
        event = self.emit(kind, *fields)
        assert event is not None
        self.closed = True
        self._pieces = []  # the outcome holds the text
        log = self.log
        if self.stamp.parent is None and len(log._live) > 64:
            log.fold(0)
        return event

    def charge(self, usage: Usage) -> None:
        """Add usage to the run's sum and to the metrics of its next event."""
        if self.usage is None:
            self.usage = Tally()
        if self._pending is None:
            self._pending = Tally()
        self.usage.add(usage)
        self._pending.add(usage)

    def alive(self) -> None:
        """Note a sign of life, where somebody watches for it."""

    @property
    def content(self) -> str:
        """All text written so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def _take_metrics(self) -> Usage:
        assert self._pending is not None
        pending, self._pending = self._pending, None
        return pending.total()


class WatchedVoice(Voice):
    """A voice whose every sign of life is timed, for runs with an idle limit: others do not pay for the clock."""

    __slots__ = ("signs",)

    def __init__(self, log: Log, stamp: Stamp, signs: tuple[SignOfLife, ...]) -> None:
        super().__init__(log, stamp)
        self.signs = signs
        self.alive()

    def alive(self) -> None:
        """Note that something happened just now, in this run and those above it."""
        now = self.log.loop.time()
        for sign in self.signs:
            sign.at = now

    def write(self, text: str) -> None:
        self.alive()
        super().write(text)

    def emit(self, kind: Callable[..., T], *fields: Any) -> T | None:
        self.alive()
        return super().emit(kind, *fields)

    def charge(self, usage: Usage) -> None:
        self.alive()
        super().charge(usage)


class SignOfLife:
    """When a run with an idle limit, or one below it, last did something; loop time."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = 0.0


class EventStream:
    """The events of one run, its members' included, oldest first, ending with its outcome. `async for event in stream`.

    A class and not an async generator: it can be dropped, cancelled and resumed at any point without losing an event.
    Adjacent content may come merged for a reader that lags. `read()` gives all that is there at once.
    """

    __slots__ = ("_after", "_batch", "_begun", "_done", "_gone", "_reader", "_voice")

    def __init__(self, voice: Voice, after: int = 0, gone: Callable[[], None] | None = None) -> None:
        self._voice = voice
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
        for event in await self._next_batch():
            return event
        self._gone = None
        raise StopAsyncIteration

    async def read(self) -> list[Event]:
        """All events that are there, waiting for one at least; an empty list after the outcome."""
        return list(self._batch) or list(await self._next_batch())

    async def _next_batch(self) -> Iterator[Event]:
        if self._gone is not None and self._reader is None:
            self._reader = asyncio.current_task()
            self._begun = self._reader.cancelling() if self._reader is not None else 0
        log = self._voice.log
        try:
            if asyncio.get_running_loop() is log.loop:
                events = await self._fetch()
            else:  # a reader on another loop: ask the run's own
                events = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._fetch(), log.loop))
        except asyncio.CancelledError:
            if self._gone is not None:
                gone, self._gone = self._gone, None
                gone()
            raise
        self._batch = iter(events)
        return self._batch

    async def _fetch(self) -> list[Event]:
        voice, log = self._voice, self._voice.log
        while not self._done:
            events = log.read(self._after)
            self._done = voice.closed
            if events:
                self._after = events[-1].seq
                if voice.stamp.parent is not None:
                    events = [event for event in events if event._stamp.within(voice.stamp)]
                if events:
                    return events
            elif not self._done:
                await log.grown()
        return []

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


def is_outcome(event: Event) -> bool:
    """Whether the event is the last one of its run."""
    return isinstance(event, Outcome)
