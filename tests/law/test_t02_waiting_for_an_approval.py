"""T2: a wait for an approval is in no step: any stop ends it at once, and what was approved then does not begin."""

import asyncio

import anyio
import pytest

from kit.runs import names, now, one, statuses
from softstop import Agent, ApprovalDecided, ApprovalRequested, Run, RunContext, RunStatus, Supervisor
from softstop.ports import AdapterContext
from softstop.testing import stop_everywhere


async def ask(run: RunContext, call_id: str = "call-1") -> None:
    """Ask for one call, and make it if it is approved."""
    door = AdapterContext(run)
    decided = await door.approval(call_id, "pay", "{}")
    if decided.approved:
        async with door.tool_call("pay"):
            await anyio.sleep(1)


async def asks(run: RunContext, message: object) -> None:
    """A body that asks for one call."""
    await ask(run)


@pytest.mark.parametrize("mode", ["turn", "step", "now"])
async def test_a_stop_ends_the_wait_at_once_also_one_that_lets_turns_end(mode: str) -> None:
    async def body(run: RunContext, message: object) -> None:
        with AdapterContext(run).turn():
            await ask(run)

    run, events = await one(body, stop_at=3, mode=mode)
    assert run.status is RunStatus.cancelled
    assert now() == pytest.approx(3)
    assert names(events) == ["RunStarted", "ApprovalRequested", "RunStopRequested", "RunCancelled"]


async def test_a_stop_that_waits_for_the_turn_ends_when_the_turn_comes_to_wait_for_a_person() -> None:
    async def body(run: RunContext, message: object) -> None:
        door = AdapterContext(run)
        with door.turn():
            async with door.tool_call("look"):
                await anyio.sleep(5)
            await ask(run)

    run, events = await one(body, stop_at=3, mode="turn")
    assert (run.status, now()) == (RunStatus.cancelled, pytest.approx(5))
    assert "ApprovalRequested" not in names(events)


async def test_a_stop_of_mode_turn_lets_other_begun_calls_of_the_turn_end() -> None:
    async def body(run: RunContext, message: object) -> None:
        door = AdapterContext(run)

        async def look() -> None:
            async with door.tool_call("look"):
                await anyio.sleep(5)

        with door.turn():
            async with asyncio.TaskGroup() as calls:
                calls.create_task(ask(run))
                calls.create_task(ask(run, "call-2"))
                calls.create_task(look())

    run, _ = await one(body, stop_at=3, mode="turn")
    assert run.output is not None
    assert (run.status, now(), statuses(run.output)) == (RunStatus.cancelled, pytest.approx(5), [("look", "completed")])


async def test_what_is_approved_in_the_moment_of_a_stop_does_not_begin() -> None:
    run = Agent(asks).arun()
    async for event in run:
        if isinstance(event, ApprovalRequested):
            assert run.approve(event.tool_call_id)
            run.cancel()
    output = await run
    assert (output.status, output.steps) == (RunStatus.cancelled, ())
    assert not run.approve("call-1")


async def test_a_stop_on_record_leaves_nothing_to_approve() -> None:
    run = Agent(asks).arun()
    async for event in run:
        if isinstance(event, ApprovalRequested):
            run.cancel()
            assert not run.approve(event.tool_call_id)
            assert not run.refuse(event.tool_call_id)
        assert not isinstance(event, ApprovalDecided)
    assert not (await run).steps


def test_stopped_everywhere_a_run_with_an_approval_keeps_the_law() -> None:
    runs: list[Run] = []

    async def body(run: RunContext, message: object) -> None:
        async def person() -> None:
            await anyio.sleep(2)
            runs[-1].approve("call-1")

        async with anyio.create_task_group() as group:
            group.start_soon(person)
            await ask(run)

    def start(supervisor: Supervisor) -> Run:
        runs.append(supervisor.start(Agent(body), "go"))
        return runs[-1]

    report = stop_everywhere(start)
    assert report.violations == 0
    assert set(report.outcomes) == {"completed", "cancelled"}
