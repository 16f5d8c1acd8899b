"""Writing into a root's log: synchronously, from any thread; never waits, never raises for a limit."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any, Final, TypeVar

from ..aio.crossing import call_on
from ..aio.parking import wake_all
from ..errors import MisuseError
from ..events import Event, LimitsChanged, Outcome, RunContent, Stamp, StepCompleted
from ..protocols import tell
from ..usage import NO_USAGE, Tally, Usage
from .log import MOST_RECENT, Log

LONGEST: Final = 16_384  # characters of one content event; longer text becomes several
SMALL: Final = 64  # events of an ended run that are kept as they are

T = TypeVar("T", bound=Event)
new_event: Final[Callable[[type[RunContent]], RunContent]] = object.__new__


class Activity:
    """Loop time of the last activity of a run with an idle limit, or of its members."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = 0.0


class Writer:
    """One run's access to its root's log: writes its events and sums its usage, until the outcome."""

    __slots__ = ("_pending", "_since", "_told", "closed", "log", "stamp", "tally")
    activities: tuple[Activity, ...] = ()

    def __init__(self, log: Log, stamp: Stamp) -> None:
        self.log, self.stamp = log, stamp
        self.closed = False  # the outcome is in the log: later events are dropped and counted
        self.tally: Tally | None = None  # all charged usage; made with the first charge
        self._pending: dict[int | None, Tally] | None = None  # charged and not told yet, by step; None: in no step
        self._told: dict[int, Tally] | None = None  # by open step, what its content has told
        self._since = log.seq + 1  # its first event has at least this seq

    def write(self, text: str, step_id: int | None = None) -> None:
        """Append content, in pieces of at most 16,384 characters; empty text is no event. From any thread.

        Args:
            text: The content.
            step_id: The step in which it was written.

        Raises:
            MisuseError: It is not a string.
        """
        log = self.log
        if type(text) is not str or get_ident() != log.thread or self.closed or not 0 < len(text) <= LONGEST:
            self._write_unusual(text, step_id)
            return
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be encoded to be sent
        log.seq = seq = log.seq + 1
        event = new_event(RunContent)  # field by field: 170 ns less a delta than by its constructor
        event._stamp = self.stamp
        event._seq = seq
        event._at = log.clock()
        event._metrics = None if self._pending is None else self._take_metrics(step_id)
        event._content = text
        event._step_id = step_id
        log.recent.append(event)
        if log.waiters:
            wake_all(log.waiters)
        if seq >= log.full:
            log.fold(MOST_RECENT // 2)

    def _write_unusual(self, text: str, step_id: int | None) -> None:
        if not isinstance(text, str):
            raise MisuseError(f"run.write takes a string, not {type(text).__name__}; write str(...) if that is meant")
        if self.closed:
            self.log.late += bool(text)
        elif self.log.on_loop():
            for start in range(0, len(text), LONGEST):
                self.write(str(text[start : start + LONGEST]), step_id)
        else:
            call_on(self.log.loop, self.write, text, step_id)  # the worker thread of a sync tool

    def emit(self, event: T) -> T | None:
        """Append a structural event; None if the outcome is in the log already."""
        log = self.log
        if self.closed:
            log.late += 1
            return None
        log.seq = seq = log.seq + 1
        event._stamp = self.stamp
        event._seq = seq
        event._at = log.clock()
        event._metrics = None if self._pending is None and self._told is None else self._metrics_of(event)
        log.recent.append(event)
        if log.waiters:
            wake_all(log.waiters)
        if seq >= log.full:  # also without content, as by many short members
            log.fold(MOST_RECENT // 2)
        for observer in log.observers:
            tell(observer.notice, event)
        return event

    def finish(self, outcome: T) -> T:
        """Append the outcome, which holds all text, and close the writer."""
        try:
            self.emit(outcome)
        finally:  # also if an observer raises KeyboardInterrupt
            self.closed = True
        log = self.log
        if self.stamp.parent is None and len(log.recent) > SMALL:
            log.fold(0)
        return outcome

    def charge(self, usage: Usage, step_id: int | None = None) -> None:
        """Add usage to the run's sum, and to the metrics of the next event of this step, or of none."""
        if self.tally is None:
            self.tally = Tally()
        if self._pending is None:
            self._pending = {}
        self.tally.add(usage)
        pending = self._pending.get(step_id)
        if pending is None:
            pending = self._pending[step_id] = Tally()
        pending.add(usage)

    def touch(self) -> None:
        """Note activity; a no-op without an idle limit."""

    @property
    def content(self) -> str:
        """All text written so far."""
        return self.log.text_of(self.stamp, self._since)

    @property
    def usage(self) -> Usage:
        """All usage charged so far."""
        return NO_USAGE if self.tally is None else self.tally.total()

    def _take_metrics(self, step_id: int | None) -> Usage | None:
        """What the next content of a step, or of none, adds."""
        usage = self._take(step_id)
        if usage is not None and step_id is not None:
            if self._told is None:
                self._told = {}
            self._told.setdefault(step_id, Tally()).add(usage)
        return usage

    def _metrics_of(self, event: Event) -> Usage | None:
        """What a structural event adds."""
        if isinstance(event, StepCompleted):
            return self._end_step(event, event.step_id)
        if not isinstance(event, Outcome):
            return self._take(None)
        pending, self._pending = self._pending or {}, None  # also what was charged when its step had told its end
        return sum((tally.total() for tally in pending.values()), NO_USAGE) if pending else None

    def _end_step(self, event: Any, step_id: int) -> Usage | None:
        """What the end of a step adds; set its usage."""
        usage = event._usage = self._take(step_id)
        told = None if self._told is None else self._told.pop(step_id, None)
        if told is not None:
            event._usage = told.total() if usage is None else told.total() + usage
            self._told = self._told or None
        return usage

    def _take(self, step_id: int | None) -> Usage | None:
        tally = None if self._pending is None else self._pending.pop(step_id, None)
        self._pending = self._pending or None
        return None if tally is None else tally.total()


class WatchedWriter(Writer):
    """A writer that notes the time of each activity, for runs with an idle limit: others do not pay for the clock."""

    __slots__ = ("activities",)

    def __init__(self, log: Log, stamp: Stamp, activities: tuple[Activity, ...]) -> None:
        super().__init__(log, stamp)
        self.activities = activities

    def touch(self) -> None:
        """Note activity in this run and those above it."""
        now = self.log.loop.time()
        for activity in self.activities:
            activity.at = now

    def write(self, text: str, step_id: int | None = None) -> None:
        """Do as `Writer`, and note activity."""
        self.touch()
        super().write(text, step_id)

    def emit(self, event: T) -> T | None:
        """Do as `Writer`, and note activity, if it is the run's own."""
        if not isinstance(event, LimitsChanged):
            self.touch()
        return super().emit(event)

    def charge(self, usage: Usage, step_id: int | None = None) -> None:
        """Do as `Writer`, and note activity."""
        self.touch()
        super().charge(usage, step_id)
