"""Every schedule of a stop against the turn loop: the law holds, and the messages handed back are always valid."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from softstop import Agent, Run, StopPolicy, Supervisor
from softstop.testing import stop_everywhere

from .conftest import CountReport


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


@pytest.mark.explore
@pytest.mark.parametrize("whole", [False, True], ids=["divisible answers", "whole answers"])
def test_a_stop_anywhere_keeps_the_law_and_a_valid_history(whole: bool, count: CountReport) -> None:
    agent = Agent(model=FunctionModel(stream_function=two_turns), tools=[save, look])

    def make_run(supervisor: Supervisor) -> Run:
        return supervisor.start(agent, "go", policy=StopPolicy(finish_model_calls=whole))

    def check(trace: Any) -> Iterator[str]:
        if trace.root is not None and trace.root.output is not None:
            yield from invalid(trace.root.output.messages)

    report = stop_everywhere(make_run, also=check)
    count(report)
    assert report.violations == 0
    assert report.schedules > 300
