"""T21: what was not seen to end did not end: a model's answer without its end calls nothing and completes nothing."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from pydantic_ai.messages import FinishReason, ToolCallPart
from pydantic_ai.models.function import DeltaToolCall

from kit.runs import at, statuses
from kit.scripts import Ends, Script, answers, call
from softstop import Agent, ModelRequestCompleted, RunContent, RunStatus, StopPolicy, Supervisor
from softstop.models import Borrowed, Offline

BROKE_OFF = (
    "ModelFailed: model 'scripted': the answer broke off: its stream ended without "
    "finish_reason, [DONE], response.completed or message_stop"
)
wiped: list[str] = []


async def wipe(path: str = "/") -> str:
    """Delete everything below a path."""
    wiped.append(path)
    return "wiped"


@pytest.fixture(autouse=True)
def _nothing_wiped() -> None:
    wiped.clear()


def torn(arguments: str | None) -> DeltaToolCall:
    """A piece: a tool call that breaks off in its arguments, or before them."""
    return DeltaToolCall("wipe", arguments)


async def run_of(*turns: list[Any], **options: Any) -> Any:
    script = Script(*turns)
    run = Agent(model=script.model, tools=[wipe], **options).arun("go")
    events = [event async for event in run]
    return script, events, await run


CALLS = {"before its arguments": None, "inside them": '{"path": "/tm', "after them": '{"path": "/tmp"}'}


@pytest.mark.parametrize("whole", [False, True], ids=["divisible answers", "whole answers"])
@pytest.mark.parametrize("arguments", CALLS.values(), ids=CALLS)
async def test_a_call_of_an_answer_that_broke_off_is_never_made(arguments: str | None, whole: bool) -> None:
    policy = StopPolicy(finish_model_calls=whole)
    script, _, output = await run_of(["Well. ", torn(arguments), Ends(None)], ["never"], policy=policy)

    assert (output.status, output.errors, wiped) == (RunStatus.failed, (BROKE_OFF,), [])
    assert (output.content, output.messages[-1].text) == ("Well. ", "Well. ")
    assert not output.messages[-1].tool_calls
    assert output.usage.estimated
    assert len(script.asked) == 1  # its text was delivered: what has begun is not begun again


async def test_an_answer_that_broke_off_before_it_delivered_anything_is_asked_for_again() -> None:
    script, events, output = await run_of(
        [torn(None), Ends(None)], [call("wipe", path="/tmp"), Ends("tool_call")], ["ok"]
    )

    assert (output.status, output.content, wiped) == (RunStatus.completed, "ok", ["/tmp"])
    ended = [(event.status, event.finish_reason) for event in events if isinstance(event, ModelRequestCompleted)]
    assert ended == [("failed", None), ("completed", "tool_call"), ("completed", None)]
    assert len(script.asked) == 3


@pytest.mark.parametrize("arguments", [None, "", "{", '{"path": "/tm', '["/"]'])
async def test_a_call_that_an_answer_was_cut_off_in_is_never_made(arguments: str | None) -> None:
    _, _, output = await run_of([torn(arguments), Ends("length")], ["never"])

    assert (output.status, output.finish_reason, wiped) == (RunStatus.failed, "length", [])
    assert "cut off at the model's own bound" in output.errors[0]
    [part] = output.messages[1].parts
    assert isinstance(part, ToolCallPart)
    assert part.args == {"INVALID_JSON": arguments or ""}
    [(outcome, _, told)] = answers(output.messages)
    assert (outcome, told.partition(":")[0]) == ("interrupted", "not_run")


async def test_only_what_was_seen_to_end_of_an_answer_that_was_cut_off_is_called() -> None:
    script, _, output = await run_of(
        [call("wipe", path="/a"), torn('{"path": "/'), Ends("length")], ["ok", Ends("stop")]
    )

    assert (output.status, output.content, output.finish_reason, wiped) == (RunStatus.completed, "ok", "stop", ["/a"])
    assert [told.partition(":")[0] for _, _, told in script.answers()] == ["wiped", "not_run"]


@pytest.mark.parametrize("reason", ["length", "content_filter", "error"])
async def test_an_answer_that_did_not_end_well_never_completes_a_run(reason: FinishReason) -> None:
    _, events, output = await run_of(["So far. ", Ends(reason)], ["never"])

    assert (output.status, output.finish_reason) == (RunStatus.failed, reason)
    assert (output.content, output.messages[-1].text) == ("So far. ", "So far. ")
    [ended] = [event for event in events if isinstance(event, ModelRequestCompleted)]
    assert ended.finish_reason == reason


async def test_a_filtered_answer_calls_nothing() -> None:
    _, _, output = await run_of([call("wipe"), Ends("content_filter")], ["never"])
    assert (output.status, wiped) == (RunStatus.failed, [])


async def test_how_an_answer_ended_that_a_stop_has_cut_is_not_known() -> None:
    script = Script(["a ", 1.0, "b ", Ends("stop")])
    run = Agent(model=script.model).arun("go")
    async for event in run:
        if isinstance(event, RunContent):
            run.cancel()
        if isinstance(event, ModelRequestCompleted):
            assert (event.status, event.finish_reason) == ("cut", None)
    assert (await run).finish_reason is None


async def test_a_run_that_failed_by_its_answer_s_end_goes_on_from_its_messages() -> None:
    script, _, output = await run_of(["So far. ", torn("{"), Ends("length")], ["and on."])
    more = await Agent(model=script.model, tools=[wipe]).arun("Go on.", continue_from=output)

    assert (more.status, more.content) == (RunStatus.completed, "and on.")


async def test_a_stop_of_an_answer_that_goes_on_after_a_torn_call_leaves_that_call_its_one_answer() -> None:
    script = Script(["So ", torn("{"), Ends("length")], ["far ", 60.0])
    run = Agent(model=Borrowed(script.model, continue_once=True), tools=[wipe]).arun("go")
    await anyio.sleep(1)
    run.cancel()
    output = await run

    assert [name for _, name, _ in answers(output.messages)] == ["wipe"]
    assert (output.content, output.messages[-1].text) == ("So far ", "far ")


async def test_two_calls_with_one_id_are_refused_before_any_is_made() -> None:
    script = Script(["", Ends("tool_call")])

    async def play(messages: Any, info: Any) -> Any:
        script.asked.append(list(messages))
        for index in range(2):
            yield {index: DeltaToolCall("wipe", "{}", tool_call_id="same")}
        await anyio.sleep(1)

    script.model.stream_function = play
    output = await Agent(model=script.model, tools=[wipe]).arun("go")

    assert (output.status, wiped, len(script.asked)) == (RunStatus.failed, [], 1)
    assert "two tool calls have the id 'same'" in output.errors[0]
    assert len(output.messages) == 1, "a conversation with such an answer could not go on"


async def test_an_answer_that_is_kept_whole_and_cut_by_force_leaves_no_doubt_that_it_did_not_end() -> None:
    policy = StopPolicy(finish_model_calls=True)
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(model=Offline("A long answer. " * 20)), "go", policy=policy)
        at(0.5, lambda: run.cancel(mode="now"))
        output = await run.ended()
    assert statuses(output) == [("offline", "cut")]
