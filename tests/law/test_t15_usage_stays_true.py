"""T15: usage is checked when built, only adds up, stands in every outcome and budget; bad reports fail closed."""

import asyncio
import functools
from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kit.runs import begun, deaf, listen, names, one
from softstop import (
    Agent,
    Budget,
    Limits,
    MisuseError,
    Outcome,
    RunContext,
    RunStatus,
    StopPolicy,
    Supervisor,
    Usage,
    current_run,
)
from softstop.testing import run_virtual

CHARGES = [Usage(input_tokens=10, output_tokens=3, cost_nano_usd=7), Usage(output_tokens=4, cost_nano_usd=5)]
SUM = Usage(input_tokens=10, output_tokens=7, cost_nano_usd=12)


@pytest.mark.parametrize("end", ["completes", "fails", "is stopped", "is cut", "is abandoned"])
async def test_every_outcome_carries_the_usage_so_far(end: str) -> None:
    async def body(run: RunContext, message: object) -> None:
        for usage in CHARGES:
            run.charge(usage)
        if end == "fails":
            raise KeyError("x")
        if end == "is cut":
            async with run.step("pay"):
                await anyio.sleep(1_000)
        if end == "is abandoned":
            await deaf(20)
        if end == "is stopped":
            await anyio.sleep(1_000)

    stop_at = None if end in ("completes", "fails") else 3.0
    run, events = await one(body, stop_at=stop_at, policy=StopPolicy(grace=1, abandon_after=1))
    outcome = events[-1]
    assert isinstance(outcome, Outcome)
    assert outcome.usage == SUM
    assert run.output is not None
    assert run.output.usage == run.usage == SUM
    assert run.output.usage.total_tokens == 17
    await anyio.sleep(20)


async def test_the_metrics_of_a_run_s_events_add_up_to_its_outcome_s_usage() -> None:
    async def member(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=100))
        run.write("x")
        run.charge(Usage(output_tokens=11))

    async def body(run: RunContext, message: object) -> None:
        run.charge(Usage(input_tokens=1))
        run.write("a")
        run.write("b")
        async with run.step("pay"):
            run.charge(Usage(output_tokens=2))
            run.charge(Usage(output_tokens=3))
        await run.member(Agent(member), "go", run_id="m")
        run.charge(Usage(output_tokens=4))

    run, events = await one(body, run_id="lead")
    for name, expected in (("lead", 10), ("m", 111)):
        own = [event for event in events if event.run_id == name]
        assert sum(event.metrics.total_tokens for event in own if event.metrics) == expected
        assert own[-1].usage.total_tokens == expected  # type: ignore[attr-defined]
    assert run.usage.total_tokens == 10
    carried = [(type(e).__name__, e.metrics.total_tokens) for e in events if e.metrics and e.run_id == "lead"]
    assert carried == [("RunContent", 1), ("StepCompleted", 5), ("RunCompleted", 4)]


async def test_usage_charged_inside_a_begun_step_after_the_stop_is_counted() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("call"):
            await anyio.sleep(10)
            run.charge(Usage(output_tokens=5))
        await anyio.sleep(1)

    run, _ = await one(body, stop_at=3)
    assert run.usage.output_tokens == 5


async def test_a_charge_reaches_the_run_s_parents_and_shared_budgets_at_once() -> None:
    team, tenant = Budget(name="team"), Budget(tokens=10_000, name="tenant")
    at_once: list[tuple[int, int]] = []

    async def member(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=30, cost_nano_usd=9))
        at_once.extend((team.spent, tenant.spent))

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(member), "go", budgets=[tenant])

    await one(lead, budgets=[team], limits=Limits(tokens=1_000))
    assert at_once == [(30, 9, 30), (30, 9, 30)]
    assert (team.spent, tenant.spent) == ((30, 9, 30), (30, 9, 30))


async def test_a_budget_shared_on_two_levels_is_charged_once() -> None:
    budget = Budget(tokens=1_000)

    async def member(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=30))

    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(member), "go", budgets=[budget])

    await one(lead, budgets=[budget])
    assert budget.spent.tokens == 30


# -- bounded non-negative integers -----------------------------------------------------------------------------------

NUMBERS = ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"]
WRONG: list[Any] = [
    -1,
    True,
    1.0,
    1.5,
    "12",
    None,
    float("nan"),
    float("inf"),
    2**63,
    10**12 + 1,
    [],
    {},
    Ellipsis,
    b"1",
]


@pytest.mark.parametrize("field", [*NUMBERS, "cost_nano_usd"])
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_usage_of_wrong_numbers_cannot_be_built(field: str, wrong: Any) -> None:
    if field == "cost_nano_usd" and (wrong is None or wrong == 10**12 + 1):
        return  # not priced, and a thousand dollars
    with pytest.raises(MisuseError):
        Usage(**{field: wrong})


@pytest.mark.parametrize("field", [*NUMBERS, "cost_nano_usd", "estimated", "model"])
def test_a_usage_cannot_be_changed_once_it_is_built(field: str) -> None:
    with pytest.raises(ValidationError):
        setattr(Usage(), field, 1)


def test_a_usage_has_no_other_fields_and_an_error_shows_no_input() -> None:
    with pytest.raises(MisuseError) as caught:
        Usage(output_tokens="secret-canary")  # type: ignore[arg-type]
    assert "secret-canary" not in str(caught.value)
    with pytest.raises(MisuseError):
        Usage(tokens=3)  # type: ignore[call-arg]
    assert set(Usage.model_fields) == {*NUMBERS, "cost_nano_usd", "estimated", "model"}
    assert Usage(input_tokens=1, output_tokens=2).total_tokens == 3


tokens = st.integers(0, 10**12)
usages = st.builds(
    Usage,
    input_tokens=tokens,
    output_tokens=tokens,
    cost_nano_usd=st.none() | st.integers(0, 10**18),
    estimated=st.booleans(),
    model=st.sampled_from([None, "a", "b"]),
)


@given(st.lists(usages, max_size=5))
def test_sums_never_fall_are_bounded_and_forget_no_estimate(parts: list[Usage]) -> None:
    total = Usage()
    for part in parts:
        after = total + part
        assert after.input_tokens == min(total.input_tokens + part.input_tokens, 10**12)
        assert after.output_tokens >= total.output_tokens
        assert after.estimated == (total.estimated or part.estimated)
        total = after
    if any(part.cost_nano_usd is None and part.total_tokens for part in parts):
        assert total.cost_nano_usd is None, "a part without a price makes the sum unknown, never cheaper"
    elif any(part.cost_nano_usd for part in parts):
        assert total.cost_nano_usd == min(sum(part.cost_nano_usd or 0 for part in parts), 10**18)


# -- malformed reports -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [{"output_tokens": wrong} for wrong in WRONG] + [{"tokens": 5}, {1: 2}], ids=repr)
async def test_a_malformed_report_is_an_event_and_never_an_exception_in_the_step(report: Mapping[Any, Any]) -> None:
    budget = Budget(tokens=1_000)

    async def body(run: RunContext, message: object) -> str:
        async with run.step("call", reserve=Usage(output_tokens=400)):
            run.charge(report)
            return "went on"

    run, events = await one(body, budgets=[budget])
    assert run.status is RunStatus.completed
    assert run.usage.total_tokens == 0
    assert names(events).count("UsageRejected") == 1
    assert (budget.spent.tokens, budget.reserved.tokens) == (400, 0), "what was reserved counts as spent"


async def test_a_rejected_report_that_uses_up_a_budget_by_its_reservation_stops_the_run() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("call", reserve=Usage(output_tokens=1_000)):
            run.charge({"output_tokens": float("nan")})
        async with run.step("next"):
            raise NotImplementedError

    run, _ = await one(body, limits=Limits(tokens=1_000))
    assert run.status is RunStatus.cancelled
    assert run.stop is not None
    assert run.stop.cause.value == "token_budget"


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(), max_size=8) | st.sampled_from([*NUMBERS, "cost_nano_usd"]),
        st.from_type(object),
        max_size=4,
    )
)
def test_any_mapping_as_a_report_never_raises_never_refunds_and_can_be_sent(report: Any) -> None:
    budget = Budget(tokens=10**6)

    async def main() -> None:
        async def body(run: RunContext, message: object) -> str:
            async with run.step("call", reserve=Usage(output_tokens=100)):
                run.charge(report)
            return "went on"

        async with Supervisor() as supervisor:
            run = await begun(supervisor.start(Agent(body), budgets=[budget]))
            events = await listen(run)
            assert run.output is not None
            assert run.output.value == "went on" or budget.spent.tokens >= 10**6, run.output.errors
            for event in events:
                assert event.to_json()

    run_virtual(main)
    assert budget.spent.tokens >= 0
    assert budget.reserved.tokens == 0


@pytest.mark.parametrize("wrong", [None, 5, "5", [], object()], ids=lambda wrong: type(wrong).__name__)
@pytest.mark.parametrize("where", ["body", "thread"])
async def test_what_is_no_report_at_all_is_misuse_where_it_is_charged(wrong: Any, where: str) -> None:
    async def body(run: RunContext, message: object) -> None:
        def charges() -> None:
            with pytest.raises(MisuseError, match=r"run\.charge takes a Usage"):
                run.charge(wrong)

        await anyio.to_thread.run_sync(charges) if where == "thread" else charges()

    run, events = await one(body)
    assert names(events) == ["RunStarted", "RunCompleted"]
    assert run.usage == Usage()


async def test_a_report_from_the_worker_thread_of_a_sync_tool_is_counted() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("tool"):
            await anyio.to_thread.run_sync(lambda: run.charge(Usage(output_tokens=5)))
            await asyncio.sleep(0)

    run, _ = await one(body)
    assert run.usage.output_tokens == 5


@pytest.mark.parametrize("way", ["asyncio.to_thread", "anyio.to_thread"])
async def test_what_a_thread_of_to_thread_charges_comes_out_of_the_reservation_of_its_step(way: str) -> None:
    budget, left = Budget(tokens=1_000), list[int]()

    async def body(run: RunContext, message: object) -> None:
        async with run.step("tool", reserve=Usage(output_tokens=600)):
            charge = functools.partial(run.charge, Usage(output_tokens=500))
            await (asyncio.to_thread(charge) if way == "asyncio.to_thread" else anyio.to_thread.run_sync(charge))
            await asyncio.sleep(0)
            left.append(budget.reserved.tokens)

    await one(body, budgets=[budget])
    assert (left, budget.spent.tokens) == ([100], 500)


async def test_a_second_report_of_one_answer_is_not_added_whoever_charges_it() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge(SUM, response_id="whole")
        here = current_run()
        assert here is not None
        here.charge(SUM, response_id="whole")

    assert (await Agent(body).arun()).usage == SUM


async def test_cache_and_reasoning_parts_are_never_lost_whatever_comes_first() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge(Usage(reasoning_tokens=7, cache_read_tokens=3))
        run.charge(Usage(input_tokens=10, output_tokens=20))
        run.write("done")

    run = Agent(body).arun("go")
    output = await run.ended()
    assert (output.usage.reasoning_tokens, output.usage.cache_read_tokens, output.usage.total_tokens) == (7, 3, 30)
    metrics = [event.metrics for event in await listen(run) if event.metrics is not None]
    assert sum(each.reasoning_tokens for each in metrics) == 7


async def test_what_a_member_s_step_charges_to_the_parent_is_the_parent_s_and_spends_no_room_of_the_step() -> None:
    budget = Budget(tokens=1_000)
    reserved: list[int] = []

    async def lead(run: RunContext, message: object) -> None:
        async def leaf(member: RunContext, message: object) -> None:
            async with member.step("ask", reserve=Usage(output_tokens=60)):
                run.charge(Usage(output_tokens=50))
                reserved.append(budget.reserved.tokens)
                member.charge(Usage(output_tokens=40))
                reserved.append(budget.reserved.tokens)

        await run.member(Agent(leaf), "go", limits=Limits(tokens=60))

    run, _ = await one(lead, budgets=[budget])
    assert run.output is not None
    assert (run.status, run.output.members[0].status) == ("completed", "completed")
    assert (run.output.usage.output_tokens, run.output.members[0].usage.output_tokens) == (50, 40)
    assert (reserved, budget.spent.tokens, budget.reserved.tokens) == ([60, 20], 90, 0)
