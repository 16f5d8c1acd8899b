"""The turn loop with a scripted model, in virtual time: order of events, stops, bounds."""

from __future__ import annotations

import threading

import anyio
import pytest
from pydantic_ai import Tool

from kit.runs import kinds
from kit.scripts import Script, answers, call, look
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
    ToolCallStarted,
    Usage,
)


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


async def test_without_a_bound_of_turns_a_model_may_call_tools_as_long_as_it_likes() -> None:
    script = Script(*[[call("look")]] * 60, ["done"])
    output = await Agent(model=script.model, tools=[look], max_turns=None).arun("go")
    assert (output.value, len(script.asked)) == ("done", 61)


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
    assert output.usage == Usage(input_tokens=50, output_tokens=2, estimated=True, model="scripted")
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


@pytest.mark.leaves_tasks
async def test_an_abandoned_tool_leaves_a_valid_history_that_does_not_change_any_more() -> None:
    release = threading.Event()

    def stuck() -> str:
        release.wait(60)
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


async def test_a_models_own_bug_fails_the_run_as_it_is() -> None:
    script = Script(["a "], ["b"])
    script.turns = ()  # an IndexError in the model's code

    events = [event async for event in Agent(model=script.model).arun("go")]

    assert isinstance(events[-1], RunFailed)
    assert events[-1].error == "IndexError: tuple index out of range"


async def test_usage_of_all_turns_adds_up() -> None:
    script = Script(["one two ", call("look")], ["three"])
    events = [event async for event in Agent(model=script.model, tools=[look]).arun("go")]
    charged = [event.usage for event in events if isinstance(event, ModelRequestCompleted)]
    assert all(charged)
    assert charged == [event.metrics for event in events if isinstance(event, ModelRequestCompleted)]
    assert sum(usage.total_tokens for usage in charged if usage) == events[-1].usage.total_tokens
