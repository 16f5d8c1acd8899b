"""Budgets over a real client: what is sent, what is spent, and what is given back on every way out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from kit.provider import Provider
from kit.wire import End, body, playing
from softstop import Agent, Budget, Limits, RunContext, RunOutput, RunStatus, StopCause, Supervisor
from softstop.law.amounts import NOTHING
from softstop.models import Price

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["chat", "responses", "anthropic"])
# Long enough that the estimate, a quarter of its bytes, is not below the 20 tokens that the server counts.
LONG = "Tell me all about harbours, lamps, gulls and the rain, in as many words as you like; take your time."
OF_OUTPUT = Price(0, 10)  # 10,000 nano-USD an output token


def sent(request: dict[str, Any]) -> int | None:
    body = request["body"]
    return next(
        (body[name] for name in ("max_completion_tokens", "max_output_tokens", "max_tokens") if name in body), None
    )


def cause(output: RunOutput) -> StopCause | None:
    return None if output.stop is None else output.stop.cause


@PROTOCOLS
async def test_eight_members_with_bounds_under_one_limit_do_not_overshoot(provider: Provider, protocol: str) -> None:
    model = replace(getattr(provider, protocol)(words=100, pace=0.001), settings={"max_tokens": 40})
    agent = Agent(model=model)

    async def fan_out(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(run.member, agent, LONG)

    output = await Agent(fan_out).arun(limits=Limits(tokens=250))

    assert (output.status, cause(output)) == (RunStatus.cancelled, StopCause.token_budget)
    requests = await provider.requests()
    assert [sent(request) for request in requests[:3]] == [40, 40, 40]
    assert requests[1]["beside"] == 1
    assert output.stop is not None
    assert output.stop.limit is not None
    spent = sum(member.usage.total_tokens for member in output.members)
    assert (output.stop.limit.used, output.stop.limit.overshoot) == (spent, 0)
    assert 180 <= spent <= 250


@PROTOCOLS
async def test_users_of_one_budget_with_bounds_do_not_overshoot(provider: Provider, protocol: str) -> None:
    model = replace(getattr(provider, protocol)(words=100), settings={"max_tokens": 40})
    agent, budget = Agent(model=model), Budget(tokens=250, name="tenant")
    async with Supervisor() as supervisor:
        runs = [supervisor.start(agent, LONG, budgets=[budget]) for _ in range(8)]
        outputs = [await run for run in runs]

    assert 180 <= budget.spent.tokens <= 250
    assert budget.reserved == NOTHING
    assert sum(output.usage.total_tokens for output in outputs) == budget.spent.tokens
    assert {cause(output) for output in outputs} == {None, StopCause.token_budget}


@PROTOCOLS
async def test_requests_without_a_bound_of_their_own_go_one_after_another(provider: Provider, protocol: str) -> None:
    agent, budget = Agent(model=getattr(provider, protocol)(words=10, pace=0.001)), Budget(tokens=1_000)
    async with Supervisor() as supervisor:
        runs = [supervisor.start(agent, LONG, budgets=[budget]) for _ in range(4)]
        outputs = [await run for run in runs]

    assert [output.status for output in outputs] == [RunStatus.completed] * 4
    requests = await provider.requests()
    assert [request["beside"] for request in requests] == [0, 0, 0, 0]
    assert [sent(request) for request in requests] == [1_000 - 30 * number - 30 for number in range(4)]
    assert budget.spent.tokens == 4 * 30


@PROTOCOLS
async def test_an_answer_may_be_as_long_as_what_is_left_and_a_run_that_it_was_too_short_for_is_cancelled(
    provider: Provider, protocol: str
) -> None:
    model = replace(getattr(provider, protocol)(words=500), settings={"max_tokens": 400})
    output = await Agent(model=model).arun(LONG, limits=Limits(tokens=100))

    [request] = await provider.requests()
    assert sent(request) == 100 - 30
    assert len(output.content.split()) == 70
    assert (output.status, cause(output)) == (RunStatus.cancelled, StopCause.token_budget)
    assert output.stop is not None
    assert output.stop.limit is not None
    assert (output.stop.limit.used, output.stop.limit.overshoot) == (90, 0)


async def test_an_answer_that_its_own_setting_cut_short_is_no_matter_of_the_budget(provider: Provider) -> None:
    model = replace(provider.chat(words=500), settings={"max_tokens": 20})
    output = await Agent(model=model).arun(LONG, limits=Limits(tokens=100))
    assert (output.status, output.stop, len(output.content.split())) == (RunStatus.failed, None, 20)


@PROTOCOLS
async def test_with_less_than_16_tokens_left_nothing_is_sent(provider: Provider, protocol: str) -> None:
    output = await Agent(model=getattr(provider, protocol)(words=5)).arun(LONG, limits=Limits(tokens=30 + 15))

    assert (output.status, cause(output), output.steps) == (RunStatus.cancelled, StopCause.token_budget, ())
    assert await provider.requests() == []


@pytest.mark.parametrize("protocol", ["chat", "responses"])
async def test_a_number_that_the_model_finds_too_large_is_left_out_from_then_on(
    provider: Provider, protocol: str
) -> None:
    agent = Agent(model=getattr(provider, protocol)(words=5, most=50))
    outputs = [await agent.arun(LONG, limits=Limits(tokens=1_000)) for _ in range(2)]

    assert [output.status for output in outputs] == [RunStatus.completed] * 2
    assert [sent(request) for request in await provider.requests()] == [970, None, None]
    assert [step.status for step in outputs[0].steps] == ["failed", "completed"]
    assert outputs[0].usage.total_tokens == 25


async def test_a_number_of_the_callers_own_that_is_too_large_fails_the_run(provider: Provider) -> None:
    model = replace(provider.chat(words=5, most=50), settings={"max_tokens": 60})
    output = await Agent(model=model).arun(LONG, limits=Limits(tokens=1_000))
    assert output.status is RunStatus.failed
    assert len(await provider.requests()) == 1


async def test_where_more_is_left_than_any_answer_takes_no_number_is_sent(provider: Provider) -> None:
    agent, budget = Agent(model=provider.chat(words=30, pace=0.005)), Budget(tokens=1_000_000)
    async with Supervisor() as supervisor:
        for run in [supervisor.start(agent, LONG, budgets=[budget]) for _ in range(2)]:
            assert (await run).status is RunStatus.completed
    requests = await provider.requests()
    assert [(sent(request), request["beside"]) for request in requests] == [(None, 0), (None, 1)]


@pytest.mark.parametrize(
    ("script", "status", "spent"),
    [
        ({"words": 5}, RunStatus.completed, 25),
        ({"words": 5, "fail": 1}, RunStatus.completed, 25),
        ({"error": 400}, RunStatus.failed, 0),
        ({"words": 50, "break": 4}, RunStatus.failed, 30 + 3),
        ({"words": 50, "usage": "bad"}, RunStatus.completed, None),
        ({"words": 50, "usage": "none"}, RunStatus.completed, 30 + 100),
    ],
    ids=["success", "retry", "error", "broken", "bad report", "no report"],
)
async def test_what_was_claimed_is_given_back_on_every_way_out(
    provider: Provider, script: dict[str, Any], status: RunStatus, spent: int | None
) -> None:
    budget = Budget(tokens=1_000)
    output = await Agent(model=provider.chat(**script)).arun(LONG, budgets=[budget])

    assert (output.status, budget.reserved) == (status, NOTHING)
    assert output.usage.total_tokens == budget.spent.tokens
    assert spent is None or abs(budget.spent.tokens - spent) <= 12


async def test_a_cut_answer_is_paid_and_the_rest_of_its_claim_given_back(provider: Provider) -> None:
    budget = Budget(tokens=1_000)
    run = Agent(model=provider.chat(words=50, stall=9)).arun(LONG, budgets=[budget])
    async for event in run:
        if event.content == "w3 ":
            assert budget.reserved.tokens == 1_000
            run.cancel()
    output = await run

    assert output.usage.estimated
    assert output.usage.input_tokens == 30
    assert (budget.spent.tokens, budget.reserved) == (output.usage.total_tokens, NOTHING)


async def test_a_stop_ends_the_wait_for_room(provider: Provider) -> None:
    agent, budget = Agent(model=provider.chat(words=5, stall=3)), Budget(tokens=1_000)
    async with Supervisor() as supervisor:
        first = supervisor.start(agent, LONG, budgets=[budget])
        async for event in first.events():
            if event.content:
                break
        second = supervisor.start(agent, LONG, budgets=[budget])
        while not budget.waiting:
            await anyio.sleep(0.001)
        second.cancel()
        with anyio.fail_after(30):
            assert (await second).steps == ()
        assert (budget.waiting, second.usage.total_tokens) == (0, 0)
        first.cancel()
        await first
    assert budget.reserved == NOTHING
    assert len(await provider.requests()) == 1


@pytest.mark.parametrize(
    ("protocol", "name", "nano"),
    [
        ("chat", "gpt-5-nano-test", 12 * 50 + 8 * 5 + 7 * 400),
        ("responses", "gpt-5-nano-test", 12 * 50 + 8 * 5 + 7 * 400),
        ("anthropic", "claude-sonnet-4-6", 12 * 3_000 + 8 * 300 + 7 * 15_000),
    ],
)
async def test_the_public_list_prices_cache_and_output_as_the_provider_bills_them(
    provider: Provider, protocol: str, name: str, nano: int
) -> None:
    model = getattr(provider, protocol)(words=7)
    output = await Agent(model=replace(model, id=f"{name}?{model.id}")).arun(LONG, limits=Limits(cost_usd=1))

    assert output.status is RunStatus.completed
    assert (output.usage.cache_read_tokens, output.usage.cost_nano_usd) == (8, nano)


async def test_reasoning_is_paid_as_output(provider: Provider) -> None:
    price = Price(1, 10, cache_read_usd="0.1")
    output = await Agent(model=replace(provider.chat(words=4, think=3), price=price)).arun(LONG)
    assert (output.usage.output_tokens, output.usage.reasoning_tokens) == (7, 3)
    assert output.usage.cost_nano_usd == 12 * 1_000 + 8 * 100 + 7 * 10_000


async def test_a_model_without_a_price_costs_none_and_not_nothing(provider: Provider) -> None:
    output = await Agent(model=provider.chat(words=4)).arun(LONG)
    assert (output.usage.total_tokens, output.usage.cost_nano_usd) == (24, None)


async def test_a_limit_of_money_holds_over_parallel_members(provider: Provider) -> None:
    model = replace(provider.chat(words=100, pace=0.001), settings={"max_tokens": 40}, price=Price(1, 10))
    agent = Agent(model=model)

    async def fan_out(run: RunContext, message: object) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(run.member, agent, LONG)

    output = await Agent(fan_out).arun(limits=Limits(cost_usd="0.002"))  # an answer of 40 costs 0.00042

    assert cause(output) is StopCause.cost_budget
    assert 1_200_000 <= sum(member.usage.cost_nano_usd or 0 for member in output.members) <= 2_000_000


@pytest.mark.parametrize(("how", "bounds"), [(None, [90 * 3, 30]), ("stop", [300])])
async def test_the_output_that_is_left_bounds_each_answer(provider: Provider, how: Any, bounds: list[int]) -> None:
    agent = Agent(model=provider.chat(words=500))
    output = await agent.arun(LONG, limits=Limits(output_tokens=300, on_exhausted=how))

    requests = await provider.requests()
    assert [sent(request) for request in requests] == bounds
    assert output.stop is not None
    assert output.stop.limit is not None
    assert (output.status, output.stop.limit.kind, output.stop.limit.used) == (
        RunStatus.cancelled, "output_tokens", output.usage.output_tokens,
    )  # fmt: skip
    assert output.usage.output_tokens == 300


async def test_the_money_that_is_left_bounds_the_answer(provider: Provider) -> None:
    model = replace(provider.chat(words=100), price=OF_OUTPUT)
    output = await Agent(model=model).arun(LONG, limits=Limits(cost_usd="0.0005"))

    [request] = await provider.requests()
    assert (sent(request), output.usage.cost_nano_usd) == (50, 500_000)
    assert cause(output) is StopCause.cost_budget


@pytest.mark.parametrize("price", [None, OF_OUTPUT], ids=["unpriced", "priced"])
async def test_a_request_that_was_cut_before_its_answer_is_priced_like_any_other(
    provider: Provider, price: Price | None
) -> None:
    run = Agent(model=replace(provider.chat(delay=30), price=price)).arun(LONG)
    async for event in run:
        if event.event == "ModelRequestStarted":
            await anyio.sleep(0.05)
            run.cancel()
    output = await run
    assert output.usage.input_tokens == 30
    assert output.usage.cost_nano_usd == (None if price is None else 0)


# -- the last answer -------------------------------------------------------------------------------------------------


async def look() -> str:
    """Look."""
    return "seen"


LONG_TURNS = {"calls": "look", "first": 800, "rounds": 9, "words": 30}
WRAP_UP = Limits(tokens=2_000, on_exhausted="wrap_up")


@PROTOCOLS
@pytest.mark.parametrize("money", [False, True], ids=["tokens", "money"])
async def test_an_agent_whose_budget_ends_in_its_second_turn_gives_one_last_answer_without_tools(
    provider: Provider, protocol: str, money: bool
) -> None:
    model = replace(getattr(provider, protocol)(**LONG_TURNS), price=OF_OUTPUT)
    limits = Limits(cost_usd="0.01", on_exhausted="wrap_up") if money else WRAP_UP
    output = await Agent(model=model, tools=[look], instructions="Look.").arun(LONG, limits=limits)

    first, second, last = await provider.requests()
    assert (output.status, cause(output)) == (
        RunStatus.cancelled, StopCause.cost_budget if money else StopCause.token_budget,
    )  # fmt: skip
    assert output.stop is not None
    assert output.stop.limit is not None
    assert output.stop.limit.overshoot == 0
    spent = (output.usage.cost_nano_usd or 0) / 10**9 if money else output.usage.total_tokens
    assert output.stop.limit.used == pytest.approx(spent)
    assert output.content.endswith("w28 w29 ")
    assert output.value == output.content[-len(output.value) :]
    assert output.value.split() == [f"w{number}" for number in range(30)]
    assert "last answer" in str(last["body"])
    assert "last answer" not in str(second["body"])
    assert first["body"]["tools"]
    assert not last["body"].get("tools") or last["body"]["tool_choice"] == {"type": "none"}


async def test_a_reserve_too_small_for_the_conversation_is_a_stop(provider: Provider) -> None:
    agent = Agent(model=provider.chat(**LONG_TURNS), tools=[look])
    output = await agent.arun(LONG, limits=Limits(tokens=300, on_exhausted="wrap_up"))

    assert (output.status, cause(output)) == (RunStatus.cancelled, StopCause.token_budget)
    assert len(await provider.requests()) == 1
    assert output.usage.total_tokens <= 300


async def test_a_user_may_stop_the_last_answer(provider: Provider) -> None:
    run = Agent(model=provider.chat(**LONG_TURNS, stall=3), tools=[look]).arun(LONG, limits=WRAP_UP)
    requests = 0
    async for event in run:
        requests += event.event == "ModelRequestStarted"
        if requests == 3 and event.content == "w1 ":
            run.cancel("thanks")
    output = await run

    assert (output.status, cause(output)) == (RunStatus.cancelled, StopCause.user)
    assert len(await provider.requests()) == 3


async def test_more_tokens_let_a_paused_agent_go_on_where_its_answer_was_cut(provider: Provider) -> None:
    run = Agent(model=provider.chat(words=60)).arun(LONG, limits=Limits(tokens=70, on_exhausted="pause"))
    seen: list[str] = []
    async for event in run:
        seen.append(event.event.value)
        if event.event == "RunPaused":
            run.limits.update(tokens=1_000)
    output = await run

    assert (output.status, seen.count("RunPaused"), seen.count("RunContinued")) == (RunStatus.completed, 1, 1)
    assert len(output.content.split()) == 40 + 60
    assert output.value == output.content, "not the rest alone"
    assert "cut off there" in str((await provider.requests())[1]["body"])


async def test_a_limit_below_the_thinking_budget_sends_nothing_and_says_the_numbers() -> None:
    thinking = {"anthropic_thinking": {"type": "enabled", "budget_tokens": 1_024}}
    async with playing(body("anthropic", "Thought.", End())) as wire:
        agent = Agent(model=wire.model("anthropic", settings=thinking))
        refused = await agent.arun("go", limits=Limits(tokens=1_000))
        sent_at_all = len(wire.asked)
        enough = await agent.arun("go", limits=Limits(tokens=1_100))

    assert (refused.status, cause(refused), sent_at_all) == (RunStatus.cancelled, StopCause.token_budget, 0)
    assert refused.errors == (
        "nothing was sent: the limits leave 995 output tokens, and thinking takes 1,024 of them; "
        "raise the limit, or lower budget_tokens in the model's settings",
    )
    assert (enough.status, enough.errors, len(wire.asked)) == (RunStatus.completed, (), 1)
    assert 1_024 < wire.asked[0]["max_tokens"] < 1_100


@pytest.mark.parametrize("name", ["max_completion_tokens", "max_tokens"])
async def test_the_bound_of_a_chat_bears_the_name_that_its_server_knows(provider: Provider, name: str) -> None:
    model = replace(provider.chat(words=5), bound_name=name)  # type: ignore[arg-type]
    output = await Agent(model=model).arun("go", limits=Limits(tokens=200))

    assert output.status is RunStatus.completed
    [request] = await provider.requests()
    assert [each for each in request["body"] if each.startswith("max_")] == [name]
