"""Halves of characters, from servers that cut UTF-16 and from tools: they never break a conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kit.scripts import answers
from kit.wire import PROTOCOLS, Call, End, Thought, body, playing
from softstop import Agent, ReasoningContentDelta, RunContent, RunStatus

pytestmark = pytest.mark.server

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
BROKEN = "caf\udce9"  # the name of a file in Latin-1, as os.listdir gives it


@each_protocol
async def test_halves_of_a_character_in_two_pieces_are_joined(protocol: str) -> None:
    first = body(protocol, "A ", "\ud83c", "\udf08", "!", End())
    async with playing(first, body(protocol, "Yes.", End())) as wire:
        agent = Agent(model=wire.model(protocol))
        run = agent.arun("go")
        pieces = [event.content async for event in run if isinstance(event, RunContent)]
        output = await run
        more = await agent.arun("Go on.", continue_from=output)

    assert (output.content, pieces) == ("A 🌈!", ["A ", "🌈", "!"])
    assert "".join(part.content for part in output.messages[-1].parts) == "A 🌈!"
    assert (more.status, more.content) == (RunStatus.completed, "Yes.")


@each_protocol
@pytest.mark.parametrize(
    "pieces", [["A ", "\ud83c", "b"], ["A ", "\udf08b"], ["A b", "\ud83c"]], ids=["middle", "low", "end"]
)
async def test_a_half_without_the_other_is_replaced_in_messages_as_in_content(protocol: str, pieces: list[str]) -> None:
    async with playing(body(protocol, *pieces, End()), body(protocol, "Yes.", End())) as wire:
        agent = Agent(model=wire.model(protocol))
        output = await agent.arun("go")
        more = await agent.arun("Go on.", continue_from=output)

    assert output.content == "".join(pieces).encode("utf-8", "replace").decode()
    assert "".join(part.content for part in output.messages[-1].parts) == output.content
    assert (more.status, more.content) == (RunStatus.completed, "Yes.")


def sync_name() -> str:
    """Find a file."""
    return BROKEN


async def name() -> str:
    """Find a file."""
    return BROKEN


async def names() -> dict[str, Any]:
    """Find files."""
    return {BROKEN: [BROKEN, ("fine", 7)]}


async def failing() -> str:
    """Fail."""
    raise OSError(BROKEN)


TOOLS = {
    sync_name: "caf?",
    name: "caf?",
    names: '{"caf?":["caf?",["fine",7]]}',
    failing: "OSError: caf?",
}


@each_protocol
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
async def test_a_lone_surrogate_of_a_tool_breaks_no_conversation(protocol: str, tool: Any) -> None:
    called = body(protocol, Call(tool.__name__, "{}"), End())
    async with playing(called, body(protocol, "Found.", End())) as wire:
        output = await Agent(model=wire.model(protocol), tools=[tool]).arun("go")

    assert (output.status, output.content) == (RunStatus.completed, "Found.")
    [(_, _, told)] = answers(output.messages)
    assert told == TOOLS[tool]
    assert "caf?" in json.dumps(wire.asked[1])


@each_protocol
async def test_halves_in_the_arguments_of_a_call_are_joined(protocol: str) -> None:
    given: list[str] = []

    async def paint(what: str) -> str:
        """Paint."""
        given.append(what)
        return "painted"

    called = body(protocol, Call("paint", '{"what": "', "\ud83c", "\udf08", '"}'), End())
    async with playing(called, body(protocol, "Done.", End())) as wire:
        output = await Agent(model=wire.model(protocol), tools=[paint]).arun("go")

    assert (output.status, given) == (RunStatus.completed, ["🌈"])


@each_protocol
async def test_a_prompt_with_a_lone_surrogate_is_sent(protocol: str) -> None:
    async with playing(body(protocol, "Done.", End())) as wire:
        agent = Agent(model=wire.model(protocol))
        outputs = [await agent.arun(prompt) for prompt in (BROKEN, ["file", BROKEN])]

    assert [output.status for output in outputs] == [RunStatus.completed] * 2
    assert "caf?" in json.dumps(wire.asked[0])


async def test_halves_in_two_pieces_of_reasoning_are_joined() -> None:
    halves = Thought("Rainbows \ud83c"), Thought("\udf08."), "Yes.", End()
    async with playing(body("chat", *halves)) as wire:
        run = Agent(model=wire.model("chat", reasoning_events=True)).arun("go")
        told = [event.reasoning_content async for event in run if isinstance(event, ReasoningContentDelta)]
    assert told == ["Rainbows ", "🌈."]
