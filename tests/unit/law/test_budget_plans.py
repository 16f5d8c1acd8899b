"""Any plan of parallel and nested steps keeps the ledgers right. No run."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kit.budgets import hold_of
from softstop.law.amounts import Amount, exactly
from softstop.law.ledgers import Claim, ClaimState, Hold, Ledger, spend

DECIDED = (ClaimState.granted, ClaimState.refused)


def total(amounts: list[Amount]) -> Amount:
    return Amount(*map(sum, zip(Amount(), *amounts, strict=True)))


class Opened:
    """A step of the plan: its claim, the steps around it, and what it may be asked to spend."""

    def __init__(self, number: int, chain: tuple[int, ...], need: Amount, around: "Opened | None") -> None:
        self.number, self.chain, self.need, self.around = number, chain, need, around
        self.inside: list[Opened] = []
        self.told = 0
        self.claim: Claim

    def holds_around(self) -> tuple[Hold, ...]:
        found, here = [], self.around
        while here is not None:
            found.append(hold_of(here.claim))
            here = here.around
        return tuple(found)


class Plans(RuleBasedStateMachine):
    """Steps claim, spend within their claim, nest, end and give up in any order, over three ledgers that overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.budgets = (Ledger(tokens=100), Ledger(tokens=60, cost_usd="0.00000004", output_tokens=30), Ledger())
        self.limits = ((100, None, None), (60, 40, 30), (None, None, None))
        self.open: list[Opened] = []
        self.waiting: list[Opened] = []
        self.spent = [[0, 0, 0] for _ in self.budgets]
        self.count = 0

    # what may happen

    @rule(
        chain=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
        tokens=st.integers(0, 70),
        nano=st.integers(0, 45),
        output=st.integers(0, 35),
        pick=st.integers(0, 100),
        nested=st.booleans(),
    )
    def begin(self, chain: list[int], tokens: int, nano: int, output: int, pick: int, nested: bool) -> None:
        around = self.open[pick % len(self.open)] if nested and self.open else None
        if around is not None:
            chain = [*(index for index in chain if index not in around.chain), *around.chain]
        self.count += 1
        step = Opened(self.count, tuple(chain), Amount(tokens, nano, output), around)

        def decided() -> None:
            step.told += 1

        ledgers = tuple(self.budgets[index] for index in chain)
        step.claim = Claim(ledgers, exactly(step.need), step.holds_around(), decided)
        step.claim.enter()
        if around is not None:
            around.inside.append(step)
        self.waiting.append(step)
        self.look()
        assert step.told == 0, "told only if it had to wait"

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 100), share=st.floats(0, 1))
    def pay(self, pick: int, share: float) -> None:
        step = self.open[pick % len(self.open)]
        left = hold_of(step.claim).remaining
        amount = Amount(*(int(part * share) for part in left))
        hold_of(step.claim).spend(amount)
        self.count_spent(step, amount)
        self.look()

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 100))
    def forfeit(self, pick: int) -> None:
        step = self.open[pick % len(self.open)]
        left = hold_of(step.claim).remaining
        hold_of(step.claim).forfeit()
        self.count_spent(step, left)
        self.look()

    @precondition(lambda self: self.leaves())
    @rule(pick=st.integers(0, 100))
    def end(self, pick: int) -> None:
        leaves = self.leaves()
        self.close(leaves[pick % len(leaves)])

    @precondition(lambda self: self.waiting)
    @rule(pick=st.integers(0, 100))
    def give_up(self, pick: int) -> None:
        step = self.waiting[pick % len(self.waiting)]
        step.claim.withdraw()
        assert step.claim.state is ClaimState.withdrawn
        self.forget(step)
        self.look()
        assert step.told == 0

    @rule(index=st.integers(0, 2), tokens=st.integers(0, 5))
    def spend_without_a_claim(self, index: int, tokens: int) -> None:
        budget, (limit, *_) = self.budgets[index], self.limits[index]
        if limit is not None and budget.spent.tokens + budget.reserved.tokens + tokens > limit:
            return  # that would be the overshoot that comes without bounds
        spend((budget,), Amount(tokens, 0))
        self.spent[index][0] += tokens
        self.look()

    # bookkeeping of the model

    def leaves(self) -> list[Opened]:
        return [step for step in self.open if not step.inside]

    def close(self, step: Opened) -> None:
        hold_of(step.claim).release()
        self.open.remove(step)
        self.forget(step)
        self.look()

    def forget(self, step: Opened) -> None:
        if step in self.waiting:
            self.waiting.remove(step)
        if step.around is not None:
            step.around.inside.remove(step)

    def count_spent(self, step: Opened, amount: Amount) -> None:
        for index in step.chain:
            self.spent[index] = [*map(sum, zip(self.spent[index], amount, strict=True))]

    def look(self) -> None:
        """Note who was decided by what just happened, oldest first."""
        for step in [step for step in self.waiting if step.claim.state in DECIDED]:
            self.waiting.remove(step)
            assert step.told <= 1
            if step.claim.state is ClaimState.granted:
                self.open.append(step)
                if step.around is None:
                    overtaken = [
                        other.number
                        for other in self.waiting
                        if other.around is None and other.number < step.number and set(other.chain) & set(step.chain)
                    ]
                    assert not overtaken, f"{step.number} was served before {overtaken}"
            else:
                assert step.claim.refused_by is not None
                assert step.claim.refused_by[0] in step.claim.chain
                if step.around is not None:
                    step.around.inside.remove(step)

    def free(self, index: int, *, kept: tuple[Hold, ...] | None = None) -> tuple[float, ...]:
        """Room now, or if every hold but those kept were given back."""
        budget = self.budgets[index]
        held = budget.reserved
        if kept is not None:
            mine = [hold.remaining for hold in kept if budget in hold.chain]
            held = total(mine)
        return tuple(
            float("inf") if limit is None else limit - spent - taken
            for limit, spent, taken in zip(self.limits[index], budget.spent, held, strict=True)
        )

    def fits(self, step: Opened, **kept: Any) -> bool:
        rooms = [self.free(index, **kept) for index in step.chain]
        return all(need <= free for room in rooms for need, free in zip(step.need, room, strict=True))

    # what must hold after each of them

    @invariant()
    def reserved_is_what_open_steps_hold_and_never_negative(self) -> None:
        for index, budget in enumerate(self.budgets):
            held = [hold_of(step.claim).remaining for step in self.open if index in step.chain]
            assert budget.reserved == total(held)
            assert min(budget.reserved) >= 0

    @invariant()
    def spent_is_exactly_what_was_paid(self) -> None:
        assert [list(budget.spent) for budget in self.budgets] == self.spent

    @invariant()
    def no_ledger_is_over_its_limit(self) -> None:
        for budget, limits in zip(self.budgets, self.limits, strict=True):
            for limit, spent, reserved in zip(limits, budget.spent, budget.reserved, strict=True):
                assert limit is None or spent + reserved <= limit

    def queues(self, step: Opened) -> bool:
        """Whether somebody is before it in a queue; steps inside others do not queue."""
        return step.around is None and any(
            other.around is None and other.number < step.number and set(other.chain) & set(step.chain)
            for other in self.waiting
        )

    @invariant()
    def nobody_waits_who_could_be_served(self) -> None:
        for step in self.waiting:
            assert self.queues(step) or not self.fits(step), f"step {step.number} was forgotten"

    @invariant()
    def nobody_whose_turn_it_is_waits_for_room_that_cannot_come(self) -> None:
        for step in self.waiting:
            assert self.queues(step) or self.fits(step, kept=step.holds_around()), f"step {step.number} waits in vain"

    def teardown(self) -> None:
        """When running steps end one by one, everybody who waits is decided: nothing is stuck, nothing leaks."""
        while self.open or self.waiting:
            leaves = self.leaves()
            assert leaves, f"steps {[step.number for step in self.waiting]} wait for each other"
            self.close(leaves[-1])
        assert all(budget.reserved == Amount() for budget in self.budgets)
        assert all(budget.waiting == 0 for budget in self.budgets)


Plans.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_any_plan_of_steps_keeps_the_ledgers_right = Plans.TestCase
