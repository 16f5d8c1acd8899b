"""The slots of `max_running`: which root runs have one, which wait for one, and who lends his. No tasks, no clock."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import cast

from ..runs.state import RunState


class Slots:
    """Slots for root runs; members need none.

    A run that waits for a queued one lends its slot to it, so that the wait can end: the queued one begins at once, and
    the two count as one. The slot comes back when the borrower ends; if the lender ends first, the borrower keeps it. A
    lender whose wait ends before (a timeout, an event that it reads) goes on without a slot. If it then lends once
    more, to another run, both borrowers count, and nobody is admitted until there is room again.

    Slots of several supervisors of one loop know each other: where all who hold a slot wait for queued runs, and those
    who hold theirs do, too, and so on in a circle, one lends its slot to a run for which another one waits.

    Args:
        most: Slots; None is no bound.
    """

    __slots__ = ("_loans", "_waits", "most", "queue", "running")

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.running: dict[RunState, None] = {}  # root runs that have begun and not ended, in that order; if bounded
        self.queue: OrderedDict[RunState, asyncio.TimerHandle | None] = OrderedDict()  # with the end of their patience
        self._loans: dict[RunState, RunState] = {}  # by lender: the run that began in its slot; neither has ended
        self._waits: dict[RunState, list[RunState]] = {}  # by root run: what its code waits for, queued at first

    @property
    def free(self) -> bool:
        """Whether one more may begin."""
        return self.most is None or len(self.running) - len(self._loans) < self.most

    def first(self) -> RunState | None:
        """The queued run that may begin now."""
        return next(iter(self.queue)) if self.queue and self.free else None

    def begin(self, run: RunState) -> None:
        """Count a run as running, which has left the queue or never was there."""
        if self.most is not None:
            self.running[run] = None

    def end(self, run: RunState) -> RunState | None:
        """Count a running run as ended; return the one that had lent its slot to it."""
        self.running.pop(run, None)
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

    def lend(self, waiter: RunState) -> tuple[RunState, RunState] | None:
        """Lend a slot to the first run in this queue for which a running run waits; return lender and borrower.

        A run that waits for a borrower lends nothing more. Who has no slot here makes another one lend, in a circle.
        """
        waits = slots_of(waiter)._waits.get(waiter, [])
        run = next((run for run in waits if run in self.queue), None)
        if run is None or self._loans.get(waiter) in waits:
            return None
        lender = waiter
        if waiter not in self.running:
            if not _in_a_circle(run):
                return None
            lender = self._holders[0]
        self._loans[lender] = run
        return lender, run

    @property
    def _holders(self) -> list[RunState]:
        return [run for run in self.running if run not in self._loans]


def slots_of(run: RunState) -> Slots:
    """The slots in which the root of a run is counted."""
    return cast(Slots, run.owner.slots)


def _in_a_circle(run: RunState) -> bool:
    """Whether whoever holds a slot for which a queued run waits, waits for a queued run himself, and so on."""
    blockers: dict[RunState, list[list[RunState]]] = {}  # of each queued run: what each of those holders waits for
    todo = [run]
    while todo:
        here = todo.pop()
        slots = slots_of(here)
        if here not in blockers and here in slots.queue:
            blockers[here] = [slots._waits.get(holder, []) for holder in slots._holders]
            todo += [each for waits in blockers[here] for each in waits]
    while run in blockers:
        free = [here for here, held in blockers.items() if not all(blockers.keys() & waits for waits in held)]
        if not free:
            return True
        for here in free:
            del blockers[here]
    return False
