"""Claim before spending, pay the actual, give back the rest. Pure integers: no clock, no tasks, no I/O.

A chain is the ledgers one step draws on, nearest first: its run's own limits, its parents', then shared budgets.
Every change of a chain is one synchronous block under one lock, so that a budget may serve runs of several loops.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Literal, NamedTuple

from .errors import MisuseError
from .limits import NANO, Limits
from .stops import LimitReached, StopCause
from .usage import Usage

_lock = threading.RLock()  # held for integer arithmetic only; one for all, since chains overlap

Unit = Literal["tokens", "cost_usd"]
CAUSE_OF: dict[Unit, StopCause] = {"tokens": StopCause.token_budget, "cost_usd": StopCause.cost_budget}


class Amount(NamedTuple):
    """Tokens and nano-USD."""

    tokens: int = 0
    nano_usd: int = 0

    @classmethod
    def of(cls, usage: Usage) -> Amount:
        """What a usage takes from a budget; a call without a price takes no money."""
        return cls(usage.total_tokens, usage.cost_nano_usd or 0)


class Budget:
    """A ledger of tokens and money that any runs, teams or tenants of the process share.

    Args:
        tokens: Input plus output tokens; None counts without a bound.
        cost_usd: US dollars; a Decimal or a string is exact. None counts without a bound.
        name: Shown in events and errors.

    `spent`, `reserved` and `room` are `Amount`s; `spent` never falls, `reserved` is what begun steps may still spend.
    """

    __slots__ = ("_cost_limit", "_nested", "_token_limit", "_waiting", "name", "reserved", "spent")

    def __init__(
        self, tokens: int | None = None, cost_usd: Decimal | float | str | None = None, name: str = "budget"
    ) -> None:
        limits = Limits.model_validate({"tokens": tokens, "cost_usd": cost_usd})
        self._token_limit, self._cost_limit = limits.tokens, limits.cost_nano_usd
        self.name = name
        self.spent = Amount()
        self.reserved = Amount()
        self._waiting: deque[Claim] = deque()  # first come, first served
        self._nested: deque[Claim] = deque()  # claims of steps inside a step that holds some of this budget

    def __repr__(self) -> str:
        return f"<Budget {self.name!r} spent={self.spent} reserved={self.reserved}>"

    @property
    def tokens(self) -> int | None:
        """The token limit."""
        return self._token_limit

    @property
    def cost_usd(self) -> float | None:
        """The money limit in US dollars."""
        return None if self._cost_limit is None else self._cost_limit / NANO

    @property
    def waiting(self) -> int:
        """How many claims wait for room."""
        return len(self._waiting) + len(self._nested)

    def shortage(self, need: Amount, mine: Amount, *, only_spent: bool) -> Unit | None:
        """The first unit that lacks room for `need`; `only_spent` asks for the room if all others gave back theirs."""
        held = mine if only_spent else self.reserved
        if self._token_limit is not None and self.spent.tokens + held.tokens + need.tokens > self._token_limit:
            return "tokens"
        if self._cost_limit is not None and self.spent.nano_usd + held.nano_usd + need.nano_usd > self._cost_limit:
            return "cost_usd"
        return None

    def reached(self) -> Unit | None:
        """The first unit of which everything is spent."""
        if self._token_limit is not None and self.spent.tokens >= self._token_limit:
            return "tokens"
        if self._cost_limit is not None and self.spent.nano_usd >= self._cost_limit:
            return "cost_usd"
        return None

    def facts(self, unit: Unit) -> LimitReached:
        """Number, holder and use of one limit, as data."""
        if unit == "tokens":
            return LimitReached(kind=unit, holder=self.name, limit=self._token_limit or 0, used=self.spent.tokens)
        used = self.spent.nano_usd / NANO
        return LimitReached(kind=unit, holder=self.name, limit=(self._cost_limit or 0) / NANO, used=used)

    def _move(self, spent: Amount, reserved: Amount) -> None:
        self.spent = Amount(self.spent.tokens + spent.tokens, self.spent.nano_usd + spent.nano_usd)
        self.reserved = Amount(self.reserved.tokens + reserved.tokens, self.reserved.nano_usd + reserved.nano_usd)

    def _serve(self) -> None:
        for queue in (self._nested, self._waiting):
            while queue:
                head = queue[0]
                if head.state is Verdict.waiting and head.decide() is Verdict.waiting:
                    break
                if queue and queue[0] is head:
                    queue.popleft()


Chain = tuple[Budget, ...]


class Verdict(StrEnum):
    """What became of a claim."""

    waiting = "waiting"
    granted = "granted"
    refused = "refused"
    withdrawn = "withdrawn"


class Hold:
    """What one begun step has claimed and not yet spent, in every ledger of its chain."""

    __slots__ = ("_left", "chain")

    def __init__(self, chain: Chain, amount: Amount) -> None:
        self.chain, self._left = chain, amount

    @property
    def left(self) -> Amount:
        """The part that is still reserved."""
        return self._left

    def spend(self, amount: Amount) -> None:
        """Pay from the hold first, then beyond it."""
        covered = Amount(min(self._left.tokens, amount.tokens), min(self._left.nano_usd, amount.nano_usd))
        self._change(amount, covered)

    def forfeit(self) -> None:
        """Count all that is left as spent: what was really used is not known."""
        self._change(self._left, self._left)

    def release(self) -> None:
        """Give back what is left. Synchronous, so that no cancellation can come between."""
        self._change(Amount(), self._left)

    def _change(self, spent: Amount, given: Amount) -> None:
        with _lock:
            self._left = Amount(self._left.tokens - given.tokens, self._left.nano_usd - given.nano_usd)
            for budget in self.chain:
                budget._move(spent, Amount(-given.tokens, -given.nano_usd))
            serve(self.chain)


def spend(chain: Chain, amount: Amount) -> None:
    """Pay without a hold."""
    with _lock:
        for budget in chain:
            budget._move(amount, Amount())
        serve(chain)


def serve(chain: Iterable[Budget]) -> None:
    """Let those who wait try again, oldest first."""
    for budget in chain:
        if budget._waiting or budget._nested:
            budget._serve()


def first_reached(chain: Chain) -> tuple[Budget, Unit] | None:
    """The outermost ledger of which everything is spent: root before leaf (T16)."""
    for budget in reversed(chain):
        unit = budget.reached()
        if unit is not None:
            return budget, unit
    return None


class Claim:
    """One step's request for room in its whole chain: all or nothing, now, later, or never.

    Waits while running steps other than those that enclose it may free room; is refused as soon as none may.
    A claim from inside a step that holds some of a budget does not queue behind others there: they may be waiting
    for that very step.

    Args:
        chain: The ledgers, nearest first.
        need: What the step may spend at most.
        enclosing: The holds of the steps around it, own run and parents.
        on_decided: Called once, synchronously, when a waiting claim is granted or refused.
    """

    __slots__ = ("_mine", "_on_decided", "chain", "hold", "need", "refused_by", "state")

    def __init__(self, chain: Chain, need: Amount, enclosing: Iterable[Hold], on_decided: Callable[[], None]) -> None:
        if need.tokens < 0 or need.nano_usd < 0:
            raise MisuseError(f"a reservation cannot be negative: {need}")
        self.chain, self.need, self._on_decided = chain, need, on_decided
        holds = tuple(enclosing)
        self._mine: dict[int, list[Hold]] = {}
        for index, budget in enumerate(chain):
            around = [hold for hold in holds if any(held is budget for held in hold.chain)]
            if around:
                self._mine[index] = around
        self.state = Verdict.waiting
        self.hold: Hold | None = None  # set when granted
        self.refused_by: tuple[Budget, Unit] | None = None  # set when refused

    def enter(self) -> Verdict:
        """Decide at once if possible, else queue in every ledger of the chain."""
        with _lock:
            if self._settle() is Verdict.waiting:
                for index, budget in enumerate(self.chain):
                    (budget._nested if index in self._mine else budget._waiting).append(self)
            return self.state

    def decide(self) -> Verdict:
        """Try again, being at the head of a queue; tells whoever waits if this settles it."""
        if self._settle() is not Verdict.waiting:
            self._leave_queues()
            self._on_decided()
        return self.state

    def withdraw(self) -> None:
        """Stop waiting; gives back the room if it was granted meanwhile."""
        with _lock:
            if self.state is Verdict.waiting:
                self.state = Verdict.withdrawn
                self._leave_queues()
                serve(self.chain)
            elif self.hold is not None:
                self.hold.release()
                self.hold = None

    def _settle(self) -> Verdict:
        short = False
        for index in reversed(range(len(self.chain))):  # root before leaf: the outermost refusal is the one told
            budget, mine = self.chain[index], self._enclosed(index)
            unit = budget.shortage(self.need, mine, only_spent=True)
            if unit is not None:
                self.state = Verdict.refused
                self.refused_by = budget, unit
                return self.state
            short = short or budget.shortage(self.need, mine, only_spent=False) is not None
            if index not in self._mine and budget._waiting and budget._waiting[0] is not self:
                short = True
        if not short:
            for budget in self.chain:
                budget._move(Amount(), self.need)
            self.hold, self.state = Hold(self.chain, self.need), Verdict.granted
        return self.state

    def _enclosed(self, index: int) -> Amount:
        around = self._mine.get(index, ())
        return Amount(sum(hold.left.tokens for hold in around), sum(hold.left.nano_usd for hold in around))

    def _leave_queues(self) -> None:
        for index, budget in enumerate(self.chain):
            queue = budget._nested if index in self._mine else budget._waiting
            if queue and queue[0] is self:
                queue.popleft()
            elif self in queue:
                queue.remove(self)
