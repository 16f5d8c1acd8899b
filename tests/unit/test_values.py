"""Small values: sums of usage, money, lines of text. Pure."""

from dataclasses import fields
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softstop import Headroom, LimitReached, Limits, RunLimits, Usage
from softstop.errors import safe_error
from softstop.runnables.startable import slug
from softstop.runs.allowance import LimitChanges
from softstop.testing.invariants.of_stops import KINDS_OF
from softstop.usage import MOST_NANO_USD, MOST_TOKENS

TOKENS = st.integers(0, 3) | st.integers(MOST_TOKENS - 3, MOST_TOKENS)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usages of any kind, also estimates without a count; those that count something may name a model."""
    cost = draw(st.none() | st.integers(0, 3) | st.just(MOST_NANO_USD))
    usage = Usage(
        input_tokens=draw(TOKENS),
        output_tokens=draw(TOKENS),
        reasoning_tokens=draw(TOKENS),
        cost_nano_usd=cost,
        estimated=draw(st.booleans()),
    )
    model = draw(st.sampled_from([None, "a", "b", "c"])) if usage.total_tokens or cost else None
    return usage.model_copy(update={"model": model})


@given(usages())
def test_nothing_added_to_a_usage_changes_nothing(usage: Usage) -> None:
    assert usage + Usage() == Usage() + usage == usage


@given(usages(), usages(), usages())
def test_a_sum_is_the_same_however_its_parts_are_put_together(a: Usage, b: Usage, c: Usage) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a


@given(st.lists(usages()))
def test_the_cost_of_a_sum_is_unknown_if_no_part_has_a_price_or_one_with_tokens_has_none(parts: list[Usage]) -> None:
    costs = [part.cost_nano_usd for part in parts if part.total_tokens or part.cost_nano_usd is not None]
    known = [cost for cost in costs if cost is not None]
    expected = min(sum(known), MOST_NANO_USD) if known and len(known) == len(costs) else None
    assert sum(parts, Usage()).cost_nano_usd == expected


def test_a_sum_names_its_model_only_if_all_that_was_charged_is_of_one() -> None:
    a, b = Usage(output_tokens=1, model="a"), Usage(output_tokens=1, model="b")
    assert (a + a).model == "a"
    assert (a + b).model is None
    assert (a + b + a).model is None
    assert (a + Usage(output_tokens=1)).model is None


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


@pytest.mark.parametrize(("limit", "used", "told"), [(0.01, 0.0123, "0.0123 of 0.01"), (2.0, 2.0012, "2 of 2")])
def test_what_a_clock_is_late_is_told_only_of_a_limit_of_time_so_short_that_it_matters(
    limit: float, used: float, told: str
) -> None:
    assert str(LimitReached(kind="timeout", holder="run", limit=limit, used=used)) == f"timeout of run: {told} used"


@pytest.mark.parametrize(
    ("name", "id"),
    [("Story Teller", "story-teller"), ("¡No. 7!", "no-7"), ("物語", "agent"), ("«A" + "a" * 70, "a" * 64)],
    ids=["words", "signs", "no latin letter", "long"],
)
def test_an_agent_s_id_is_made_of_the_first_letters_and_digits_of_its_name(name: str, id: str) -> None:
    assert slug(name, "agent") == id


def test_each_kind_of_limit_is_known_wherever_limits_are_told_changed_and_judged() -> None:
    """Who adds a kind to `Limits` reads here what else has to know it; `limiting` and `allowance` make it hold."""
    kinds = Limits.model_fields.keys() - {"depth", "warn_at", "on_exhausted", "unpriced"}
    assert set(get_args(LimitReached.model_fields["kind"].annotation)) == kinds
    assert {kind for of_a_cause in KINDS_OF.values() for kind in of_a_cause} == kinds
    assert LimitChanges.__annotations__.keys() == kinds - {"queue_timeout"}
    assert {name for name in vars(RunLimits) if not name.startswith("_")} - {"now", "ledgers", "update"} == (
        kinds - {"queue_timeout"}
    )
    assert {field.name for field in fields(Headroom)} == kinds - {"queue_timeout", "idle_timeout"}


def test_a_total_that_has_become_less_gives_nothing_back() -> None:
    before = Usage(input_tokens=20, output_tokens=9, cost_nano_usd=70)
    assert Usage(input_tokens=12, output_tokens=10, cost_nano_usd=60).beyond(before) == Usage(
        output_tokens=1, cost_nano_usd=0
    )


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"])
def test_a_sum_stays_within_what_a_usage_may_have(name: str) -> None:
    most = Usage.model_validate({name: MOST_TOKENS})
    assert getattr(most + most, name) == MOST_TOKENS
