"""Old content, folded into one string for each run and stretch plus eight bytes a delta."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, chain, groupby, pairwise
from operator import attrgetter
from typing import Any, Final, cast

from ..events import Event, RunContent
from ..usage import NO_USAGE, Tally

written_at: Final = attrgetter("_at")


class Region:
    """One stretch of the log that holds only content, folded run by run.

    Args:
        events: All of it.
        across: Whether text of runs that write by turns is merged over that of the others. Then who has one of the
            merged events may lack what an earlier one of the others holds, so all of them must be kept as they are.
    """

    __slots__ = ("last", "parts")

    def __init__(self, events: list[RunContent], *, across: bool = False) -> None:
        self.last = events[-1]._seq
        stamps = {event._stamp for event in events}
        if len(stamps) == 1:
            self.parts = {events[0]._stamp: Part(events, across=across)}
        else:
            self.parts = {
                stamp: Part([event for event in events if event._stamp is stamp], across=across) for stamp in stamps
            }

    def merged(self, after: int) -> list[Event]:
        """The text above the seq `after`, one event for each stretch of one step of a run."""
        return sorted(chain.from_iterable(part.merged(after) for part in self.parts.values()), key=last_seq)


class Part:
    """The folded content of one run: one string, for each delta its seq and the end of its text.

    And for each stretch of one step, the index after its last delta, its step and its time.
    """

    __slots__ = ("_ends", "_seqs", "_stamp", "_steps", "_times", "_turns", "_usages", "last", "text")

    def __init__(self, events: list[RunContent], *, across: bool) -> None:
        texts = [event._content for event in events]
        steps = [event._step_id for event in events]
        self._stamp, self.last = events[-1]._stamp, events[-1]._seq
        self.text = "".join(texts)
        self._ends = array("L", accumulate(map(len, texts)))
        contiguous = self.last - events[0]._seq + 1 == len(events)
        self._seqs: Sequence[int] = (
            range(events[0]._seq, self.last + 1) if contiguous else array("L", [event._seq for event in events])
        )
        turns = [len(steps)]
        keys: Sequence[Any] = steps
        if not (contiguous or across):  # other runs have written by turns: of one stretch `seq - index` is the same
            keys = [(step, seq - index) for index, (step, seq) in enumerate(zip(steps, self._seqs, strict=True))]
        if keys.count(keys[0]) != len(keys):  # branches have written by turns
            turns = [*(index for index, (key, after) in enumerate(pairwise(keys), 1) if key != after), *turns]
        self._turns = array("I", turns)
        self._steps = array("I", [steps[turn - 1] or 0 for turn in turns])  # 0: in no step
        self._times = array("d", [events[turn - 1]._at for turn in turns])
        self._usages = [(event._seq, event._metrics) for event in events if event._metrics is not None]

    def merged(self, after: int) -> list[Event]:
        """The text of this run above the seq `after`, one event a stretch, with seq and time of its last delta."""
        found: list[Event] = []
        first = bisect_right(self._seqs, after)
        usages = deque(usage for usage in self._usages if usage[0] > after)
        for turn, step, at in zip(self._turns, self._steps, self._times, strict=True):
            if turn <= first:
                continue
            text = self.text[self._ends[first - 1] if first else 0 : self._ends[turn - 1]]
            first, seq, metrics = turn, self._seqs[turn - 1], None
            if usages and usages[0][0] <= seq:
                tally = Tally()
                while usages and usages[0][0] <= seq:
                    tally.add(usages.popleft()[1])
                total = tally.total()
                metrics = None if total == NO_USAGE else total
            found.append(RunContent(text, step or None)._stamped(self._stamp, seq, at, metrics))
        return found


def last_seq(entry: Event | Region) -> int:
    """The highest seq of an event or a region."""
    return entry.last if isinstance(entry, Region) else entry._seq


def merge_within(events: list[Event], seconds: float, *, across: bool) -> list[Event]:
    """The events with adjacent content merged where it was written within so many seconds; `across` as of `Region`."""
    merged: list[Event] = []
    for kind, stretch in groupby(events, type):
        adjacent = list(stretch)
        while kind is RunContent and len(adjacent) > 1:
            count = bisect_right(adjacent, adjacent[0]._at + seconds, key=written_at)  # a burst needs no look at each
            texts = cast("list[RunContent]", adjacent[:count])
            merged += Region(texts, across=across).merged(0) if count > 1 else texts
            adjacent = adjacent[count:]
        merged += adjacent
    return merged
