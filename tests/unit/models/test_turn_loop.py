"""The turn loop with a scripted model, in virtual time: order of events, tools, stops, bounds."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest
from pydantic_ai import ModelRetry, Tool
from scripts import Script, answers, call, kinds

from softstop import (
    Agent,
    Limits,
    ModelRequestCompleted,
    ModelRequestStarted,
    RunCancelled,
    RunContent,
    RunContext,
    RunFailed,
    RunStatus,
    StopCause,
    StopPolicy,
    ToolCallCompleted,
    ToolCallStarted,
    Usage,
)

THEN_DONE: list[Any] = ["done"]


async def test_a_turn_is_an_answer_and_its_tool_calls_and_then_the_next_answer() -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    script = Script(["Let me see. ", call("add", a=2, b=3)], ["It is 5."])

    events = [event async for event in Agent(model=script.model, tools=[add]).arun("2+3?")]

    assert kinds(events) == [
        "RunStarted", "ModelRequestStarted", "ModelRequestCompleted", "ToolCallStarted", "ToolCallCompleted",
        "ModelRequestStarted", "ModelRequestCompleted", "RunCompleted",
    ]  # fmt: skip
    assert events[-1].content == "Let me see. It is 5."
    assert script.answers() == [("success", "add", "5")]
    assert [event.step for event in events if isinstance(event, ModelRequestStarted)] == ["scripted", "scripted"]
    assert [event.step for event in events if isinstance(event, ToolCallStarted)] == ["add"]


async def test_the_value_of_a_run_is_its_last_answer() -> None:
    output = await Agent(model=Script(["Wait. ", call("look")], ["Nothing ", "there."]).model, tools=[look]).arun("go")
    assert (output.value, output.content) == ("Nothing there.", "Wait. Nothing there.")


async def look() -> None:
    """Look."""


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


async def test_a_tool_that_raises_is_a_failed_call_and_its_line_goes_back_to_the_model() -> None:
    async def pay() -> None:
        raise ValueError("no\nmoney")

    script = Script([call("pay")], THEN_DONE)
    events = [event async for event in Agent(model=script.model, tools=[pay]).arun("go")]

    [ended] = [event for event in events if isinstance(event, ToolCallCompleted)]
    assert (ended.status, ended.error) == ("failed", "ValueError: no money")
    assert script.answers() == [("failed", "pay", "ValueError: no money")]
    assert events[-1].content == "done"


@pytest.mark.parametrize("raised", [asyncio.CancelledError(), SystemExit(3), ExceptionGroup("two", [ValueError()])])
async def test_whatever_a_tool_raises_by_itself_is_its_own_failure(raised: BaseException) -> None:
    async def odd() -> None:
        raise raised

    script = Script([call("odd")], THEN_DONE)
    output = await Agent(model=script.model, tools=[odd]).arun("go")

    assert output.status is RunStatus.completed
    assert script.answers()[0][:2] == ("failed", "odd")


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


async def test_a_model_that_never_stops_asking_for_tools_fails_the_run() -> None:
    script = Script([call("look")])
    output = await Agent(model=script.model, tools=[look], max_turns=3).arun("go")

    assert output.status is RunStatus.failed
    assert len(script.asked) == 3
    assert output.errors == (
        "TooManyTurns: model 'scripted' still asks for tools after 3 turns; "
        "raise Agent(max_turns=...), or tell it in the instructions when to stop",
    )
    assert len(answers(output.messages)) == 3


async def test_a_stop_during_a_tool_call_lets_it_finish_and_asks_the_model_nothing_more() -> None:
    done = False

    async def save(run: RunContext) -> str:
        nonlocal done
        run_handle.cancel("enough")
        assert run.stopping
        await anyio.sleep(5)
        done = True
        return "saved"

    script = Script(["So far. ", call("save")])
    run_handle = Agent(model=script.model, tools=[save]).arun("go")
    events = [event async for event in run_handle]

    assert done
    assert len(script.asked) == 1
    assert kinds(events) == [
        "RunStarted", "ModelRequestStarted", "ModelRequestCompleted", "ToolCallStarted", "RunStopRequested",
        "ToolCallCompleted", "RunCancelled",
    ]  # fmt: skip
    assert isinstance(events[-1], RunCancelled)
    output = await run_handle
    assert answers(output.messages) == [("success", "save", "saved")]


async def test_a_stop_after_the_turn_lets_all_tools_of_the_turn_begin() -> None:
    async def first() -> str:
        run.cancel(mode="turn")
        return "1"

    async def second() -> str:
        await anyio.sleep(1)
        return "2"

    script = Script([call("first"), call("second")])
    run = Agent(model=script.model, tools=[first, second]).arun("go")
    output = await run

    assert output.status is RunStatus.cancelled
    assert answers(output.messages) == [("success", "first", "1"), ("success", "second", "2")]
    assert len(script.asked) == 1


async def test_a_stop_after_the_turn_lets_the_answer_end() -> None:
    run = Agent(model=Script(["a ", 1.0, "b ", 1.0, "c"]).model).arun("go")
    async for event in run:
        if isinstance(event, RunContent):
            run.cancel(mode="turn")
    output = await run
    assert (output.status, output.content) == (RunStatus.completed, "a b c")


async def test_a_stop_in_an_answer_keeps_text_usage_and_history() -> None:
    script = Script(["Once ", 1.0, "upon ", 1.0, "a time"])
    run = Agent(model=script.model).arun("go")
    async for event in run:
        if isinstance(event, RunContent) and event.content == "upon ":
            run.cancel()
    output = await run

    assert (output.status, output.content) == (RunStatus.cancelled, "Once upon ")
    assert output.usage == Usage(input_tokens=50, output_tokens=3, estimated=True, model="scripted")
    request, partial = output.messages
    assert request.parts[0].content == "go"
    assert [part.content for part in partial.parts] == ["Once upon "]
    assert partial.state == "interrupted"


async def test_a_cut_answer_loses_its_half_tool_call_and_keeps_its_text() -> None:
    script = Script(["Let me ", call("look"), 9.0])
    run = Agent(model=script.model, tools=[look]).arun("go")
    async for event in run:
        if isinstance(event, RunContent):
            break
    await anyio.sleep(1)
    run.cancel()
    output = await run

    assert [part.part_kind for part in output.messages[-1].parts] == ["text"]


async def test_a_stop_while_tools_run_tells_finished_begun_and_unbegun_ones_apart() -> None:
    async def quick() -> str:
        return "done"

    async def slow() -> str:
        await anyio.sleep(60)
        raise NotImplementedError

    script = Script([call("quick"), call("slow"), call("patient")])
    patient = Tool(slow, name="patient", metadata={"interruptible": True})
    run = Agent(model=script.model, tools=[quick, slow, patient]).arun("go", policy=StopPolicy(grace=1))
    await anyio.sleep(1)
    run.cancel()
    output = await run

    told = answers(output.messages)
    assert [(outcome, name, content.partition(":")[0]) for outcome, name, content in told] == [
        ("success", "quick", "done"),
        ("interrupted", "slow", "unsettled"),
        ("interrupted", "patient", "cut"),
    ]
    assert {step.step: step.status for step in output.steps if step.step != "scripted"} == {
        "quick": "completed", "slow": "unsettled", "patient": "cut",
    }  # fmt: skip


async def test_tools_that_never_began_are_told_as_not_run() -> None:
    async def never() -> None:
        raise NotImplementedError

    script = Script([call("never"), call("never")])
    run = Agent(model=script.model, tools=[never]).arun("go")
    async for event in run:
        if isinstance(event, ModelRequestCompleted):
            run.cancel()
    output = await run

    assert [content.partition(":")[0] for _, _, content in answers(output.messages)] == ["not_run", "not_run"]


async def test_an_abandoned_tool_leaves_a_valid_history_that_does_not_change_any_more() -> None:
    release = threading.Event()

    def stuck() -> str:
        release.wait(10)
        return "late"

    script = Script([call("stuck")])
    policy = StopPolicy(grace=1, abandon_after=1)
    run = Agent(model=script.model, tools=[stuck], policy=policy).arun("go")
    await anyio.sleep(1)
    run.cancel()
    output = await run
    release.set()
    await anyio.sleep(1)

    assert output.abandoned == ("stuck",)
    assert answers(output.messages)[0][2].startswith("unsettled")
    assert run.output == output


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


async def test_a_token_limit_ends_the_run_after_the_answer_that_reached_it() -> None:
    script = Script(["word " * 40, call("look")])
    output = await Agent(model=script.model, tools=[look], limits=Limits(tokens=60)).arun("go")

    assert output.stop is not None
    assert (output.status, output.stop.cause) == (RunStatus.cancelled, StopCause.token_budget)
    assert len(script.asked) == 1
    assert answers(output.messages)[0][2].startswith("not_run")


async def test_a_run_goes_on_from_the_messages_of_one_that_was_stopped() -> None:
    script = Script(["Once ", 1.0, "upon"], ["a time."])
    agent = Agent(model=script.model, instructions="Tell.")
    run = agent.arun("go")
    async for event in run:
        if isinstance(event, RunContent):
            run.cancel()
    stopped = await run

    output = await agent.arun([*stopped.messages, "Go on."])

    assert output.content == "a time."
    assert [type(message).__name__ for message in output.messages] == [
        "ModelRequest", "ModelResponse", "ModelRequest", "ModelResponse",
    ]  # fmt: skip
    assert script.asked[1] == list(output.messages[:3])


@pytest.mark.parametrize("message", [None, "history that ends with an answer"])
async def test_a_message_that_asks_nothing_fails_the_run(message: str | None) -> None:
    script = Script(["done"])
    agent = Agent(model=script.model)
    given = None if message is None else (await agent.arun("go")).messages
    output = await agent.arun(given)
    assert output.status is RunStatus.failed
    assert output.errors[0].startswith("MisuseError")


async def test_a_message_of_another_type_is_told_as_json() -> None:
    script = Script(["done"])
    await Agent(model=script.model).arun({"topic": "tea"})
    assert script.asked[0][0].parts[0].content == '{"topic":"tea"}'


async def test_a_models_own_bug_fails_the_run_as_it_is() -> None:
    script = Script(["a "], ["b"])
    script.turns = ()  # an IndexError in the model's code

    events = [event async for event in Agent(model=script.model).arun("go")]

    assert isinstance(events[-1], RunFailed)
    assert events[-1].error == "IndexError: tuple index out of range"


async def test_usage_of_all_turns_adds_up() -> None:
    script = Script(["one two ", call("look")], ["three"])
    events = [event async for event in Agent(model=script.model, tools=[look]).arun("go")]
    charged = [event.metrics for event in events if isinstance(event, ModelRequestCompleted)]
    assert all(charged)
    assert sum(usage.total_tokens for usage in charged if usage) == events[-1].usage.total_tokens
