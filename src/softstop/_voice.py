"""How a run speaks: it writes into its root's log, synchronously. Never waits, raises for no limit, knows no law."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident  # a third of the cost of asking for the running loop, which asks for the process id
from typing import Any, Final, TypeVar

from ._log import LIVE, Log, wake_all
from .errors import MisuseError
from .events import Event, RunContent, Stamp
from .usage import NO_USAGE, Tally, Usage

LONGEST: Final = 16_384  # characters of one content event; longer text becomes several

SMALL: Final = 64  # events of an ended run that are kept as they are

T = TypeVar("T", bound=Event)
new_event: Final[Callable[[type[RunContent]], RunContent]] = object.__new__


class Voice:
    """One run's way to write into its root's log: synchronous, never waits, never raises for a limit."""

    __slots__ = ("_pending", "_since", "_thread", "log", "stamp", "tally")
    signs: tuple[SignOfLife, ...] = ()

    def __init__(self, log: Log, stamp: Stamp) -> None:
        self.log, self.stamp = log, stamp
        stamp.folded = ()
        self.tally: Tally | None = None  # all that was charged; made with the first charge
        self._thread = log.thread  # 0 once the outcome is in the log: then every write takes the unusual way
        self._pending: Tally | None = None  # charged since the last event
        self._since = log.seq + 1  # nothing of this run stands before it

    def write(self, text: str) -> None:
        """Append content, in pieces of at most 16,384 characters; empty text is no event.

        Raises:
            MisuseError: It is not a string.
        """
        if type(text) is not str or get_ident() != self._thread or not 0 < len(text) <= LONGEST:
            self._write_unusual(text)
            return
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # a lone surrogate could not be sent to anybody
        log = self.log
        log.seq = seq = log.seq + 1
        event = new_event(RunContent)  # field by field: its constructor's frame would be a tenth of the whole way
        event._stamp = self.stamp
        event._seq = seq
        event._at = log.clock()
        event._metrics = None if self._pending is None else self._take_metrics()
        event._content = text
        log.live.append(event)
        if log.waiters:
            wake_all(log.waiters)
        if seq >= log.full:
            log.fold(LIVE // 2)

    def _write_unusual(self, text: str) -> None:
        if not isinstance(text, str):
            raise MisuseError(f"run.write takes a string, not {type(text).__name__}; write str(...) if that is meant")
        loop = self.log.loop
        if self.closed:
            self.log.late += bool(text)
        elif get_ident() == self._thread:
            for start in range(0, len(text), LONGEST):
                self.write(str(text[start : start + LONGEST]))
        elif not loop.is_closed():  # the worker thread of a sync tool
            loop.call_soon_threadsafe(self.write, text)

    @property
    def closed(self) -> bool:
        """Whether the outcome is in the log: whatever comes later is dropped and counted."""
        return self._thread == 0

    def emit(self, kind: Callable[..., T], *fields: Any) -> T | None:
        """Append a structural event; None if the run has its outcome already."""
        log = self.log
        if self._thread == 0:
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
        """Append the outcome, which holds all text, and close."""
        event = self.emit(kind, *fields)
        assert event is not None
        self._thread, self.stamp.folded = 0, None
        log = self.log
        if self.stamp.parent is None and len(log.live) > SMALL:
            log.fold(0)
        return event

    def charge(self, usage: Usage) -> None:
        """Add usage to the run's sum and to the metrics of its next event."""
        if self.tally is None:
            self.tally = Tally()
        if self._pending is None:
            self._pending = Tally()
        self.tally.add(usage)
        self._pending.add(usage)

    def alive(self) -> None:
        """Note a sign of life, where somebody watches for it."""

    @property
    def content(self) -> str:
        """All text written so far."""
        folded, text = self.stamp.folded, self.log.text_of(self.stamp, self._since)
        return "".join((*folded, text)) if folded else text

    @property
    def usage(self) -> Usage:
        """All usage charged so far."""
        return NO_USAGE if self.tally is None else self.tally.total()

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
