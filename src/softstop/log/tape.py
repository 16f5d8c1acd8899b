"""What a recorder reads of a log: see `protocols.Tape`."""

from __future__ import annotations

from collections.abc import Callable

from ..events import Event, Outcome
from ..protocols import tell
from .folding import merge_within
from .log import MOST_RECENT, Log


class LogTape:
    """The position of a recorder in a log, above which nothing is folded.

    It waits as a reader does, so that a log without one pays nothing, and one with it nothing more than for a reader.
    """

    __slots__ = ("_log", "merged")

    def __init__(self, log: Log) -> None:
        self._log = log
        log.taken = log.seq
        self.merged = 0

    def watch(self, call: Callable[[], object]) -> None:
        """Call once, in the turn of the loop after the next event that is not taken; if there is one, in the next."""
        log = self._log
        if log.seq > log.taken:
            log.loop.call_soon(tell, call)
        else:
            log.waiter().add_done_callback(lambda _: tell(call))

    def take(self, within: float = 0.0) -> list[Event]:
        """All events since the last take; content that was written within so many seconds is merged."""
        log = self._log
        events = log.read(log.taken)
        self.merged += log.seq - log.taken - len(events)
        log.taken = log.seq
        last = events[-1] if events else None
        if isinstance(last, Outcome) and last.parent_run_id is None:
            log.fold(0)  # which the end of the run has left to be taken
        elif len(log.recent) > MOST_RECENT:
            log.fold(MOST_RECENT // 2)
        return merge_within(events, within, across=True) if within else events
