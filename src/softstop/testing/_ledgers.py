"""Looks at every ledger of a tree of runs whenever something is told, and notes what is wrong. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from threading import get_ident

from softstop._run import Run
from softstop.budgets import Budget
from softstop.events import Event, UsageRejected

from ._witness import Mark


class Ledgers:
    """The ledgers that a run and its members draw on, as they stand at each event and each mark.

    What a step charges within what it reserved is bounded; the marks `begin` and `charged` tell how much that is. All
    other usage counts as unbounded, and a ledger may be over its limit by that much.
    """

    def __init__(self) -> None:
        self.wrong: dict[tuple[str, str], str] = {}  # the first finding of each kind in each ledger
        self._root: Run | None = None
        self._seen: dict[int, _Seen] = {}
        self._numbers: dict[str, int] = {}  # of runs, as bits
        self._claims: dict[tuple[str, int], int] = {}  # tokens a step reserved and has not charged, by run and step
        self._bounded: dict[str, int] = {}  # tokens a run charged within what its steps had reserved
        self._rejected = False
        self._thread = get_ident()

    def watch(self, root: Run) -> None:
        """Begin with this run; nothing of it has happened yet."""
        self._root = root
        self.look()

    def notice(self, entry: Event | Mark) -> None:
        """Something was told; look at all ledgers."""
        if isinstance(entry, UsageRejected):
            self._rejected = True  # what its step had reserved is about to count as spent
        elif isinstance(entry, Mark):
            self._hear(entry)
        if get_ident() == self._thread:
            self.look()

    def _hear(self, mark: Mark) -> None:
        step = mark.run_id, mark.step_id
        if mark.what == "begin" and isinstance(mark.value, int):
            self._claims[step] = mark.value
        elif mark.what == "charged" and step in self._claims:
            covered = min(self._claims[step], int(mark.value))
            self._claims[step] = self._claims[step] - covered if mark.value else 0  # a bad report forfeits all
            self._bounded[mark.run_id] = self._bounded.get(mark.run_id, 0) + covered

    def look(self) -> None:
        """Hold all ledgers against the law as they are now."""
        if self._root is None:
            return
        for seen in self._seen.values():
            seen.begin()
        for run in _tree(self._root):
            if chain := run.boundary.chain:
                usage, bit = run.usage, self._numbers.setdefault(run.run_id, 1 << len(self._numbers))
                bounded = self._bounded.get(run.run_id, 0)
                for budget in chain:
                    if id(budget) not in self._seen:
                        self._seen[id(budget)] = _Seen(budget)
                    self._seen[id(budget)].add(bit, usage.total_tokens, usage.cost_nano_usd, bounded)
        for seen in self._seen.values():
            for kind, what in seen.judge(rejected=self._rejected):
                self.wrong.setdefault((seen.budget.name, kind), f"ledger {seen.budget.name!r} {what}")
        self._compare()

    def _compare(self) -> None:
        """Whatever is reserved by some runs is also reserved in each ledger that all of them draw on."""
        all_seen = list(self._seen.values())
        for inner in all_seen if len(all_seen) > 1 else ():
            for outer in all_seen:
                if not inner.runs & ~outer.runs and any(map(int.__gt__, inner.reserved, outer.reserved)):
                    self.wrong.setdefault(
                        (outer.budget.name, "less"),
                        f"ledger {outer.budget.name!r} has {outer.reserved} reserved, {inner.budget.name!r} below it "
                        f"{inner.reserved}",
                    )


class _Seen:
    """One ledger, and what the runs that draw on it have used since they do."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.runs = 0  # those that draw on it, as bits
        self.reserved = budget.reserved
        self._spent_before = budget.spent
        self._before: dict[int, tuple[int, int]] = {}  # tokens and money that a run had used when it was first seen
        self._most: float = 0  # the highest token limit so far
        self._over = max(0.0, sum((self._spent_before.tokens, self.reserved.tokens)) - self._limit())
        self._tokens = self._cost = self._unbounded = 0
        self._priced = True

    def _limit(self) -> float:
        return float("inf") if self.budget.tokens is None else self.budget.tokens

    def begin(self) -> None:
        """Count anew."""
        self._tokens = self._cost = self._unbounded = 0

    def add(self, bit: int, tokens: int, cost: int | None, bounded: int) -> None:
        """Count what one run has used; a sum with an unknown part tells nothing about money."""
        if not self.runs & bit:
            self.runs |= bit
            self._before[bit] = tokens, cost or 0
        tokens_before, cost_before = self._before[bit]
        self._tokens += tokens - tokens_before
        self._cost += (cost or 0) - cost_before
        self._unbounded += tokens - bounded
        self._priced = self._priced and (cost is not None or not tokens)

    def judge(self, *, rejected: bool) -> Iterator[tuple[str, str]]:
        """What is wrong with it now, with a name for the kind of it."""
        budget = self.budget
        reserved, now = budget.reserved, budget.spent
        self.reserved = reserved
        if reserved.tokens < 0 or reserved.nano_usd < 0:
            yield "negative", f"has {reserved} reserved"
        spent, cost = now.tokens - self._spent_before.tokens, now.nano_usd - self._spent_before.nano_usd
        if spent < self._tokens or (spent > self._tokens and not rejected):
            yield "tokens", f"has {spent} tokens spent, the runs that draw on it used {self._tokens}"
        if self._priced and (cost < self._cost or (cost > self._cost and not rejected)):
            yield "cost", f"has {cost} nano-USD spent, the runs that draw on it used {self._cost}"
        self._most = max(self._most, self._limit())
        over = now.tokens + reserved.tokens - self._most
        if over > self._over + self._unbounded:
            yield "over", f"is {over:g} tokens over its limit, and {self._unbounded} were spent without a bound"


def _tree(run: Run) -> Iterator[Run]:
    yield run
    for member in run.members:
        yield from _tree(member)  # type: ignore[arg-type]  # a Life that is a Run, as all are
