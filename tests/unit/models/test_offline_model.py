"""The model without a provider: its pace, its tools, its stops."""

from __future__ import annotations

import asyncio

from kit.runs import kinds
from kit.scripts import answers
from softstop import Agent, RunContent, RunStatus
from softstop.models import Offline


async def test_it_tells_its_text_at_the_given_pace() -> None:
    began = asyncio.get_running_loop().time()
    output = await Agent(model=Offline("one two three four five six", words_per_second=2)).arun("go")
    assert output.content == "one two three four five six"
    assert asyncio.get_running_loop().time() - began == 3.0


async def test_it_calls_each_tool_once_in_the_middle() -> None:
    async def save(text: str, copies: int, note: str = "") -> str:
        return f"{copies} of {text!r}{note}"

    run = Agent(model=Offline("one two three four"), tools=[save]).arun("go")
    events = [event async for event in run]

    assert kinds(events) == [
        "RunStarted", "ModelRequestStarted", "ModelRequestCompleted", "ToolCallStarted", "ToolCallCompleted",
        "ModelRequestStarted", "ModelRequestCompleted", "RunCompleted",
    ]  # fmt: skip
    output = await run
    assert output.content == "one two three four"
    assert answers(output.messages) == [("success", "save", "1 of 'one two'")]


async def test_it_calls_a_tool_also_before_a_single_word() -> None:
    async def save(text: str) -> str:
        return f"{text!r} is saved"

    output = await Agent(model=Offline("one"), tools=[save]).arun("go")
    assert output.content == "one"
    assert answers(output.messages) == [("success", "save", "'' is saved")]


async def test_its_built_in_story_stops_between_two_words() -> None:
    run = Agent(model=Offline()).arun("go")
    async for event in run:
        if isinstance(event, RunContent) and event.content.endswith("gulls"):
            run.cancel()
    output = await run
    assert output.status is RunStatus.cancelled
    assert output.content.endswith("asked\nthe gulls")


async def test_an_empty_text_is_an_empty_answer() -> None:
    output = await Agent(model=Offline("")).arun("go")
    assert (output.status, output.content) == (RunStatus.completed, "")
