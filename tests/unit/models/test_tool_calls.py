"""Tools that a scripted model calls: what they are given, what goes back to the model, how they fail and stop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest
from pydantic_ai import ModelRetry, Tool

from kit.scripts import THEN_DONE, Script, answers, call, look
from softstop import Agent, Limits, RunContext, RunStatus, ToolCallCompleted, Usage


class GroupsEnd(BaseException):
    """What a library of another language raises where it panics: anyio wraps it in a BaseExceptionGroup."""


async def test_tools_of_one_turn_run_in_parallel() -> None:
    met = anyio.Event()

    async def first() -> str:
        await met.wait()
        return "1"

    async def second() -> str:
        met.set()
        return "2"

    script = Script([call("first"), call("second")], THEN_DONE)
    output = await Agent(model=script.model, tools=[first, second]).arun("go")

    assert output.status is RunStatus.completed
    assert script.answers() == [("success", "first", "1"), ("success", "second", "2")]


@pytest.mark.parametrize("kind", ["by name", "by annotation", "sync"])
async def test_a_tool_that_asks_for_the_run_gets_it(kind: str) -> None:
    async def by_name(run, x: int) -> str:  # type: ignore[no-untyped-def]
        return f"{run.run_id} {x}"

    async def by_annotation(context: RunContext, x: int) -> str:
        return f"{context.run_id} {x}"

    def sync(run: RunContext, x: int) -> str:
        assert threading.current_thread() is not threading.main_thread()
        return f"{run.run_id} {x}"

    function = {"by name": by_name, "by annotation": by_annotation, "sync": sync}[kind]
    script = Script([call(function.__name__, x=7)], THEN_DONE)
    run = Agent(model=script.model, tools=[function]).arun("go")
    await run

    assert script.answers() == [("success", function.__name__, f"{run.run_id} 7")]
    [request] = [part for part in script.asked[0] if part.kind == "request"]
    assert request.parts


async def test_positional_and_starred_parameters_arrive() -> None:
    async def join(first: str, /, *rest: str, sep: str = "-") -> str:
        return sep.join((first, *rest))

    script = Script([call("join", first="a", rest=["b", "c"], sep="+")], THEN_DONE)
    await Agent(model=script.model, tools=[join]).arun("go")
    assert script.answers() == [("success", "join", "a+b+c")]


async def test_a_described_tool_keeps_its_own_name() -> None:
    script = Script([call("peek")], THEN_DONE)
    await Agent(model=script.model, tools=[Tool(look, name="peek", description="Peek.")]).arun("go")
    assert script.answers() == [("success", "peek", "")]


async def test_a_tool_that_takes_longer_than_its_timeout_is_a_failed_call_and_the_run_goes_on() -> None:
    script = Script([call("wait")], THEN_DONE)
    output = await Agent(model=script.model, tools=[Tool(wait, timeout=2.0)]).arun("go")

    line = "StepTimeout: step 'wait' took more than its 2 s and was cut; it may have happened in part"
    assert script.answers() == [("failed", "wait", line)]
    assert (output.status, [step.status for step in output.steps]) == (
        RunStatus.completed, ["completed", "unsettled", "completed"],
    )  # fmt: skip


async def wait() -> None:
    """Wait."""
    await anyio.sleep(1_000)


async def test_a_tool_that_raises_is_a_failed_call_and_its_line_goes_back_to_the_model() -> None:
    async def pay() -> None:
        raise ValueError("no\nmoney")

    script = Script([call("pay")], THEN_DONE)
    events = [event async for event in Agent(model=script.model, tools=[pay]).arun("go")]

    [ended] = [event for event in events if isinstance(event, ToolCallCompleted)]
    assert (ended.status, ended.error) == ("failed", "ValueError: no money")
    assert script.answers() == [("failed", "pay", "ValueError: no money")]
    assert events[-1].content == "done"


RAISED = (
    asyncio.CancelledError(), SystemExit(3), ExceptionGroup("two", [ValueError()]),
    BaseExceptionGroup("two", [ValueError(), asyncio.CancelledError()]),
)  # fmt: skip


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("raised", RAISED, ids=repr)
async def test_whatever_a_tool_raises_by_itself_is_its_own_failure(raised: BaseException, is_async: bool) -> None:
    async def odd() -> None:
        raise raised

    def odd_in_a_thread() -> None:
        raise raised

    odd_in_a_thread.__name__ = "odd"
    script = Script([call("odd")], THEN_DONE)
    output = await Agent(model=script.model, tools=[odd if is_async else odd_in_a_thread]).arun("go")

    assert output.status is RunStatus.completed
    assert script.answers()[0][:2] == ("failed", "odd")


async def test_no_end_of_a_tool_s_own_task_group_tears_the_tool_beside_it() -> None:
    async def odd() -> None:
        async def dies() -> None:
            raise GroupsEnd

        async with anyio.create_task_group() as group:
            group.start_soon(dies)

    async def pays() -> str:
        await anyio.sleep(1)
        return "paid"

    script = Script([call("odd"), call("pays")], THEN_DONE)
    output = await Agent(model=script.model, tools=[odd, pays]).arun("go")

    assert (output.status, output.content) == (RunStatus.completed, "done")
    assert script.answers()[1] == ("success", "pays", "paid")


async def test_a_result_that_cannot_be_sent_is_a_failed_call() -> None:
    async def odd() -> object:
        return object()

    script = Script([call("odd")], THEN_DONE)
    output = await Agent(model=script.model, tools=[odd]).arun("go")

    assert output.status is RunStatus.completed
    assert script.answers()[0][:2] == ("failed", "odd")


async def test_an_unknown_tool_and_bad_arguments_go_back_to_be_mended() -> None:
    async def add(a: int) -> int:
        raise NotImplementedError

    bad = call("add", a="much")
    script = Script([call("nope"), bad, call("add")], THEN_DONE)
    output = await Agent(model=script.model, tools=[add]).arun("go")

    assert [status for _, status in [(s.step, s.status) for s in output.steps]] == [
        "completed", "failed", "failed", "failed", "completed",
    ]  # fmt: skip
    unknown, wrong, missing = script.answers()
    assert unknown == ("retried", "nope", "there is no tool 'nope'; there are: add")
    assert wrong[0] == missing[0] == "retried"
    assert "a: Input should be a valid integer" in wrong[2]
    assert "much" not in wrong[2]
    assert "a: Field required" in missing[2]


async def test_arguments_that_are_no_json_go_back_to_be_mended() -> None:
    broken = call("look")
    broken.json_args = '{"a": '
    script = Script([broken], THEN_DONE)
    await Agent(model=script.model, tools=[look]).arun("go")
    assert script.answers()[0][0] == "retried"


async def test_a_tool_may_ask_the_model_to_try_again() -> None:
    async def add(a: int) -> int:
        raise ModelRetry("smaller, please")

    script = Script([call("add", a=1)], THEN_DONE)
    await Agent(model=script.model, tools=[add]).arun("go")
    assert script.answers() == [("retried", "add", "smaller, please")]


async def test_a_sync_tool_sees_the_stop() -> None:
    began, seen = threading.Event(), threading.Event()

    def work(run: RunContext) -> str:
        began.set()
        while not run.stopping:
            seen.wait(0.001)
        return "stopped early"

    run = Agent(model=Script([call("work")]).model, tools=[work]).arun("go")
    await anyio.to_thread.run_sync(began.wait, 5)
    run.cancel()
    output = await run

    assert answers(output.messages) == [("success", "work", "stopped early")]


async def test_a_sync_tool_that_waits_for_a_thread_is_in_no_step() -> None:
    release = threading.Event()
    began = threading.Semaphore(0)

    def work() -> None:
        began.release()
        release.wait(10)

    run = Agent(model=Script([call("work") for _ in range(41)]).model, tools=[work]).arun("go")
    for _ in range(40):
        await anyio.to_thread.run_sync(began.acquire)
    run.cancel()
    release.set()
    output = await run

    begun = [step for step in output.steps if step.step == "work"]
    assert len(begun) == 40
    assert [content.partition(":")[0] for _, _, content in answers(output.messages)].count("not_run") == 1


async def test_a_sync_tool_that_returns_an_awaitable_is_awaited_in_its_call() -> None:
    def find(word: str) -> Any:
        async def later() -> str:
            await anyio.sleep(2)
            return f"{word}!"

        return later()

    script = Script([call("find", word="sea")], ["done"])
    output = await Agent(model=script.model, tools=[find]).arun("go")
    assert script.answers() == [("success", "find", "sea!")]
    assert output.status is RunStatus.completed


async def test_a_call_whose_own_step_has_no_room_is_not_told_as_one_that_was_not_run() -> None:
    """It has begun, and may have done something before."""

    async def dear(run: RunContext) -> None:
        async with run.step("ask", reserve=Usage(output_tokens=1_000_000)):
            raise NotImplementedError

    script = Script([call("dear")], THEN_DONE)
    output = await Agent(model=script.model, tools=[dear], limits=Limits(tokens=100_000)).arun("go")
    [(outcome, _, told)] = answers(output.messages)
    assert (outcome, told.partition(":")[0]) == ("failed", "BudgetExceeded")
