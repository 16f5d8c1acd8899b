"""The slots of `max_running`: which root runs have one, which wait for one, and who lends his. No tasks, no clock."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from ..runs.state import RunState


class Slots:
    """Slots for root runs; members need none.

    A run that waits for a queued one lends its slot to it, so that the wait can end: the queued one begins at once, and
    the two count as one. The slot comes back when the borrower ends; if the lender ends first, the borrower keeps it. A
    lender whose wait ends before (a timeout, an event that it reads) goes on without a slot. If it then lends once
    more, to another run, both borrowers count, and nobody is admitted until there is room again.

    Args:
        most: Slots; None is no bound.
    """

    __slots__ = ("_loans", "_waits", "most", "queue", "running")

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.running = 0  # root runs that have begun and have no outcome
        self.queue: OrderedDict[RunState, asyncio.TimerHandle | None] = OrderedDict()  # with the end of their patience
        self._loans: dict[RunState, RunState] = {}  # by lender: the run that began in its slot; neither has ended
        self._waits: dict[RunState, list[RunState]] = {}  # by root run: what its code waits for, queued at first

    @property
    def free(self) -> bool:
        """Whether one more may begin."""
        return self.most is None or self.running - len(self._loans) < self.most

    def first(self) -> RunState | None:
        """The queued run that may begin now."""
        return next(iter(self.queue)) if self.queue and self.free else None

    def begin(self, run: RunState) -> None:
        """Count a queued run as running."""
        self.leave_queue(run)
        self.running += 1

    def end(self, run: RunState) -> RunState | None:
        """Count a running run as ended; return the one that had lent its slot to it."""
        self.running -= 1
        if not self._waits:
            return None
        self._waits.pop(run, None)
        self._loans.pop(run, None)
        lender = next((lender for lender, borrower in self._loans.items() if borrower is run), None)
        if lender is not None:
            del self._loans[lender]
        return lender

    def leave_queue(self, run: RunState) -> None:
        """Take a run out of the queue, if it is there."""
        patience = self.queue.pop(run, None)
        if patience is not None:
            patience.cancel()
        run.writer.log.lending = None

    def wait(self, waiter: RunState, run: RunState) -> None:
        """Note that a running run waits for another one."""
        self._waits.setdefault(waiter, []).append(run)

    def end_wait(self, waiter: RunState, run: RunState) -> None:
        """Undo `wait`."""
        if run in self._waits.get(waiter, ()):
            self._waits[waiter].remove(run)

    def lend(self, lender: RunState) -> RunState | None:
        """Lend a slot to the first queued run for which this one waits, unless it waits for a borrower; return that."""
        waits = self._waits.get(lender, [])
        run = next((run for run in waits if run in self.queue), None)
        if run is None or self._loans.get(lender) in waits:
            return None
        self._loans[lender] = run
        return run
