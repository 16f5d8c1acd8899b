"""Looks at every ledger of a tree of runs at each event and mark, and notes what is wrong. Changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import add
from threading import get_ident
from typing import Final

from softstop.events import Event, UsageRejected
from softstop.law.amounts import Amount
from softstop.law.ledgers import Chain, Ledger
from softstop.runs.run import Run

from ..explorer.recorder import Mark

UNITS: Final = ("tokens", "nano-USD", "output tokens")


class Ledgers:
    """The ledgers that a run and its members draw on, as they stand at each event and each mark.

    What a step charges within what it reserved is bounded; the marks `begin` and `charged` say how much that is. All
    other usage counts as unbounded, and a ledger may be over its limit by that much.
    """

    def __init__(self) -> None:
        self.wrong: dict[tuple[str, str], str] = {}  # the first finding of each kind in each ledger
        self._root: Run | None = None
        self._drawing: dict[str, _RunUse] = {}  # all runs of the tree
        self._seen: dict[int, _LedgerState] = {}
        self._nested: list[tuple[_LedgerState, _LedgerState]] = []  # who draws on the first draws on both
        self._claims: dict[tuple[str, int], Amount] = {}  # what a step reserved and has not charged, by run and step
        self._thread = get_ident()

    def watch(self, root: Run) -> None:
        """Begin with this run; nothing of it has happened yet."""
        self._root = root
        self._inspect()

    def notice(self, entry: Event | Mark) -> None:
        """Look at all ledgers, after an event or a mark."""
        if isinstance(entry, Mark):
            if not self._seen:
                return  # a ledger comes with a run, and a run with an event
            self._count(entry)
        elif isinstance(entry, UsageRejected) or getattr(entry, "status", None) == "abandoned":
            # what its step had reserved is about to count as spent
            for seen in self._seen.values():
                seen.rejected = True
        if get_ident() == self._thread:
            self._inspect()

    def _count(self, mark: Mark) -> None:
        step = mark.run_id, mark.step_id
        amount = mark.amount
        if mark.what == "begin" and any(amount):
            self._claims[step] = amount
        elif mark.what == "charged" and step in self._claims:
            claim = self._claims[step]
            covered = Amount(*map(min, claim, amount))
            self._claims[step] = claim.less(covered) if any(amount) else Amount()  # a bad report forfeits all
            for seen in self._drawing[mark.run_id].ledgers:
                seen.unbounded = seen.unbounded.less(covered)

    def _inspect(self) -> None:
        grown = not self._drawing
        for drawing in self._drawing.values():
            if drawing.ledgers:
                drawing.count()
            grown = grown or drawing.changed()
        if grown:
            self._take_stock()
        for seen in self._seen.values():
            for kind, what in seen.judge():
                self.wrong.setdefault((seen.budget.name, kind), f"ledger {seen.budget.name!r} {what}")
        for inner, outer in self._nested:
            if any(one > other for one, other in zip(inner.held, outer.held, strict=True)):
                what = f"{outer.budget.reserved} reserved, {inner.budget.name!r} below it {inner.budget.reserved}"
                self.wrong.setdefault((outer.budget.name, "less"), f"ledger {outer.budget.name!r} has {what}")

    def _take_stock(self) -> None:
        """A run or a ledger has come."""
        drawn: dict[int, set[str]] = {}
        for run in () if self._root is None else _tree(self._root):
            for budget in run.limits.ledgers:
                if id(budget) not in self._seen:
                    self._seen[id(budget)] = _LedgerState(budget)
                drawn.setdefault(id(budget), set()).add(run.run_id)
            if run.run_id not in self._drawing:
                self._drawing[run.run_id] = _RunUse(run)
            self._drawing[run.run_id].take_stock([self._seen[id(budget)] for budget in run.limits.ledgers])
        self._nested = [
            (self._seen[one], self._seen[other])
            for one in drawn
            for other in drawn
            if one != other and drawn[one] <= drawn[other]
        ]


class _RunUse:
    """One run, and what it has used."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ledgers: list[_LedgerState] = []
        self._members = 0
        self._chain: Chain = ()
        self._used = Amount()
        self.count()

    def count(self) -> None:
        """Add what it has used since the last time to its ledgers."""
        used = Amount.of(self.run.usage)
        if used == self._used:
            return
        more, self._used = used.less(self._used), used
        for seen in self.ledgers:
            seen.used = _sum(seen.used, more)
            seen.unbounded = _sum(seen.unbounded, more)

    def changed(self) -> bool:
        """Whether it has got a member or a ledger."""
        state = self.run._state  # its properties would make a handle each, at every entry of the story
        return len(state.members or ()) != self._members or state.allowance.chain is not self._chain

    def take_stock(self, ledgers: list[_LedgerState]) -> None:
        """From now on it draws on these."""
        self.count()
        self.ledgers, self._members, self._chain = ledgers, len(self.run.members), self.run.limits.ledgers


class _LedgerState:
    """One ledger, and what the runs that draw on it have used since they do."""

    def __init__(self, budget: Ledger) -> None:
        self.budget = budget
        self.rejected = False
        self.used = self.unbounded = Amount()
        self.held = budget.reserved  # as it was at the last look
        self._before = budget.spent
        self._most: list[float] = [-math.inf] * len(UNITS)  # the highest limits so far
        self._over = [max(0.0, over) for over in self._beyond()]

    def _beyond(self) -> list[float]:
        """By how much what is spent and reserved is beyond the limits."""
        limits = [math.inf if limit is None else limit for limit in self.budget.limit]
        self._most = [*map(max, self._most, limits)]
        total = _sum(self.budget.spent, self.budget.reserved)
        return [used - most for used, most in zip(total, self._most, strict=True)]

    def judge(self) -> Iterator[tuple[str, str]]:
        """What is wrong with it now, with a name for the kind of it."""
        self.held = self.budget.reserved
        if min(self.held) < 0:
            yield "negative", f"has {self.held} reserved"
        spent, over = self.budget.spent.less(self._before), self._beyond()
        for index, unit in enumerate(UNITS):
            if spent[index] != self.used[index] and not (self.rejected and spent[index] > self.used[index]):
                yield unit, f"has {spent[index]} {unit} spent, the runs that draw on it used {self.used[index]}"
            if over[index] > self._over[index] + self.unbounded[index]:
                free = self.unbounded[index]
                yield f"over {unit}", f"is {over[index]:g} {unit} over its limit, of which {free} had no bound"


def _sum(one: Amount, other: Amount) -> Amount:
    return Amount(*map(add, one, other))


def _tree(run: Run) -> Iterator[Run]:
    yield run
    for member in run.members:
        yield from _tree(member)
