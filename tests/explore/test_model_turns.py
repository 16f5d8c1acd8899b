"""Every schedule of a stop against the turn loop: the law holds, and the messages handed back are always valid."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from kit.scripts import Ends, Script, call
from softstop import Agent, ModelRequestCompleted, Run, RunStatus, StopPolicy, Supervisor
from softstop.testing import stop_everywhere

from .conftest import CountReport
from .scale import FIRST_SEED, PATIENCE, times

pytestmark = [pytest.mark.explore, pytest.mark.timeout(PATIENCE)]


async def two_turns(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    answered = any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
    for word in ("so ", "far "):
        yield word
        await anyio.sleep(1)
    if not answered:
        for index, name in enumerate(("save", "look")):
            yield {index: DeltaToolCall(name, json.dumps({}), tool_call_id=f"call-{index}")}


async def save() -> str:
    await anyio.sleep(2)
    return "saved"


async def look() -> str:
    await anyio.sleep(1)
    raise ValueError("dark")


def invalid(messages: tuple[Any, ...]) -> Iterator[str]:
    """Why a provider would refuse this history."""
    for index, message in enumerate(messages):
        if not isinstance(message, ModelResponse):
            continue
        asked = [call.tool_call_id for call in message.tool_calls]
        after = messages[index + 1] if index + 1 < len(messages) else ModelRequest([])
        replies = [part.tool_call_id for part in after.parts if isinstance(part, ToolReturnPart)]
        if asked != replies:
            yield f"calls {asked} were answered by {replies}"


@pytest.mark.parametrize("whole", [False, True], ids=["divisible answers", "whole answers"])
def test_a_stop_anywhere_keeps_the_law_and_a_valid_history(whole: bool, count: CountReport) -> None:
    agent = Agent(model=FunctionModel(stream_function=two_turns), tools=[save, look])

    def make_run(supervisor: Supervisor) -> Run:
        return supervisor.start(agent, "go", policy=StopPolicy(finish_model_calls=whole))

    def check(trace: Any) -> Iterator[str]:
        if trace.root is not None and trace.root.output is not None:
            yield from invalid(trace.root.output.messages)

    report = stop_everywhere(make_run, also=check, most=times(2_000), seed=FIRST_SEED)
    count(report)
    assert report.violations == 0
    assert report.schedules > min(times(2_000), 300)


THEN_ALL: list[Any] = ["all", 1.0, Ends("stop")]


def torn(tool: str) -> DeltaToolCall:
    """A piece: a tool call that breaks off before its arguments."""
    return DeltaToolCall(tool)


WRONG_ENDS: dict[str, list[list[Any]]] = {
    "after some text": [["so ", 1.0, "far ", Ends(None)]],
    "before anything": [[1.0, torn("wipe"), Ends(None)], ["so ", 1.0, call("save"), Ends("tool_call")], THEN_ALL],
    "in a call": [["so ", call("save"), torn("wipe"), 1.0, Ends(None)]],
    "cut off in a call": [["so ", 1.0, torn("wipe"), Ends("length")]],
    "cut off in the second call": [["so ", call("save"), torn("wipe"), 1.0, Ends("length")], THEN_ALL],
    "filtered": [["so ", 1.0, call("wipe"), Ends("content_filter")]],
}


@pytest.mark.parametrize("end", WRONG_ENDS)
def test_what_was_not_seen_to_end_did_not_end_whenever_a_stop_comes(end: str, count: CountReport) -> None:
    wiped: list[str] = []

    async def wipe(path: str = "/") -> None:
        wiped.append(path)

    def make_run(supervisor: Supervisor) -> Run:
        wiped.clear()
        agent = Agent(model=Script(*WRONG_ENDS[end]).model, tools=[save, wipe])
        return supervisor.start(agent, "go", policy=StopPolicy(finish_model_calls=end in ("in a call", "filtered")))

    def check(trace: Any) -> Iterator[str]:
        if wiped:
            yield f"a call that was not seen to end was made: wipe({wiped})"
        for event in trace.story:
            if isinstance(event, ModelRequestCompleted) and event.status == "completed" and event.finish_reason is None:
                yield "an answer without its end is a completed one"
        output = None if trace.root is None else trace.root.output
        if output is not None:
            yield from invalid(output.messages)
            if output.status is RunStatus.completed and output.finish_reason != "stop":
                yield f"a run has completed by an answer that ended by {output.finish_reason}"

    report = stop_everywhere(make_run, also=check, most=times(700), seed=FIRST_SEED)
    count(report)
    assert report.violations == 0
    assert report.schedules > min(times(700), 100)
