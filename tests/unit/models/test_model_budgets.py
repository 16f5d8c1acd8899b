"""Limits and budgets of agents with a model, in virtual time: prices that nobody knows, the last answer, pauses."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kit.scripts import Ends, Script, answers, call
from softstop import (
    Agent,
    Budget,
    BudgetWarning,
    Limits,
    MisuseError,
    RunContext,
    RunOutput,
    RunPaused,
    RunStatus,
    StopCause,
    Supervisor,
    Usage,
)
from softstop.models import Borrowed, Offline, OpenAIChat, Price

# A scripted model counts 50 tokens for the frame, one for each word of the conversation, one for each it says.
MONEY = Limits(cost_usd=1)


def cause(output: RunOutput) -> StopCause | None:
    return None if output.stop is None else output.stop.cause


def unpriced() -> Agent:
    return Agent(model=Script(["hello"]).model, name="homemade")


async def look() -> str:
    return "seen"


# -- prices ----------------------------------------------------------------------------------------------------------


async def test_a_limit_of_money_over_an_unpriced_model_is_refused_where_the_run_is_started() -> None:
    budget = Budget(cost_usd=1, name="tenant")
    async with Supervisor() as supervisor:
        for options in ({"limits": MONEY}, {"budgets": [budget]}):
            with pytest.raises(MisuseError, match=r"what the model of 'homemade' costs; give the model price=Price"):
                unpriced().arun("go", **options)  # type: ignore[arg-type]
        with pytest.raises(MisuseError, match="cost_usd of tenant"):
            supervisor.start(unpriced(), "go", budgets=[budget])
        assert supervisor.list_runs() == []
    async with Supervisor(limits=MONEY):
        with pytest.raises(MisuseError, match="cost_usd of run"):
            unpriced().arun("go")


async def test_a_member_with_an_unpriced_model_is_refused_under_a_limit_of_money() -> None:
    async def body(run: RunContext, message: object) -> str:
        with pytest.raises(MisuseError, match="homemade"):
            run.start_member(unpriced(), "go")
        with pytest.raises(MisuseError, match="homemade"):
            await run.member(unpriced(), "go")
        return "refused"

    async with Supervisor():
        output = await Agent(body).arun(limits=MONEY)
    assert (output.content, output.members) == ("refused", ())


async def test_a_limit_of_money_is_refused_for_a_live_run_whose_member_has_an_unpriced_model() -> None:
    async def body(run: RunContext, message: object) -> None:
        member = run.start_member(unpriced(), "go")
        with pytest.raises(MisuseError, match="homemade"):
            run.limits.update(cost_usd=1)
        await member

    output = await Agent(body).arun()
    assert output.status is RunStatus.completed


@pytest.mark.parametrize(
    "model",
    [
        OpenAIChat("gpt-5-nano", api_key="sk-test"),
        OpenAIChat("homemade", "http://127.0.0.1/v1", "sk-test", price=Price(1, 2)),
        Offline("hello", price=Price(0, 0)),
        Borrowed(Script(["hello"]).model, price=Price(1, 2)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_that_the_list_or_the_caller_prices_may_be_limited_in_money(model: Any) -> None:
    assert Agent(model=model).priced


@pytest.mark.parametrize("wrong", [-1, float("nan"), "much", 10**6, float("inf")])
def test_what_is_no_price_is_refused(wrong: Any) -> None:
    with pytest.raises(MisuseError, match="output_usd"):
        Price(1, wrong)


async def test_an_agent_without_a_price_has_no_cost_and_one_that_is_free_costs_nothing() -> None:
    assert (await unpriced().arun("go")).usage.cost_nano_usd is None
    assert (await Agent(model=Offline("a b", price=Price(0, 0))).arun("go", limits=MONEY)).usage.cost_nano_usd == 0


async def test_a_plain_body_may_be_limited_in_money() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=1, cost_nano_usd=10**9))
        await run.boundary()

    assert cause(await Agent(body).arun(limits=MONEY)) is StopCause.cost_budget


# -- warnings and pauses ---------------------------------------------------------------------------------------------


async def test_one_warning_is_told_of_a_limit_that_model_calls_come_near() -> None:
    script = Script(["word " * 10, call("look")], ["word " * 10, call("look")], ["word " * 10])
    agent = Agent(model=script.model, tools=[look])
    events = [event async for event in agent.arun("go", limits=Limits(tokens=1_000, warn_at=0.1))]
    assert [event.limit.kind for event in events if isinstance(event, BudgetWarning)] == ["tokens"]


async def test_an_agent_that_has_no_room_for_its_next_request_waits_until_it_has() -> None:
    script = Script(["one two ", call("look")], ["three"])
    run = Agent(model=script.model, tools=[look]).arun("go " * 100, limits=Limits(tokens=300, on_exhausted="pause"))
    async for event in run:
        if isinstance(event, RunPaused):
            assert len(script.asked) == 1
            await anyio.sleep(3_600)
            assert len(script.asked) == 1
            run.limits.update(tokens=10_000)
    output = await run
    assert (output.status, output.content, len(script.asked)) == (RunStatus.completed, "one two three", 2)


async def test_a_paused_agent_can_be_stopped() -> None:
    run = Agent(model=Script(["word " * 200, call("look")]).model, tools=[look]).arun(
        "go", limits=Limits(tokens=100, on_exhausted="pause")
    )
    async for event in run:
        if isinstance(event, RunPaused):
            run.cancel()
    assert cause(await run) is StopCause.user


# -- the last answer -------------------------------------------------------------------------------------------------

WRAP_UP = Limits(tokens=2_000, on_exhausted="wrap_up")


async def test_the_limit_is_told_as_it_stands_after_the_last_answer() -> None:
    async def spend(run: RunContext) -> str:
        run.charge(Usage(output_tokens=1_780))
        return "spent"

    script = Script(["so ", call("spend")], ["all in all ", call("spend")])
    output = await Agent(model=script.model, tools=[spend]).arun("go", limits=WRAP_UP)

    assert (output.status, cause(output)) == (RunStatus.cancelled, StopCause.token_budget)
    assert output.stop is not None
    assert output.stop.limit is not None
    assert 1_800 < output.stop.limit.used == output.usage.total_tokens
    assert output.content == "so all in all "
    assert len(script.asked) == 2
    assert [step.step for step in output.steps] == ["scripted", "spend", "scripted"]
    assert answers(output.messages)[-1][2].startswith("not_run")


async def test_a_raised_limit_makes_the_last_answer_one_like_any_other() -> None:
    async def raise_it(run: RunContext) -> str:
        run.limits.update(tokens=100_000)
        return "raised"

    script = Script(["word " * 1_800, call("raise_it")], ["done"])
    output = await Agent(model=script.model, tools=[raise_it]).arun("go", limits=WRAP_UP)

    assert output.status is RunStatus.completed
    assert "last answer" not in str(script.asked[1])


@pytest.mark.parametrize("change", [{"timeout": 500}, {"steps": 90}, {"tokens": 2_001}, {"tokens": 1_990}], ids=str)
async def test_a_change_of_limits_that_gives_no_more_room_leaves_the_last_answer_the_last(change: Any) -> None:
    async def spend(run: RunContext) -> str:
        run.charge(Usage(output_tokens=1_750))
        run.limits.update(**change)
        return "spent"

    script = Script([call("spend")], ["all I have ", call("spend")], ["never said"])
    output = await Agent(model=script.model, tools=[spend]).arun("go", limits=WRAP_UP)

    assert "last answer" in str(script.asked[-1])
    assert (len(script.asked), cause(output)) == (2, StopCause.token_budget)
    assert output.usage.total_tokens <= 2_000


async def test_an_answer_that_needs_no_other_completes_though_it_used_all_but_the_reserve() -> None:
    output = await Agent(model=Script(["word " * 1_800]).model).arun("go", limits=WRAP_UP)
    assert output.status is RunStatus.completed


async def test_without_a_model_wrap_up_is_a_stop_at_the_whole_limit() -> None:
    async def body(run: RunContext, message: object) -> None:
        while True:
            async with run.step("work", reserve=Usage(output_tokens=100)):
                run.charge(Usage(output_tokens=100))

    output = await Agent(body).arun(limits=WRAP_UP)
    assert (cause(output), output.usage.total_tokens) == (StopCause.token_budget, 2_000)


async def test_what_is_kept_back_is_for_the_last_answer_and_not_for_members() -> None:
    async def endless(run: RunContext, message: object) -> None:
        while True:
            async with run.step("work"):
                await anyio.sleep(1)
                run.charge(Usage(output_tokens=250))

    async def delegate(run: RunContext) -> str:
        first = await run.member(Agent(endless), "go")
        second = await run.member(Agent(endless), "go")
        return f"{first.status} {second.status} {len(second.steps)}"

    script = Script([call("delegate")], ["so it is"])
    output = await Agent(model=script.model, tools=[delegate]).arun("go", limits=WRAP_UP)

    assert (output.content, cause(output)) == ("so it is", StopCause.token_budget)
    first, second = output.members
    assert (cause(first), first.stop is not None and first.stop.via) == (StopCause.token_budget, output.run_id)
    assert (second.status, second.usage.total_tokens) == (RunStatus.cancelled, 0)
    assert "cancelled cancelled 0" in str(script.asked[-1])


# -- reports ---------------------------------------------------------------------------------------------------------


async def test_reports_of_one_answer_are_counted_once_whatever_their_kind() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=10, cost_nano_usd=5), response_id="whole")
        run.charge(Usage(output_tokens=10, cost_nano_usd=5), response_id="whole")
        for total in (3, 8, 7, 12):
            run.charge(
                Usage(input_tokens=20, output_tokens=total, cost_nano_usd=total), response_id="so far", cumulative=True
            )
        run.charge(Usage(output_tokens=12), response_id="so far")
        run.charge({"output_tokens": -1}, response_id="so far", cumulative=True)
        run.charge(Usage(output_tokens=1, cost_nano_usd=0))

    budget = Budget()
    output = await Agent(body).arun(budgets=[budget])
    assert (output.usage.input_tokens, output.usage.output_tokens, output.usage.cost_nano_usd) == (20, 23, 17)
    assert budget.spent == (43, 17, 23)


async def test_a_model_in_a_step_that_holds_room_makes_do_with_what_is_left() -> None:
    async def body(run: RunContext, message: object) -> str:
        async with run.step("plan", reserve=Usage(output_tokens=300)):
            return (await run.member(unpriced(), "go")).content

    output = await Agent(body).arun(limits=Limits(tokens=1_000))
    assert (output.status, output.content) == (RunStatus.completed, "hello")


@pytest.mark.parametrize(("tokens", "bounded"), [(10_000, True), (10**9, False)])
async def test_a_bound_is_sent_only_where_a_limit_leaves_less_than_any_model_gives(tokens: int, bounded: bool) -> None:
    script = Script(["hello"])
    await Agent(model=script.model).arun("go", limits=Limits(tokens=tokens))
    assert [(settings or {}).get("max_tokens") is not None for settings in script.settings] == [bounded]


async def test_of_two_limits_that_cut_an_answer_off_the_outermost_is_told() -> None:
    script = Script(["word " * 400, Ends("length")])
    team = Budget(tokens=1_000, name="team")
    output = await Agent(model=script.model).arun("go", limits=Limits(tokens=1_000), budgets=[team])
    assert output.stop is not None
    assert output.stop.limit is not None
    assert (output.stop.limit.holder, team.spent.tokens < 1_000) == ("team", True)
