"""Tokens and money are exact integers, and what is no number is misuse."""

from typing import Any

import pytest

from softstop import Budget, MisuseError
from softstop.law.amounts import Amount, exactly
from softstop.law.ledgers import spend

WRONG: list[Any] = [-1, True, 1.5, "many", float("nan"), float("inf"), 2**63, ..., [], {}, b"1"]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_budget_of_tokens_that_are_no_number_is_misuse(wrong: Any) -> None:
    with pytest.raises(MisuseError, match="tokens"):
        Budget(tokens=wrong)


@pytest.mark.parametrize("wrong", [-1, "free", float("nan"), float("inf"), 10**10, ..., [], {}, "NaN"], ids=repr)
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
        spend((budget._ledger,), Amount(0, 10_000))
    assert budget.spent.nano_usd == 10**8
    assert budget._ledger.reached() == "cost_usd"
    assert type(budget.spent.nano_usd) is int
