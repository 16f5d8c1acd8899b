"""`run.headroom`: what is left over a run, those above it and shared budgets, as a value."""

import decimal
from dataclasses import FrozenInstanceError
from decimal import Decimal

import anyio
import pytest

from kit.runs import one, words
from softstop import Agent, Budget, Headroom, Limits, RunContext, Usage
from softstop.ports import AdapterContext


async def test_without_limits_nothing_is_bounded() -> None:
    async def body(run: RunContext, message: object) -> None:
        seen.append(run.headroom)

    seen: list[Headroom] = []
    await one(body)
    assert seen == [Headroom()]
    with pytest.raises(FrozenInstanceError):
        seen[0].steps = 3  # type: ignore[misc]


async def test_it_is_the_least_of_the_run_those_above_it_and_its_budgets() -> None:
    async def member(run: RunContext, message: object) -> None:
        door = AdapterContext(run)
        async with door.tool_call("look"):
            run.charge(Usage(input_tokens=10, output_tokens=20, cost_nano_usd=250_000_001))
        async for _ in door.model_request("model", words(1)):
            pass
        with decimal.localcontext(prec=3):
            seen.append(run.headroom)
        async with run.step("held", reserve=Usage(output_tokens=30)):
            seen.append(run.headroom)

    async def lead(run: RunContext, message: object) -> None:
        async with run.step("before"):
            await anyio.sleep(2)
        limits = Limits(timeout=50, tool_calls=2, cost_usd=2, steps=20)  # type: ignore[arg-type]
        await run.member(Agent(member), "go", limits=limits)
        seen.append(run.headroom)

    seen: list[Headroom] = []
    limits = Limits(timeout=10, tokens=1_000, output_tokens=200, steps=9, tool_calls=5, model_calls=4)
    run, _ = await one(lead, limits=limits, budgets=[Budget(tokens=100)])
    assert run.output is not None
    assert run.output.errors == ()
    cost = Decimal("1.749999999")
    assert seen == [
        Headroom(timeout=7, tokens=70, output_tokens=160, cost_usd=cost, steps=6, tool_calls=1, model_calls=3),
        Headroom(timeout=7, tokens=40, output_tokens=130, cost_usd=cost, steps=5, tool_calls=1, model_calls=3),
        Headroom(timeout=7, tokens=70, output_tokens=160, steps=5, tool_calls=4, model_calls=3),
    ]


async def test_it_is_never_below_nothing() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"), AdapterContext(run).tool_call("look"):
            await anyio.sleep(2)
            run.charge(Usage(output_tokens=500, cost_nano_usd=5 * 10**9))
            run.limits.update(tool_calls=0, steps=1)
            seen.append(run.headroom)

    seen: list[Headroom] = []
    await one(body, limits=Limits(timeout=1, tokens=100, output_tokens=9, cost_usd=1, model_calls=0))  # type: ignore[arg-type]
    assert seen == [
        Headroom(timeout=0, tokens=0, output_tokens=0, cost_usd=Decimal(0), steps=0, tool_calls=0, model_calls=0)
    ]
