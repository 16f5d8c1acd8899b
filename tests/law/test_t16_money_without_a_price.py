"""T16: usage without a price stops a run whose money is limited, since that limit cannot hold; unless it is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from kit.runs import one
from softstop import Agent, Budget, Limits, MisuseError, RunContext, RunStatus, StopCause, Usage

UNPRICED, PRICED = Usage(output_tokens=5_000), Usage(output_tokens=5_000, cost_nano_usd=7)


async def spends(run: RunContext, message: object) -> None:
    for _ in range(3):
        async with run.step("call"):
            run.charge(UNPRICED)


@pytest.mark.parametrize("holder", ["limits", "budget"])
@pytest.mark.parametrize("unpriced", [None, "stop", "ignore"])
async def test_usage_without_a_price_stops_a_run_of_limited_money_and_says_how_to_price_it(
    holder: str, unpriced: Any
) -> None:
    told = {} if unpriced is None else {"unpriced": unpriced}
    options: dict[str, Any] = (
        {"limits": Limits(cost_usd=1, **told)} if holder == "limits" else {"budgets": [Budget(cost_usd=1, **told)]}
    )
    run, _ = await one(spends, **options)
    if unpriced == "ignore":
        assert (run.status, run.usage.output_tokens, run.usage.cost_nano_usd) == (RunStatus.completed, 15_000, None)
        return
    assert run.stop is not None
    assert run.stop.limit is not None
    assert (run.status, run.stop.cause) == (RunStatus.cancelled, StopCause.cost_budget)
    assert run.usage.output_tokens == 5_000, "what was begun is finished, nothing more begins"
    assert (run.stop.limit.kind, run.stop.limit.limit, run.stop.limit.used) == ("cost_usd", 1.0, 0.0)
    assert "5,000 tokens were charged without a price; charge a Usage(..., cost_nano_usd=...)" in str(run.stop.reason)


async def test_what_has_a_price_or_no_tokens_stops_nothing() -> None:
    async def body(run: RunContext, message: object) -> str:
        run.charge(PRICED)
        run.charge(Usage(output_tokens=5, cost_nano_usd=0))
        run.charge(Usage())
        await run.boundary()
        return "done"

    run, _ = await one(body, limits=Limits(cost_usd=1))  # type: ignore[arg-type]
    assert (run.status, run.usage.cost_nano_usd) == (RunStatus.completed, 7)


async def test_a_run_that_ignores_it_does_not_do_so_for_the_budget_of_its_tenant() -> None:
    mine, tenant = Limits(cost_usd=1, unpriced="ignore"), Budget(cost_usd=2, name="tenant")  # type: ignore[arg-type]
    run, _ = await one(spends, limits=mine, budgets=[tenant])
    assert run.stop is not None
    assert run.stop.limit is not None
    assert (run.stop.limit.holder, run.stop.cause) == ("tenant", StopCause.cost_budget)


async def test_a_rejected_report_does_not_stop_for_money_that_is_not_counted_anyway() -> None:
    async def body(run: RunContext, message: object) -> str:
        run.charge({"output_tokens": -1})
        await run.boundary()
        return "done"

    run, _ = await one(body, limits=Limits(cost_usd=1, unpriced="ignore"))  # type: ignore[arg-type]
    assert run.status is RunStatus.completed


def test_it_is_checked_where_it_is_given() -> None:
    with pytest.raises(MisuseError, match="unpriced"):
        Budget(cost_usd=1, unpriced="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unpriced"):
        Limits(cost_usd=1, unpriced="never")  # type: ignore[arg-type]
    assert Limits().over(Limits(unpriced="ignore")).unpriced == "ignore"
    assert Agent(spends, limits=Limits(unpriced="ignore")).limits.unpriced == "ignore"
