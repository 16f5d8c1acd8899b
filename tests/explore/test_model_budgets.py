"""Every schedule of a stop against budgets of models: a run that wraps up, and members that share a ledger."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from softstop import Agent, Budget, Limits, Run, RunContext, Supervisor, Usage
from softstop.law.amounts import Amount, Units
from softstop.law.ledgers import Ledger
from softstop.models import Borrowed, Price
from softstop.testing import Report, stop_everywhere

from .conftest import CountReport
from .scale import FIRST_SEED, PATIENCE, times

pytestmark = [pytest.mark.explore, pytest.mark.timeout(PATIENCE)]


class Watched(Ledger):
    """A ledger that looks at itself after every change: what is wrong with it, and with the ledgers below it."""

    __slots__ = ("below", "wrong")

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens, 1, name="tenant")
        self.below: list[Run] = []
        self.wrong: list[str] = []

    def _move(self, paid: Units, held: Units) -> None:
        super()._move(paid, held)
        if min(self.reserved) < 0:
            self.wrong.append(f"{self.reserved} is reserved")
        ledgers = [run._state.allowance.own for run in self.below if run._state.allowance.own is not None]
        for what, mine in ("spent", self.spent), ("reserved", self.reserved):
            sums = tuple(map(sum, zip(*(getattr(ledger, what) for ledger in ledgers), strict=True)))
            if ledgers and sums != mine:
                self.wrong.append(f"{what} is {mine}, below it {sums}")


async def talk(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    answered = any(
        isinstance(part, ToolReturnPart)
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
    )
    for word in ("so ", "far "):
        yield word
        await anyio.sleep(1)
    if info.function_tools and not answered:
        yield {0: DeltaToolCall("work", json.dumps({}), tool_call_id="call-0")}


async def work(run: RunContext) -> str:
    await anyio.sleep(1)
    run.charge(Usage(output_tokens=1_750, cost_nano_usd=0))
    await anyio.sleep(1)
    return "done"


def talker(**settings: Any) -> Agent:
    model = FunctionModel(stream_function=talk, settings=settings or None)  # type: ignore[arg-type]
    return Agent(model=Borrowed(model, price=Price(1, 1)), tools=[work], name="talker")


def test_a_stop_anywhere_in_a_run_that_wraps_up_keeps_the_law(count: CountReport) -> None:
    ends: set[tuple[object, ...]] = set()
    agent = talker()

    def make_run(supervisor: Supervisor) -> Run:
        return supervisor.start(agent, "go", limits=Limits(tokens=2_000, on_exhausted="wrap_up"))

    def check(trace: Any) -> Iterator[str]:
        if trace.root is not None and trace.root.output is not None:
            output = trace.root.output
            ends.add((output.status.value, output.stop and output.stop.cause.value))
            if output.usage.total_tokens > 2_000:
                yield f"{output.usage.total_tokens} tokens were used"
            for budget in trace.root.limits.ledgers:
                if budget.reserved != Amount():
                    yield f"{budget.reserved} stays reserved"

    report: Report = stop_everywhere(make_run, also=check, pairs=100, most=times(2_000), seed=FIRST_SEED)
    count(report)
    assert report.violations == 0
    assert {("cancelled", "token_budget"), ("cancelled", "user"), ("cancelled", "timeout")} <= ends


@pytest.mark.parametrize("settings", [{}, {"max_tokens": 100}], ids=["unbounded", "bounded"])
def test_a_stop_anywhere_leaves_a_shared_ledger_balanced_at_every_moment(
    settings: dict[str, Any], count: CountReport
) -> None:
    budgets: list[Watched] = []
    agent = talker(**settings)

    async def body(run: RunContext, message: object) -> None:
        for number in range(3):
            member = run.start_member(agent, f"go {number}", limits=Limits(tokens=3_000))
            budgets[-1].below.append(member)
        for member in budgets[-1].below:
            await member

    def make_run(supervisor: Supervisor) -> Run:
        budgets[:] = [Watched(4_000)]
        shared = Budget()
        shared._ledger = budgets[0]
        return supervisor.start(Agent(body), "go", budgets=[shared])

    def check(trace: Any) -> Iterator[str]:
        [budget] = budgets
        yield from budget.wrong
        if budget.reserved != Amount():
            yield f"{budget.reserved} stays reserved"
        used = sum(member.usage.total_tokens for member in budget.below)
        if budget.spent.tokens != used:
            yield f"{budget.spent.tokens} tokens are spent, the members used {used}"

    report = stop_everywhere(make_run, also=check, most=times(700), seed=FIRST_SEED)
    count(report)
    assert report.violations == 0
