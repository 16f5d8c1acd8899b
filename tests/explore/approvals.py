"""A scene of calls that a person is asked about: one approved, one refused, one decided late, beside a step."""

from __future__ import annotations

import asyncio

import anyio

from softstop import Agent, Run, RunContext, Supervisor
from softstop.ports import AdapterContext, ToolTrace
from softstop.testing import mark


def approvals(supervisor: Supervisor) -> Run:
    """A turn of a model, with a call that needs nobody and three that wait for a person, who says things twice."""

    async def person() -> None:
        await anyio.sleep(0.25)
        run.approve("approved")
        run.refuse("approved")
        await anyio.sleep(0.25)
        run.refuse("refused")
        run.approve("refused")
        run.approve("free")
        await anyio.sleep(1)
        run.approve("late")

    async def call(door: AdapterContext, call_id: str, seconds: float) -> None:
        if call_id == "free" or (await door.approval(call_id, "pay", "{}")).approved:
            async with door.tool_call("pay", ToolTrace(call_id)) as paying:
                mark(door.run, "begin", "pay", paying.step_id)
                await anyio.sleep(seconds)
                mark(door.run, "commit", "pay", paying.step_id)
        door.run.write(f"{call_id} ")

    async def three_calls(context: RunContext, message: object) -> None:
        door = AdapterContext(context)
        with door.turn():
            async with asyncio.TaskGroup() as calls:
                calls.create_task(person())
                for call_id, seconds in {"free": 1.0, "approved": 0.5, "refused": 0.25, "late": 0.25}.items():
                    calls.create_task(call(door, call_id, seconds))

    run = supervisor.start(Agent(three_calls), None)
    return run
