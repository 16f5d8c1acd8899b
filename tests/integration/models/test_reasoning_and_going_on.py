"""What a model's value asks for: its reasoning as events, and an answer cut at its own bound to go on, once."""

from __future__ import annotations

from typing import Any

import pytest

from kit.runs import kinds
from kit.wire import PROTOCOLS, USED, Call, End, Thought, body, playing
from softstop import Agent, ReasoningContentDelta, RunStatus, Usage
from softstop.models import Price

pytestmark = [pytest.mark.server, pytest.mark.parametrize("protocol", PROTOCOLS)]


async def test_reasoning_is_told_as_events_of_its_own_and_is_no_content(protocol: str) -> None:
    thought = "Rainbows 🌈."
    async with playing(body(protocol, Thought(thought), "Yes.", End())) as wire:
        run = Agent(model=wire.model(protocol, reasoning_events=True)).arun("go")
        events = [event async for event in run]

    assert kinds(events) == [
        "RunStarted", "ModelRequestStarted", "ReasoningContentDelta", "ModelRequestCompleted", "RunCompleted",
    ]  # fmt: skip
    assert [event.reasoning_content for event in events if isinstance(event, ReasoningContentDelta)] == [thought]
    assert (events[-1].content, (await run).value) == ("Yes.", "Yes.")


async def test_reasoning_is_not_told_unless_it_is_asked_for(protocol: str) -> None:
    async with playing(body(protocol, Thought("hm"), "Yes.", End())) as wire:
        events = [event async for event in Agent(model=wire.model(protocol)).arun("go")]
    assert not [event for event in events if isinstance(event, ReasoningContentDelta)]


async def test_reasoning_that_only_the_total_of_a_report_has_is_counted_and_paid(protocol: str) -> None:
    """Grok and servers like it report completion tokens without those of reasoning."""
    async with playing(body(protocol, "Yes.", End(beside=300))) as wire:
        output = await Agent(model=wire.model(protocol, price=Price(1, 2))).arun("go")

    taken, given = USED
    beside = 0 if protocol == "anthropic" else 300  # which reports no total
    assert output.usage == Usage(
        input_tokens=taken,
        output_tokens=given + beside,
        reasoning_tokens=beside,
        cost_nano_usd=(taken + 2 * (given + beside)) * 1_000,
        model="m",
    )


async def test_an_answer_cut_at_its_own_bound_goes_on_once_if_asked_to(protocol: str) -> None:
    async with playing(body(protocol, "Once upon ", End("length")), body(protocol, "a time.", End())) as wire:
        output = await Agent(model=wire.model(protocol, continue_once=True)).arun("go")

    assert (output.status, output.content, output.value) == (RunStatus.completed, *["Once upon a time."] * 2)
    assert (output.finish_reason, len(wire.asked)) == ("stop", 2)
    assert "Your answer was cut off there by a limit. Go on." in str(wire.asked[1])


async def test_an_answer_whose_rest_is_cut_too_has_failed(protocol: str) -> None:
    async with playing(body(protocol, "Once upon ", End("length"))) as wire:
        output = await Agent(model=wire.model(protocol, continue_once=True)).arun("go")

    assert (output.status, output.content, len(wire.asked)) == (RunStatus.failed, "Once upon " * 2, 2)
    assert "cut off at the model's own bound" in output.errors[0]


async def test_an_answer_cut_inside_a_call_is_asked_to_call_again(protocol: str) -> None:
    painted: list[str] = []

    async def paint(what: str) -> str:
        """Paint."""
        painted.append(what)
        return "painted"

    answers: list[Any] = [
        body(protocol, Call("paint", '{"what": "a rain'), End("length")),
        body(protocol, Call("paint", '{"what": "a rainbow"}'), End()),
        body(protocol, "Once upon ", End("length")),
        body(protocol, "a time.", End()),
    ]
    async with playing(*answers) as wire:
        output = await Agent(model=wire.model(protocol, continue_once=True), tools=[paint]).arun("go")

    assert (output.status, painted, output.value) == (RunStatus.completed, ["a rainbow"], "Once upon a time.")
    assert "call it again" in str(wire.asked[1])
