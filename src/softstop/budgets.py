"""Claim before spending, pay the actual, give back the rest. Pure integers: no clock, no tasks, no I/O.

A chain is the ledgers one step draws on, nearest first: its run's own limits, its parents', then shared budgets.
Every change of a chain is one synchronous block under one lock, so that a budget may serve runs of several loops.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from pydantic import ValidationError

from ._amounts import Amount, Fit, Room, least_of
from .errors import MisuseError
from .limits import NANO, Limits
from .stops import LimitReached, StopCause

_lock = threading.RLock()  # held for integer arithmetic only; one for all, since chains overlap
if hasattr(os, "register_at_fork"):  # held at a fork, it would stay held in the child
    os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.RLock()))

Unit = Literal["tokens", "cost_usd"]
CAUSE_OF: dict[Unit, StopCause] = {"tokens": StopCause.token_budget, "cost_usd": StopCause.cost_budget}
WARN_AT = 0.8  # share of a limit at which one warning is told


class Budget:
    """A ledger of tokens and money that any runs, teams or tenants of the process share.

    `spent` and `reserved` are pairs of `tokens` and `nano_usd`; what is spent never falls.

    Args:
        tokens: Input plus output tokens; None counts without a bound.
        cost_usd: US dollars; a Decimal or a string is exact. None counts without a bound.
        name: Shown in events and errors.
        warn_at: Share of a limit at which one `BudgetWarning` is told; None tells none.
    """

    __slots__ = (
        "_held_nano_usd", "_held_tokens", "_kept", "_limit", "_nano_usd", "_nested", "_tokens", "_waiting", "_warn_at",
        "name",
    )  # fmt: skip

    def __init__(
        self,
        tokens: int | None = None,
        cost_usd: Decimal | float | str | None = None,
        name: str = "budget",
        *,
        warn_at: float | None = WARN_AT,
    ) -> None:
        self._limit = _checked(tokens, cost_usd, warn_at)
        self._warn_at: dict[Unit, float] = {} if warn_at is None else dict.fromkeys(CAUSE_OF, warn_at)  # not yet told
        self._kept = Amount()  # carved out of the limit for a last answer
        self.name = name
        self._tokens = self._nano_usd = 0  # spent
        self._held_tokens = self._held_nano_usd = 0  # reserved
        self._waiting: deque[Claim] = deque()  # first come, first served
        self._nested: deque[Claim] = deque()  # claims of steps inside a step that holds some of this budget

    def __repr__(self) -> str:
        return f"<Budget {self.name!r} spent={self.spent} reserved={self.reserved}>"

    @property
    def tokens(self) -> int | None:
        """The token limit."""
        return self._limit.tokens

    @property
    def cost_usd(self) -> float | None:
        """The money limit in US dollars."""
        return None if self._limit.nano_usd is None else self._limit.nano_usd / NANO

    @property
    def spent(self) -> Amount:
        """What was paid."""
        return Amount(self._tokens, self._nano_usd)

    @property
    def reserved(self) -> Amount:
        """What begun steps may still spend."""
        return Amount(self._held_tokens, self._held_nano_usd)

    @property
    def waiting(self) -> int:
        """How many claims wait for room."""
        return len(self._waiting) + len(self._nested)

    def raise_to(self, tokens: int | None = None, cost_usd: Decimal | float | str | None = None) -> None:
        """Give more, at once: steps that wait for room go on. What was stopped before stays stopped.

        Raises:
            MisuseError: A new limit is below the old one, or there was none to raise.
        """
        new = _checked(tokens, cost_usd, None)
        for unit, old, wanted in zip(CAUSE_OF, self._limit, new, strict=True):
            if wanted is not None and (old is None or wanted < old):
                scale = 1 if unit == "tokens" else NANO
                has = "no limit" if old is None else f"a limit of {old / scale:,.9g}"
                raise MisuseError(
                    f"raise_to: {self.name} has {has} of {unit}, which {wanted / scale:,.9g} would not raise"
                )
        self.change(Room(*(old if wanted is None else wanted for old, wanted in zip(self._limit, new, strict=True))))

    def change(self, limit: Room) -> None:
        """Set the limits, up or down."""
        with _lock:
            self._limit = limit
            serve((self,))

    def keep_back(self, share: float) -> None:
        """Carve a share out of the limit for a last answer; 0 opens it."""
        with _lock:
            self._kept = Amount(*(0 if limit is None else int(limit * share) for limit in self._limit))
            serve((self,))

    @property
    def keeps_back(self) -> bool:
        """Whether a last answer could still be paid."""
        return any(self._kept)

    def room(self, mine: Amount | None = None) -> Room:
        """What is free now; with `mine`, what would be free if every hold but that were given back."""
        (tokens, nano_usd), kept = self._limit, self._kept
        held_tokens, held_nano_usd = (self._held_tokens, self._held_nano_usd) if mine is None else mine
        return Room(
            None if tokens is None else tokens - kept.tokens - self._tokens - held_tokens,
            None if nano_usd is None else nano_usd - kept.nano_usd - self._nano_usd - held_nano_usd,
        )

    def reached(self) -> Unit | None:
        """The first unit of which everything is spent."""
        tokens, nano_usd = self._limit  # asked before and after each step: no loop
        if tokens is not None and self._tokens >= tokens - self._kept.tokens:
            return "tokens"
        if nano_usd is not None and self._nano_usd >= nano_usd - self._kept.nano_usd:
            return "cost_usd"
        return None

    def facts(self, unit: Unit) -> LimitReached:
        """Number, holder and use of one limit, as data."""
        index, scale = (0, 1) if unit == "tokens" else (1, NANO)
        limit = self._limit[index] or 0
        return LimitReached(kind=unit, holder=self.name, limit=limit / scale, used=self.spent[index] / scale)

    def warning(self) -> LimitReached | None:
        """The limit that has come near its end since the last call, once each."""
        if self._warn_at:
            for unit, limit, spent in zip(CAUSE_OF, self._limit, self.spent, strict=True):
                share = self._warn_at.get(unit)
                if share is not None and limit is not None and spent >= limit * share:
                    del self._warn_at[unit]
                    return self.facts(unit)
        return None

    def _move(self, tokens: int, nano_usd: int, held_tokens: int, held_nano_usd: int) -> None:
        """Add to what is spent and what is reserved."""
        self._tokens += tokens
        self._nano_usd += nano_usd
        self._held_tokens += held_tokens
        self._held_nano_usd += held_nano_usd

    def serve(self) -> list[Claim]:
        """Let those who wait try again, oldest first; returns who was decided and so has left all its queues."""
        decided = [claim for claim in tuple(self._nested) if claim.decide()]  # each may be what another one waits for
        while self._waiting and (head := self._waiting[0]).decide():
            decided.append(head)
        return decided


def _checked(tokens: int | None, cost_usd: Decimal | float | str | None, warn_at: float | None) -> Room:
    try:
        limits = Limits.model_validate({"tokens": tokens, "cost_usd": cost_usd, "warn_at": warn_at})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise MisuseError(f"this is no budget: {first['loc'][0]}: {first['msg']}") from None
    return Room(limits.tokens, limits.cost_nano_usd)


Chain = tuple[Budget, ...]


class Hold:
    """What one begun step has claimed and not yet spent, in every ledger of its chain."""

    __slots__ = ("_nano_usd", "_tokens", "chain")

    def __init__(self, chain: Chain, amount: Amount) -> None:
        self.chain = chain
        self._tokens, self._nano_usd = amount

    @property
    def left(self) -> Amount:
        """The part that is still reserved."""
        return Amount(self._tokens, self._nano_usd)

    def spend(self, amount: Amount) -> None:
        """Pay from the hold first, then beyond it."""
        with _lock:
            tokens, nano_usd = amount
            self._change(tokens, nano_usd, min(self._tokens, tokens), min(self._nano_usd, nano_usd))

    def forfeit(self) -> None:
        """Count all that is left as spent: what was really used is not known."""
        with _lock:
            self._change(self._tokens, self._nano_usd, self._tokens, self._nano_usd)

    def release(self) -> None:
        """Give back what is left. Synchronous, so that no cancellation can come between."""
        with _lock:
            self._change(0, 0, self._tokens, self._nano_usd)

    def _change(self, tokens: int, nano_usd: int, given_tokens: int, given_nano_usd: int) -> None:
        self._tokens -= given_tokens
        self._nano_usd -= given_nano_usd
        for budget in self.chain:
            budget._move(tokens, nano_usd, -given_tokens, -given_nano_usd)
        serve(self.chain)


def spend(chain: Chain, amount: Amount) -> None:
    """Pay without a hold."""
    with _lock:
        for budget in chain:
            budget._move(*amount, 0, 0)
        serve(chain)


def serve(chain: Chain) -> None:
    """Let those who wait try again, here and wherever somebody waited behind one who is decided by that."""
    left = list(chain)
    for budget in left:
        if budget._waiting or budget._nested:
            for claim in budget.serve():
                left.extend(other for other in claim.chain if other is not budget)


def first_reached(chain: Chain) -> tuple[Budget, Unit] | None:
    """The outermost ledger of which everything is spent: root before leaf (T16)."""
    for budget in reversed(chain):
        unit = budget.reached()
        if unit is not None:
            return budget, unit
    return None


def least(chain: Chain) -> Room:
    """The room of a chain: the smallest of each unit."""
    return chain[0].room() if len(chain) == 1 else least_of(budget.room() for budget in chain)


def grant(chain: Chain, fit: Fit) -> Hold | None:
    """Claim at once where nobody waits and there is room: what nearly every step needs. None: a `Claim` may wait."""
    with _lock:
        for budget in chain:
            if budget._waiting or budget._nested:
                return None
        amount = fit(least(chain))
        return None if amount is None else _take(chain, amount)


def _take(chain: Chain, amount: Amount) -> Hold:
    for budget in chain:
        budget._move(0, 0, *amount)
    return Hold(chain, amount)


class Verdict(StrEnum):
    """What became of a claim."""

    waiting = "waiting"
    granted = "granted"
    refused = "refused"
    withdrawn = "withdrawn"


class Claim:
    """One step's request for room in its whole chain: all or nothing, now, later, or never.

    Waits while running steps other than those that enclose it may free room; is refused once none may (behind others:
    when its turn comes). Steps that wait inside themselves, and could not go on before this one does, free nothing.
    A claim from inside a step that holds something does not queue behind others: they may wait for that very step.

    Args:
        chain: The ledgers, nearest first.
        fit: What the step takes of a given room.
        enclosing: The holds of the steps around it, own run and parents.
        on_decided: Called once, synchronously, when a waiting claim is granted or refused.
    """

    __slots__ = ("_around", "_fit", "_on_decided", "chain", "hold", "refused_by", "state")

    def __init__(self, chain: Chain, fit: Fit, enclosing: Iterable[Hold], on_decided: Callable[[], None]) -> None:
        self.chain, self._fit, self._on_decided = chain, fit, on_decided
        self._around = frozenset(enclosing)
        self.state = Verdict.waiting
        self.hold: Hold | None = None  # set when granted
        self.refused_by: tuple[Budget, Unit] | None = None  # set when refused

    def enter(self) -> Verdict:
        """Decide at once if possible, else queue in every ledger of the chain."""
        with _lock:
            if self._settle() is Verdict.waiting:
                for budget in self.chain:
                    self._queue(budget).append(self)
            return self.state

    def decide(self) -> bool:
        """Try again, if it waits and its turn has come; whether this settles it, which is told to whoever waits."""
        if self.state is not Verdict.waiting or self._settle() is Verdict.waiting:
            return False
        self._leave_queues()
        self._on_decided()
        return True

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
        amount = self._fit(least(self.chain))
        if amount is not None and self._first_in_line():
            self.hold, self.state = _take(self.chain, amount), Verdict.granted
        elif amount is None and (kept := self._kept_for_good()) is not None:
            self.refused_by, self.state = self._who_refuses(kept), Verdict.refused
        return self.state

    def _first_in_line(self) -> bool:
        return bool(self._around) or all(not b._waiting or b._waiting[0] is self for b in self.chain)

    def _kept_for_good(self) -> frozenset[Hold] | None:
        """The holds that cannot be given back before this claim is granted, if what they leave is too little for it."""
        tangled = self._tangled()
        while True:
            kept = frozenset(hold for claim in tangled for hold in claim._around)
            stay = [
                claim for claim in tangled if claim._fit(least_of(b.room(_held(b, kept)) for b in claim.chain)) is None
            ]
            if self not in stay:
                return None
            if len(stay) == len(tangled):
                return kept
            tangled = stay

    def _tangled(self) -> list[Claim]:
        """This claim and the waiting ones inside other steps that share a ledger with it, directly or by a third."""
        found: list[Claim] = [self]
        ledgers = list(self.chain) if self._around else []
        for budget in ledgers:
            for claim in budget._nested:
                if claim not in found:
                    found.append(claim)
                    ledgers.extend(other for other in claim.chain if not any(other is known for known in ledgers))
        return found

    def _who_refuses(self, kept: frozenset[Hold]) -> tuple[Budget, Unit]:
        """The outermost ledger without room, and in which unit."""
        for budget in reversed(self.chain):
            room = budget.room(_held(budget, kept))
            if self._fit(Room(tokens=room.tokens)) is None:
                return budget, "tokens"
            if self._fit(room) is None:
                return budget, "cost_usd"
        return self.chain[0], "tokens"  # no single one: together they leave too little

    def _queue(self, budget: Budget) -> deque[Claim]:
        return budget._nested if self._around else budget._waiting

    def _leave_queues(self) -> None:
        for budget in self.chain:
            queue = self._queue(budget)
            if queue and queue[0] is self:
                queue.popleft()
            elif self in queue:
                queue.remove(self)


def _held(budget: Budget, holds: Iterable[Hold]) -> Amount:
    lefts = [hold.left for hold in holds if any(held is budget for held in hold.chain)]
    return Amount(sum(left.tokens for left in lefts), sum(left.nano_usd for left in lefts))
