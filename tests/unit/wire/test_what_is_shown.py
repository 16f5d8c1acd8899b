"""What a run's user is shown of its errors, and the steps of one run: plain functions of what was told."""

from typing import Any

from pydantic_core import from_json

from softstop import Agent, Event, RunContext, Supervisor
from softstop.stores import Page
from softstop.wire.contract import run_steps
from softstop.wire.shown import shown_page


async def told(body: Any) -> list[Event]:
    async with Supervisor() as supervisor:
        return [event async for event in supervisor.start(Agent(body), run_id="r").events()]


async def test_a_rejected_report_is_shown_by_its_type_and_not_by_its_words() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge({"output_tokens": -1, "input_tokens": 1})

    events = await told(body)
    shown = shown_page(Page([(event.seq, event.to_json()) for event in events], ended=True))
    problems = [from_json(line)["problem"] for _, line in shown.events if b'"problem"' in line]
    assert len(problems) == 1
    assert " " not in problems[0]


async def test_the_steps_of_a_run_are_its_own_and_not_those_of_its_members() -> None:
    async def inner(run: RunContext, message: object) -> None:
        async with run.step("below"):
            raise ValueError

    async def body(run: RunContext, message: object) -> None:
        async with run.step("own"):
            pass
        await run.member(Agent(inner), None)

    events = await told(body)
    assert [(step["id"], step["status"]) for step in run_steps("r", events)] == [("r.1", "COMPLETED")]
