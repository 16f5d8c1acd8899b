"""`output_type=` through real clients: what goes over the wire, and what comes back as a value."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from kit.provider import Provider
from kit.wire import PROTOCOLS, Call, End, body, playing
from softstop import Agent, RunStatus

pytestmark = pytest.mark.server


class Plan(BaseModel):
    """A plan of a book."""

    title: str
    parts: int = Field(ge=1)


def declared(tool: dict[str, Any]) -> str:
    return tool.get("function", tool)["name"]


def look() -> None:
    """Look."""


FORCED = {"chat": "required", "responses": "required", "anthropic": {"type": "any"}}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_result_is_asked_for_as_a_call_that_must_be_made(provider: Provider, protocol: str) -> None:
    model = getattr(provider, protocol)(calls="final_result", args='{"title": "Tea", "parts": 2}', first=2)
    output = await Agent(model=model, output_type=Plan, tools=[look]).arun("A plan, please.")

    assert output.raise_for_status().value == Plan(title="Tea", parts=2)
    assert output.content == "w0 w1 "
    [request] = await provider.requests()
    assert [declared(tool) for tool in request["body"]["tools"]] == ["look", "final_result"]
    assert request["body"]["tool_choice"] == FORCED[protocol]

    again = await Agent(model=getattr(provider, protocol)(words=2)).arun("And now?", continue_from=output)
    assert (again.status, again.content) == (RunStatus.completed, "w0 w1 ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_result_that_does_not_fit_is_told_and_asked_for_again(protocol: str) -> None:
    wrong = body(protocol, Call("final_result", '{"title": "Tea", "parts": 0}'), End())
    right = body(protocol, Call("final_result", '{"title": "Tea", "parts": 2}'), End())
    async with playing(wrong, right) as wire:
        output = await Agent(model=wire.model(protocol), output_type=Plan).arun("A plan, please.")

    assert output.value == Plan(title="Tea", parts=2)
    assert "greater than or equal to 1" in str(wire.asked[1])


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_result_that_is_cut_off_is_none(protocol: str) -> None:
    torn = body(protocol, Call("final_result", '{"title": "Tea", "par'), End("length"))
    async with playing(torn) as wire:
        output = await Agent(model=wire.model(protocol), output_type=Plan).arun("A plan, please.")

    assert (output.status, output.value, len(wire.asked)) == (RunStatus.failed, None, 1)
    assert "cut off at the model's own bound" in output.errors[0]


async def test_a_model_that_thinks_is_not_forced_to_call(provider: Provider) -> None:
    model = provider.anthropic(calls="final_result", args='{"title": "Tea", "parts": 2}')
    thinking = {"anthropic_thinking": {"type": "enabled", "budget_tokens": 1_024}, "max_tokens": 4_000}
    model = type(model)(model.id, model.base_url, model.api_key, thinking)
    output = await Agent(model=model, output_type=Plan).arun("A plan, please.")

    assert output.value == Plan(title="Tea", parts=2)
    [request] = await provider.requests()
    assert request["body"]["tool_choice"] == {"type": "auto"}
