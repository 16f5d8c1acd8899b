"""Small values: sums of usage, money, lines of text. Pure."""

from decimal import Decimal

import pytest

from softstop import Limits, Usage
from softstop.errors import safe_error


def test_a_sum_names_its_model_only_if_there_was_one() -> None:
    a, b = Usage(output_tokens=1, model="a"), Usage(output_tokens=1, model="b")
    assert (a + a).model == "a"
    assert (a + b).model is None


@pytest.mark.parametrize(
    ("usd", "nano"),
    [("0.0000000014", 1), ("0.0000000015", 2), ("0.000000002", 2), ("0.1", 10**8), (0.1, 10**8), ("1e9", 10**18)],
)
def test_dollars_are_rounded_to_the_next_billionth(usd: str | float, nano: int) -> None:
    assert Limits(cost_usd=Decimal(str(usd))).cost_nano_usd == nano


@pytest.mark.parametrize("count", [1, 8, 9, 30])
def test_a_group_s_line_has_eight_of_its_errors_and_says_how_many_more_there_are(count: int) -> None:
    line = safe_error(ExceptionGroup("several", [ValueError(f"no. {number}") for number in range(count)]))
    assert line.count("ValueError") == min(count, 8)
    assert ("; and" in line) is (count > 8)
    if count > 8:
        assert line.endswith(f"; and {count - 8} more")
