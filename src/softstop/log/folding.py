"""Old content, folded into one string for each run and stretch plus eight bytes a delta."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from ..events import Event, RunContent
from ..usage import Tally


class Region:
    """One stretch of the log that holds only content, folded run by run."""

    __slots__ = ("last", "parts")

    def __init__(self, events: list[RunContent]) -> None:
        self.last = events[-1]._seq
        stamps = {event._stamp for event in events}
        if len(stamps) == 1:
            self.parts = {events[0]._stamp: Part(events)}
        else:
            self.parts = {stamp: Part([event for event in events if event._stamp is stamp]) for stamp in stamps}

    def merged(self, after: int) -> list[Event]:
        """One event for each run that wrote above the seq `after`."""
        events = [part.merged(after) for part in self.parts.values() if part.last > after]
        return sorted(events, key=lambda event: event.seq)


class Part:
    """The folded content of one run: one string, and for each delta its seq and the end of its text."""

    __slots__ = ("_at", "_ends", "_seqs", "_stamp", "_usages", "last", "text")

    def __init__(self, events: list[RunContent]) -> None:
        texts = [event._content for event in events]
        newest = events[-1]
        self._stamp, self._at, self.last = newest._stamp, newest._at, newest._seq
        self.text = "".join(texts)
        self._ends = array("L", accumulate(map(len, texts)))
        contiguous = self.last - events[0]._seq + 1 == len(events)
        self._seqs: Sequence[int] = (
            range(events[0]._seq, self.last + 1) if contiguous else array("L", [event._seq for event in events])
        )
        self._usages = [(event._seq, event._metrics) for event in events if event._metrics is not None]

    def merged(self, after: int) -> RunContent:
        """The text of this run above the seq `after`, as one event with the seq and time of the last delta."""
        index = bisect_right(self._seqs, after)
        text = self.text[self._ends[index - 1] if index else 0 :]
        tally = Tally()
        for seq, usage in self._usages:
            if seq > after:
                tally.add(usage)
        return RunContent(text)._stamped(self._stamp, self.last, self._at, None if tally.empty else tally.total())


def last_seq(entry: Event | Region) -> int:
    """The highest seq of an event or a region."""
    return entry.last if isinstance(entry, Region) else entry._seq


def merge_within(events: list[Event], seconds: float) -> list[Event]:
    """The events with adjacent content merged, run by run, where it was written within so many seconds."""
    merged: list[Event] = []
    stretch: list[RunContent] = []
    for event in (*events, None):
        content = event if type(event) is RunContent else None
        if stretch and (content is None or content._at - stretch[0]._at > seconds):
            merged += Region(stretch).merged(0) if len(stretch) > 1 else stretch
            stretch = []
        if content is not None:
            stretch.append(content)
        elif event is not None:
            merged.append(event)
    return merged
