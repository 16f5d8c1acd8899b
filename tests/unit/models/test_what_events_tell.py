"""What the events of tool calls and model requests tell: ids, facts of the answer, and on request what was passed."""

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic_ai.messages import ToolCallPart

from kit.scripts import Script, call
from softstop import Agent, Event, MisuseError, ModelRequestCompleted, RunContext, ToolCallCompleted, ToolCallStarted
from softstop.ports import AdapterContext, ToolTrace

LONG = "x" * 10_000


async def login(name: str, password: str = "", nested: Any = None) -> dict[str, Any]:
    return {"name": name, "session": {"access_token": "t-1", "used_tokens": 5}, "sent": [{"Api-Key": "k"}]}


async def events_of(agent: Agent[Any]) -> list[Event]:
    return [event async for event in agent.arun("go")]


def calls_in(events: list[Event]) -> tuple[ToolCallStarted, ToolCallCompleted]:
    (begun,) = [event for event in events if isinstance(event, ToolCallStarted)]
    (ended,) = [event for event in events if isinstance(event, ToolCallCompleted)]
    return begun, ended


async def test_a_tool_call_bears_the_model_s_id_and_tells_nothing_that_was_passed() -> None:
    script = Script([call("login", name="lovelace", password="hunter2")], ["done"])
    events = await events_of(Agent(model=script.model, tools=[login]))
    begun, ended = calls_in(events)
    answered = script.asked[1][1].parts[0]
    assert isinstance(answered, ToolCallPart)
    assert begun.tool_call_id == ended.tool_call_id == answered.tool_call_id == "call-1"
    assert (begun.arguments, ended.result) == (None, None)
    assert not any(b"lovelace" in event.to_json() for event in events)


async def test_what_was_passed_is_told_on_request_without_what_is_named_like_a_secret() -> None:
    script = Script([call("login", name="ada", password="hunter2", nested=[{"auth_token": [1]}])], ["done"])
    begun, ended = calls_in(await events_of(Agent(model=script.model, tools=[login], trace_tools=True)))
    assert begun.arguments is not None
    assert json.loads(begun.arguments) == {"name": "ada", "password": "***", "nested": [{"auth_token": "***"}]}
    assert ended.result is not None
    assert json.loads(ended.result) == {
        "name": "ada",
        "session": {"access_token": "***", "used_tokens": 5},
        "sent": [{"Api-Key": "***"}],
    }


@pytest.mark.parametrize("text", [LONG, f'{{"name": "{LONG}"}}', "a\ud800b", "key sk-abcdefghijkl", "[" * 5_000])
async def test_what_is_told_of_a_result_is_bounded_can_be_sent_and_holds_no_key(text: str) -> None:
    async def look() -> str:
        return text

    script = Script([call("look")], ["done"])
    _, ended = calls_in(await events_of(Agent(model=script.model, tools=[look], trace_tools=True)))
    assert ended.status == "completed"
    assert ended.result is not None
    assert len(ended.result) <= 4_096
    assert "sk-" not in ended.result
    assert ended.to_json()


async def test_a_call_that_fails_has_no_result_and_its_arguments_as_they_came() -> None:
    async def look(where: int) -> None:
        raise NotImplementedError

    script = Script([call("look", where="nowhere")], ["done"])
    begun, ended = calls_in(await events_of(Agent(model=script.model, tools=[look], trace_tools=True)))
    assert (begun.arguments, ended.status, ended.result) == ('{"where":"nowhere"}', "failed", None)


def test_only_an_agent_with_a_model_can_trace_its_tools() -> None:
    async def body(run: RunContext, message: object) -> None:
        raise NotImplementedError

    with pytest.raises(MisuseError, match="trace_tools"):
        Agent(body, trace_tools=True)
    with pytest.raises(MisuseError, match="trace_tools"):
        Agent(model=Script(["done"]).model, trace_tools="yes")  # type: ignore[arg-type]


async def test_an_adapter_tells_what_it_likes_of_a_call_up_to_the_same_bound() -> None:
    async def body(run: RunContext, message: object) -> None:
        trace = ToolTrace("call-7\ud800", LONG)
        async with AdapterContext(run).tool_call("pay", trace):
            trace.result = "b\ud800" + LONG

    begun, ended = calls_in(await events_of(Agent(body)))
    assert begun.tool_call_id == ended.tool_call_id == "call-7?"
    assert begun.arguments is not None
    assert ended.result is not None
    assert (len(begun.arguments), len(ended.result), ended.result[:2]) == (4_096, 4_096, "b?")
    assert begun.to_json()


async def test_the_end_of_a_model_request_tells_who_answered_and_when_the_first_piece_came() -> None:
    script = Script([2.0, "one ", 3.0, "two", call("look")], ["done"])

    async def look() -> None:
        await anyio.lowlevel.checkpoint()

    agent = Agent(model=script.model, tools=[look])
    events = await events_of(agent)
    first, second = [event for event in events if isinstance(event, ModelRequestCompleted)]
    name = script.model.model_name
    assert (first.provider, first.requested_model, first.answering_model) == (script.model.system, name, name)
    assert (first.time_to_first_token, second.time_to_first_token) == (2.0, 0.0)


async def test_a_request_that_is_stopped_before_its_first_piece_has_no_time_of_it() -> None:
    run = Agent(model=Script([5.0, "late"]).model).arun("go")
    await anyio.sleep(1)
    run.cancel()
    await run.ended()
    (ended,) = [event async for event in run.events() if isinstance(event, ModelRequestCompleted)]
    assert (ended.status, ended.time_to_first_token) == ("cut", None)
    assert ended.requested_model is not None
