"""Ledgers as pure integers: claimed before spent, never over the limit, served in order, never stuck. No run."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.budgets import claim, hold_of
from softstop import Usage
from softstop.law.amounts import NOTHING, Amount, Room, exactly
from softstop.law.ledgers import Claim, ClaimState, Ledger, first_reached, grant, spend

# -- single cases ----------------------------------------------------------------------------------------------------


def test_a_claim_is_granted_at_once_where_there_is_room_and_nobody_waits() -> None:
    budget = Ledger(tokens=100)
    assert claim(budget, tokens=100).state is ClaimState.granted
    assert budget.reserved.tokens == 100


def test_a_claim_that_can_never_fit_is_refused_and_says_by_whom() -> None:
    run, team = Ledger(tokens=1_000, name="run"), Ledger(tokens=100, name="team")
    refused = claim(run, team, tokens=101)
    assert refused.state is ClaimState.refused
    assert refused.refused_by == (team, "tokens")
    assert (run.reserved.tokens, team.reserved.tokens) == (0, 0)
    both = claim(run, team, tokens=2_000)
    assert both.refused_by == (team, "tokens"), "root before leaf"


def test_a_claim_waits_in_every_ledger_and_reserves_in_none_meanwhile() -> None:
    wide, narrow = Ledger(tokens=1_000), Ledger(tokens=100)
    first = claim(narrow, tokens=60)
    waiting = claim(wide, narrow, tokens=60)
    assert waiting.state is ClaimState.waiting
    assert (wide.reserved.tokens, narrow.reserved.tokens) == (0, 60)
    assert (wide.waiting, narrow.waiting) == (1, 1)
    hold_of(first).release()
    assert waiting.state is ClaimState.granted
    assert (wide.waiting, narrow.waiting) == (0, 0)


def test_first_come_first_served_and_small_ones_do_not_starve_a_large_one() -> None:
    budget = Ledger(tokens=100)
    holds = [hold_of(claim(budget, tokens=25)) for _ in range(4)]
    large = claim(budget, tokens=90)
    small = [claim(budget, tokens=5) for _ in range(10)]
    for hold in holds[:3]:
        hold.release()
        assert large.state is ClaimState.waiting
        assert {other.state for other in small} == {ClaimState.waiting}
    holds[3].release()
    assert large.state is ClaimState.granted
    assert [other.state for other in small] == [ClaimState.granted] * 2 + [ClaimState.waiting] * 8
    hold_of(large).release()
    assert {other.state for other in small} == {ClaimState.granted}


def test_a_claim_that_gives_up_lets_those_behind_it_go_on() -> None:
    budget = Ledger(tokens=100)
    holder = hold_of(claim(budget, tokens=50))
    large, small = claim(budget, tokens=90), claim(budget, tokens=50)
    assert small.state is ClaimState.waiting
    large.withdraw()
    assert small.state is ClaimState.granted
    holder.release()
    assert budget.reserved.tokens == 50


def test_giving_up_after_having_been_granted_gives_the_room_back() -> None:
    budget = Ledger(tokens=100)
    granted = claim(budget, tokens=60)
    granted.withdraw()
    assert budget.reserved.tokens == 0
    granted.withdraw()
    assert budget.reserved.tokens == 0


def test_a_waiting_claim_is_told_exactly_once() -> None:
    budget, told = Ledger(tokens=100), []
    holder = hold_of(claim(budget, tokens=100))
    waiting = Claim((budget,), exactly(Amount(50)), (), lambda: told.append(1))
    assert waiting.enter() is ClaimState.waiting
    holder.release()
    holder.release()
    spend((budget,), Amount(1))
    assert told == [1]


def test_who_waits_is_refused_as_soon_as_spending_leaves_no_hope() -> None:
    budget = Ledger(tokens=100)
    holder = hold_of(claim(budget, tokens=80))
    waiting = claim(budget, tokens=60)
    holder.spend(Amount(30))
    assert waiting.state is ClaimState.waiting
    holder.spend(Amount(20))
    assert waiting.state is ClaimState.refused


def test_a_step_inside_a_step_does_not_wait_for_the_one_around_it() -> None:
    budget = Ledger(tokens=100)
    outer = hold_of(claim(budget, tokens=70))
    assert claim(budget, tokens=30, inside=(outer,)).state is ClaimState.granted
    assert claim(budget, tokens=31, inside=(outer,)).state is ClaimState.refused


def test_a_step_inside_a_step_does_not_queue_behind_those_who_wait_for_it() -> None:
    budget = Ledger(tokens=100)
    outer = hold_of(claim(budget, tokens=50))
    stranger = claim(budget, tokens=80)
    assert stranger.state is ClaimState.waiting
    inner = claim(budget, tokens=50, inside=(outer,))
    assert inner.state is ClaimState.granted
    hold_of(inner).release()
    outer.release()
    assert stranger.state is ClaimState.granted


def test_two_steps_that_wait_for_each_other_are_not_left_waiting() -> None:
    budget = Ledger(tokens=100)
    one, two = hold_of(claim(budget, tokens=50)), hold_of(claim(budget, tokens=50))
    first = claim(budget, tokens=10, inside=(one,))
    assert (first.state, budget.waiting) == (ClaimState.waiting, 1), "the other one may still end"
    second = claim(budget, tokens=10, inside=(two,))
    assert second.state is ClaimState.refused, "it would wait for one that waits for it"
    two.release()
    assert first.state is ClaimState.granted


def test_a_circle_over_two_ledgers_is_seen_as_well() -> None:
    left, right = Ledger(tokens=10), Ledger(tokens=10)
    one, two = hold_of(claim(left, tokens=10)), hold_of(claim(right, tokens=10))
    first = claim(right, left, tokens=0, nano_usd=0, inside=(one,))
    assert first.state is ClaimState.granted
    needs_right = claim(right, left, tokens=1, inside=(one,))
    assert needs_right.state is ClaimState.refused, "its own ledger is held by the step around it"
    wide = Ledger(tokens=1_000)
    third, fourth = hold_of(claim(wide, tokens=1)), hold_of(claim(wide, tokens=1))
    waits = claim(right, wide, tokens=5, inside=(third,))
    assert waits.state is ClaimState.waiting
    two.release()
    assert waits.state is ClaimState.granted
    fourth.release()


def test_a_circle_that_closes_by_spending_is_opened_again() -> None:
    budget = Ledger(tokens=120)
    one, two = hold_of(claim(budget, tokens=50)), hold_of(claim(budget, tokens=50))
    third = hold_of(claim(budget, tokens=20))
    first, second = claim(budget, tokens=10, inside=(one,)), claim(budget, tokens=10, inside=(two,))
    assert {first.state, second.state} == {ClaimState.waiting}, "the third may free enough for both"
    third.forfeit()
    states = sorted([first.state.value, second.state.value])
    assert states == ["refused", "waiting"], "one has to go, so that the other's room can come"
    (two if first.state is ClaimState.waiting else one).release()
    assert ClaimState.granted in (first.state, second.state)


def test_who_may_still_get_room_is_not_refused_with_one_that_cannot() -> None:
    budget = Ledger(tokens=120)
    one, two, third = (hold_of(claim(budget, tokens=tokens)) for tokens in (30, 30, 60))
    small, large = claim(budget, tokens=10, inside=(one,)), claim(budget, tokens=50, inside=(two,))
    assert {small.state, large.state} == {ClaimState.waiting}
    budget.change(Room(tokens=75))
    assert (small.state, large.state) == (ClaimState.waiting, ClaimState.refused)
    third.release()
    assert small.state is ClaimState.granted


def test_who_waits_inside_a_step_is_served_although_a_larger_one_waits_inside_another() -> None:
    budget = Ledger(tokens=100)
    one, two, third = (hold_of(claim(budget, tokens=tokens)) for tokens in (30, 30, 40))
    large, small = claim(budget, tokens=45, inside=(one,)), claim(budget, tokens=10, inside=(two,))
    third.release()
    assert (large.state, small.state) == (ClaimState.waiting, ClaimState.granted)
    hold_of(small).release()
    two.release()
    assert large.state is ClaimState.granted


def test_spending_beyond_a_claim_is_counted_and_never_makes_reserved_negative() -> None:
    budget = Ledger(tokens=100)
    hold = hold_of(claim(budget, tokens=30))
    hold.spend(Amount(50))
    assert (budget.spent.tokens, budget.reserved.tokens) == (50, 0)
    hold.spend(Amount(100))
    hold.release()
    assert (budget.spent.tokens, budget.reserved.tokens) == (150, 0)
    assert budget.reached() == "tokens"
    assert budget.facts("tokens").overshoot == 50


def test_output_beyond_a_claim_leaves_none_reserved() -> None:
    budget = Ledger(output_tokens=100)
    hold = grant((budget,), exactly(Amount(30, 0, 30)))
    assert hold is not None
    hold.spend(Amount(50, 0, 50))
    assert budget.reserved == NOTHING
    hold.release()
    assert (budget.spent, budget.reserved) == (Amount(50, 0, 50), NOTHING)


def test_what_an_abandoned_step_has_not_used_is_given_back_once() -> None:
    budget = Ledger(tokens=100)
    hold = hold_of(claim(budget, tokens=40))
    hold.abandon()
    hold.spend(Amount(10))
    for _ in range(2):
        hold.release()
        assert (budget.spent.tokens, budget.reserved.tokens) == (10, 0)


def test_a_limit_that_is_not_reached_is_not_overshot() -> None:
    assert Ledger(tokens=50).facts("tokens").overshoot == 0


def test_forfeiting_counts_all_that_is_left_as_spent() -> None:
    budget = Ledger(tokens=100)
    hold = hold_of(claim(budget, tokens=30))
    hold.spend(Amount(10))
    hold.forfeit()
    hold.release()
    assert (budget.spent.tokens, budget.reserved.tokens) == (30, 0)


def test_the_outermost_used_up_ledger_is_the_one_told() -> None:
    run, team, tenant = (Ledger(tokens=10, name=name) for name in ("run", "team", "tenant"))
    for budget in (run, tenant):
        spend((budget,), Amount(10))
    assert first_reached((run, team, tenant)) == (tenant, "tokens")
    assert first_reached((run, team)) == (run, "tokens")
    assert first_reached((team,)) is None


def test_a_budget_without_limits_only_counts() -> None:
    budget = Ledger(name="counter")
    spend((budget,), Amount(10**12, 10**18))
    assert claim(budget, tokens=10**12).state is ClaimState.granted
    assert budget.reached() is None
    assert (budget.tokens, budget.cost_usd) == (None, None)


@pytest.mark.parametrize(("share", "limit", "warned_at"), [(0.8, 100, 80), (0.5, 101, 51), (0.25, 4, 1)])
def test_a_limit_warns_once_when_its_share_is_reached_and_not_before(share: float, limit: int, warned_at: int) -> None:
    budget = Ledger(tokens=limit, cost_usd=f"{limit}e-9", name="team", warn_at=share)
    told: list[tuple[str, int, int]] = []
    for _ in range(limit):
        spend((budget,), Amount(1, 1))
        while (warning := budget.warning()) is not None:
            scale = 1 if warning.kind == "tokens" else 10**9
            told.append((warning.kind, round(warning.limit * scale), round(warning.used * scale)))
    assert told == [("tokens", limit, warned_at), ("cost_usd", limit, warned_at)]


# -- limits that change ----------------------------------------------------------------------------------------------


def test_a_claim_that_waits_is_granted_by_a_higher_limit_and_by_what_is_no_longer_kept_back() -> None:
    for served in (lambda budget: budget.keep_back(0), lambda budget: budget.change(Room(tokens=120))):
        budget = Ledger(tokens=100)
        budget.keep_back(0.1)
        held = claim(budget, tokens=10)
        waiting = claim(budget, tokens=85)
        assert waiting.state is ClaimState.waiting
        served(budget)
        assert waiting.state is ClaimState.granted
        hold_of(held).release()


@pytest.mark.parametrize(("unit", "amount"), [("tokens", Amount(90, 0)), ("cost_usd", Amount(0, 90))])
def test_what_is_kept_back_is_used_up_for_all_but_the_last_answer(unit: str, amount: Amount) -> None:
    budget = Ledger(tokens=100, cost_usd="1e-7")
    budget.keep_back(0.1)
    spend((budget,), Amount(*(max(0, part - 1) for part in amount)))
    assert budget.reached() is None
    spend((budget,), Amount(*(min(1, part) for part in amount)))
    assert budget.reached() == unit
    budget.keep_back(0)
    assert budget.reached() is None


def test_each_unit_is_paid_out_of_its_own_part_of_a_hold_and_then_beyond_it() -> None:
    budget = Ledger(tokens=1_000, cost_usd="1e-6")
    hold = hold_of(claim(budget, tokens=100, nano_usd=500))
    hold.spend(Amount(30, 200))
    assert (budget.spent, budget.reserved, hold.remaining) == ((30, 200, 0), (70, 300, 0), (70, 300, 0))
    hold.spend(Amount(100, 200))
    assert (budget.spent, budget.reserved, hold.remaining) == ((130, 400, 0), (0, 100, 0), (0, 100, 0))
    hold.release()
    assert (budget.spent, budget.reserved) == ((130, 400, 0), NOTHING)


# -- threads ---------------------------------------------------------------------------------------------------------


def test_a_budget_that_serves_eight_threads_loses_nothing() -> None:
    budget, rounds = Ledger(tokens=10**9), 2_000

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


@given(st.lists(st.tuples(st.integers(0, 10**12), st.none() | st.integers(0, 10**18)), max_size=20))
def test_spent_never_falls_and_is_the_sum_of_all_usages(usages: list[tuple[int, int | None]]) -> None:
    budget, before = Ledger(), Amount()
    for tokens, nano in usages:
        spend((budget,), Amount.of(Usage(output_tokens=tokens, cost_nano_usd=nano)))
        assert budget.spent.tokens >= before.tokens
        assert budget.spent.nano_usd >= before.nano_usd
        before = budget.spent
    tokens = sum(tokens for tokens, _ in usages)
    assert before == Amount(tokens, sum(nano or 0 for _, nano in usages), tokens)


def test_four_steps_that_wait_for_each_other_in_a_ring_of_budgets_are_not_stuck() -> None:
    ring = [Ledger(tokens=20), Ledger(cost_usd="0.00000002"), Ledger(tokens=20), Ledger(cost_usd="0.00000002")]
    chains = [(ring[number - 1], ring[number]) for number in range(4)]
    holds = [hold_of(claim(*chain, tokens=10, nano_usd=10)) for chain in chains]
    needs = [{"nano_usd": 1}, {"tokens": 1}, {"nano_usd": 1}, {"tokens": 1}]
    states = [
        claim(*chain, inside=(hold,), **need).state for chain, hold, need in zip(chains, holds, needs, strict=True)
    ]
    assert states == [*[ClaimState.waiting] * 3, ClaimState.refused]
