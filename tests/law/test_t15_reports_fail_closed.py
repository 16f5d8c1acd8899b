"""T15: a report that cannot be true counts as what was reserved; where nothing was, it stops a run that is limited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from kit.runs import names, one
from softstop import Agent, Budget, Limits, RunContext, RunStatus, StopCause, Usage, UsageRejected

NEGATIVE = {"output_tokens": -500}
LIMITS = {
    "tokens": (Limits(tokens=1_000), StopCause.token_budget),
    "output_tokens": (Limits(output_tokens=1_000), StopCause.token_budget),
    "cost_usd": (Limits(cost_usd=1), StopCause.cost_budget),  # type: ignore[arg-type]
}


@pytest.fixture
def errors() -> Iterator[list[Any]]:
    """What is logged as an error."""
    captured: list[Any] = []

    def keep(_: object, method: str, line: Any) -> Any:
        if method == "error":
            captured.append((line["event"], line["run_id"], line["problem"]))
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    yield captured
    structlog.reset_defaults()


async def test_a_report_that_cannot_be_true_is_an_event_a_line_in_errors_and_an_error_in_the_log(
    errors: list[Any],
) -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge(NEGATIVE)
        await run.boundary()

    run, events = await one(body, run_id="r")
    [rejected] = [event for event in events if isinstance(event, UsageRejected)]
    assert run.output is not None
    assert run.status is RunStatus.completed, "nothing is limited"
    assert run.output.errors == (f"usage was rejected: {rejected.problem}",)
    assert errors == [("run.usage_rejected", "r", rejected.problem)]


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize("report", [NEGATIVE, {}, {"tokens": 5}, {"prompt_tokens": 5, "total_tokens": 4}], ids=str)
async def test_a_rejected_report_without_a_reservation_stops_the_run_with_the_cause_of_its_limit(
    kind: str, report: dict[str, Any]
) -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge(report)
        await run.boundary()
        raise NotImplementedError

    limits, cause = LIMITS[kind]
    run, events = await one(body, limits=limits)
    assert run.stop is not None
    assert run.stop.limit is not None
    assert (run.status, run.stop.cause, run.stop.limit.kind) == (RunStatus.cancelled, cause, kind)
    assert "0 of 1" in str(run.stop.reason)
    assert "usage was rejected, and nothing was reserved" in str(run.stop.reason)
    assert names(events) == ["RunStarted", "UsageRejected", "RunStopRequested", "RunCancelled"]


@pytest.mark.parametrize("reserved", [Usage(output_tokens=400), Usage(cost_nano_usd=400), None], ids=str)
async def test_what_a_step_has_reserved_of_a_unit_counts_in_that_unit_and_in_no_other(reserved: Usage | None) -> None:
    budget = Budget(tokens=1_000, cost_usd=1, name="tenant")

    async def body(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=reserved):
            run.charge(NEGATIVE)
        await run.boundary()

    run, _ = await one(body, budgets=[budget])
    assert run.stop is not None
    wanted = StopCause.cost_budget if reserved is not None and reserved.output_tokens else StopCause.token_budget
    assert (run.status, run.stop.cause) == (RunStatus.cancelled, wanted)
    held = (400, 0, 400) if wanted is StopCause.cost_budget else (0, 400 if reserved else 0, 0)
    assert (budget.spent, budget.reserved) == (held, (0, 0, 0))


async def test_a_second_bad_report_in_a_step_whose_reservation_is_spent_stops_the_run() -> None:
    async def body(run: RunContext, message: object) -> None:
        for _ in range(2):
            async with run.step("call", reserve=Usage(output_tokens=400)):
                run.charge(NEGATIVE)
        async with run.step("call", reserve=Usage(output_tokens=40)):
            run.charge(NEGATIVE)
            run.charge(NEGATIVE)
        await run.boundary()

    run, _ = await one(body, limits=Limits(tokens=1_000))
    assert run.stop is not None
    assert run.stop.limit is not None
    assert (run.status, run.stop.limit.used) == (RunStatus.cancelled, 840)


async def test_the_outermost_run_that_draws_on_the_limit_is_stopped_for_a_report_of_its_member() -> None:
    async def member(run: RunContext, message: object) -> None:
        run.charge(NEGATIVE)
        await run.boundary()

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(member), "go", limits=Limits(tokens=10))
        raise NotImplementedError

    run, _ = await one(lead, limits=Limits(tokens=1_000))
    assert run.output is not None
    assert run.stop is not None
    (below,) = run.output.members
    assert below.stop is not None
    assert (run.stop.cause, run.stop.limit and run.stop.limit.limit) == (StopCause.token_budget, 1_000)
    assert (below.stop.cause, below.stop.via) == (StopCause.token_budget, run.run_id)


async def test_a_stop_of_the_user_that_came_first_stays_on_record() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("call"):
            run.charge(Usage(output_tokens=1_000), response_id="a")
            run.charge(NEGATIVE)
        await run.boundary()

    run, events = await one(body, limits=Limits(output_tokens=1_000))
    assert run.stop is not None
    assert str(run.stop.reason) == "output_tokens of run: 1,000 of 1,000 used"
    assert names(events).count("RunStopRequested") == 1
