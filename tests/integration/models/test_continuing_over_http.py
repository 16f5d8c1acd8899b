"""`continue_from` against a provider that refuses a tool call without an answer, and an answer without a call."""

from __future__ import annotations

import json

import anyio
import pytest

from kit.provider import Provider
from softstop import Agent, RunOutput, RunStatus, StopPolicy, Supervisor, ToolCallStarted

pytestmark = pytest.mark.server

PROTOCOLS = pytest.mark.parametrize("protocol", ["chat", "responses", "anthropic"])
WAYS = pytest.mark.parametrize("by_id", [False, True], ids=["output", "run id"])


async def go_on(agent: Agent, stopped: RunOutput, *, by_id: bool) -> RunOutput:
    return await agent.arun("Go on.", continue_from=stopped.run_id if by_id else stopped)


async def last_body(provider: Provider) -> str:
    *_, last = await provider.requests()
    return json.dumps(last["body"])


@PROTOCOLS
@WAYS
async def test_after_a_stop_in_the_middle_of_a_tool_call(provider: Provider, protocol: str, by_id: bool) -> None:
    async def save() -> str:
        await anyio.sleep(0.05)
        return "saved at last"

    agent = Agent(model=getattr(provider, protocol)(calls="save", words=2), tools=[save])
    async with Supervisor():
        run = agent.arun("go")
        async for event in run:
            if isinstance(event, ToolCallStarted):
                run.cancel()
        output = await go_on(agent, await run, by_id=by_id)
    assert (run.status, output.status, output.content) == (RunStatus.cancelled, RunStatus.completed, "w0 w1 ")
    assert "saved at last" in await last_body(provider)


@PROTOCOLS
@WAYS
async def test_after_a_stop_between_parallel_calls(provider: Provider, protocol: str, by_id: bool) -> None:
    done = anyio.Event()

    async def quick() -> str:
        done.set()
        return "done"

    async def slow() -> None:
        await done.wait()
        run.cancel()
        await anyio.sleep(60)

    agent = Agent(model=getattr(provider, protocol)(calls="quick,slow", words=2, first=1), tools=[quick, slow])
    async with Supervisor():
        run = agent.arun("go", policy=StopPolicy(grace=0.05))
        output = await go_on(agent, await run, by_id=by_id)

    assert output.status is RunStatus.completed
    sent = await last_body(provider)
    assert sent.count("done") >= 1
    assert sent.count("unsettled: the run was stopped") == 1
    assert "w0 " in sent


@PROTOCOLS
@WAYS
async def test_after_a_stop_before_any_call_began(provider: Provider, protocol: str, by_id: bool) -> None:
    async def never() -> None:
        raise NotImplementedError

    agent = Agent(model=getattr(provider, protocol)(calls="never,never", words=2), tools=[never])
    async with Supervisor():
        run = agent.arun("go")
        async for event in run:
            if event.metrics is not None:
                run.cancel()
        output = await go_on(agent, await run, by_id=by_id)
    assert output.status is RunStatus.completed
    assert (await last_body(provider)).count("not_run: the run was stopped") == 2


@PROTOCOLS
@WAYS
async def test_after_a_stop_in_the_middle_of_text(provider: Provider, protocol: str, by_id: bool) -> None:
    agent = Agent(model=getattr(provider, protocol)(words=50, pace=0.002))
    async with Supervisor():
        run = agent.arun("go")
        async for event in run:
            if event.content == "w2 ":
                run.cancel()
        stopped = await run
        output = await go_on(agent, stopped, by_id=by_id)
    assert (stopped.status, output.status) == (RunStatus.cancelled, RunStatus.completed)
    assert json.dumps(stopped.content)[1:-1] in await last_body(provider)


@PROTOCOLS
@WAYS
async def test_after_completion(provider: Provider, protocol: str, by_id: bool) -> None:
    agent = Agent(model=getattr(provider, protocol)(words=3))
    async with Supervisor():
        output = await go_on(agent, await agent.arun("go"), by_id=by_id)
    assert (output.content, len(output.messages)) == ("w0 w1 w2 ", 4)


async def test_an_answer_and_no_call_is_refused_by_the_provider(provider: Provider) -> None:
    asked = {"model": provider.script(), "messages": [{"role": "tool", "tool_call_id": "x", "content": "?"}]}
    answer = await provider.http.post(f"{provider.url}/v1/chat/completions", json=asked)
    assert (answer.status_code, "no call before it" in answer.text) == (400, True)


async def test_a_call_and_no_answer_is_refused_by_the_provider(provider: Provider) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "go on"}]
    asked = {"model": provider.script(), "messages": said}
    answer = await provider.http.post(f"{provider.url}/v1/chat/completions", json=asked)
    assert (answer.status_code, "no answer to the tool calls" in answer.text) == (400, True)
