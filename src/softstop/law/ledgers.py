"""Ledgers of tokens and money: reserve before spending, pay the actual amount, give back the rest.

A chain is the ledgers one step draws on, nearest first: its run's own limits, its budgets, those of the runs above.
Each change of a chain is one synchronous block under one lock, so that runs of several loops can share a budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from decimal import Decimal
from enum import StrEnum

from ..limits import NANO, Unpriced
from ..stops import LimitReached
from .amounts import CAUSE_OF, NOTHING, Amount, Fit, Room, Unit, Units, checked_room, least_of
from .locks import ForkSafeLock

_lock = ForkSafeLock()  # held for integer arithmetic only; one for all, since chains overlap

WARN_AT = 0.8  # share of a limit at which one warning is emitted


class Ledger:
    """Tokens and money spent and reserved under one limit: a run's own, or that of a `Budget`.

    `spent` falls only where an abandoned step ends after all, and gives back what it has not used (T8).
    """

    __slots__ = (
        "_held_nano_usd", "_held_output", "_held_tokens", "_kept", "_nano_usd", "_nested", "_output", "_tokens",
        "_waiting", "_warn_at", "ignores_unpriced", "limit", "name",
    )  # fmt: skip

    def __init__(
        self,
        tokens: int | None = None,
        cost_usd: Decimal | float | str | None = None,
        name: str = "budget",
        *,
        output_tokens: int | None = None,
        warn_at: float | None = WARN_AT,
        unpriced: Unpriced = "stop",
    ) -> None:
        self.limit = checked_room(tokens, cost_usd, output_tokens, warn_at=warn_at, unpriced=unpriced)
        self.ignores_unpriced = unpriced == "ignore"  # else usage without a price stops who draws on a limit of money
        self._warn_at: dict[Unit, float] = {} if warn_at is None else dict.fromkeys(CAUSE_OF, warn_at)  # still to come
        self._kept = Amount()  # kept back from the limit for a last answer
        self.name = name
        self._tokens = self._nano_usd = self._output = 0  # spent
        self._held_tokens = self._held_nano_usd = self._held_output = 0  # reserved
        self._waiting: deque[Claim] = deque()  # first come, first served
        self._nested: deque[Claim] = deque()  # claims made inside a step that holds some of this ledger

    def __repr__(self) -> str:
        return f"<Ledger {self.name!r} spent={self.spent} reserved={self.reserved}>"

    @property
    def tokens(self) -> int | None:
        """The token limit."""
        return self.limit.tokens

    @property
    def cost_usd(self) -> float | None:
        """The money limit in US dollars."""
        return None if self.limit.nano_usd is None else self.limit.nano_usd / NANO

    @property
    def spent(self) -> Amount:
        """Used so far."""
        return Amount(self._tokens, self._nano_usd, self._output)

    @property
    def reserved(self) -> Amount:
        """Held by begun steps and not spent yet."""
        return Amount(self._held_tokens, self._held_nano_usd, self._held_output)

    @property
    def waiting(self) -> int:
        """How many claims wait for room."""
        return len(self._waiting) + len(self._nested)

    def change(self, limit: Room) -> None:
        """Set the limits, up or down."""
        with _lock.held:
            self.limit = limit
            serve((self,))

    def keep_back(self, share: float, units: Collection[Unit] = tuple(CAUSE_OF)) -> None:
        """Keep a share of the limits back for a last answer; 0 frees it."""
        with _lock.held:
            limits = zip(CAUSE_OF, self.limit, strict=True)
            self._kept = Amount(*(int(limit * share) if limit and unit in units else 0 for unit, limit in limits))
            serve((self,))

    def keeps_back(self, unit: Unit) -> bool:
        """Whether some of a limit is kept back for a last answer."""
        return self._kept[tuple(CAUSE_OF).index(unit)] > 0

    def room(self, mine: Amount | None = None) -> Room:
        """The room that is free now; with `mine`, the room if all holds but that amount were given back."""
        (tokens, nano_usd, output), kept = self.limit, self._kept
        held_tokens, held_nano_usd, held_output = mine or (self._held_tokens, self._held_nano_usd, self._held_output)
        return Room(
            None if tokens is None else tokens - kept.tokens - self._tokens - held_tokens,
            None if nano_usd is None else nano_usd - kept.nano_usd - self._nano_usd - held_nano_usd,
            None if output is None else output - kept.output_tokens - self._output - held_output,
        )

    def reached(self) -> Unit | None:
        """The first unit that is used up."""
        tokens, nano_usd, output = self.limit  # on the hot path of each step: no loop
        if tokens is not None and self._tokens >= tokens - self._kept.tokens:
            return "tokens"
        if nano_usd is not None and self._nano_usd >= nano_usd - self._kept.nano_usd:
            return "cost_usd"
        if output is not None and self._output >= output - self._kept.output_tokens:
            return "output_tokens"
        return None

    def facts(self, unit: Unit) -> LimitReached:
        """One limit as data: its number, its holder and its use."""
        index, scale = tuple(CAUSE_OF).index(unit), NANO if unit == "cost_usd" else 1
        limit = self.limit[index] or 0
        return LimitReached(kind=unit, holder=self.name, limit=limit / scale, used=self.spent[index] / scale)

    def warning(self) -> LimitReached | None:
        """A limit that has reached `warn_at` since the last call; each is returned once."""
        if self._warn_at:
            used = (self._tokens, self._nano_usd, self._output)
            for unit, limit, spent in zip(CAUSE_OF, self.limit, used, strict=True):
                share = None if limit is None else self._warn_at.get(unit)
                if limit is not None and share is not None and spent >= limit * share:
                    del self._warn_at[unit]
                    return self.facts(unit)
        return None

    def _move(self, paid: Units, held: Units) -> None:
        """Add to `spent` and `reserved`; under the lock."""
        tokens, nano_usd, output = paid
        self._tokens += tokens
        self._nano_usd += nano_usd
        self._output += output
        tokens, nano_usd, output = held
        self._held_tokens += tokens
        self._held_nano_usd += nano_usd
        self._held_output += output

    def serve(self) -> list[Claim]:
        """Decide waiting claims, oldest first; return the decided ones, which have left all their queues."""
        decided = [claim for claim in tuple(self._nested) if claim.decide()]  # all: one may wait for another
        while self._waiting and (head := self._waiting[0]).decide():
            decided.append(head)
        return decided


Chain = tuple[Ledger, ...]


class Hold:
    """Room that one begun step has reserved in every ledger of its chain and not spent yet."""

    __slots__ = ("_abandoned", "_left", "chain", "kept_in")

    def __init__(self, chain: Chain, amount: Units) -> None:
        self.chain = chain
        self.kept_in: dict[Hold, None] | None = None  # its owner's holds, which it leaves when it is released
        self._left = amount
        self._abandoned: Amount | None = None  # counted as spent for a step that was abandoned, and not used yet

    @property
    def remaining(self) -> Amount:
        """The part that is not spent yet."""
        return Amount(*self._left)

    def spend(self, amount: Amount) -> None:
        """Pay out of the hold first, then beyond it."""
        with _lock.held:
            paid = amount if self._abandoned is None else self._settle(self._abandoned, amount)
            (tokens, nano_usd, output), (a, b, c) = paid, self._left
            self._change(paid, (min(tokens, a), min(nano_usd, b), min(output, c)))

    def forfeit(self) -> None:
        """Count the remaining part as spent, since the real usage is unknown."""
        with _lock.held:
            self._change(self._left, self._left)

    def abandon(self) -> None:
        """Count the remaining part as spent until the step, which goes on without its run, ends and gives it back."""
        with _lock.held:
            self._abandoned = self.remaining
            self.forfeit()

    def _settle(self, counted: Amount, amount: Amount) -> Amount:
        """The part of late usage that was not counted when the step was abandoned."""
        late = Amount(*map(min, counted, amount))
        self._abandoned = counted.less(late)
        return amount.less(late)

    def release(self) -> None:
        """Give back the remaining part; synchronously, so that no cancellation can interrupt it."""
        if self.kept_in is not None:
            self.kept_in.pop(self, None)
        with _lock.held:
            unused, self._abandoned = self._abandoned, None
            self._change(NOTHING if unused is None else NOTHING.less(unused), self._left)

    def _change(self, paid: Units, given: Units) -> None:
        (tokens, nano_usd, output), (a, b, c) = given, self._left
        self._left = (a - tokens, b - nano_usd, c - output)
        freed = (-tokens, -nano_usd, -output)
        for ledger in self.chain:
            ledger._move(paid, freed)
        serve(self.chain)


def spend(chain: Chain, amount: Amount) -> None:
    """Pay without a hold."""
    with _lock.held:
        for ledger in chain:
            ledger._move(amount, NOTHING)
        serve(chain)


def serve(chain: Chain) -> None:
    """Decide waiting claims of the chain, and of all ledgers whose queue a decided claim has left."""
    todo = list(chain)
    for ledger in todo:
        if ledger._waiting or ledger._nested:
            for claim in ledger.serve():
                todo.extend(other for other in claim.chain if other is not ledger)


def first_reached(chain: Chain) -> tuple[Ledger, Unit] | None:
    """The outermost ledger that is used up: root before leaf (T16)."""
    for ledger in reversed(chain):
        unit = ledger.reached()
        if unit is not None:
            return ledger, unit
    return None


def least(chain: Chain) -> Room:
    """The room of a chain: the smallest of each unit."""
    return chain[0].room() if len(chain) == 1 else least_of(ledger.room() for ledger in chain)


def grant(chain: Chain, fit: Fit) -> Hold | None:
    """Reserve at once if no claim waits and there is room, as for nearly every step; else None: make a `Claim`."""
    with _lock.held:
        for ledger in chain:
            if ledger._waiting:
                return None
        amount = fit(least(chain))
        return None if amount is None else _take(chain, amount)


def _take(chain: Chain, amount: Amount) -> Hold:
    for ledger in chain:
        ledger._move(NOTHING, amount)
    return Hold(chain, amount)


class ClaimState(StrEnum):
    """State of a claim; all but `waiting` are final."""

    waiting = "waiting"
    granted = "granted"
    refused = "refused"
    withdrawn = "withdrawn"


class Claim:
    """One step's request for room in its whole chain: all or nothing.

    It waits while running steps, other than those around it, may still free room, and is refused when none can (in a
    queue: when its turn comes). A step that itself waits inside for room this claim would have to free first, frees
    nothing. A claim from inside a step that holds room skips the queue: the claims there may wait for that step.

    Args:
        chain: The ledgers, nearest first.
        fit: The amount that the step takes of a given room.
        enclosing: The holds of the steps around it, own run and parents.
        on_decided: Called once, synchronously, when a waiting claim is granted or refused.
    """

    __slots__ = ("_around", "_fit", "_on_decided", "chain", "hold", "refused_by", "state")

    def __init__(self, chain: Chain, fit: Fit, enclosing: Iterable[Hold], on_decided: Callable[[], None]) -> None:
        self.chain, self._fit, self._on_decided = chain, fit, on_decided
        self._around = frozenset(enclosing)
        self.state = ClaimState.waiting
        self.hold: Hold | None = None  # set when granted
        self.refused_by: tuple[Ledger, Unit] | None = None  # set when refused

    def enter(self) -> ClaimState:
        """Grant or refuse at once if possible, else queue in every ledger of the chain."""
        with _lock.held:
            if self._settle() is ClaimState.waiting:
                for ledger in self.chain:
                    self._queue(ledger).append(self)
            return self.state

    def decide(self) -> bool:
        """Try again a claim that waits; return whether that decided it, after calling `on_decided`."""
        if self._settle() is ClaimState.waiting:
            return False
        self._leave_queues()
        self._on_decided()
        return True

    def withdraw(self) -> None:
        """Stop waiting; give back the room if it was granted meanwhile."""
        with _lock.held:
            if self.state is ClaimState.waiting:
                self.state = ClaimState.withdrawn
                self._leave_queues()
                serve(self.chain)
            elif self.hold is not None:
                self.hold.release()
                self.hold = None

    def _settle(self) -> ClaimState:
        amount = self._fit(least(self.chain))
        if amount is not None and self._first_in_line():
            self.hold, self.state = _take(self.chain, amount), ClaimState.granted
        elif amount is None and (kept := self._kept_for_good()) is not None:
            self.refused_by, self.state = self._who_refuses(kept), ClaimState.refused
        return self.state

    def _first_in_line(self) -> bool:
        return bool(self._around) or all(not b._waiting or b._waiting[0] is self for b in self.chain)

    def _kept_for_good(self) -> frozenset[Hold] | None:
        """The holds that are not given back before this claim is granted, if they leave it too little; else None."""
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
        """This claim and the nested waiting claims that share a ledger with it, directly or through others."""
        found: list[Claim] = [self]
        ledgers = list(self.chain) if self._around else []
        for ledger in ledgers:
            for claim in ledger._nested:
                if claim not in found:
                    found.append(claim)
                    ledgers.extend(other for other in claim.chain if not any(other is known for known in ledgers))
        return found

    def _who_refuses(self, kept: frozenset[Hold]) -> tuple[Ledger, Unit]:
        """The outermost ledger without room, and in which unit."""
        for ledger in reversed(self.chain):
            room = ledger.room(_held(ledger, kept))
            if self._fit(Room(tokens=room.tokens)) is None:
                return ledger, "tokens"
            if self._fit(Room(output_tokens=room.output_tokens)) is None:
                return ledger, "output_tokens"
            if self._fit(room) is None:
                return ledger, "cost_usd"
        return self.chain[0], "tokens"  # no single ledger: together they leave too little

    def _queue(self, ledger: Ledger) -> deque[Claim]:
        return ledger._nested if self._around else ledger._waiting

    def _leave_queues(self) -> None:
        for ledger in self.chain:
            queue = self._queue(ledger)
            if queue and queue[0] is self:
                queue.popleft()
            elif self in queue:
                queue.remove(self)


def _held(ledger: Ledger, holds: Iterable[Hold]) -> Amount:
    remaining = [hold.remaining for hold in holds if any(held is ledger for held in hold.chain)]
    return Amount(*map(sum, zip(NOTHING, *remaining, strict=True)))
