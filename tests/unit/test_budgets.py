"""Ledgers as pure integers: claimed before spent, never over the limit, served in order, never stuck. No run."""

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from softstop import Budget, MisuseError, Usage
from softstop._amounts import Amount, exactly
from softstop.budgets import Claim, Hold, Verdict, first_reached, spend

DECIDED = (Verdict.granted, Verdict.refused)


def claim(*chain: Budget, tokens: int = 0, nano_usd: int = 0, inside: tuple[Hold, ...] = ()) -> Claim:
    made = Claim(chain, exactly(Amount(tokens, nano_usd)), inside, lambda: None)
    made.enter()
    return made


def hold_of(made: Claim) -> Hold:
    assert made.state is Verdict.granted
    assert made.hold is not None
    return made.hold


# -- any plan of parallel and nested steps ---------------------------------------------------------------------------


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
        self.budgets = (Budget(tokens=100), Budget(tokens=60, cost_usd="0.00000004"), Budget())
        self.limits = ((100, None), (60, 40), (None, None))
        self.open: list[Opened] = []
        self.waiting: list[Opened] = []
        self.spent = [[0, 0] for _ in self.budgets]
        self.count = 0

    # what may happen

    @rule(
        chain=st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
        tokens=st.integers(0, 70),
        nano=st.integers(0, 45),
        pick=st.integers(0, 100),
        nested=st.booleans(),
    )
    def begin(self, chain: list[int], tokens: int, nano: int, pick: int, nested: bool) -> None:
        around = self.open[pick % len(self.open)] if nested and self.open else None
        if around is not None:
            chain = [*(index for index in chain if index not in around.chain), *around.chain]
        self.count += 1
        step = Opened(self.count, tuple(chain), Amount(tokens, nano), around)

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
        left = hold_of(step.claim).left
        amount = Amount(int(left.tokens * share), int(left.nano_usd * share))
        hold_of(step.claim).spend(amount)
        self.count_spent(step, amount)
        self.look()

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 100))
    def forfeit(self, pick: int) -> None:
        step = self.open[pick % len(self.open)]
        left = hold_of(step.claim).left
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
        assert step.claim.state is Verdict.withdrawn
        self.forget(step)
        self.look()
        assert step.told == 0

    @rule(index=st.integers(0, 2), tokens=st.integers(0, 5))
    def spend_without_a_claim(self, index: int, tokens: int) -> None:
        budget, (limit, _) = self.budgets[index], self.limits[index]
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
            self.spent[index][0] += amount.tokens
            self.spent[index][1] += amount.nano_usd

    def look(self) -> None:
        """Note who was decided by what just happened, oldest first."""
        for step in [step for step in self.waiting if step.claim.state in DECIDED]:
            self.waiting.remove(step)
            assert step.told <= 1
            if step.claim.state is Verdict.granted:
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

    def free(self, index: int, *, kept: tuple[Hold, ...] | None = None) -> tuple[float, float]:
        """Room now, or if every hold but those kept were given back."""
        budget = self.budgets[index]
        held = budget.reserved
        if kept is not None:
            mine = [hold.left for hold in kept if budget in hold.chain]
            held = Amount(sum(left.tokens for left in mine), sum(left.nano_usd for left in mine))
        return tuple(  # type: ignore[return-value]
            float("inf") if limit is None else limit - spent - taken
            for limit, spent, taken in zip(self.limits[index], budget.spent, held, strict=True)
        )

    def fits(self, step: Opened, **kept: Any) -> bool:
        rooms = [self.free(index, **kept) for index in step.chain]
        return all(step.need.tokens <= tokens and step.need.nano_usd <= nano for tokens, nano in rooms)

    # what must hold after each of them

    @invariant()
    def reserved_is_what_open_steps_hold_and_never_negative(self) -> None:
        for index, budget in enumerate(self.budgets):
            held = [hold_of(step.claim).left for step in self.open if index in step.chain]
            assert budget.reserved == Amount(sum(a.tokens for a in held), sum(a.nano_usd for a in held))
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


# -- single cases ----------------------------------------------------------------------------------------------------


def test_a_claim_is_granted_at_once_where_there_is_room_and_nobody_waits() -> None:
    budget = Budget(tokens=100)
    assert claim(budget, tokens=100).state is Verdict.granted
    assert budget.reserved.tokens == 100


def test_a_claim_that_can_never_fit_is_refused_and_says_by_whom() -> None:
    run, team = Budget(tokens=1_000, name="run"), Budget(tokens=100, name="team")
    refused = claim(run, team, tokens=101)
    assert refused.state is Verdict.refused
    assert refused.refused_by == (team, "tokens")
    assert (run.reserved.tokens, team.reserved.tokens) == (0, 0)
    both = claim(run, team, tokens=2_000)
    assert both.refused_by == (team, "tokens"), "root before leaf"


def test_a_claim_waits_in_every_ledger_and_reserves_in_none_meanwhile() -> None:
    wide, narrow = Budget(tokens=1_000), Budget(tokens=100)
    first = claim(narrow, tokens=60)
    waiting = claim(wide, narrow, tokens=60)
    assert waiting.state is Verdict.waiting
    assert (wide.reserved.tokens, narrow.reserved.tokens) == (0, 60)
    assert (wide.waiting, narrow.waiting) == (1, 1)
    hold_of(first).release()
    assert waiting.state is Verdict.granted
    assert (wide.waiting, narrow.waiting) == (0, 0)


def test_first_come_first_served_and_small_ones_do_not_starve_a_large_one() -> None:
    budget = Budget(tokens=100)
    holds = [hold_of(claim(budget, tokens=25)) for _ in range(4)]
    large = claim(budget, tokens=90)
    small = [claim(budget, tokens=5) for _ in range(10)]
    for hold in holds[:3]:
        hold.release()
        assert large.state is Verdict.waiting
        assert {other.state for other in small} == {Verdict.waiting}
    holds[3].release()
    assert large.state is Verdict.granted
    assert [other.state for other in small] == [Verdict.granted] * 2 + [Verdict.waiting] * 8
    hold_of(large).release()
    assert {other.state for other in small} == {Verdict.granted}


def test_a_claim_that_gives_up_lets_those_behind_it_go_on() -> None:
    budget = Budget(tokens=100)
    holder = hold_of(claim(budget, tokens=50))
    large, small = claim(budget, tokens=90), claim(budget, tokens=50)
    assert small.state is Verdict.waiting
    large.withdraw()
    assert small.state is Verdict.granted
    holder.release()
    assert budget.reserved.tokens == 50


def test_giving_up_after_having_been_granted_gives_the_room_back() -> None:
    budget = Budget(tokens=100)
    granted = claim(budget, tokens=60)
    granted.withdraw()
    assert budget.reserved.tokens == 0
    granted.withdraw()
    assert budget.reserved.tokens == 0


def test_a_waiting_claim_is_told_exactly_once() -> None:
    budget, told = Budget(tokens=100), []
    holder = hold_of(claim(budget, tokens=100))
    waiting = Claim((budget,), exactly(Amount(50)), (), lambda: told.append(1))
    assert waiting.enter() is Verdict.waiting
    holder.release()
    holder.release()
    spend((budget,), Amount(1))
    assert told == [1]


def test_who_waits_is_refused_as_soon_as_spending_leaves_no_hope() -> None:
    budget = Budget(tokens=100)
    holder = hold_of(claim(budget, tokens=80))
    waiting = claim(budget, tokens=60)
    holder.spend(Amount(30))
    assert waiting.state is Verdict.waiting
    holder.spend(Amount(20))
    assert waiting.state is Verdict.refused


def test_a_step_inside_a_step_does_not_wait_for_the_one_around_it() -> None:
    budget = Budget(tokens=100)
    outer = hold_of(claim(budget, tokens=70))
    assert claim(budget, tokens=30, inside=(outer,)).state is Verdict.granted
    assert claim(budget, tokens=31, inside=(outer,)).state is Verdict.refused


def test_a_step_inside_a_step_does_not_queue_behind_those_who_wait_for_it() -> None:
    budget = Budget(tokens=100)
    outer = hold_of(claim(budget, tokens=50))
    stranger = claim(budget, tokens=80)
    assert stranger.state is Verdict.waiting
    inner = claim(budget, tokens=50, inside=(outer,))
    assert inner.state is Verdict.granted
    hold_of(inner).release()
    outer.release()
    assert stranger.state is Verdict.granted


def test_two_steps_that_wait_for_each_other_are_not_left_waiting() -> None:
    budget = Budget(tokens=100)
    one, two = hold_of(claim(budget, tokens=50)), hold_of(claim(budget, tokens=50))
    first = claim(budget, tokens=10, inside=(one,))
    assert first.state is Verdict.waiting, "the other one may still end"
    second = claim(budget, tokens=10, inside=(two,))
    assert second.state is Verdict.refused, "it would wait for one that waits for it"
    two.release()
    assert first.state is Verdict.granted


def test_a_circle_over_two_ledgers_is_seen_as_well() -> None:
    left, right = Budget(tokens=10), Budget(tokens=10)
    one, two = hold_of(claim(left, tokens=10)), hold_of(claim(right, tokens=10))
    first = claim(right, left, tokens=0, nano_usd=0, inside=(one,))
    assert first.state is Verdict.granted
    needs_right = claim(right, left, tokens=1, inside=(one,))
    assert needs_right.state is Verdict.refused, "its own ledger is held by the step around it"
    wide = Budget(tokens=1_000)
    third, fourth = hold_of(claim(wide, tokens=1)), hold_of(claim(wide, tokens=1))
    waits = claim(right, wide, tokens=5, inside=(third,))
    assert waits.state is Verdict.waiting
    two.release()
    assert waits.state is Verdict.granted
    fourth.release()


def test_a_circle_that_closes_by_spending_is_opened_again() -> None:
    budget = Budget(tokens=120)
    one, two = hold_of(claim(budget, tokens=50)), hold_of(claim(budget, tokens=50))
    third = hold_of(claim(budget, tokens=20))
    first, second = claim(budget, tokens=10, inside=(one,)), claim(budget, tokens=10, inside=(two,))
    assert {first.state, second.state} == {Verdict.waiting}, "the third may free enough for both"
    third.forfeit()
    states = sorted([first.state.value, second.state.value])
    assert states == ["refused", "waiting"], "one has to go, so that the other's room can come"
    (two if first.state is Verdict.waiting else one).release()
    assert Verdict.granted in (first.state, second.state)


def test_who_waits_inside_a_step_is_served_although_a_larger_one_waits_inside_another() -> None:
    budget = Budget(tokens=100)
    one, two, third = (hold_of(claim(budget, tokens=tokens)) for tokens in (30, 30, 40))
    large, small = claim(budget, tokens=45, inside=(one,)), claim(budget, tokens=10, inside=(two,))
    third.release()
    assert (large.state, small.state) == (Verdict.waiting, Verdict.granted)
    hold_of(small).release()
    two.release()
    assert large.state is Verdict.granted


def test_spending_beyond_a_claim_is_counted_and_never_makes_reserved_negative() -> None:
    budget = Budget(tokens=100)
    hold = hold_of(claim(budget, tokens=30))
    hold.spend(Amount(50))
    assert (budget.spent.tokens, budget.reserved.tokens) == (50, 0)
    hold.spend(Amount(100))
    hold.release()
    assert (budget.spent.tokens, budget.reserved.tokens) == (150, 0)
    assert budget.reached() == "tokens"
    assert budget.facts("tokens").overshoot == 50


def test_forfeiting_counts_all_that_is_left_as_spent() -> None:
    budget = Budget(tokens=100)
    hold = hold_of(claim(budget, tokens=30))
    hold.spend(Amount(10))
    hold.forfeit()
    hold.release()
    assert (budget.spent.tokens, budget.reserved.tokens) == (30, 0)


def test_the_outermost_used_up_ledger_is_the_one_told() -> None:
    run, team, tenant = (Budget(tokens=10, name=name) for name in ("run", "team", "tenant"))
    for budget in (run, tenant):
        spend((budget,), Amount(10))
    assert first_reached((run, team, tenant)) == (tenant, "tokens")
    assert first_reached((run, team)) == (run, "tokens")
    assert first_reached((team,)) is None


def test_a_budget_without_limits_only_counts() -> None:
    budget = Budget(name="counter")
    spend((budget,), Amount(10**12, 10**18))
    assert claim(budget, tokens=10**12).state is Verdict.granted
    assert budget.reached() is None
    assert (budget.tokens, budget.cost_usd) == (None, None)


# -- threads ---------------------------------------------------------------------------------------------------------


def test_a_budget_that_serves_eight_threads_loses_nothing() -> None:
    budget, rounds = Budget(tokens=10**9), 2_000

    def work() -> None:
        for _ in range(rounds):
            hold = hold_of(claim(budget, tokens=3))
            hold.spend(Amount(2))
            hold.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (budget.spent.tokens, budget.reserved.tokens) == (8 * rounds * 2, 0)


# -- what is no number -----------------------------------------------------------------------------------------------

WRONG: list[Any] = [-1, 0, True, 1.5, "many", float("nan"), float("inf"), 2**63, ..., [], {}, b"1"]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_budget_of_tokens_that_are_no_number_is_misuse(wrong: Any) -> None:
    with pytest.raises(MisuseError, match="tokens"):
        Budget(tokens=wrong)


@pytest.mark.parametrize("wrong", [-1, 0, "free", float("nan"), float("inf"), 10**10, ..., [], {}, "NaN"], ids=repr)
def test_a_budget_of_money_that_is_no_number_is_misuse(wrong: Any) -> None:
    with pytest.raises(MisuseError, match="cost_usd"):
        Budget(cost_usd=wrong)


@pytest.mark.parametrize("wrong", [Amount(-1, 0), Amount(0, -1)])
def test_a_negative_claim_is_misuse(wrong: Amount) -> None:
    with pytest.raises(MisuseError, match="negative"):
        exactly(wrong)


def test_money_is_counted_in_integers_and_so_exact() -> None:
    budget = Budget(cost_usd="0.1")
    for _ in range(10_000):
        spend((budget,), Amount(0, 10_000))
    assert budget.spent.nano_usd == 10**8
    assert budget.reached() == "cost_usd"
    assert type(budget.spent.nano_usd) is int


@given(st.lists(st.tuples(st.integers(0, 10**12), st.none() | st.integers(0, 10**18)), max_size=20))
def test_spent_never_falls_and_is_the_sum_of_all_usages(usages: list[tuple[int, int | None]]) -> None:
    budget, before = Budget(), Amount()
    for tokens, nano in usages:
        spend((budget,), Amount.of(Usage(output_tokens=tokens, cost_nano_usd=nano)))
        assert budget.spent.tokens >= before.tokens
        assert budget.spent.nano_usd >= before.nano_usd
        before = budget.spent
    assert before == Amount(sum(tokens for tokens, _ in usages), sum(nano or 0 for _, nano in usages))
