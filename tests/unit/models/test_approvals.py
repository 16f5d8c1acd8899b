"""Tools that a person must approve: what is asked and told, what the model hears, and from where it is decided."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from pydantic_ai import Tool

from kit.runs import names
from kit.scripts import THEN_DONE, Script, call
from softstop import Agent, ApprovalDecided, ApprovalRequested, Event, Limits, MisuseError, Run, RunStatus, StopCause

paid: list[str] = []


async def pay(to: str) -> str:
    """Pay."""
    paid.append(to)
    return f"{to} is paid"


CAREFUL = Tool(pay, requires_approval=True)


@pytest.fixture(autouse=True)
def _nobody_is_paid() -> None:
    paid.clear()


async def decided(run: Run, *decisions: Callable[[Run, str], bool]) -> list[Event]:
    """Read a run to its end, and decide about its calls in the order in which they are asked for."""
    events: list[Event] = []
    left = list(decisions)
    async for event in run:
        events.append(event)
        if isinstance(event, ApprovalRequested) and left:
            assert left.pop(0)(run, event.tool_call_id)
    return events


async def test_a_call_waits_for_its_approval_and_is_made_then() -> None:
    script = Script([call("pay", to="Ada")], THEN_DONE)
    run = Agent(model=script.model, tools=[CAREFUL]).arun("go")
    events = await decided(run, lambda run, asked: not paid and run.approve(asked, by="user-7"))

    assert names(events) == [
        "RunStarted", "ModelRequestStarted", "ModelRequestCompleted", "ApprovalRequested", "ApprovalDecided",
        "ToolCallStarted", "ToolCallCompleted", "ModelRequestStarted", "RunContent", "ModelRequestCompleted",
        "RunCompleted",
    ]  # fmt: skip
    asked, told = events[3:5]
    assert isinstance(asked, ApprovalRequested)
    assert isinstance(told, ApprovalDecided)
    assert (asked.tool, asked.arguments) == ("pay", '{"to":"Ada"}')
    assert (told.tool_call_id, told.tool, told.approved, told.by) == (asked.tool_call_id, "pay", True, "user-7")
    assert script.answers() == [("success", "pay", "Ada is paid")]


async def test_a_refused_call_is_not_made_and_the_model_hears_why() -> None:
    script = Script([call("pay", to="Ada"), call("pay", to="Bob")], THEN_DONE)
    run = Agent(model=script.model, tools=[CAREFUL]).arun("go")
    await decided(run, lambda run, asked: run.refuse(asked, "too much"), lambda run, asked: run.refuse(asked))
    output = await run

    assert script.answers() == [
        ("denied", "pay", "refused: too much"), ("denied", "pay", "refused: this call was not approved"),
    ]  # fmt: skip
    assert (output.status, paid, len(output.steps)) == (RunStatus.completed, [], 2)


async def test_of_two_decisions_the_first_counts_and_what_does_not_wait_cannot_be_decided() -> None:
    run = Agent(model=Script([call("pay", to="Ada")], THEN_DONE).model, tools=[CAREFUL]).arun("go")
    assert not run.approve("call-1")
    events = await decided(
        run,
        lambda run, asked: not run.approve("call-2") and run.refuse(asked) and not run.approve(asked),
    )

    assert not run.refuse("call-1")
    assert [event.approved for event in events if isinstance(event, ApprovalDecided)] == [False]
    with pytest.raises(MisuseError, match="call_id"):
        run.approve(7)  # type: ignore[arg-type]


async def test_a_call_that_cannot_be_made_is_told_to_the_model_and_nobody_is_asked() -> None:
    script = Script([call("pay", to=7)], THEN_DONE)
    events = await decided(Agent(model=script.model, tools=[CAREFUL]).arun("go"))
    assert "ApprovalRequested" not in names(events)
    assert script.answers()[0][:2] == ("retried", "pay")


async def test_the_arguments_are_told_up_to_a_bound_and_without_what_is_named_like_a_secret() -> None:
    async def sign_in(name: str, password: str) -> str:
        return f"{name} {password}"

    def approve(run: Run, asked: str) -> bool:
        return run.approve(asked)

    script = Script([call("sign_in", name="Ada", password="hunter2")], [call("pay", to="x" * 10_000)], THEN_DONE)
    run = Agent(model=script.model, tools=[Tool(sign_in, requires_approval=True), CAREFUL]).arun("go")
    asked = [event for event in await decided(run, approve, approve) if isinstance(event, ApprovalRequested)]
    assert asked[0].arguments == '{"name":"Ada","password":"***"}'
    assert (len(asked[1].arguments), asked[1].arguments[:10]) == (4_096, '{"to":"xxx')
    assert (script.answers()[0][2], paid) == ("Ada hunter2", ["x" * 10_000])


async def test_other_calls_of_the_turn_go_on_meanwhile() -> None:
    async def note() -> str:
        return "noted"

    script = Script([call("pay", to="Ada"), call("note")], THEN_DONE)
    run = Agent(model=script.model, tools=[CAREFUL, note]).arun("go")
    events: list[Event] = []
    async for event in run:
        events.append(event)
        if names(events)[-1] == "ToolCallCompleted" and not paid:
            assert run.approve("call-1")
    assert [answer[2] for answer in script.answers()] == ["Ada is paid", "noted"]


async def test_an_approval_from_another_thread_wakes_the_run() -> None:
    run = Agent(model=Script([call("pay", to="Ada")], THEN_DONE).model, tools=[CAREFUL]).arun("go")
    async for event in run:
        if isinstance(event, ApprovalRequested):
            assert await anyio.to_thread.run_sync(run.approve, event.tool_call_id)
    assert paid == ["Ada"]


async def test_a_paused_run_makes_an_approved_call_when_it_goes_on() -> None:
    run = Agent(model=Script([call("pay", to="Ada")], THEN_DONE).model, tools=[CAREFUL]).arun("go")
    seen: list[tuple[str, list[str]]] = []
    async for event in run:
        seen.append((str(event.event), [*paid]))
        if isinstance(event, ApprovalRequested):
            run.pause()
            run.approve(event.tool_call_id)
        elif isinstance(event, ApprovalDecided):
            await anyio.sleep(5)
            run.resume()
    assert ("RunContinued", []) in seen
    assert paid == ["Ada"]


async def test_a_limit_of_time_bounds_the_wait() -> None:
    run = Agent(model=Script([call("pay", to="Ada")]).model, tools=[CAREFUL]).arun("go", limits=Limits(timeout=60))
    output = await run
    assert output.stop is not None
    assert (output.status, output.stop.cause, paid) == (RunStatus.cancelled, StopCause.timeout, [])
